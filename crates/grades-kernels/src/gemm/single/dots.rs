//! Rows times a row: for a weight that is used so little that packing it would take longer than the product.

use super::vector::Vector;
use crate::gemm::matrix::Matrix;

/// Rows that share each number which is read of the other operand.
const TOGETHER: usize = 4;
/// The most lanes of a vector.
const MAX_LANES: usize = 16;

/// `out [m]`: each row of `rows [m, k]` times `row [k]`. A sum is over the lanes of two vectors, then over these and what is left
/// of the row, whatever m is.
///
/// # Safety
/// The processor has the vector's instruction set, which the calling function enables; the lengths fit.
#[inline(always)]
pub(super) unsafe fn dots<V: Vector>(rows: &Matrix, row: &[f32], out: &mut [f32]) {
    let mut first = 0;
    for out in out.chunks_mut(TOGETHER) {
        // SAFETY: the caller's promise; the rows are those of this part of `out`.
        unsafe {
            if out.len() == 1 {
                some::<V, 1>(rows, first, row, out);
            } else {
                some::<V, TOGETHER>(rows, first, row, out);
            }
        }
        first += out.len();
    }
}

/// Of `out.len() ≤ R` rows from `first` on; those that are missing are computed from the last one.
///
/// # Safety
/// As [`dots`].
#[inline(always)]
unsafe fn some<V: Vector, const R: usize>(rows: &Matrix, first: usize, row: &[f32], out: &mut [f32]) {
    const { assert!(V::LANES <= MAX_LANES) };
    let left: [&[f32]; R] = std::array::from_fn(|i| rows.row(first + i.min(out.len() - 1)));
    let whole = row.len() / (2 * V::LANES) * 2 * V::LANES;
    // SAFETY: loads end before `whole`, which is within all rows.
    unsafe {
        let mut sums = [[V::zero(); 2]; R];
        for p in (0..whole).step_by(2 * V::LANES) {
            let right = [V::load(row.as_ptr().add(p)), V::load(row.as_ptr().add(p + V::LANES))];
            for (sums, left) in sums.iter_mut().zip(&left) {
                sums[0] = V::load(left.as_ptr().add(p)).mul_add(right[0], sums[0]);
                sums[1] = V::load(left.as_ptr().add(p + V::LANES)).mul_add(right[1], sums[1]);
            }
        }
        for ((out, sums), left) in out.iter_mut().zip(sums).zip(left) {
            let mut lanes = [0.0_f32; MAX_LANES];
            sums[0].plus(sums[1]).store(lanes.as_mut_ptr());
            let mut width = V::LANES / 2;
            while width > 0 {
                for i in 0..width {
                    lanes[i] += lanes[i + width];
                }
                width /= 2;
            }
            *out = left[whole..].iter().zip(&row[whole..]).fold(lanes[0], |sum, (a, b)| sum + a * b);
        }
    }
}
