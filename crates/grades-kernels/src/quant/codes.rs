//! What the codes of NF4 and of its scales stand for.

use std::sync::OnceLock;

/// What a 4-bit code stands for, in parts of its block's largest magnitude: quantiles of the normal distribution.
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// What an 8-bit code stands for (Dettmers 2016): seven decades with 2⁰ … 2⁶ values on each side, 0 and 1, sorted.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let (mut map, mut filled) = ([0.0; 256], 0);
        for decade in 0..7 {
            let intervals = 1 << decade;
            let step = (1.0 - 0.1_f32) / intervals as f32;
            // PyTorch's `linspace` counts from the nearer end, and rounds once.
            let boundary = |i: usize| match i <= intervals / 2 && 2 * i < intervals {
                true => (f64::from(0.1_f32) + f64::from(step) * i as f64) as f32,
                false => (1.0 - f64::from(step) * (intervals - i) as f64) as f32,
            };
            let factor = 10_f64.powi(decade - 6) as f32;
            for i in 0..intervals {
                let value = factor * ((boundary(i) + boundary(i + 1)) / 2.0);
                (map[filled], map[filled + 1]) = (value, -value);
                filled += 2;
            }
        }
        map[filled + 1] = 1.0;
        map.sort_by(f32::total_cmp);
        map
    })
}
