//! AdamW with moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861), as bitsandbytes computes it: blocks of 256
//! elements with a scale of their own, and codes that are close together near 0.

use std::sync::OnceLock;

use super::adamw::{AdamW, Factors, step_run};
use super::update::Update;
use crate::quant::{dynamic_map, unsigned_dynamic_map};
use crate::threads::each;

/// Elements that share a scale.
pub const STATE_BLOCK: usize = 256;

/// Blocks of one task.
const TASK_BLOCKS: usize = 64;

/// One moment of a parameter in 8 bits.
#[derive(Debug)]
pub struct Codes<'a> {
    /// A code an element; 0 stands for 0.
    pub codes: &'a mut [u8],
    /// The largest magnitude of each [`STATE_BLOCK`] elements.
    pub scales: &'a mut [f32],
}

/// What the codes of a moment stand for, in parts of their block's scale.
///
/// Codes count from the value 0 on, so that a cleared state is one of zeros: with signs, 1 to 128 are above and 255 down to
/// 129 below it.
#[derive(Debug)]
pub struct StateMap {
    values: [f32; 256],
    /// The magnitudes from 0 to 1 in order.
    magnitudes: Vec<f32>,
    /// The magnitude to begin looking at, by the upper half of a number's bits.
    starts: Vec<u8>,
    signed: bool,
}

impl StateMap {
    /// That of the first moment, bitsandbytes' `dynamic` map.
    pub fn signed() -> &'static Self {
        static MAP: OnceLock<StateMap> = OnceLock::new();
        MAP.get_or_init(|| {
            let sorted = dynamic_map();
            // 127 values below 0.
            Self::of(std::array::from_fn(|code| sorted[(code + 127) % 256]), sorted[127..].to_vec(), true)
        })
    }

    /// That of the second moment, bitsandbytes' `udynamic` map.
    pub fn unsigned() -> &'static Self {
        static MAP: OnceLock<StateMap> = OnceLock::new();
        MAP.get_or_init(|| Self::of(*unsigned_dynamic_map(), unsigned_dynamic_map().to_vec(), false))
    }

    fn of(values: [f32; 256], magnitudes: Vec<f32>, signed: bool) -> Self {
        let mut map = Self { values, magnitudes, starts: Vec::new(), signed };
        let cells = (1.0_f32.to_bits() >> 16) + 1;
        map.starts = (0..cells).map(|cell| map.nearest(f32::from_bits(cell << 16), 0)).collect();
        map
    }

    /// What a code stands for.
    #[must_use]
    pub fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// The magnitude that is nearest to x, which is not below that of index `start`.
    fn nearest(&self, x: f32, start: u8) -> u8 {
        let mut index = usize::from(start);
        while let [below, above, ..] = self.magnitudes[index..]
            && x - below > above - x
        {
            index += 1;
        }
        index as u8
    }

    /// The code whose value is nearest to x, a number from −1 to 1; what is no number has the code of 0.
    #[must_use]
    pub fn code(&self, x: f32) -> u8 {
        let magnitude = x.abs();
        let Some(start) = self.starts.get((magnitude.to_bits() >> 16) as usize) else { return 0 };
        let code = self.nearest(magnitude, *start);
        if self.signed && x < 0.0 {
            // There is no −1.
            code.min(127).wrapping_neg()
        } else {
            code
        }
    }

    /// `values[i] = scales[block of i] · value of codes[i]`.
    pub fn decode(&self, codes: &[u8], scales: &[f32], values: &mut [f32]) {
        let blocks = values.chunks_mut(STATE_BLOCK).zip(codes.chunks(STATE_BLOCK)).zip(scales);
        for ((values, codes), scale) in blocks {
            for (value, code) in values.iter_mut().zip(codes) {
                *value = self.value(*code) * scale;
            }
        }
    }

    /// The codes of a block and its scale.
    fn encode_block(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let scale = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.code((value * factor).clamp(-1.0, 1.0));
        }
        scale
    }
}

/// The scales of so many elements.
#[must_use]
pub fn state_scales(elements: usize) -> usize {
    elements.div_ceil(STATE_BLOCK)
}

/// One AdamW step with moments in 8 bits. They are rounded after the step, which is that of the moments before. No gain is
/// found: the rounded moments do not tell the last change.
///
/// # Panics
/// If the lengths differ or `step` is 0.
pub fn adamw_8bit(options: &AdamW, update: Update, moments: [Codes; 2]) {
    let Update { parameter, gradient, gradient_scale } = update;
    let len = parameter.len();
    assert_eq!(gradient.len(), len);
    let fits = |moment: &Codes| moment.codes.len() == len && moment.scales.len() == state_scales(len);
    assert!(moments.iter().all(fits), "an optimizer state is not as long as its parameter");
    let factors = Factors::of(options, gradient_scale);
    let [first, second] = moments
        .map(|Codes { codes, scales }| codes.chunks_mut(TASK_BLOCKS * STATE_BLOCK).zip(scales.chunks_mut(TASK_BLOCKS)));
    let elements = parameter.chunks_mut(TASK_BLOCKS * STATE_BLOCK).zip(gradient.chunks(TASK_BLOCKS * STATE_BLOCK));
    each(elements.zip(first.zip(second)), |((parameter, gradient), (first, second))| {
        let maps = [StateMap::signed(), StateMap::unsigned()];
        let (mut m, mut v) = ([0.0; STATE_BLOCK], [0.0; STATE_BLOCK]);
        let blocks = parameter.chunks_mut(STATE_BLOCK).zip(gradient.chunks(STATE_BLOCK));
        let codes = first.0.chunks_mut(STATE_BLOCK).zip(second.0.chunks_mut(STATE_BLOCK));
        let scales = first.1.iter_mut().zip(second.1);
        for (((parameter, gradient), (m_codes, v_codes)), (m_scale, v_scale)) in blocks.zip(codes).zip(scales) {
            let (m, v) = (&mut m[..parameter.len()], &mut v[..parameter.len()]);
            maps[0].decode(m_codes, &[*m_scale], m);
            maps[1].decode(v_codes, &[*v_scale], v);
            step_run(parameter, gradient, m, v, factors);
            *m_scale = maps[0].encode_block(m, m_codes);
            *v_scale = maps[1].encode_block(v, v_codes);
        }
    });
}
