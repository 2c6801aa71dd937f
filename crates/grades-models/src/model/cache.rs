//! Keys and values of what was seen, so that writing on costs a pass of what is new alone.

use std::ops::Range;
use std::sync::Arc;

use grades_tensor::{Kept, Layout, Segment, Tensor, Var};

use super::decoder::Decoder;
use super::inputs::Inputs;
use crate::nn::KeysAndValues;

/// Keys and values of one sample's tokens, by layer.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<Option<KeysAndValues>>,
    /// The position of what comes behind each token, which pictures may make another than the number of tokens.
    behind: Vec<usize>,
}

impl KvCache {
    /// Number of tokens held.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.behind.len()
    }

    /// Forgets what comes after the first `tokens` tokens, between which and the others no picture may lie.
    pub fn cut(&mut self, tokens: usize) {
        if tokens >= self.tokens() {
            return;
        }
        if tokens == 0 {
            *self = Self::default();
            return;
        }
        let rows: Vec<u32> = (0..tokens as u32).collect();
        for (keys, values) in self.layers.iter_mut().flatten() {
            *keys = keys.device().gather_rows(keys, &rows);
            *values = values.device().gather_rows(values, &rows);
        }
        self.behind.truncate(tokens);
    }

    /// The position of what comes next.
    fn next(&self) -> usize {
        self.behind.last().copied().unwrap_or_default()
    }

    /// The layout of a sample of its own as one that follows what is held.
    fn behind(&self, layout: &Layout) -> Layout {
        let (count, from) = (layout.positions.len(), self.next() as u32);
        let places = layout.places.as_ref().map(|places| {
            let moved = places.iter().map(|place| place.map(|number| number + from));
            Arc::new(moved.collect::<Vec<_>>())
        });
        let positions = match places {
            None => layout.positions.iter().map(|position| position + from).collect(),
            Some(_) => layout.positions.clone(),
        };
        Layout { positions, places, ..Layout::cached(self.tokens(), count) }
    }
}

/// Keys and values of several samples, each with room to grow, by layer.
#[derive(Debug, Default)]
pub struct KvCaches {
    layers: Vec<Option<KeysAndValues>>,
    rooms: Vec<Room>,
    rows: usize,
}

/// Where one sample's tokens are; one without room is nobody's.
#[derive(Debug, Default)]
struct Room {
    first: usize,
    tokens: usize,
    /// Most tokens.
    most: usize,
    /// The position of what comes next.
    next: usize,
}

impl Room {
    fn rows(&self, new: usize) -> Range<usize> {
        self.first..self.first + self.tokens + new
    }
}

impl KvCaches {
    /// For samples that will have at most so many tokens each.
    #[must_use]
    pub fn with_room(most: &[usize]) -> Self {
        let mut rows = 0;
        let rooms = most.iter().map(|&most| {
            let first = rows;
            rows += most;
            Room { first, tokens: 0, most, next: 0 }
        });
        let rooms = rooms.collect();
        Self { layers: Vec::new(), rooms, rows }
    }

    /// Takes a further sample in, which will have at most so many tokens, and gives its number: where others have left and it fits,
    /// else behind all that are there.
    pub fn join(&mut self, most: usize) -> usize {
        let mut taken: Vec<Range<usize>> =
            self.rooms.iter().filter(|room| room.most > 0).map(|room| room.first..room.first + room.most).collect();
        taken.sort_unstable_by_key(|room| room.start);
        let mut first = 0;
        for room in taken {
            if room.start - first >= most {
                break;
            }
            first = room.end;
        }
        self.rows = self.rows.max(first + most);
        let room = Room { first, tokens: 0, most, next: 0 };
        match self.rooms.iter().position(|room| room.most == 0) {
            Some(free) => {
                self.rooms[free] = room;
                free
            }
            None => {
                self.rooms.push(room);
                self.rooms.len() - 1
            }
        }
    }

    /// Forgets a sample, whose number and room another may get.
    pub fn leave(&mut self, sample: usize) {
        self.rooms[sample] = Room::default();
    }

    /// The layout of a batch whose segments go on with `samples`, in which tokens have the positions and places that the batch
    /// gives them.
    ///
    /// # Panics
    /// If a sample has no room for its segment.
    fn behind(&self, layout: &Layout, samples: &[usize]) -> Layout {
        let (mut rows, mut segments) = (Vec::with_capacity(layout.positions.len()), Vec::new());
        for (segment, &sample) in layout.segments.iter().zip(samples) {
            let (room, new) = (&self.rooms[sample], segment.query.len());
            assert!(room.tokens + new <= room.most, "a sample of a batch has outgrown its room");
            let key = room.rows(new);
            rows.extend((key.end - new..key.end).map(|row| row as u32));
            segments.push(Segment { query: segment.query.clone(), key });
        }
        Layout { segments, kept: Some(Arc::new(Kept { rows, room: self.rows })), ..layout.clone() }
    }
}

/// The position behind tokens `rows` of a layout.
fn position_behind(layout: &Layout, rows: Range<usize>) -> usize {
    let last = match &layout.places {
        None => layout.positions[rows].iter().max().copied(),
        Some(places) => places[rows].iter().flatten().max().copied(),
    };
    last.map_or(0, |last| last as usize + 1)
}

impl Decoder {
    /// Logits that follow the last of `ids`, `[1, vocabulary]`; `ids` follow what the cache holds, and join it.
    #[must_use]
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache) -> Tensor {
        self.logits_after(&Inputs::sample(ids.to_vec()), cache)
    }

    /// The same of one sample that may have pictures. It has its own positions, counted from its beginning.
    #[must_use]
    pub fn logits_after(&self, inputs: &Inputs, cache: &mut KvCache) -> Tensor {
        let count = inputs.ids.len();
        let layout = Arc::new(cache.behind(&inputs.layout));
        let inputs = Inputs { layout: layout.clone(), ..inputs.clone() };
        let hidden = self.hidden(&inputs, Some(&mut cache.layers));
        for row in 0..count {
            cache.behind.push(cache.next().max(position_behind(&layout, row..row + 1)));
        }
        self.logits_of_rows(&hidden, &[count as u32 - 1])
    }

    /// Logits that follow the last token of each segment of `inputs`, `[samples, vocabulary]`: whole samples, as many as the
    /// caches are for, which join them.
    ///
    /// # Panics
    /// If a sample is longer than its room.
    #[must_use]
    pub fn first_logits_of_each(&self, inputs: &Inputs, caches: &mut KvCaches) -> Tensor {
        let samples: Vec<usize> = (0..inputs.layout.segments.len()).collect();
        self.logits_of_each(inputs, &samples, caches)
    }

    /// Logits that follow one more token of each of `samples`, `[samples, vocabulary]`.
    ///
    /// # Panics
    /// If a sample has no room left.
    #[must_use]
    pub fn next_logits_of_each(&self, ids: &[u32], samples: &[usize], caches: &mut KvCaches) -> Tensor {
        let segments: Vec<Range<usize>> = (0..ids.len()).map(|row| row..row + 1).collect();
        let positions = samples.iter().map(|&sample| caches.rooms[sample].next as u32).collect();
        let layout = Layout { positions, ..Layout::packed(&segments) };
        self.logits_of_each(&Inputs::tokens(Arc::new(ids.to_vec()), Arc::new(layout)), samples, caches)
    }

    /// Takes more tokens of one sample in, and gives the logits that follow the last `wanted` of them, `[wanted, vocabulary]`; none
    /// if none are wanted.
    ///
    /// # Panics
    /// If the sample has no room for them, or there are fewer than `wanted`.
    #[must_use]
    pub fn read_on(&self, ids: &[u32], wanted: usize, sample: usize, caches: &mut KvCaches) -> Option<Tensor> {
        let (count, next) = (ids.len() as u32, caches.rooms[sample].next as u32);
        let whole = 0..ids.len();
        let layout =
            Layout { positions: (next..next + count).collect(), ..Layout::packed(std::slice::from_ref(&whole)) };
        let inputs = Inputs::tokens(Arc::new(ids.to_vec()), Arc::new(layout));
        let (hidden, _) = self.hidden_of_each(&inputs, &[sample], caches);
        let rows: Vec<u32> = (count - wanted as u32..count).collect();
        (wanted > 0).then(|| self.logits_of_rows(&hidden, &rows))
    }

    /// The same of a whole sample, which may have pictures, and the logits that follow its last token, `[1, vocabulary]`.
    ///
    /// # Panics
    /// If the sample has no room for it.
    #[must_use]
    pub fn read_whole(&self, inputs: &Inputs, sample: usize, caches: &mut KvCaches) -> Tensor {
        self.logits_of_each(inputs, &[sample], caches)
    }

    fn logits_of_each(&self, inputs: &Inputs, samples: &[usize], caches: &mut KvCaches) -> Tensor {
        let (hidden, last) = self.hidden_of_each(inputs, samples, caches);
        self.logits_of_rows(&hidden, &last)
    }

    /// The normed output of the last layer of segments that join the caches, and the last row of each.
    fn hidden_of_each(&self, inputs: &Inputs, samples: &[usize], caches: &mut KvCaches) -> (Var, Vec<u32>) {
        let layout = Arc::new(caches.behind(&inputs.layout, samples));
        let inputs = Inputs { layout: layout.clone(), ..inputs.clone() };
        let hidden = self.hidden(&inputs, Some(&mut caches.layers));
        let mut last = Vec::with_capacity(samples.len());
        for (segment, &sample) in layout.segments.iter().zip(samples) {
            let room = &mut caches.rooms[sample];
            room.tokens += segment.query.len();
            room.next = room.next.max(position_behind(&layout, segment.query.clone()));
            last.push(segment.query.end as u32 - 1);
        }
        (hidden, last)
    }

    /// Whether `more` tokens turn those in the cache, as embeddings of long texts do: then all must be read again into an
    /// empty one.
    #[must_use]
    pub fn outgrows(&self, cache: &KvCache, more: usize) -> bool {
        cache.tokens() > 0 && self.turns_anew(cache.tokens(), cache.tokens() + more)
    }
}
