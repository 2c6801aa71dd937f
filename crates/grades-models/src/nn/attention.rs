//! Self-attention with rotary positions.

use std::sync::Arc;

use grades_tensor::{AttentionSpec, Kept, Layout, Tensor, Var, ops};

use super::norm::Norm;
use super::projection::Projection;
use super::rope::Rope;
use super::run::Run;

/// The heads of an attention.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Size of a head.
    pub(crate) head_dim: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Whether a token sees only itself and earlier ones.
    pub(crate) causal: bool,
    /// Sliding window: a token sees itself and the `window − 1` tokens before it.
    pub(crate) window: Option<usize>,
    /// Whether a token sees the windows of a layout alone, where it has some.
    pub(crate) in_windows: bool,
    /// Rotary embedding of queries and keys.
    pub(crate) rope: Option<Arc<Rope>>,
}

/// Keys and values of the tokens that one layer has seen, each `[tokens, kv_heads · head_dim]`.
pub type KeysAndValues = (Tensor, Tensor);

/// Self-attention: each token sees others of its sample.
#[derive(Debug)]
pub(crate) struct Attention {
    /// `[q | k | v]`.
    pub(crate) qkv: Projection,
    /// The norms of each head of q and of k, before they are rotated.
    pub(crate) head_norms: Option<[Norm; 2]>,
    /// The output.
    pub(crate) o: Projection,
    /// How the heads are cut.
    pub(crate) heads: Heads,
}

impl Attention {
    /// The operation over the samples of a batch.
    pub(crate) fn spec(&self, layout: &Arc<Layout>) -> AttentionSpec {
        let Heads { heads, kv_heads, head_dim, scale, causal, window, in_windows, rope } = &self.heads;
        let layout = layout.windows.as_ref().filter(|_| *in_windows).unwrap_or(layout);
        let longest = layout.positions.iter().max().map_or(0, |&position| position as usize + 1);
        let table = |rope: &Arc<Rope>| match &layout.places {
            None => rope.table(longest),
            Some(places) => rope.table_at(places),
        };
        AttentionSpec {
            heads: *heads,
            kv_heads: *kv_heads,
            head_dim: *head_dim,
            scale: *scale,
            causal: *causal,
            window: *window,
            rope: rope.as_ref().map(table),
            layout: layout.clone(),
        }
    }

    /// What each token of the normed input sees of the others, `[tokens, heads · head_dim]`. The keys and values join those
    /// of a cache, where there is one, and all of them are seen.
    pub(super) fn see(
        &self,
        run: Run<'_>,
        x: &Var,
        layout: &Arc<Layout>,
        cache: Option<&mut Option<KeysAndValues>>,
    ) -> Var {
        let (qkv, spec) = (self.qkv.forward(run, x, None), self.spec(layout));
        let qkv = match &self.head_norms {
            None => qkv,
            Some([q, k]) => ops::norm_heads(run.tape, qkv, [&q.leaf(run), &k.leaf(run)], q.eps, &spec),
        };
        match (cache, layout.key_rows.as_deref()) {
            (None, None) => ops::self_attention(run.tape, qkv, spec),
            (None, Some(rows)) => {
                let [q, k, v] = ops::split_heads(&qkv, &spec);
                let (k, v) = (k.device().gather_rows(&k, rows), v.device().gather_rows(&v, rows));
                ops::attend(&q, &k, &v, &spec)
            }
            (Some(cache), _) => {
                let [q, k, v] = ops::split_heads(&qkv, &spec);
                let (keys, values) = keep(cache, (k, v), layout.kept.as_deref());
                ops::attend(&q, keys, values, &spec)
            }
        }
    }
}

/// The keys and values of a cache with new ones: behind all others, or in the rows that are theirs.
fn keep<'a>(cache: &'a mut Option<KeysAndValues>, (k, v): KeysAndValues, kept: Option<&Kept>) -> &'a KeysAndValues {
    match (cache, kept) {
        (empty @ None, None) => empty.insert((k, v)),
        (Some(seen), None) => {
            seen.0.device().append_rows(&mut seen.0, &k);
            seen.1.device().append_rows(&mut seen.1, &v);
            seen
        }
        (cache, Some(Kept { rows, room })) => {
            let device = k.device();
            let nothing = |rows: usize, like: &Tensor| device.zeros([rows, like.columns()], like.dtype());
            let seen = cache.get_or_insert_with(|| (nothing(*room, &k), nothing(*room, &v)));
            // More samples may have joined since.
            let more = room.saturating_sub(seen.0.rows());
            if more > 0 {
                device.append_rows(&mut seen.0, &nothing(more, &k));
                device.append_rows(&mut seen.1, &nothing(more, &v));
            }
            device.put_rows(&mut seen.0, rows, &k);
            device.put_rows(&mut seen.1, rows, &v);
            seen
        }
    }
}
