//! The block types of GGUF files.

use super::{k_quants, legacy, nonlinear};

/// A type of GGUF tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "ggml's names")]
#[expect(missing_docs, reason = "ggml's names say all there is")]
pub enum GgufType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

/// Bytes that do not hold the values asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The number of values is no whole number of blocks.
    #[error(
        "{values} values are no whole number of {kind:?} blocks of {block_size}: the tensor's shape does not fit its type"
    )]
    Values {
        /// The type.
        kind: GgufType,
        /// The values asked for.
        values: usize,
        /// Values of a block.
        block_size: usize,
    },
    /// The number of bytes is not that of the values.
    #[error(
        "{values} values of type {kind:?} take {expected} bytes, not {bytes}: the file is truncated or its header is wrong"
    )]
    Bytes {
        /// The type.
        kind: GgufType,
        /// The values asked for.
        values: usize,
        /// What they take.
        expected: usize,
        /// The bytes given.
        bytes: usize,
    },
}

impl GgufType {
    /// Every type.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
    ];

    /// The type with this number in a GGUF file (ggml's `enum ggml_type`), if it is one of these.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number of the type in a GGUF file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::IQ4_NL => 20,
            Self::IQ4_XS => 23,
            Self::BF16 => 30,
            Self::MXFP4 => 39,
        }
    }

    /// Values of a block.
    pub fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => legacy::BLOCK,
            Self::IQ4_NL | Self::MXFP4 => nonlinear::BLOCK,
            Self::IQ4_XS | Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => k_quants::BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_NL => 18,
            Self::IQ4_XS => 136,
            Self::MXFP4 => 17,
        }
    }

    /// Bytes of a tensor of so many values.
    ///
    /// # Errors
    /// If they are no whole number of blocks, or more than can be addressed.
    pub fn bytes_of(self, values: usize) -> Result<usize, DecodeError> {
        let block_size = self.block_size();
        (values / block_size)
            .checked_mul(self.block_bytes())
            .filter(|_| values.is_multiple_of(block_size))
            .ok_or(DecodeError::Values { kind: self, values, block_size })
    }
}
