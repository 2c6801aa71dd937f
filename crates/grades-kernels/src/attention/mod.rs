//! Blockwise attention over packed rows (Dao et al. 2022, arXiv 2205.14135): several samples lie behind each other in
//! one batch of tokens and do not see each other. Only the log-sum-exp of every row of scores is kept; the backward
//! pass recomputes the probabilities block by block.

mod backward;
mod block;
mod form;
mod forward;
mod head;
#[cfg(target_arch = "x86_64")]
mod native;
mod one_query;
mod pack;
#[cfg(test)]
mod reference;
mod saved;
mod segment;
mod softmax;
#[cfg(test)]
mod tests;

pub use backward::attention_backward_new;
pub use form::Attention;
pub use forward::attention_new;
pub use saved::Saved;
pub use segment::Segment;
