//! Normalisation of rows: RMS norm of the language models, that of heads, layer norm of the vision towers.

mod heads;
mod layer;
mod rms;
mod rows;
#[cfg(test)]
mod tests;

pub use heads::HeadNorms;
pub use layer::{layer_norm_backward_new, layer_norm_new};
pub use rms::{rms_norm_backward_new, rms_norm_new};
