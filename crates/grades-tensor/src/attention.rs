//! What an attention operation needs to know beside its tensors.

use std::ops::Range;
use std::sync::Arc;

/// Tokens that see one another: queries `query` of the flat batch look at keys `key`, and at no others.
///
/// In training both ranges are the same. With a KV cache the keys also hold earlier tokens, and the last query
/// stands at the last key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the query tensor.
    pub query: Range<usize>,
    /// Rows of the key and value tensors.
    pub key: Range<usize>,
}

/// Where in a cache with room for several samples the keys and values of tokens go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The row of each token, `[tokens]`.
    pub rows: Vec<u32>,
    /// Rows of the cache.
    pub room: usize,
}

/// Where the samples of a flat batch of tokens are, and each token's position within its sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The position of each token within its sample, `[tokens]`.
    pub positions: Vec<u32>,
    /// The samples, in order, together covering all tokens.
    pub segments: Vec<Segment>,
    /// Which token each row of the keys and values is of; left out, every token in order. Where several samples begin
    /// alike, that beginning is among the queries of the first alone, and its keys are repeated here before those of each.
    /// For passes without gradients.
    pub key_rows: Option<Arc<Vec<u32>>>,
    /// Where in a cache the keys and values of each token go; left out, behind all that are there. For passes without gradients.
    pub kept: Option<Arc<Kept>>,
    /// Where each position lies in time, height and width, for models that turn by all three; positions then number its rows.
    pub places: Option<Arc<Vec<[u32; 3]>>>,
    /// The same tokens in windows that do not see one another, as some layers of a tower see them.
    pub windows: Option<Arc<Layout>>,
}

impl Layout {
    /// Samples that lie side by side in one batch, each starting at position 0.
    #[must_use]
    pub fn packed(segments: &[Range<usize>]) -> Self {
        let positions = segments.iter().flat_map(|s| 0..s.len() as u32).collect();
        let segments = segments.iter().map(|s| Segment { query: s.clone(), key: s.clone() }).collect();
        Self { positions, segments, key_rows: None, kept: None, places: None, windows: None }
    }

    /// `tokens` new tokens that follow `past` cached ones.
    #[must_use]
    pub fn cached(past: usize, tokens: usize) -> Self {
        Self {
            positions: (past as u32..(past + tokens) as u32).collect(),
            segments: vec![Segment { query: 0..tokens, key: 0..past + tokens }],
            key_rows: None,
            kept: None,
            places: None,
            windows: None,
        }
    }

    /// Samples that begin alike, as trees of tokens: of each token the one before it, none for the first of a sample. Each
    /// tree is in depth-first order, so that a token's first successor is right behind it, and a segment is what a sample
    /// has beyond those before it.
    #[must_use]
    pub fn tree(parents: &[Option<u32>]) -> Self {
        let (mut positions, mut segments) = (Vec::with_capacity(parents.len()), Vec::<Segment>::new());
        for (token, &parent) in parents.iter().enumerate() {
            let parent = parent.map(|parent| parent as usize);
            positions.push(parent.map_or(0, |parent| positions[parent] + 1));
            match segments.last_mut() {
                Some(segment) if parent.is_some_and(|parent| parent + 1 == token) => segment.query.end = token + 1,
                _ => segments.push(Segment { query: token..token + 1, key: 0..0 }),
            }
        }
        let mut key_rows = Vec::with_capacity(parents.len());
        for Segment { query, key } in &mut segments {
            let start = key_rows.len();
            key_rows.extend(std::iter::successors(Some(query.end as u32 - 1), |&token| parents[token as usize]));
            key_rows[start..].reverse();
            *key = start..key_rows.len();
        }
        let repeats = key_rows.len() > parents.len();
        let key_rows = repeats.then(|| Arc::new(key_rows));
        Self { positions, segments, key_rows, kept: None, places: None, windows: None }
    }

    /// How many (query, key) pairs one head computes, for counting operations.
    #[must_use]
    pub fn visible_pairs(&self, causal: bool, window: Option<usize>) -> u64 {
        let visible = |segment: &Segment| -> u64 {
            let past = segment.key.len() - segment.query.len();
            let seen = |i: usize| {
                let (before, behind) = (past + i + 1, segment.key.len() - (past + i + 1));
                let within = |tokens: usize, window: usize| window.min(tokens) as u64;
                let window = window.unwrap_or(usize::MAX);
                within(before, window) + if causal { 0 } else { within(behind, window.saturating_sub(1)) }
            };
            (0..segment.query.len()).map(seen).sum()
        };
        self.segments.iter().map(visible).sum()
    }
}

/// Cosines and sines of the rotary embedding, each `[positions, rotary_dim / 2]`, scaled as the rope variant asks.
#[derive(Debug)]
pub struct RopeTable {
    /// How many elements at the start of each head rotate; the others stay as they are.
    pub rotary_dim: usize,
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

/// One layer's attention over one batch.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually 1/√head_dim.
    pub scale: f32,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// Sliding window: a token sees itself and the `window − 1` tokens before it, and behind it where it sees later ones.
    pub window: Option<usize>,
    /// Rotary embedding of queries and keys.
    pub rope: Option<Arc<RopeTable>>,
    /// The batch.
    pub layout: Arc<Layout>,
}

impl AttentionSpec {
    /// Width of the queries, `heads · head_dim`.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys, and of the values, `kv_heads · head_dim`.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Operations of the two products of the forward pass (scores, and weighted values).
    pub fn operations(&self) -> u64 {
        4 * self.layout.visible_pairs(self.causal, self.window) * (self.heads * self.head_dim) as u64
    }
}
