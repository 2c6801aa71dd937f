//! Small copies of pictures, to be looked at.

use image::ImageEncoder;
use image::codecs::png::PngEncoder;

use crate::decode::{DecodeError, Limits, decode};
use crate::picture::Alpha;
use crate::resize::{Backend, Filter, resize};

/// A picture as a PNG of no more than `side` pixels a side.
///
/// # Errors
/// As [`decode`].
pub fn thumbnail(file: &[u8], side: usize, limits: Limits) -> Result<Vec<u8>, DecodeError> {
    let picture = decode(file, Alpha::OnWhite, limits)?;
    let longest = picture.width().max(picture.height());
    let small = match longest > side {
        true => {
            let scaled = |of: usize| (of * side).div_ceil(longest).max(1);
            resize(&picture, scaled(picture.width()), scaled(picture.height()), Filter::Bicubic, Backend::Pillow)
        }
        false => picture,
    };
    let mut png = Vec::new();
    let (width, height) = (small.width() as u32, small.height() as u32);
    // Writing to memory fails only if the bytes are not those of the size, which a picture's are.
    let written = PngEncoder::new(&mut png).write_image(small.rgb(), width, height, image::ExtendedColorType::Rgb8);
    debug_assert!(written.is_ok());
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_is_the_picture_no_larger_than_asked() {
        let mut large = Vec::new();
        let rgb: Vec<u8> = (0..40 * 10).flat_map(|at| if at % 40 < 20 { [255, 0, 0] } else { [0, 0, 255] }).collect();
        PngEncoder::new(&mut large).write_image(&rgb, 40, 10, image::ExtendedColorType::Rgb8).unwrap();
        let of = |side| decode(&thumbnail(&large, side, Limits::default()).unwrap(), Alpha::OnWhite, Limits::default());
        let small = of(8).unwrap();
        assert_eq!((small.width(), small.height()), (8, 2));
        assert!(small.rgb()[0] > 250 && small.rgb()[21] < 5 && small.rgb()[23] > 250);
        assert_eq!(of(64).unwrap().rgb(), rgb);
        assert!(thumbnail(b"no picture", 8, Limits::default()).is_err());
    }
}
