//! How the values of a tensor are stored, and their decoding to f32.

use std::fmt;

use grades_kernels::quant::{self, GgufType};

/// Storage type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// A type that GGUF knows: F32, F16, BF16 (which safetensors has too) and the block quantisations.
    Gguf(GgufType),
    /// bitsandbytes' NF4, whose scales are tensors of their own.
    Nf4,
    /// Anything else a safetensors file may hold (integers, 8-bit floats, …): listed, readable raw, never decoded.
    Other(&'static str),
}

impl Dtype {
    /// IEEE binary32.
    pub const F32: Self = Self::Gguf(GgufType::F32);
    /// IEEE binary16.
    pub const F16: Self = Self::Gguf(GgufType::F16);
    /// The upper half of a binary32.
    pub const BF16: Self = Self::Gguf(GgufType::BF16);

    /// Whether values share the scale of a block.
    pub fn is_quantized(self) -> bool {
        self == Self::Nf4 || self.block().is_some_and(|(values, _)| values > 1)
    }

    /// Values and bytes of the smallest unit that can be decoded alone; `None` where there is none.
    pub fn block(self) -> Option<(usize, usize)> {
        match self {
            Self::F64 => Some((1, 8)),
            Self::Gguf(kind) => Some((kind.block_size(), kind.block_bytes())),
            Self::Nf4 | Self::Other(_) => None,
        }
    }

    /// Decodes `bytes` into `out`; false if their sizes do not agree or the type holds no floats.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) -> bool {
        match self {
            Self::F64 if bytes.len() == 8 * out.len() => {
                for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = f64::from_le_bytes(bytes) as f32;
                }
                true
            }
            Self::Gguf(kind) => quant::decode(kind, bytes, out).is_ok(),
            Self::F64 | Self::Nf4 | Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F64 => f.write_str("F64"),
            Self::Gguf(kind) => write!(f, "{kind:?}"),
            Self::Nf4 => f.write_str("NF4"),
            Self::Other(name) => f.write_str(name),
        }
    }
}
