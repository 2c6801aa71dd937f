//! The operations of models over the values of a forward pass.
//!
//! Each computes through the device of its operands, counts its products ([`Flops`](crate::Flops)), and records on the
//! tape how to go back, if it depends on something tracked. A gradient is computed only for a tracked operand, and what
//! only such a gradient needs is kept only for it: the input of a linear layer for a weight that trains, its weight for
//! an input that lies above one.

mod adapter;
mod embedding;
mod experts;
mod layer;
mod loss;
mod projection;

pub use adapter::{LowRank, Scale, adapted_row_norms, add_low_rank, rescale};
pub use embedding::{add, embed, gather_rows, mix_rows, replace_rows, scale, shift, side_by_side};
pub use experts::{Balance, combine, route, take_rows};
pub use layer::{
    activate, add_normed, attend, dropout, gated_activation, layer_norm, norm_heads, rms_norm, self_attention,
    split_heads,
};
pub use loss::{cross_entropy, label_log_probabilities, log_likelihoods};
pub use projection::{gated_project, project};
