//! What the backward pass needs of the forward pass.

use crate::Element;

/// What the forward pass took and gave.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a, E = f32> {
    /// `[query tokens, heads, head_dim]`.
    pub q: &'a [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub k: &'a [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub v: &'a [E],
    /// `[query tokens, heads, head_dim]`.
    pub out: &'a [E],
    /// `[query tokens, heads]`.
    pub log_sum_exp: &'a [f32],
}

impl<'a, E: Element> Saved<'a, E> {
    /// The same where it is bf16.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_bf16(&self) -> Option<Saved<'a, half::bf16>> {
        Some(Saved {
            q: E::as_bf16(self.q)?,
            k: E::as_bf16(self.k)?,
            v: E::as_bf16(self.v)?,
            out: E::as_bf16(self.out)?,
            log_sum_exp: self.log_sum_exp,
        })
    }
}
