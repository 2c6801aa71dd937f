//! Who is written next: the texts of all requests, a token each a round, in one pass.
//!
//! A text does not depend on what is written beside it. Its prompt is read by itself, in parts that are always the same, one part a
//! round, so that nobody waits for a long one (but for one with pictures, which is read at once); the tokens behind it are rows of products that sum each row alike, however many there
//! are up to [`TOGETHER`].

use grades_models::tokenizer::Tokenizer;
use grades_models::{Decoder, KvCaches};

use super::queue::Queue;
use super::sequence::Sequence;
use crate::loaded::Loaded;
use crate::train::Reader;
use crate::train::vision_cache::VisionCache;

/// Most texts of a pass: products of more rows add in another order.
const TOGETHER: usize = 8;

/// Writes texts.
pub(super) struct Scheduler<'a> {
    model: &'a Decoder,
    tokenizer: &'a Tokenizer,
    reader: Reader,
    caches: KvCaches,
    going: Vec<Sequence<'a>>,
    most: usize,
}

impl<'a> Scheduler<'a> {
    /// For `most` texts at a time.
    pub(super) fn new(loaded: &'a Loaded, most: usize) -> Self {
        let Loaded { model, tokenizer, vision, .. } = loaded;
        // What clients show is theirs, and need not be kept.
        let reader = Reader::new(vision.clone(), VisionCache::off());
        Self { model, tokenizer, reader, caches: KvCaches::default(), going: Vec::new(), most }
    }

    /// Writes what the queue has until it is closed.
    pub(super) fn run(&mut self, queue: &Queue) {
        while let Some(jobs) = queue.take(self.most - self.going.len(), self.going.is_empty()) {
            self.going.extend(jobs.into_iter().map(|job| Sequence::begin(job, self.tokenizer, &mut self.caches)));
            self.round();
        }
        while !self.going.is_empty() {
            self.round();
        }
    }

    fn round(&mut self) {
        self.clear();
        if let Some(sequence) = self.going.iter_mut().find(|sequence| sequence.reads()) {
            sequence.read(self.model, &mut self.reader, &mut self.caches);
        }
        let vocabulary = self.model.sizes().vocab_size;
        let mut writing: Vec<&mut Sequence<'_>> =
            self.going.iter_mut().filter(|sequence| sequence.unread.is_some()).collect();
        for together in writing.chunks_mut(TOGETHER) {
            let ids: Vec<u32> = together.iter().filter_map(|sequence| sequence.unread).collect();
            let samples: Vec<usize> = together.iter().map(|sequence| sequence.sample).collect();
            let logits = self.model.next_logits_of_each(&ids, &samples, &mut self.caches);
            for (sequence, logits) in together.iter_mut().zip(logits.to_host().chunks_exact(vocabulary)) {
                sequence.write(logits);
            }
        }
        self.clear();
    }

    /// Takes away what is over.
    fn clear(&mut self) {
        let Self { going, caches, .. } = self;
        going.retain(|sequence| {
            let over = sequence.is_over();
            if over {
                caches.leave(sequence.sample);
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc::{Receiver, channel};

    use grades_models::sampling::{Sampler, SamplingOptions};

    use super::*;
    use crate::config::{ImageBackend, Precision};
    use crate::loaded::Loading;
    use crate::serve::queue::{Event, Job};

    fn open() -> Loaded {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vision/qwen2_5_vl_rows");
        let options = Loading {
            adapter: None,
            fold_adapter: false,
            load_in_4bit: false,
            image_backend: ImageBackend::Auto,
            precision: Precision::F32,
        };
        Loaded::open(folder.as_ref(), options).unwrap()
    }

    fn job(prompt: Vec<u32>) -> (Job, Receiver<(usize, Event)>, Arc<AtomicBool>) {
        let ((events, received), gone) = (channel(), Arc::new(AtomicBool::new(false)));
        let job = Job {
            prompt: Arc::new(prompt),
            pictures: Arc::default(),
            ends: Arc::default(),
            sampler: Sampler::new(SamplingOptions::default()).unwrap(),
            penalties: Arc::default(),
            stop: Vec::new(),
            max_new_tokens: 40,
            logprobs: Some(0),
            echo: false,
            index: 0,
            events,
            gone: gone.clone(),
        };
        (job, received, gone)
    }

    fn written(received: &Receiver<(usize, Event)>) -> usize {
        let tokens = |(_, event)| if let Event::Piece(_, tokens) = event { tokens.len() } else { 0 };
        received.try_iter().map(tokens).sum()
    }

    #[test]
    fn who_leaves_makes_room_at_once() {
        let loaded = open();
        let queue = Queue::new(3);
        let mut scheduler = Scheduler::new(&loaded, 1);
        let ((first, of_first, first_gone), (second, of_second, second_gone)) = (job(vec![5; 9]), job(vec![6; 9]));
        let (third, of_third, _) = job(vec![7; 9]);
        queue.push(vec![first, second, third]).unwrap();
        assert!(queue.push(vec![job(vec![8]).0]).is_err());
        let round = |scheduler: &mut Scheduler<'_>| {
            let jobs = queue.take(1 - scheduler.going.len(), false).unwrap();
            scheduler
                .going
                .extend(jobs.into_iter().map(|job| Sequence::begin(job, scheduler.tokenizer, &mut scheduler.caches)));
            scheduler.round();
        };
        (0..3).for_each(|_| round(&mut scheduler));
        // The first token comes in the round in which the prompt is read, with another behind it.
        assert_eq!((written(&of_first), written(&of_second)), (4, 0));
        first_gone.store(true, Relaxed);
        second_gone.store(true, Relaxed);
        round(&mut scheduler);
        assert!(scheduler.going.is_empty());
        (0..2).for_each(|_| round(&mut scheduler));
        assert_eq!((written(&of_first), written(&of_second), scheduler.going.len()), (0, 0, 1));
        assert!(written(&of_third) > 0);
        // The third has the first one's room, and who does not listen any more is gone as well.
        assert_eq!(scheduler.going[0].sample, 0);
        drop(of_third);
        (0..2).for_each(|_| round(&mut scheduler));
        assert!(scheduler.going.is_empty());
    }
}
