//! Which pixels count for a pixel of the result, and how much.

use super::Filter;

/// For each pixel of the result along one axis: the first pixel that counts, and the weights from there on.
pub(super) struct Spans<W> {
    /// Pixels along the axis before.
    pub(super) from: usize,
    starts: Vec<usize>,
    /// Where each pixel's weights begin in `weights`, and where the last ones end.
    bounds: Vec<usize>,
    weights: Vec<W>,
}

impl Filter {
    /// How far it reaches, in pixels of the coarser picture.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

impl Spans<f64> {
    /// The weights that take `from` pixels to `to`, each pixel's adding up to one.
    pub(super) fn new(filter: Filter, from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let widened = scale.max(1.0);
        let (reach, narrowed) = (filter.reach() * widened, 1.0 / widened);
        let mut spans = Self { from, starts: Vec::with_capacity(to), bounds: vec![0], weights: Vec::new() };
        for i in 0..to {
            let center = (i as f64 + 0.5) * scale;
            let first = ((center - reach + 0.5) as i64).max(0) as usize;
            let end = ((center + reach + 0.5) as usize).min(from);
            let begin = spans.weights.len();
            let weight = |x: usize| filter.at((x as f64 - center + 0.5) * narrowed);
            spans.weights.extend((first..end).map(weight));
            let sum: f64 = spans.weights[begin..].iter().sum();
            if sum != 0.0 {
                spans.weights[begin..].iter_mut().for_each(|w| *w /= sum);
            }
            spans.starts.push(first);
            spans.bounds.push(spans.weights.len());
        }
        spans
    }
}

impl<W: Copy> Spans<W> {
    /// Pixels along the axis afterwards.
    pub(super) fn to(&self) -> usize {
        self.starts.len()
    }

    /// The first pixel that counts for pixel `i` of the result, and the weights from there on.
    pub(super) fn span(&self, i: usize) -> (usize, &[W]) {
        (self.starts[i], &self.weights[self.bounds[i]..self.bounds[i + 1]])
    }

    /// The same pixels with other weights.
    pub(super) fn map<V>(&self, change: impl Fn(W) -> V) -> Spans<V> {
        Spans {
            from: self.from,
            starts: self.starts.clone(),
            bounds: self.bounds.clone(),
            weights: self.weights.iter().map(|&w| change(w)).collect(),
        }
    }
}

/// Weights as whole numbers of 2^−bits, halves away from zero.
pub(super) fn fixed_point(spans: &Spans<f64>, bits: u32) -> Spans<i32> {
    let one = f64::from(1u32 << bits);
    spans.map(|w| (w * one + 0.5f64.copysign(w)) as i32)
}

/// The most bits after the point with which the largest weight still fits into 16 bits: torchvision's precision.
pub(super) fn widest_bits(spans: &Spans<f64>) -> u32 {
    let largest = spans.weights.iter().fold(0.0f64, |a, &w| a.max(w));
    (0..22).find(|bits| largest * f64::from(2u32 << bits) + 0.5 >= f64::from(1u32 << 15)).unwrap_or(22)
}
