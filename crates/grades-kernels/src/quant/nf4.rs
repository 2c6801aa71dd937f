//! NF4 (Dettmers et al. 2023): blocks of 64 values as 4-bit codes, their scales as 8-bit codes with scales of their own.
//!
//! Codes and layout are those of bitsandbytes' `quantize_4bit` with `compress_statistics`, which fixtures recorded with it
//! check; a scale within 2e-6 of the middle between two 8-bit codes may get the other one. 0.516 bytes a value: 1/2 for the code, 1/64 for the block's scale, 4/16,384 for the scale's.

use rayon::prelude::*;

use super::codes::{CODE, dynamic_map};
use super::lookup;

/// Values of a block that share a scale.
pub const BLOCK: usize = 64;
/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;
/// Blocks that one task encodes or decodes.
const TASK_BLOCKS: usize = 256;

/// Why values cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("value {index} is not a finite number, which 4 bits cannot hold: the weights are damaged")]
pub struct NotFinite {
    /// Which of the values, row-major.
    pub index: usize,
}

/// A part of NF4 values that has another size than their number asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{values} values in NF4 have {expected} {part}, not {found}: the tensor's parts are not of one tensor")]
pub struct PartError {
    /// What it holds, in the plural.
    pub part: &'static str,
    /// The number of values.
    pub values: usize,
    /// How many of the part they need.
    pub expected: usize,
    /// How many there are.
    pub found: usize,
}

/// Values in NF4, row-major; a block may span rows, and the last may be shorter than the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// Number of values.
    values: usize,
    /// Two codes a byte, the first in the high four bits.
    codes: Vec<u8>,
    scales: Nf4Scales,
}

/// The scales of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Nf4Scales {
    /// As they are, bitsandbytes' form without double quantisation: 0.5625 bytes a value.
    Plain(Vec<f32>),
    /// In 8 bits, with scales of their own.
    Nested {
        /// A code for the scale of each block.
        codes: Vec<u8>,
        /// The largest magnitude of each 256 scales.
        scales: Vec<f32>,
        /// The mean scale, which is taken off before the scales are encoded.
        offset: f32,
    },
}

impl Nf4Scales {
    fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => 4 * scales.len(),
            Self::Nested { codes, scales, .. } => codes.len() + 4 * scales.len() + 4,
        }
    }

    fn of_block(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested { codes, scales, offset } => {
                dynamic_map()[usize::from(codes[block])] * scales[block / NESTED_BLOCK] + offset
            }
        }
    }
}

/// Encodes values that come piece by piece, so that no more than a piece of them need be held.
#[derive(Debug)]
pub struct Nf4Encoder {
    values: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Blocks that are encoded.
    done: usize,
}

impl Nf4Encoder {
    /// Encodes the next values, on all threads. Every piece but the last is a whole number of blocks.
    ///
    /// # Errors
    /// If a value is infinite or not a number.
    ///
    /// # Panics
    /// If there are more values than were announced, or a piece other than the last ends within a block.
    pub fn push(&mut self, piece: &[f32]) -> Result<(), NotFinite> {
        let first = self.done * BLOCK;
        let whole = piece.len().is_multiple_of(BLOCK) || first + piece.len() == self.values;
        assert!(whole, "a piece that is not the last ends within a block");
        if let Some(index) = piece.iter().position(|value| !value.is_finite()) {
            return Err(NotFinite { index: first + index });
        }
        let (codes, scales) = (&mut self.codes[first / 2..], &mut self.scales[self.done..]);
        let codes = &mut codes[..piece.len().div_ceil(2)];
        let scales = &mut scales[..piece.len().div_ceil(BLOCK)];
        let tasks = codes.par_chunks_mut(TASK_BLOCKS * BLOCK / 2).zip(scales.par_chunks_mut(TASK_BLOCKS));
        tasks.zip(piece.par_chunks(TASK_BLOCKS * BLOCK)).for_each(|((codes, scales), values)| {
            let blocks = codes.chunks_mut(BLOCK / 2).zip(scales).zip(values.chunks(BLOCK));
            blocks.for_each(|((codes, scale), values)| *scale = encode_block(values, codes));
        });
        self.done += piece.len().div_ceil(BLOCK);
        Ok(())
    }

    /// The values, when all have come.
    ///
    /// # Panics
    /// If some are missing.
    #[must_use]
    pub fn finish(self) -> Nf4 {
        // In f64, so that the mean does not depend on the order of the sum.
        self.finish_with(|scales| {
            let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
            (sum / scales.len().max(1) as f64) as f32
        })
    }

    /// As [`finish`](Self::finish); `offset` gives what is taken off the scales.
    fn finish_with(self, offset: impl FnOnce(&[f32]) -> f32) -> Nf4 {
        let Self { values, codes, mut scales, done } = self;
        assert_eq!(done, scales.len(), "blocks are missing");
        let offset = offset(&scales);
        scales.iter_mut().for_each(|scale| *scale -= offset);
        let (scale_codes, scales) = encode_scales(&scales);
        Nf4 { values, codes, scales: Nf4Scales::Nested { codes: scale_codes, scales, offset } }
    }
}

impl Nf4 {
    /// An encoder for this many values.
    #[must_use]
    pub fn encoder(values: usize) -> Nf4Encoder {
        let (codes, scales) = (vec![0; values.div_ceil(2)], vec![0.0; values.div_ceil(BLOCK)]);
        Nf4Encoder { values, codes, scales, done: 0 }
    }

    /// Encodes values on all threads.
    ///
    /// # Errors
    /// If one is infinite or not a number.
    pub fn encode(values: &[f32]) -> Result<Self, NotFinite> {
        let mut encoder = Self::encoder(values.len());
        encoder.push(values)?;
        Ok(encoder.finish())
    }

    /// Values that are encoded already: `codes` two a byte, the first in the high four bits.
    ///
    /// # Errors
    /// If a part has another size than that number of values needs.
    pub fn from_parts(values: usize, codes: Vec<u8>, scales: Nf4Scales) -> Result<Self, PartError> {
        let blocks = values.div_ceil(BLOCK);
        let check = |part, found, expected| match found == expected {
            true => Ok(()),
            false => Err(PartError { part, values, expected, found }),
        };
        check("bytes of codes", codes.len(), values.div_ceil(2))?;
        match &scales {
            Nf4Scales::Plain(scales) => check("scales of blocks", scales.len(), blocks)?,
            Nf4Scales::Nested { codes, scales, .. } => {
                check("scales of blocks", codes.len(), blocks)?;
                check("scales of scales", scales.len(), blocks.div_ceil(NESTED_BLOCK))?;
            }
        }
        Ok(Self { values, codes, scales })
    }

    /// Decodes all values on all threads.
    ///
    /// # Panics
    /// If `out` is not as long as they are.
    pub fn decode(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.values, "there is room for another number of values");
        out.par_chunks_mut(TASK_BLOCKS * BLOCK).enumerate().for_each(|(task, out)| {
            self.decode_range(task * TASK_BLOCKS * BLOCK, out);
        });
    }

    /// Decodes values `first ..` on this thread.
    ///
    /// # Panics
    /// If there are not as many.
    pub(super) fn decode_range(&self, first: usize, mut out: &mut [f32]) {
        assert!(first + out.len() <= self.values, "the range reaches beyond the values");
        let mut at = first;
        while !out.is_empty() {
            let count = (BLOCK - at % BLOCK).min(out.len());
            let (mut part, rest) = out.split_at_mut(count);
            let scale = self.scales.of_block(at / BLOCK);
            let codes = &self.codes[at / 2..];
            let mut codes = &codes[..(at % 2 + count).div_ceil(2)];
            if at % 2 == 1 {
                part[0] = CODE[usize::from(codes[0] & 15)] * scale;
                (codes, part) = (&codes[1..], &mut part[1..]);
            }
            lookup::scaled(codes, scale, part);
            (at, out) = (at + count, rest);
        }
    }

    /// Two codes a byte, the first in the high four bits, and the scales of the blocks.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &Nf4Scales) {
        (&self.codes, &self.scales)
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
        self.codes.len() + self.scales.bytes()
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

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::{BLOCK, CODE, Nf4, Nf4Scales, NotFinite, PartError, dynamic_map};

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
            let Nf4Scales::Nested { offset: mean, .. } = &alone.scales else {
                panic!("{name}: the scales are not nested")
            };
            assert!((mean - offset).abs() <= 1e-6 * offset.abs(), "{name}");
            assert_eq!(alone.codes, bytes("packed"), "{name}");
            let mut encoder = Nf4::encoder(values.len());
            encoder.push(&values).unwrap();
            let encoded = encoder.finish_with(|_| offset);
            let Nf4Scales::Nested { codes, scales, .. } = encoded.scales else { panic!("{name}") };
            assert_eq!(scales, floats(&file, &format!("{name}.nested_absmax")), "{name}");
            // Of all recorded scales one lies within 2e-6 of the middle between two codes, and goes to the other one.
            let recorded = bytes("absmax");
            let other: Vec<_> = codes.iter().zip(&recorded).filter(|(a, b)| a != b).collect();
            assert!(other.len() <= 1 && other.iter().all(|(a, b)| a.abs_diff(**b) == 1), "{name}: {other:?}");
            // With the recorded scales every decoded bit is the same.
            let scales = Nf4Scales::Nested { codes: recorded, scales, offset };
            let encoded = Nf4::from_parts(values.len(), encoded.codes, scales).unwrap();
            let mut decoded = vec![f32::NAN; encoded.len()];
            encoded.decode(&mut decoded);
            assert_eq!(decoded, floats(&file, &format!("{name}.decoded")), "{name}");
        }
    }

    #[test]
    fn pieces_encode_as_the_whole() {
        let values = crate::testing::numbers(1, 1000);
        let mut encoder = Nf4::encoder(values.len());
        values.chunks(3 * BLOCK).for_each(|piece| encoder.push(piece).unwrap());
        assert_eq!(encoder.finish(), Nf4::encode(&values).unwrap());
        let mut encoder = Nf4::encoder(256);
        encoder.push(&values[..192]).unwrap();
        assert_eq!(encoder.push(&[f32::NAN; 64]), Err(NotFinite { index: 192 }));
    }

    #[test]
    fn any_range_decodes_as_the_whole() {
        let values = crate::testing::numbers(2, 40_001);
        let encoded = Nf4::encode(&values).unwrap();
        let mut whole = vec![0.0; values.len()];
        encoded.decode(&mut whole);
        // The largest gap of the code is 0.304 of the block's scale, which is at most 1 and rounded a little.
        assert!(whole.iter().zip(&values).all(|(found, value)| (found - value).abs() < 0.16));
        for first in [0, 1, 2, 16, 63, 64, 96, 129, 16_383] {
            for len in [0, 1, 2, 15, 16, 17, 48, 64, 96, 131, 1_000] {
                let mut part = vec![f32::NAN; len];
                encoded.decode_range(first, &mut part);
                assert_eq!(part, whole[first..first + len], "{len} from {first}");
            }
        }
        let mut last = [f32::NAN; 3];
        encoded.decode_range(values.len() - 3, &mut last);
        assert_eq!(last, whole[values.len() - 3..]);
    }

    #[test]
    fn scales_may_be_plain() {
        let scales = Nf4Scales::Plain(vec![2.0, 0.5]);
        let encoded = Nf4::from_parts(66, [vec![0x0f; 32], vec![0xf0]].concat(), scales.clone()).unwrap();
        let mut decoded = vec![f32::NAN; 66];
        encoded.decode(&mut decoded);
        assert_eq!(decoded[..3], [-2.0, 2.0, -2.0]);
        assert_eq!(decoded[63..], [2.0, 0.5, -0.5]);
        assert_eq!(encoded.bytes(), 33 + 8);
        let error = |part, expected, found| PartError { part, values: 200, expected, found };
        let from = |codes, scales| Nf4::from_parts(200, vec![0; codes], scales).unwrap_err();
        assert_eq!(from(99, scales.clone()), error("bytes of codes", 100, 99));
        assert_eq!(from(100, scales), error("scales of blocks", 4, 2));
        let nested =
            |codes, scales| Nf4Scales::Nested { codes: vec![0; codes], scales: vec![0.0; scales], offset: 0.0 };
        assert_eq!(from(100, nested(5, 1)), error("scales of blocks", 4, 5));
        assert_eq!(from(100, nested(4, 2)), error("scales of scales", 1, 2));
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
