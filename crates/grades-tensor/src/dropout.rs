//! Dropout (Srivastava et al. 2014) whose mask is a function of a key: it is drawn again where it is needed, in the
//! backward pass and where a layer runs twice, and is kept nowhere.

use grades_kernels::Element;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Elements that one stream of random numbers decides on: a fixed size, so that threads do not matter.
const CHUNK: usize = 1 << 16;
/// An element is decided on by 16 bits, so the rate is a multiple of 2⁻¹⁶.
const LEVELS: u32 = 1 << 16;

/// Which elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of the elements that become zero, from 0 up to, but not including, 1. The others grow by
    /// `1 / (1 − rate)`.
    pub rate: f64,
    /// What the mask is drawn from.
    pub key: [u64; 4],
}

impl Dropout {
    /// Multiplies by the mask.
    pub(crate) fn apply<E: Element>(self, values: &mut [E]) {
        let below = ((self.rate * f64::from(LEVELS)).round() as u32).min(LEVELS - 1);
        let kept = LEVELS as f32 / (LEVELS - below) as f32;
        let mut seed = [0; 32];
        for (bytes, part) in seed.as_chunks_mut::<8>().0.iter_mut().zip(self.key) {
            *bytes = part.to_le_bytes();
        }
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let mut random = ChaCha8Rng::from_seed(seed);
            random.set_stream(chunk as u64);
            let mut bytes = [0; 512];
            for values in values.chunks_mut(bytes.len() / 2) {
                random.fill_bytes(&mut bytes);
                for (value, bits) in values.iter_mut().zip(bytes.as_chunks().0) {
                    let keep = u32::from(u16::from_le_bytes(*bits)) >= below;
                    *value = E::narrow(if keep { value.widen() * kept } else { 0.0 });
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rate: f64, key: [u64; 4], len: usize) -> Vec<f32> {
        let mut values = vec![1.0_f32; len];
        Dropout { rate, key }.apply(&mut values);
        values
    }

    #[test]
    fn a_rate_is_dropped_and_the_mean_stays() {
        let len = 3 * CHUNK + 77;
        for rate in [0.0, 0.05, 0.5, 0.9] {
            let mask = mask(rate, [1, 2, 3, 4], len);
            let dropped = mask.iter().filter(|value| **value == 0.0).count() as f64 / len as f64;
            // Five standard errors.
            let error = 5.0 * (rate * (1.0 - rate) / len as f64).sqrt();
            assert!((dropped - rate).abs() <= error + 1e-5, "{dropped} of {rate}");
            let mean = mask.iter().map(|value| f64::from(*value)).sum::<f64>() / len as f64;
            assert!((mean - 1.0).abs() <= error / (1.0 - rate) + 1e-5, "{mean} with {rate}");
            let kept = mask.iter().find(|value| **value != 0.0).unwrap();
            assert!((f64::from(*kept) * (1.0 - rate) - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn a_mask_is_that_of_its_key_on_any_number_of_threads() {
        let len = 2 * CHUNK + 5;
        let reference = mask(0.5, [7, 3, 0, 9], len);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| mask(0.5, [7, 3, 0, 9], len)), reference);
        }
        let same = |other: &[f32]| other.iter().zip(&reference).filter(|(a, b)| a == b).count() as f64 / len as f64;
        for part in 0..4 {
            let mut key = [7, 3, 0, 9];
            key[part] += 1;
            assert!((same(&mask(0.5, key, len)) - 0.5).abs() < 0.01, "part {part}");
        }
        // Neither is the second stream the first again.
        let (first, second) = (&reference[..CHUNK], &reference[CHUNK..2 * CHUNK]);
        assert!(first != second);
    }
}
