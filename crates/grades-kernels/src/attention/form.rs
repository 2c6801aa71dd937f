//! What an attention layer is, and the sizes of its blocks of work.

use crate::gemm::TILE_ROWS;

/// Queries of a block of work: whole tiles of rows.
pub(super) const BLOCK_QUERIES: usize = 8 * TILE_ROWS;
/// Keys that are scored at once: whole tiles of rows and of columns. A block of scores is 18 KiB.
pub(super) const BLOCK_KEYS: usize = 96;

/// The form of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of the queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values; query head `h` uses head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Scaling factor of the scores, usually `1 / √head_dim`.
    pub scale: f32,
    /// Whether a position sees no later ones.
    pub causal: bool,
    /// With a window `w`, position `i` sees only positions `j > i − w` (as Mistral in Hugging Face does), and, where
    /// not causal, `j < i + w`.
    pub window: Option<usize>,
}

impl Attention {
    /// Elements of a token's queries.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of a token's keys.
    pub(super) fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Panics if the form is impossible.
    pub(super) fn check(&self) {
        assert!(self.heads > 0 && self.kv_heads > 0 && self.head_dim > 0, "attention without heads");
        assert_eq!(self.heads % self.kv_heads, 0, "the heads do not fall into groups");
        assert_ne!(self.window, Some(0), "a window of nothing");
    }
}
