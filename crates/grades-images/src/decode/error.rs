//! Why a picture cannot be read.

use std::fmt::{self, Display};

use image::ImageError;

/// The kinds of picture files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    WebP,
    /// GIF, of which the first frame counts.
    Gif,
    /// BMP.
    Bmp,
}

impl Format {
    /// The format by a file's first bytes.
    pub(super) fn of(file: &[u8]) -> Result<Self, DecodeError> {
        match file {
            [] => Err(DecodeError::Empty),
            [0x89, b'P', b'N', b'G', ..] => Ok(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            [b'G', b'I', b'F', b'8', ..] => Ok(Self::Gif),
            [b'B', b'M', ..] => Ok(Self::Bmp),
            _ => Err(DecodeError::UnknownFormat),
        }
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        })
    }
}

pub(super) const DAMAGED_TOO_SMALL: &str = "it says that it has no pixels";

/// Why a picture cannot be read. Whoever knows its name puts that before the sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the picture is an empty file")]
    Empty,
    /// Another format, or no picture.
    #[error("the picture is not a PNG, JPEG, WebP, GIF or BMP file; convert it to one of them")]
    UnknownFormat,
    /// A giant picture, or a file that says it is one.
    #[error("the picture has {width}×{height} pixels, more than the {limit} that are read; make it smaller")]
    TooManyPixels {
        /// Pixels of a row.
        width: u64,
        /// Rows.
        height: u64,
        /// The most that is read.
        limit: u64,
    },
    /// More memory than is allowed.
    #[error(
        "the picture, {width}×{height} pixels, takes {bytes} bytes when decoded, more than the {limit} allowed; make it smaller"
    )]
    TooManyBytes {
        /// Pixels of a row.
        width: u64,
        /// Rows.
        height: u64,
        /// What it takes.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The file ends before its picture does.
    #[error("the {format} picture ends too early: the file is truncated; get it again")]
    Truncated {
        /// The kind of file.
        format: Format,
    },
    /// Something else is wrong with it.
    #[error("the {format} picture cannot be decoded: {reason}")]
    Damaged {
        /// The kind of file.
        format: Format,
        /// What the decoder says.
        reason: String,
    },
}

impl DecodeError {
    pub(super) fn from_image(format: Format, error: ImageError) -> Self {
        match &error {
            ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => Self::Truncated { format },
            _ if ends_early(&error) => Self::Truncated { format },
            _ => Self::Damaged { format, reason: error.to_string() },
        }
    }
}

/// Whether some cause of an error is that the file ended.
fn ends_early(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = error.source();
    }
    false
}
