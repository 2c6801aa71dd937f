//! The first frame of a GIF file, on the canvas that Pillow gives it.

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};

use super::error::{DAMAGED_TOO_SMALL, Format};
use super::pixels::on_white;
use super::{DecodeError, Limits};
use crate::{Alpha, Picture};

const FORMAT: Format = Format::Gif;

/// Decodes the first frame. What it leaves free of the canvas has its transparent colour, or else the palette's first.
pub(super) fn decode(file: &[u8], alpha: Alpha, limits: Limits) -> Result<Picture, DecodeError> {
    let mut decoder = open(file, limits)?;
    let (wide, high) = (usize::from(decoder.width()), usize::from(decoder.height()));
    limits.check(wide as u64, high as u64, 4 * (wide * high) as u64)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let Some(frame) = decoder.read_next_frame().map_err(from_gif)? else {
        return Err(DecodeError::Truncated { format: FORMAT });
    };
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    // a frame that reaches beyond the canvas makes it larger
    let (width, height) = (wide.max(left + frame_width), high.max(top + frame_height));
    if width == 0 || height == 0 {
        return Err(DecodeError::Damaged { format: FORMAT, reason: DAMAGED_TOO_SMALL.into() });
    }
    limits.check(width as u64, height as u64, 4 * (width * height) as u64)?;
    let mut canvas = vec![frame.transparent.unwrap_or(0); width * height];
    if frame_width > 0 {
        for (row, stored) in frame.buffer.chunks_exact(frame_width).take(frame_height).enumerate() {
            canvas[(top + row) * width + left..][..frame_width].copy_from_slice(stored);
        }
    }
    let palette = frame.palette.as_ref().or(global.as_ref());
    let color = |index: u8| {
        let seen = alpha == Alpha::Dropped || frame.transparent != Some(index);
        // no palette, or none so long: the index is a grey
        let stored = palette.and_then(|p| p.get(3 * usize::from(index)..)?.first_chunk::<3>());
        stored.map_or([index; 3], |rgb| *rgb).map(|c| on_white(c, if seen { 255 } else { 0 }))
    };
    let colors: Vec<[u8; 3]> = (0..=255).map(color).collect();
    Ok(Picture::of(width, height, canvas.iter().flat_map(|&index| colors[usize::from(index)]).collect()))
}

/// Width and height as [`decode`] will give them.
pub(super) fn dimensions(file: &[u8]) -> Result<(u32, u32), DecodeError> {
    let mut decoder = open(file, Limits::default())?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let Some(frame) = decoder.next_frame_info().map_err(from_gif)? else {
        return Err(DecodeError::Truncated { format: FORMAT });
    };
    let (right, bottom) =
        (u32::from(frame.left) + u32::from(frame.width), u32::from(frame.top) + u32::from(frame.height));
    Ok((width.max(right), height.max(bottom)))
}

fn open(file: &[u8], limits: Limits) -> Result<Decoder<&[u8]>, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(limits.bytes.try_into().map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    options.read_info(file).map_err(from_gif)
}

fn from_gif(error: DecodingError) -> DecodeError {
    match &error {
        DecodingError::UnexpectedEof => DecodeError::Truncated { format: FORMAT },
        DecodingError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        _ => DecodeError::Damaged { format: FORMAT, reason: error.to_string() },
    }
}
