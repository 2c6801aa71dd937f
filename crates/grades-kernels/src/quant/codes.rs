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

/// The values between 0 and 1 of an 8-bit map (Dettmers 2016), in order: seven decades with `intervals`, twice and four times
/// as many, and so on.
fn decades(intervals: usize) -> impl Iterator<Item = f32> {
    (0..7).flat_map(move |decade| {
        let intervals = intervals << decade;
        let step = (1.0 - 0.1_f32) / intervals as f32;
        // PyTorch's `linspace` counts from the nearer end, and rounds once.
        let boundary = move |i: usize| match 2 * i < intervals {
            true => (f64::from(0.1_f32) + f64::from(step) * i as f64) as f32,
            false => (1.0 - f64::from(step) * (intervals - i) as f64) as f32,
        };
        let factor = 10_f64.powi(decade - 6) as f32;
        (0..intervals).map(move |i| factor * ((boundary(i) + boundary(i + 1)) / 2.0))
    })
}

/// What an 8-bit code with a sign stands for: 2⁰ … 2⁶ values a decade on each side, 0 and 1, sorted.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut map = [0.0; 256];
        for (pair, value) in map.chunks_exact_mut(2).zip(decades(1)) {
            pair.copy_from_slice(&[value, -value]);
        }
        map[255] = 1.0;
        map.sort_by(f32::total_cmp);
        map
    })
}

/// What an 8-bit code without a sign stands for: 2¹ … 2⁷ values a decade, 0 and 1, sorted.
pub fn unsigned_dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut map = [0.0; 256];
        map[1..].iter_mut().zip(decades(2).chain([1.0])).for_each(|(place, value)| *place = value);
        map
    })
}
