//! NF4 (Dettmers et al. 2023): blocks of 64 values as 4-bit codes, their scales as 8-bit codes with scales of their own.
//!
//! Codes and layout are those of bitsandbytes' `quantize_4bit` with `compress_statistics`, which fixtures recorded with it
//! check; a scale within 2e-6 of the middle between two 8-bit codes may get the other one. 0.516 bytes a value: 1/2 for the code, 1/64 for the block's scale, 4/16,384 for the scale's.

use std::sync::OnceLock;

use rayon::prelude::*;

/// Values of a block that share a scale.
pub const BLOCK: usize = 64;
/// Scales that share a scale of their own.
const NESTED_BLOCK: usize = 256;
/// Blocks that one task encodes or decodes.
const TASK_BLOCKS: usize = 256;

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

/// Why values cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("value {index} is not a finite number, which 4 bits cannot hold: the weights are damaged")]
pub struct NotFinite {
    /// Which of the values, row-major.
    pub index: usize,
}

/// Values in NF4, row-major; a block may span rows, and the last may be shorter than the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// Number of values.
    values: usize,
    /// Two codes a byte, the first in the high four bits.
    codes: Vec<u8>,
    /// An 8-bit code for the scale of each block.
    scales: Vec<u8>,
    /// The largest magnitude of each 256 scales.
    nested_scales: Vec<f32>,
    /// The mean scale, which is taken off before the scales are encoded.
    offset: f32,
}

impl Nf4 {
    /// Encodes values on all threads.
    ///
    /// # Errors
    /// If one is infinite or not a number.
    pub fn encode(values: &[f32]) -> Result<Self, NotFinite> {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(NotFinite { index });
        }
        // In f64, so that the mean does not depend on the order of the sum.
        let mean = |scales: &[f32]| {
            let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
            (sum / scales.len().max(1) as f64) as f32
        };
        Ok(Self::encode_with(values, mean))
    }

    /// Encodes finite values; `offset` gives what is taken off the scales.
    fn encode_with(values: &[f32], offset: impl FnOnce(&[f32]) -> f32) -> Self {
        let mut codes = vec![0; values.len().div_ceil(2)];
        let mut scales = vec![0.0; values.len().div_ceil(BLOCK)];
        let tasks = codes.par_chunks_mut(TASK_BLOCKS * BLOCK / 2).zip(scales.par_chunks_mut(TASK_BLOCKS));
        tasks.zip(values.par_chunks(TASK_BLOCKS * BLOCK)).for_each(|((codes, scales), values)| {
            let blocks = codes.chunks_mut(BLOCK / 2).zip(scales).zip(values.chunks(BLOCK));
            blocks.for_each(|((codes, scale), values)| *scale = encode_block(values, codes));
        });
        let offset = offset(&scales);
        scales.iter_mut().for_each(|scale| *scale -= offset);
        let (scales, nested_scales) = encode_scales(&scales);
        Self { values: values.len(), codes, scales, nested_scales, offset }
    }

    /// Decodes all values on all threads.
    ///
    /// # Panics
    /// If `out` is not as long as they are.
    pub fn decode(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.values, "there is room for another number of values");
        out.par_chunks_mut(TASK_BLOCKS * BLOCK).enumerate().for_each(|(task, out)| {
            for (index, out) in out.chunks_mut(BLOCK).enumerate() {
                self.decode_block(task * TASK_BLOCKS + index, out);
            }
        });
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values == 0
    }

    /// Memory of codes and scales, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() + 4 * self.nested_scales.len() + 4
    }

    fn scale(&self, block: usize) -> f32 {
        dynamic_map()[usize::from(self.scales[block])] * self.nested_scales[block / NESTED_BLOCK] + self.offset
    }

    fn decode_block(&self, block: usize, out: &mut [f32]) {
        let scale = self.scale(block);
        for (pair, codes) in out.chunks_mut(2).zip(&self.codes[block * BLOCK / 2..]) {
            for (value, code) in pair.iter_mut().zip([codes >> 4, codes & 15]) {
                *value = CODE[usize::from(code)] * scale;
            }
        }
    }
}

/// Encodes one block and gives its scale, its largest magnitude.
fn encode_block(values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let divisor = scale.max(1e-38);
    let code = |value: f32| {
        // As bitsandbytes rounds: a full block by the reciprocal, a shorter one by division.
        let part = if values.len() == BLOCK { value * (1.0 / divisor) } else { value / divisor };
        let part = part.clamp(-1.0, 1.0);
        CODE.windows(2).filter(|pair| (pair[0] + pair[1]) / 2.0 < part).count() as u8
    };
    for (codes, pair) in codes.iter_mut().zip(values.chunks(2)) {
        // The place beside an odd last value holds the code of 0.
        *codes = code(pair[0]) << 4 | code(pair.get(1).copied().unwrap_or(0.0));
    }
    scale
}

/// The scales, less their mean, as the nearest codes of [`dynamic_map`], and the largest magnitude of each 256.
fn encode_scales(scales: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (map, mut codes, mut nested) = (dynamic_map(), Vec::with_capacity(scales.len()), Vec::new());
    for scales in scales.chunks(NESTED_BLOCK) {
        let largest = scales.iter().fold(0.0_f32, |largest, scale| largest.max(scale.abs()));
        nested.push(largest);
        codes.extend(scales.iter().map(|&scale| {
            if largest == 0.0 {
                return 0;
            }
            let part = (scale * (1.0 / largest)).clamp(-1.0, 1.0);
            let above = map.partition_point(|&value| value < part).min(map.len() - 1);
            let below = above.saturating_sub(1);
            if (map[above] - part).abs() < (part - map[below]).abs() { above as u8 } else { below as u8 }
        }));
    }
    (codes, nested)
}

/// What an 8-bit code stands for (Dettmers 2016): seven decades with 2⁰ … 2⁶ values on each side, 0 and 1, sorted.
fn dynamic_map() -> &'static [f32; 256] {
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

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::{CODE, Nf4, NotFinite, dynamic_map};

    /// What bitsandbytes made; `GRADES_FIXTURES` may name other fixtures.
    fn recorded() -> Vec<u8> {
        let folder = std::env::var("GRADES_FIXTURES")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures").to_owned());
        std::fs::read(format!("{folder}/nf4/blocks.safetensors")).unwrap()
    }

    fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
        file.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn both_codes_are_those_of_bitsandbytes() {
        let file = recorded();
        let file = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(floats(&file, "code"), CODE);
        assert_eq!(floats(&file, "map"), dynamic_map());
    }

    #[test]
    fn encodes_and_decodes_as_bitsandbytes() {
        let file = recorded();
        let file = SafeTensors::deserialize(&file).unwrap();
        for name in ["large", "odd", "edge"] {
            let bytes = |part: &str| file.tensor(&format!("{name}.{part}")).unwrap().data().to_vec();
            let values = floats(&file, &format!("{name}.values"));
            let offset = floats(&file, &format!("{name}.offset"))[0];
            // bitsandbytes sums the mean in f32 and in another order.
            let alone = Nf4::encode(&values).unwrap();
            assert!((alone.offset - offset).abs() <= 1e-6 * offset.abs(), "{name}");
            assert_eq!(alone.codes, bytes("packed"), "{name}");
            let encoded = Nf4::encode_with(&values, |_| offset);
            assert_eq!(encoded.nested_scales, floats(&file, &format!("{name}.nested_absmax")), "{name}");
            // Of all recorded scales one lies within 2e-6 of the middle between two codes, and goes to the other one.
            let recorded = bytes("absmax");
            let other: Vec<_> = encoded.scales.iter().zip(&recorded).filter(|(a, b)| a != b).collect();
            assert!(other.len() <= 1 && other.iter().all(|(a, b)| a.abs_diff(**b) == 1), "{name}: {other:?}");
            // With the recorded scales every decoded bit is the same.
            let encoded = Nf4 { scales: recorded, ..encoded };
            let mut decoded = vec![f32::NAN; encoded.len()];
            encoded.decode(&mut decoded);
            assert_eq!(decoded, floats(&file, &format!("{name}.decoded")), "{name}");
        }
    }

    #[test]
    fn a_value_takes_little_more_than_half_a_byte() {
        let values = crate::testing::numbers(1, 1 << 16);
        let encoded = Nf4::encode(&values).unwrap();
        assert_eq!(encoded.bytes(), (1 << 15) + (1 << 10) + 4 * 4 + 4);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert_eq!(Nf4::encode(&[0.0, f32::NAN]), Err(NotFinite { index: 1 }));
        assert_eq!(Nf4::encode(&[f32::INFINITY]), Err(NotFinite { index: 0 }));
        let empty = Nf4::encode(&[]).unwrap();
        assert!(empty.is_empty());
        empty.decode(&mut []);
    }
}
