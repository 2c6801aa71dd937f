//! One head of queries by itself.

use std::mem::MaybeUninit;

use super::form::Attention;
use crate::Element;
use crate::dispatch::multiversion;
use crate::unwritten::filled;

/// The gradients of one head of queries: `[queries, head_dim]`, and twice `[keys, head_dim]`.
pub(super) struct HeadGradients<'a, T = f32> {
    pub(super) dq: &'a mut [T],
    pub(super) dk: &'a mut [T],
    pub(super) dv: &'a mut [T],
}

impl<'a> HeadGradients<'a, MaybeUninit<f32>> {
    /// Zeros, to add to.
    pub(super) fn cleared(self) -> HeadGradients<'a> {
        HeadGradients { dq: filled(self.dq, 0.0), dk: filled(self.dk, 0.0), dv: filled(self.dv, 0.0) }
    }
}

/// Copies one head of `source [rows, heads, head_dim]`, times `factor`, into `target [rows, head_dim]`.
pub(super) fn copy_head<E: Element>(attention: &Attention, source: &[E], head: usize, factor: f32, target: &mut [f32]) {
    let rows = source.chunks_exact(attention.query_width()).zip(target.chunks_exact_mut(attention.head_dim));
    for (source, target) in rows {
        scaled(&source[head * attention.head_dim..][..attention.head_dim], factor, target);
    }
}

multiversion! {
    fn scaled<FMA; E: Element>(source: &[E], factor: f32, target: &mut [f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = source.widen() * factor;
        }
    }
}
