//! Normalisation of rows: RMS norm of the language models, layer norm of the vision towers.

mod layer;
mod rms;
#[cfg(test)]
mod tests;

pub use layer::{LayerNormGradients, layer_norm, layer_norm_backward};
pub use rms::{rms_norm, rms_norm_backward, rms_norm_backward_new, rms_norm_new};

/// Rows of a block of work: decided by the width alone, so that sums over rows do not depend on the number of threads.
fn block_rows(width: usize) -> usize {
    (16_384 / width).clamp(16, 1024)
}

/// Adds the partial sums of the blocks (`[blocks, width]`) up in their order.
fn sum_partials(partials: &[f32], total: &mut [f32]) {
    total.fill(0.0);
    for partial in partials.chunks_exact(total.len().max(1)) {
        for (t, p) in total.iter_mut().zip(partial) {
            *t += p;
        }
    }
}
