//! The work of a norm: blocks of rows.

/// Rows of a block of work: decided by the width alone, so that sums over rows do not depend on the number of threads.
pub(super) fn block_rows(width: usize) -> usize {
    (16_384 / width).clamp(16, 1024)
}

/// Adds the partial sums of the blocks (`[blocks, width]`) up in their order.
pub(super) fn sum_partials(partials: &[f32], total: &mut [f32]) {
    total.fill(0.0);
    for partial in partials.chunks_exact(total.len().max(1)) {
        for (t, p) in total.iter_mut().zip(partial) {
            *t += p;
        }
    }
}
