//! Sizes of blocks for this processor: candidates of each are measured in turn on the products of a model.

use std::time::Instant;

use grades_kernels::gemm::{Blocks, Kind, Sizes};
use grades_tensor::Dtype;
use serde::Serialize;

use super::gemm::{Layer, Out, Product, Size};
use crate::blocks::{self, Tuned};

/// Rounds in which all candidates take their turn; the fastest counts.
const ROUNDS: usize = 7;
/// Another size must be as much faster than the one of before, twice, or it is noise.
const GAIN: f64 = 0.99;

/// One candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Numbers of the products.
    pub precision: Dtype,
    /// The sizes.
    pub sizes: blocks::Sizes,
    /// What the products took whose time the changed size decides.
    pub seconds: f64,
}

/// What the measurement came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneReport {
    /// The kind of processor that the table of sizes knows this one as.
    pub kind: &'static str,
    /// Whether the table's sizes were measured on such a one.
    pub kind_measured: bool,
    /// The sizes that were found.
    pub tuned: Tuned,
    /// All that were tried.
    pub trials: Vec<Trial>,
}

/// Finds sizes for the products of layers, and hands each candidate to `on_trial`.
pub fn run(layers: &[Size], on_trial: &mut dyn FnMut(&Trial)) -> TuneReport {
    let kind = Kind::of_processor();
    let (mut blocks, mut trials) = (Blocks::of_processor(), Vec::new());
    let native = grades_kernels::gemm::bf16::is_native();
    for precision in [Dtype::F32, Dtype::Bf16].into_iter().filter(|&precision| precision == Dtype::F32 || native) {
        let found = tune(layers, precision, blocks, &mut |trial| {
            on_trial(trial);
            trials.push(*trial);
        });
        *of(&mut blocks, precision) = found;
    }
    TuneReport { kind: kind.name, kind_measured: kind.measured, tuned: Tuned::here(blocks), trials }
}

fn of(blocks: &mut Blocks, precision: Dtype) -> &mut Sizes {
    if precision == Dtype::Bf16 { &mut blocks.bf16 } else { &mut blocks.f32 }
}

/// Candidates of one size, the products whose time it decides, and where it is.
type Dimension = (&'static [usize], &'static [Product], fn(&mut Sizes) -> &mut usize);

/// One size after the other, each with what was found of those before.
fn tune(layers: &[Size], precision: Dtype, mut blocks: Blocks, on_trial: &mut dyn FnMut(&Trial)) -> Sizes {
    const WITH_WEIGHTS: &[Product] = &[Product::Forward, Product::InputGradient];
    let layers: Vec<Layer> = layers.iter().map(|&size| Layer::new(size, precision)).collect();
    let dimensions: [Dimension; 3] = [
        (&[1, 2, 3, 4, 6, 8], WITH_WEIGHTS, |sizes| &mut sizes.panels),
        (&[32, 64, 128, 256], WITH_WEIGHTS, |sizes| &mut sizes.rows),
        (&[48, 96, 144, 192], &[Product::WeightGradient], |sizes| &mut sizes.gradient_rows),
    ];
    for (values, products, size) in dimensions {
        let before = *of(&mut blocks, precision);
        let mut candidates = vec![before];
        for &value in values {
            let mut other = before;
            *size(&mut other) = value;
            candidates.extend(Some(other).filter(|other| *other != before));
        }
        let seconds = measure(&layers, products, precision, blocks, &candidates);
        for (&sizes, &seconds) in candidates.iter().zip(&seconds) {
            on_trial(&Trial { precision, sizes: sizes.into(), seconds });
        }
        let best = candidates.iter().zip(&seconds).min_by(|a, b| a.1.total_cmp(b.1));
        let Some((&sizes, _)) = best.filter(|(_, best)| **best < GAIN * seconds[0]) else { continue };
        // Of many candidates one is the fastest by chance: it must be so again.
        if let [again, before] = measure(&layers, products, precision, blocks, &[sizes, before])[..]
            && again < GAIN * before
        {
            *of(&mut blocks, precision) = sizes;
        }
    }
    *of(&mut blocks, precision)
}

/// The time of all products with each candidate: the sum over products of the fastest round.
fn measure(layers: &[Layer], products: &[Product], precision: Dtype, blocks: Blocks, candidates: &[Sizes]) -> Vec<f64> {
    let mut sums = vec![0.0; candidates.len()];
    for layer in layers {
        for &product in products {
            let mut out: Out = layer.output(product);
            let mut fastest = vec![f64::INFINITY; candidates.len()];
            layer.multiply(product, &mut out);
            for _ in 0..ROUNDS {
                for (fastest, &sizes) in fastest.iter_mut().zip(candidates) {
                    let mut blocks = blocks;
                    *of(&mut blocks, precision) = sizes;
                    let watch = Instant::now();
                    blocks.try_on(|| layer.multiply(product, &mut out));
                    *fastest = fastest.min(watch.elapsed().as_secs_f64());
                }
            }
            sums.iter_mut().zip(fastest).for_each(|(sum, fastest)| *sum += fastest);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_fits_and_was_tried() {
        let mut seen = 0;
        let report = run(&["9x60x70".parse().unwrap()], &mut |_| seen += 1);
        let blocks = report.tuned.blocks();
        assert!(blocks.f32.fit() && blocks.bf16.fit());
        assert_eq!(seen, report.trials.len());
        for (precision, sizes) in [(Dtype::F32, report.tuned.f32), (Dtype::Bf16, report.tuned.bf16)] {
            let tried: Vec<_> = report.trials.iter().filter(|trial| trial.precision == precision).collect();
            assert!(tried.iter().all(|trial| trial.seconds > 0.0 && trial.seconds.is_finite()));
            assert!(tried.is_empty() || tried.iter().any(|trial| trial.sizes == sizes), "{precision:?}");
        }
    }
}
