//! What size a picture gets. Heights come before widths, as in the processors that these rules are from.

use super::ProcessError;

/// Qwen2-VL's rule: the nearest size whose sides are multiples of `factor` (halves to the even one), scaled where it has fewer
/// than `min_pixels` or more than `max_pixels`. Source: transformers, `image_processing_qwen2_vl.py`.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(usize, usize), ProcessError> {
    const MOST: f64 = 200.0;
    let (h, w, step) = (height as f64, width as f64, factor as f64);
    if h.max(w) / h.min(w) > MOST {
        return Err(ProcessError::TooLong { width, height });
    }
    let (near_h, near_w) = ((h / step).round_ties_even() * step, (w / step).round_ties_even() * step);
    let (new_h, new_w) = if near_h * near_w > max_pixels as f64 {
        let shrink = (h * w / max_pixels as f64).sqrt();
        let side = |x: f64| ((x / shrink / step).floor() * step).max(step);
        (side(h), side(w))
    } else if near_h * near_w < min_pixels as f64 {
        let grow = (min_pixels as f64 / (h * w)).sqrt();
        let side = |x: f64| (x * grow / step).ceil() * step;
        (side(h), side(w))
    } else {
        (near_h, near_w)
    };
    Ok((new_h as usize, new_w as usize))
}

/// nanoVLM's rule: both sides multiples of `tile`, the long one at most `max_side`, or exactly that (`to_max_side`). Source:
/// nanoVLM, `DynamicResize`.
pub fn dynamic_resize(height: usize, width: usize, tile: usize, max_side: usize, to_max_side: bool) -> (usize, usize) {
    let (long, short) = (height.max(width), height.min(width));
    let tiles = |pixels: f64| (pixels / tile as f64).ceil() as usize * tile;
    let new_long = if to_max_side { max_side } else { tiles(long as f64).min(max_side) };
    let scale = new_long as f64 / long as f64;
    let new_short = tiles(short as f64 * scale).max(tile);
    if height >= width { (new_long, new_short) } else { (new_short, new_long) }
}

/// The size in which the shorter side is `edge`, the other cut off to a whole pixel.
pub(super) fn shortest_edge(height: usize, width: usize, edge: usize) -> (usize, usize) {
    let (short, long) = (height.min(width), height.max(width));
    let new_long = ((edge as f64 * long as f64) / short as f64) as usize;
    if width <= height { (new_long, edge) } else { (edge, new_long) }
}
