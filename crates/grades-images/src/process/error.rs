//! Why a processor cannot take a picture.

/// Why a processor cannot take a picture. Whoever knows its name puts that before the sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// Qwen2-VL's processor takes no such shape.
    #[error("the picture, {width}×{height} pixels, is more than 200 times as long as it is wide; cut it")]
    TooLong {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// Resized by the processor's rule it would be a giant.
    #[error(
        "the picture, {width}×{height} pixels, would be resized to {new_width}×{new_height}, more than the {limit} pixels allowed; cut it"
    )]
    TooLarge {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Pixels of a row after resizing.
        new_width: usize,
        /// Rows after resizing.
        new_height: usize,
        /// The most.
        limit: usize,
    },
}
