//! Block-quantised weights: GGUF types, decoded to f32 as ggml's `dequantize_row_*` functions define them and encoded as its
//! quantisers do, and NF4 as bitsandbytes defines it; matrices that stay packed.

mod codes;
mod decode;
mod encode;
mod gguf;
mod k_quants;
mod legacy;
mod lookup;
mod nf4;
mod nonlinear;
mod packed;
mod part;
#[cfg(test)]
mod tests;

pub use codes::{CODE as NF4_CODE, dynamic_map, unsigned_dynamic_map};
pub use decode::decode;
pub use encode::{EncodeError, encode, is_written};
pub use gguf::{DecodeError, GgufType};
pub use nf4::{BLOCK as NF4_BLOCK, NESTED_BLOCK as NF4_NESTED_BLOCK, Nf4, Nf4Encoder, Nf4Scales, NotFinite, PartError};
pub use packed::{PackError, PackedMatrix};
