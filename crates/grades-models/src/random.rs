//! Values for a model without a checkpoint.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::Error;
use crate::source::Source;

/// Values that one stream of random numbers gives: a fixed size, so that threads do not matter.
const CHUNK: usize = 1 << 16;

/// A [`Source`] of random values, as transformers initializes a llama: matrices and embeddings normal around 0, norms 1,
/// biases 0. A norm that adds an offset to its scales begins as 1 with it.
///
/// A tensor's values depend on the seed and its name alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Random {
    /// Seed of the values.
    pub seed: u64,
    /// Standard deviation of the matrices; transformers' `initializer_range`.
    pub std: f32,
}

impl Random {
    /// Values of this seed with the standard deviation 0.02.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, std: 0.02 }
    }

    /// Normal values by the transform of Box and Muller (1958).
    fn normal(&self, name: &str, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
            let mut random = self.stream(name, index);
            let mut uniform = || unit(&mut random);
            for pair in chunk.chunks_mut(2) {
                let radius = self.std * (-2.0 * uniform().ln()).sqrt();
                let (sin, cos) = (std::f32::consts::TAU * uniform()).sin_cos();
                for (value, direction) in pair.iter_mut().zip([cos, sin]) {
                    *value = radius * direction;
                }
            }
        });
        values
    }

    /// Values between `-bound` and `bound`, all alike likely; their `std` does not matter.
    pub(crate) fn uniform(&self, name: &str, len: usize, bound: f32) -> Vec<f32> {
        let mut random = self.stream(name, 0);
        (0..len).map(|_| bound * (2.0 * unit(&mut random) - 1.0)).collect()
    }

    /// The numbers behind one chunk of a tensor.
    fn stream(&self, name: &str, chunk: usize) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&hash(name).to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(chunk as u64);
        random
    }
}

/// A number in (0, 1]: 24 bits are all that f32 tells apart there.
fn unit(random: &mut ChaCha8Rng) -> f32 {
    ((random.next_u32() >> 8) + 1) as f32 / (1 << 24) as f32
}

impl Source for Random {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let len = shape.iter().product();
        Ok(match shape.len() {
            0 | 1 if name.ends_with(".bias") => vec![0.0; len],
            0 | 1 => vec![1.0; len],
            _ => self.normal(name, len),
        })
    }

    fn load_scale(&self, _: &str, width: usize, offset: f32) -> Result<Vec<f32>, Error> {
        Ok(vec![1.0 - offset; width])
    }
}

/// FNV-1a with 64 bits.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_normal_with_the_standard_deviation() {
        let values = Random::new(1).load("a.weight", &[500, 401]).unwrap();
        assert_eq!(values.len(), 500 * 401);
        let n = values.len() as f64;
        let moment = |power: i32| values.iter().map(|&v| (f64::from(v) / 0.02).powi(power)).sum::<f64>() / n;
        // Of a normal distribution 0, 1, 0, 3; the bounds are five standard errors.
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0_f64)] {
            let bound = 5.0 * (variance / n).sqrt();
            assert!((moment(power) - expected).abs() < bound, "moment {power} is {}", moment(power));
        }
        // Neighbours come from one pair of uniform numbers, and are independent nevertheless.
        let product = values.chunks_exact(2).map(|p| f64::from(p[0]) * f64::from(p[1])).sum::<f64>();
        assert!((product / (n / 2.0) / 4e-4).abs() < 5.0 / (n / 2.0).sqrt());
    }

    #[test]
    fn vectors_are_ones_and_biases_zeros() {
        let source = Random::new(1);
        assert_eq!(source.load("model.norm.weight", &[3]).unwrap(), [1.0; 3]);
        for (offset, expected) in [(0.0, 1.0), (1.0, 0.0)] {
            assert_eq!(source.load_scale("model.norm.weight", 3, offset).unwrap(), [expected; 3]);
        }
        assert_eq!(source.load("q_proj.bias", &[2]).unwrap(), [0.0; 2]);
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let values = |seed, name: &str, rows| Random::new(seed).load(name, &[rows, 1000]).unwrap();
        let reference = values(1, "a", 100);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| values(1, "a", 100)), reference);
        }
        let same = |other: &[f32]| other.iter().zip(&reference).filter(|(a, b)| a == b).count();
        assert!(same(&values(2, "a", 100)) < 100 && same(&values(1, "b", 100)) < 100);
        // The second stream is not the first again.
        assert!(same(&reference[CHUNK..]) < 100);
    }
}
