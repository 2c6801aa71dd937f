//! JPEG files, as near to libjpeg's as their decoder's arithmetic allows: half a level on average, and hardly ever more than three.
//!
//! The crate decodes to luma and chroma; what is made of them is ours. Source: libjpeg-turbo (`jdcolor.c`, `jdsample.c`).

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::error::{DAMAGED_TOO_SMALL, Format};
use super::{DecodeError, Limits};
use crate::Picture;

const FORMAT: Format = Format::Jpeg;

/// Decodes a JPEG file, which has no transparency.
pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    if !is_whole(file) {
        return Err(DecodeError::Truncated { format: FORMAT });
    }
    let (mut decoder, (width, height)) = open(file)?;
    limits.check(width as u64, height as u64, 3 * (width * height) as u64)?;
    let stored = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => ColorSpace::Luma,
        Some(ColorSpace::YCbCr) => ColorSpace::YCbCr,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(stored));
    let mut bytes = decoder.decode().map_err(damaged)?;
    let rgb = match stored {
        ColorSpace::Luma => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorSpace::YCbCr => {
            mend_edges(&mut bytes, width, chroma_is_halved(file));
            bytes.chunks_exact_mut(3).for_each(to_rgb);
            bytes
        }
        _ => bytes,
    };
    Picture::new(width, height, rgb)
        .ok_or_else(|| DecodeError::Damaged { format: FORMAT, reason: "it has not as many pixels as it says".into() })
}

/// Width and height.
pub(super) fn dimensions(file: &[u8]) -> Result<(usize, usize), DecodeError> {
    open(file).map(|(_, size)| size)
}

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

fn open(file: &[u8]) -> Result<(Decoder<'_>, (usize, usize)), DecodeError> {
    // sizes are checked against our own limits; small faults are passed over, as by libjpeg
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(damaged)?;
    match decoder.dimensions() {
        Some((width, height)) if width > 0 && height > 0 => Ok((decoder, (width, height))),
        _ => Err(DecodeError::Damaged { format: FORMAT, reason: DAMAGED_TOO_SMALL.into() }),
    }
}

fn damaged(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Damaged { format: FORMAT, reason: error.to_string() }
}

/// Luma and chroma to red, green and blue, in whole numbers of 2^−16 as libjpeg does it.
fn to_rgb(pixel: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    let (luma, blue, red) = (i32::from(pixel[0]), i32::from(pixel[1]) - 128, i32::from(pixel[2]) - 128);
    let moved =
        [(91_881 * red + HALF) >> 16, (-22_554 * blue - 46_802 * red + HALF) >> 16, (116_130 * blue + HALF) >> 16];
    pixel.iter_mut().zip(moved).for_each(|(value, moved)| *value = (luma + moved).clamp(0, 255) as u8);
}

/// Gives the last column and row the chroma that they have in libjpeg, their own. The decoder mixes in what lies beyond the picture
/// where it ends within a block.
fn mend_edges(pixels: &mut [u8], width: usize, (across, down): (bool, bool)) {
    const MCU: usize = 16;
    let within_block = |size: usize| size.is_multiple_of(2) && !size.is_multiple_of(MCU) && size >= 4;
    let (row, height) = (3 * width, pixels.len() / (3 * width));
    if down && within_block(height) {
        for value in (0..row).filter(|value| value % 3 != 0) {
            pixels[(height - 1) * row + value] = own(height, |line| pixels[line * row + value]);
        }
    }
    if across && within_block(width) {
        for line in pixels.chunks_exact_mut(row) {
            for channel in [1, 2] {
                line[row - 3 + channel] = own(width, |column| line[3 * column + channel]);
            }
        }
    }
}

/// The last value of chroma along an axis of `size` pixels, of which there are half as many: each was spread over neighbours,
/// 3 : 1 and rounded, and so bounds the next. A few steps leave one or two values that it may have had.
fn own(size: usize, spread: impl Fn(usize) -> u8) -> u8 {
    const STEPS: usize = 8;
    let last = size / 2 - 1;
    let begin = last.saturating_sub(STEPS).max(1);
    // the first of all is not spread
    let (mut low, mut high) = if begin == 1 { (i32::from(spread(0)), i32::from(spread(0))) } else { (0, 255) };
    for k in begin..=last {
        let (before, here) = (4 * i32::from(spread(2 * k - 1)), 4 * i32::from(spread(2 * k)));
        // 3 · former + own + 2 lies in before … before + 3, and 3 · own + former + 2 in here … here + 3
        let bounds = [
            (before - 2 - 3 * high, before + 1 - 3 * low),
            ((here - high).div_euclid(3), (here + 1 - low).div_euclid(3)),
        ];
        (low, high) = (bounds[0].0.max(bounds[1].0).max(0), bounds[0].1.min(bounds[1].1).min(255));
        if low > high {
            // rounded otherwise than thought: what the two say alone
            let value = (3 * here - before).div_euclid(8).clamp(0, 255);
            (low, high) = (value, value);
        }
    }
    ((low + high + 1) / 2) as u8
}

/// Whether the end-of-image marker comes after the first scan; within a scan's data the two bytes cannot stand otherwise. The
/// decoder fills what is missing with grey, in silence; Pillow refuses such a file.
fn is_whole(file: &[u8]) -> bool {
    let scan = segments(file).find(|(marker, _)| *marker == 0xda);
    scan.is_some_and(|(_, data)| data.windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// Whether there is half as much chroma as luma, across and down.
fn chroma_is_halved(file: &[u8]) -> (bool, bool) {
    let frame = segments(file).find(|(marker, _)| matches!(marker, 0xc0..=0xc2));
    // after length, precision, height, width and number: three bytes a component, the second its sampling
    let sampling = |component: usize| Some(*frame?.1.get(8 + 3 * component + 1)?);
    let halved = |luma: u8, chroma: u8| luma == 2 * chroma;
    match (sampling(0), sampling(1)) {
        (Some(luma), Some(chroma)) => (halved(luma >> 4, chroma >> 4), halved(luma & 15, chroma & 15)),
        _ => (false, false),
    }
}

/// The marker of each segment up to the first scan, and the file from its length on. What cameras embed in a segment may hold
/// whole pictures, and is passed over with it.
fn segments(file: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 2;
    std::iter::from_fn(move || {
        loop {
            let (first, marker) = (*file.get(at)?, *file.get(at + 1)?);
            match (first, marker) {
                (0xff, 0x02..=0xcf | 0xd9..=0xfe) => {
                    let data = file.get(at + 2..)?;
                    let length = u16::from_be_bytes(*data.first_chunk()?);
                    at = if marker == 0xda { file.len() } else { at + 2 + usize::from(length) };
                    return Some((marker, data));
                }
                (0xff, 0x01 | 0xd0..=0xd8) => at += 2,
                // bytes between segments, which decoders pass over
                _ => at += 1,
            }
        }
    })
}
