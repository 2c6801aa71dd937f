//! Noise on the input embeddings while training: NEFTune (Jain et al. 2023, arXiv 2310.05914).

use grades_tensor::{Device, Layout, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::nn::DropoutKey;

/// The site of the noise in a key, which no dropout has.
const SITE: u64 = u64::MAX;

/// Noise for a batch, `[tokens, width]`: uniform in ±α / √(tokens of the sample · width), and the same for the same key.
pub(super) fn embedding_noise(
    alpha: f64,
    key: DropoutKey,
    layout: &Layout,
    width: usize,
    device: &'static dyn Device,
) -> Tensor {
    let tokens = layout.positions.len();
    let mut seed = [0; 32];
    for (bytes, part) in seed.as_chunks_mut::<8>().0.iter_mut().zip(key.at(SITE)) {
        *bytes = part.to_le_bytes();
    }
    let mut random = ChaCha8Rng::from_seed(seed);
    let mut noise = vec![0.0; tokens * width];
    for segment in &layout.segments {
        let rows = segment.query.clone();
        let bound = (alpha / ((rows.len() * width) as f64).sqrt()) as f32;
        for value in &mut noise[rows.start * width..rows.end * width] {
            // 24 bits, as many as an f32 has, from −1 up to 1.
            let unit = (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            *value = bound * unit;
        }
    }
    device.from_host(noise, [tokens, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DropoutKey = DropoutKey { seed: 1, step: 2, micro_batch: 3 };

    fn noise(key: DropoutKey) -> Vec<f32> {
        let device = grades_tensor::device("cpu").unwrap();
        let layout = Layout::packed(&[0..100, 100..104]);
        embedding_noise(5.0, key, &layout, 25, device).to_host().into_owned()
    }

    #[test]
    fn noise_is_uniform_within_the_bound_of_its_sample() {
        // α / √(100 · 25) and α / √(4 · 25).
        let all = noise(KEY);
        for (noise, bound) in [(&all[..2500], 0.1_f64), (&all[2500..], 0.5)] {
            let n = noise.len() as f64;
            assert!(noise.iter().all(|x| f64::from(x.abs()) <= bound));
            let mean = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let square = noise.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n;
            // A deviation of bound / √3, and five standard errors.
            assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{mean}");
            assert!((square / (bound * bound / 3.0) - 1.0).abs() < 5.0 * (0.8 / n).sqrt(), "{square}");
        }
    }

    #[test]
    fn noise_is_that_of_its_key() {
        assert_eq!(noise(KEY), noise(KEY));
        for other in
            [DropoutKey { seed: 2, ..KEY }, DropoutKey { step: 3, ..KEY }, DropoutKey { micro_batch: 4, ..KEY }]
        {
            assert_ne!(noise(other), noise(KEY));
        }
    }
}
