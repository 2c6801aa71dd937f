//! CPU kernels of the training step, over plain slices.
//!
//! Every matrix and every batch is row-major: weights, their gradients and the residual stream in `f32`, activations
//! and their gradients in any [`Element`]. A kernel writes into buffers of its caller and says in its
//! documentation what shape each of them has. Work is split into blocks of a fixed size, so that a result is the
//! same, bit for bit, on one thread and on many; the threads are those of [`threads`]. The
//! instruction set (AMX, AVX-512, AVX2 with FMA, or what the target guarantees) is chosen at run time; the environment
//! variable `GRADES_SIMD` lowers it to `avx512` (without AMX), `avx2` or `baseline`.
//!
//! A buffer whose length contradicts the stated shape is a mistake of the calling code and panics, as indexing a
//! slice does. What depends on data (a label or token outside the vocabulary, a byte count that fits no block)
//! is a typed error.
//!
//! | module | what |
//! | --- | --- |
//! | [`gemm`] | matrix products for the forward pass, the input gradient and the weight gradient, in f32 and in bf16 |
//! | [`norms`] | RMS norm and layer norm |
//! | [`heads`] | splitting joined projections into heads, and joining their gradients |
//! | [`rope`] | the tables of rotary position embedding |
//! | [`activations`] | SiLU and GeLU, plain and gated |
//! | [`attention`] | blockwise attention over packed rows, with grouped heads and a sliding window |
//! | [`cross_entropy`] | the language-model head and its loss, without holding all logits |
//! | [`embedding`] | looking rows up, and adding their gradients back |
//! | [`experts`] | routing tokens to experts, and adding up what these make of them |
//! | [`elementwise`] | adding, scaling and masking in place |
//! | [`optimizer`] | AdamW and SGD, and measuring a gradient's change before them |
//! | [`quant`] | encoding and decoding GGUF blocks and NF4; matrices that stay packed |

mod dispatch;
mod element;
mod math;
mod memory;
mod out_of_range;
mod prefetch;
mod processors;
mod threads;
mod unwritten;
mod workspaces;

pub mod activations;
pub mod attention;
pub mod control_groups;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod experts;
pub mod gemm;
pub mod heads;
pub mod norms;
pub mod optimizer;
pub mod quant;
pub mod rope;

pub use dispatch::instructions;
pub use element::{Element, narrow, widen};
pub use memory::{return_freed_memory, reuse_freed_memory};
pub use out_of_range::OutOfRange;
pub use threads::simulated::{Job, Simulation, simulate};
pub use threads::{on_worker, set_threads, threads};
pub use workspaces::Workspace;

#[cfg(test)]
mod small;
#[cfg(test)]
mod testing;
