//! Stored pixels of any colour type as red, green and blue.

use image::ColorType;

use crate::Alpha;

/// The pixels as bytes of red, green and blue; `None` for a colour type that no format here has.
///
/// Of 16 bits a channel keeps the upper eight, except in a PNG file of grey alone (`clipped`), whose values Pillow cuts off at 255.
pub(super) fn rgb(stored: Vec<u8>, color: ColorType, alpha: Alpha, clipped: bool) -> Option<Vec<u8>> {
    let channels = usize::from(color.channel_count());
    let bytes = match color {
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => stored,
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => narrow(&stored, clipped),
        _ => return None,
    };
    Some(match (channels, alpha) {
        (3, _) => bytes,
        (1, _) => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        (2, Alpha::OnWhite) => bytes.chunks_exact(2).flat_map(|p| [on_white(p[0], p[1]); 3]).collect(),
        (2, _) => bytes.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        (4, Alpha::Dropped) => bytes.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        (4, Alpha::OnWhite) => bytes.chunks_exact(4).flat_map(|p| [0, 1, 2].map(|c| on_white(p[c], p[3]))).collect(),
        _ => return None,
    })
}

/// 16 bits (in the machine's order) to 8.
fn narrow(stored: &[u8], clipped: bool) -> Vec<u8> {
    let values = stored.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    if clipped { values.map(|v| v.min(255) as u8).collect() } else { values.map(|v| (v >> 8) as u8).collect() }
}

/// A colour laid over white: (colour · alpha + 255 · (255 − alpha)) / 255, rounded as Pillow's `alpha_composite` does it,
/// in seven more bits.
pub(super) fn on_white(color: u8, alpha: u8) -> u8 {
    if alpha == 0 {
        return 255;
    }
    let share = u32::from(alpha) << 7;
    let sum = u32::from(color) * share + 255 * ((255 << 7) - share) + (0x80 << 7);
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}
