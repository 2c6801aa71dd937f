//! The numbers of activations and matrix products.

use burn::tensor::{DType, FloatDType};

/// The numbers that activations are stored in, and that matrix products multiply. Sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Eight bits of significand, the exponents of f32.
    Bf16,
}

impl Precision {
    /// The fastest of this processor: bf16 where it multiplies such numbers itself.
    #[must_use]
    pub fn fastest() -> Self {
        if grades_kernels::gemm::bf16::is_native() { Self::Bf16 } else { Self::F32 }
    }

    /// The numbers of a tensor.
    pub(super) fn of(dtype: DType) -> Self {
        if dtype == DType::BF16 { Self::Bf16 } else { Self::F32 }
    }

    pub(super) fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// As in a config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
