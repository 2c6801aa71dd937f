//! RMS norm of each head of the queries and keys in joined rows (Henry et al. 2020, arXiv 2010.04245, with scales).

use std::mem::MaybeUninit;

use super::rms::{backward_rows, forward_rows};
use super::rows::{block_rows, sum_partials};
use crate::Element;
use crate::element::{convert, convert_into};
use crate::threads::each;
use crate::unwritten::{to_write, written};

/// The norms of the heads in rows `[(heads + 2 · kv_heads) · head_dim]` that hold queries, then keys, then values; these last
/// stay what they are.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys, and of the values.
    pub kv_heads: usize,
    /// The scales of a query's head and of a key's, `[head_dim]` each.
    pub scales: [&'a [f32]; 2],
    /// Added to the mean square of a head.
    pub epsilon: f32,
}

impl HeadNorms<'_> {
    /// The normed rows, and `1 / √(mean(x²) + ε)` of each head, `[rows, heads + kv_heads]`, for the backward pass.
    ///
    /// # Panics
    /// If the length is no whole number of rows.
    #[must_use]
    pub fn norm_new<E: Element>(&self, joined: &[E]) -> (Vec<E>, Vec<f32>) {
        let (query, key) = self.widths();
        let (width, normed) = (query + 2 * key, self.heads + self.kv_heads);
        let rows = joined.len() / width;
        assert_eq!(joined.len(), rows * width, "no whole number of rows");
        let (mut inverse, block) = (vec![0.0; rows * normed], block_rows(width));
        let norm = |out: &mut [MaybeUninit<E>]| {
            let blocks = joined.chunks(block * width).zip(out.chunks_mut(block * width));
            each(blocks.zip(inverse.chunks_mut(block * normed)), |((joined, out), inverse)| {
                let mut x = vec![0.0; query + key];
                let rows = joined.chunks_exact(width).zip(out.chunks_exact_mut(width));
                for ((joined, out), inverse) in rows.zip(inverse.chunks_exact_mut(normed)) {
                    convert(&joined[..query + key], &mut x);
                    let ((out, values), (of_q, of_k)) =
                        (out.split_at_mut(query + key), inverse.split_at_mut(self.heads));
                    let (q, k) = out.split_at_mut(query);
                    forward_rows(&x[..query], self.scales[0], self.epsilon, q, of_q);
                    forward_rows(&x[query..], self.scales[1], self.epsilon, k, of_k);
                    values.write_copy_of_slice(&joined[query + key..]);
                }
            });
        };
        // SAFETY: the output is as long as the rows, which the blocks make up; of each row queries, keys and values are written.
        let out = unsafe { written(joined.len(), norm) };
        (out, inverse)
    }

    /// The gradients of [`norm_new`](Self::norm_new): gives that of the rows from `dout`, which is as long, and overwrites those
    /// of the scales that are asked for, `[head_dim]` each.
    ///
    /// # Panics
    /// If a length does not fit.
    #[must_use]
    pub fn backward_new<E: Element>(
        &self,
        joined: &[E],
        inverse: &[f32],
        dout: &[E],
        [dq_scale, dk_scale]: [Option<&mut [f32]>; 2],
    ) -> Vec<E> {
        let (query, key) = self.widths();
        let (width, normed, head_dim) = (query + 2 * key, self.heads + self.kv_heads, self.scales[0].len());
        let (rows, block) = (joined.len() / width, block_rows(width));
        assert_eq!((joined.len(), dout.len(), inverse.len()), (rows * width, rows * width, rows * normed));
        let wanted = [dq_scale.is_some(), dk_scale.is_some()];
        // Of each block the sums for queries and those for keys.
        let mut partials = vec![0.0; rows.div_ceil(block) * 2 * head_dim];
        let gradients = |dx: &mut [MaybeUninit<E>]| {
            let blocks = joined.chunks(block * width).zip(dout.chunks(block * width)).zip(dx.chunks_mut(block * width));
            let blocks = blocks.zip(inverse.chunks(block * normed)).zip(partials.chunks_mut(2 * head_dim));
            each(blocks, |((((joined, dout), dx), inverse), partial)| {
                let [mut x, mut dx_row, mut of_row] = [query + key, query + key, head_dim].map(|len| vec![0.0; len]);
                let rows = joined.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
                for (((joined, dout), dx), inverse) in rows.zip(inverse.chunks_exact(normed)) {
                    convert(&joined[..query + key], &mut x);
                    let heads = [(0..query, 0..self.heads), (query..query + key, self.heads..normed)];
                    for (of, (elements, heads)) in heads.into_iter().enumerate() {
                        let (x, dout, scale) = (&x[elements.clone()], &dout[elements.clone()], self.scales[of]);
                        // SAFETY: values are all that is written.
                        let dx_row = unsafe { to_write(&mut dx_row[elements]) };
                        let dscale = wanted[of].then_some(of_row.as_mut_slice());
                        backward_rows(x, scale, &inverse[heads], dout, dx_row, dscale);
                        if wanted[of] {
                            let sums = partial[of * head_dim..][..head_dim].iter_mut();
                            sums.zip(&of_row).for_each(|(sum, term)| *sum += term);
                        }
                    }
                    let (of_heads, values) = dx.split_at_mut(query + key);
                    convert_into(&dx_row, of_heads);
                    values.write_copy_of_slice(&dout[query + key..]);
                }
            });
        };
        // SAFETY: the gradient is as long as the rows, which the blocks make up; each row is written whole.
        let dx = unsafe { written(joined.len(), gradients) };
        let mut sums = vec![0.0; 2 * head_dim];
        sum_partials(&partials, &mut sums);
        for (dscale, sums) in [dq_scale, dk_scale].into_iter().zip(sums.chunks_exact(head_dim)) {
            dscale.into_iter().for_each(|dscale| dscale.copy_from_slice(sums));
        }
        dx
    }

    /// Elements of a row's queries, and of its keys.
    fn widths(&self) -> (usize, usize) {
        let head_dim = self.scales[0].len();
        assert!(head_dim > 0 && head_dim == self.scales[1].len(), "scales of different lengths, or empty");
        let (query, key) = (self.heads * head_dim, self.kv_heads * head_dim);
        assert!(query > 0 && key > 0, "attention without heads");
        (query, key)
    }
}
