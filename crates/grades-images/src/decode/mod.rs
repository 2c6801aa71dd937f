//! From a file's bytes to a [`Picture`], in every colour type as Pillow sees it.
//!
//! Sources: Pillow 13 (`PngImagePlugin.py`, `GifImagePlugin.py`, `Convert.c`, `AlphaComposite.c`), by which the reference
//! processors read pictures. The turn that a camera notes (EXIF) is not applied, as none of them does.

mod error;
mod gif;
mod jpeg;
mod pixels;
mod png;

use std::io::Cursor;

use image::{ImageDecoder, ImageFormat, ImageReader};

pub use error::DecodeError;
use error::{DAMAGED_TOO_SMALL, Format};

use crate::{Alpha, Picture};

/// What a picture may need, known before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of the picture.
    pub pixels: u64,
    /// Bytes of the decoded picture in its own colour type, and about what its decoder may allocate beside it.
    pub bytes: u64,
}

impl Default for Limits {
    /// The size that Pillow refuses as a decompression bomb, and a gibibyte.
    fn default() -> Self {
        Self { pixels: 178_956_970, bytes: 1 << 30 }
    }
}

impl Limits {
    fn check(&self, width: u64, height: u64, bytes: u64) -> Result<(), DecodeError> {
        if width.saturating_mul(height) > self.pixels {
            return Err(DecodeError::TooManyPixels { width, height, limit: self.pixels });
        }
        if bytes > self.bytes {
            return Err(DecodeError::TooManyBytes { width, height, bytes, limit: self.bytes });
        }
        Ok(())
    }
}

/// Decodes a PNG, JPEG, WebP, GIF (its first frame) or BMP file.
pub fn decode(file: &[u8], alpha: Alpha, limits: Limits) -> Result<Picture, DecodeError> {
    let format = Format::of(file)?;
    let known = match format {
        Format::Gif => return gif::decode(file, alpha, limits),
        Format::Jpeg => return jpeg::decode(file, limits),
        Format::WebP if !webp_is_whole(file) => return Err(DecodeError::Truncated { format }),
        Format::WebP => ImageFormat::WebP,
        Format::Png if png::has_cut_palette(file) => {
            return Err(DecodeError::Damaged { format, reason: "its palette is not of whole colours".into() });
        }
        Format::Png => ImageFormat::Png,
        Format::Bmp => ImageFormat::Bmp,
    };
    let decoder = decoder(file, format, known)?;
    let ((width, height), color, bytes) = (decoder.dimensions(), decoder.color_type(), decoder.total_bytes());
    limits.check(width.into(), height.into(), bytes)?;
    let (width, height) = (width as usize, height as usize);
    if width == 0 || height == 0 {
        return Err(DecodeError::Damaged { format, reason: DAMAGED_TOO_SMALL.into() });
    }
    let mut decoder = decoder;
    let mut allowed = image::Limits::no_limits();
    // the buffer is ours; a WebP file needs as much again for what is between file and pixels
    allowed.max_alloc = Some(limits.bytes.saturating_mul(2));
    decoder.set_limits(allowed).map_err(|error| DecodeError::from_image(format, error))?;
    let mut stored = vec![0; bytes as usize];
    decoder.read_image(&mut stored).map_err(|error| DecodeError::from_image(format, error))?;
    let clipped = format == Format::Png && png::is_grey16(file);
    let rgb = pixels::rgb(stored, color, alpha, clipped).ok_or_else(|| DecodeError::Damaged {
        format,
        reason: format!("its pixels are of a kind that is not read ({color:?})"),
    })?;
    Picture::new(width, height, rgb)
        .ok_or_else(|| DecodeError::Damaged { format, reason: "it has not as many pixels as it says".into() })
}

/// Whether a WebP file is as long as its header says. To its decoder the end of a lossy one is as good as any bits.
fn webp_is_whole(file: &[u8]) -> bool {
    let length = file.get(4..8).and_then(|bytes| bytes.first_chunk()).map(|&bytes| u32::from_le_bytes(bytes));
    length.is_some_and(|length| file.len() as u64 >= u64::from(length) + 8)
}

/// Width and height of a picture file, from its header.
pub fn dimensions(file: &[u8]) -> Result<(usize, usize), DecodeError> {
    let format = Format::of(file)?;
    let (width, height) = match format {
        Format::Jpeg => return jpeg::dimensions(file),
        Format::Gif => gif::dimensions(file)?,
        Format::WebP => decoder(file, format, ImageFormat::WebP)?.dimensions(),
        Format::Png => decoder(file, format, ImageFormat::Png)?.dimensions(),
        Format::Bmp => decoder(file, format, ImageFormat::Bmp)?.dimensions(),
    };
    match (width, height) {
        (0, _) | (_, 0) => Err(DecodeError::Damaged { format, reason: DAMAGED_TOO_SMALL.into() }),
        (width, height) => Ok((width as usize, height as usize)),
    }
}

fn decoder(file: &[u8], format: Format, known: ImageFormat) -> Result<impl ImageDecoder, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(file), known);
    reader.no_limits();
    reader.into_decoder().map_err(|error| DecodeError::from_image(format, error))
}
