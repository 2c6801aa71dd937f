//! The element types of tensors.

use serde::Serialize;

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision: weights, their gradients, the optimizer's state, the residual stream.
    #[default]
    F32,
    /// Eight bits of significand, the exponents of f32: what lies between, where a model chooses so, and weights that a file has so
    /// and that do not train.
    Bf16,
    /// Codes of one byte, whole numbers from 0 to 255, whose meaning lies elsewhere: the optimizer's state in 8 bits.
    U8,
    /// Blocks of 4 or 8 bits (NF4, GGUF) that products decode. Only a weight that does not train can be so.
    Packed,
}

impl Dtype {
    /// The fastest dtype of activations on this processor: bf16 where it multiplies such numbers itself.
    #[must_use]
    pub fn fastest() -> Self {
        if grades_kernels::gemm::bf16::is_native() { Self::Bf16 } else { Self::F32 }
    }

    /// Bytes of an element; of packed blocks, which are none an element, 0.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
            Self::Packed => 0,
        }
    }

    /// As in a config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::Packed => "packed",
        }
    }
}
