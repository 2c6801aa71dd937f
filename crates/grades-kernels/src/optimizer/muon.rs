//! Muon (Jordan et al. 2024): a matrix moves along its momentum with all singular values near 1, as `torch.optim.Muon`
//! computes it, but with f32 products.

use super::measure::sum_squares;
use super::update::{Update, apply};
use crate::dispatch::multiversion;
use crate::elementwise::scale;
use crate::gemm::{Matrix, MatrixMut, nn, nt, tn};
use crate::math::mul_add;

/// The hyper-parameters of a step, with PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate of this step, before it is adjusted to the matrix.
    pub learning_rate: f64,
    /// Decay of the momentum (0.95).
    pub momentum: f64,
    /// Look ahead along the momentum.
    pub nesterov: bool,
    /// Steps of the Newton–Schulz iteration (5).
    pub ns_steps: usize,
    /// What the learning rate is multiplied by, from the shape.
    pub adjust: AdjustLr,
    /// Decoupled: the weight shrinks by `learning_rate · weight_decay` of itself.
    pub weight_decay: f64,
}

/// How the learning rate of a matrix follows from its shape `[rows, columns]`: `adjust_lr_fn` of `torch.optim.Muon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdjustLr {
    /// √max(1, rows / columns), as in the first version.
    Original,
    /// 0.2 · √max(rows, columns): elements move about as far as with AdamW (Liu et al. 2025, arXiv 2502.16982).
    MatchRmsAdamW,
    /// √(rows / columns).
    SpectralUnclamped,
}

impl AdjustLr {
    /// The factor.
    #[must_use]
    pub fn factor(self, [rows, columns]: [usize; 2]) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            Self::Original => (rows / columns).max(1.0).sqrt(),
            Self::MatchRmsAdamW => 0.2 * rows.max(columns).sqrt(),
            Self::SpectralUnclamped => (rows / columns).sqrt(),
        }
    }
}

/// The coefficients of the Newton–Schulz iteration `X ← a X + (b G + c G²) X`, G = X Xᵀ: steep at 0, so that few steps do.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// The least norm that a direction is divided by.
const EPSILON: f64 = 1e-7;

/// One step of Muon on a matrix `[rows, columns]`. `momentum` is as long, zeros before the first step.
///
/// # Panics
/// If the lengths differ.
pub fn muon(options: &Muon, update: Update, shape @ [rows, columns]: [usize; 2], momentum: &mut [f32]) {
    let Update { parameter, gradient, gradient_scale } = update;
    assert_eq!(gradient.len(), rows * columns, "a matrix of another shape");
    if gradient.is_empty() {
        return;
    }
    let beta = options.momentum as f32;
    let ahead = if options.nesterov { beta } else { 1.0 };
    let mut direction = vec![0.0; gradient.len()];
    let into = Update { parameter: &mut direction, gradient, gradient_scale };
    apply(into, [momentum], |direction, gradient, [momentum]| {
        direction_run(direction, gradient, momentum, (gradient_scale, (1.0 - options.momentum) as f32, ahead));
        0.0
    });
    orthogonalise(&mut direction, shape, options.ns_steps);
    let keep = (1.0 - options.learning_rate * options.weight_decay) as f32;
    let step = (options.learning_rate * options.adjust.factor(shape)) as f32;
    apply(Update { parameter, gradient: &direction, gradient_scale: 1.0 }, [], |parameter, direction, []| {
        move_run(parameter, direction, (keep, step));
        0.0
    });
}

/// Brings the singular values of a matrix `[rows, columns]` near 1, between about 0.7 and 1.2, by Newton–Schulz steps.
fn orthogonalise(x: &mut Vec<f32>, [rows, columns]: [usize; 2], steps: usize) {
    let [a, b, c] = COEFFICIENTS;
    scale((1.0 / sum_squares(x).sqrt().max(EPSILON)) as f32, x);
    let small = rows.min(columns);
    let (mut gram, mut mix) = (vec![0.0; small * small], vec![0.0; small * small]);
    let mut next = vec![0.0; x.len()];
    for _ in 0..steps {
        let of = Matrix::new(x, rows, columns);
        // The smaller of X Xᵀ and Xᵀ X, whose polynomial is multiplied from that side.
        let target = MatrixMut::new(&mut gram, small, small);
        if rows <= columns {
            nt(of, of, target, false)
        } else {
            tn(of, of, target, false)
        }
        let square = Matrix::new(&gram, small, small);
        nn(square, square, MatrixMut::new(&mut mix, small, small), false);
        apply(Update { parameter: &mut mix, gradient: &gram, gradient_scale: 1.0 }, [], |mix, gram, []| {
            combine_run(mix, gram, (c, b));
            0.0
        });
        next.copy_from_slice(x);
        scale(a, &mut next);
        let (mix, target) = (Matrix::new(&mix, small, small), MatrixMut::new(&mut next, rows, columns));
        if rows <= columns {
            nn(mix, of, target, true)
        } else {
            nn(of, mix, target, true)
        }
        std::mem::swap(x, &mut next);
    }
}

multiversion! {
    /// The momentum moves towards the gradient, and the direction is between the two.
    fn direction_run<FMA>(
        direction: &mut [f32], gradient: &[f32], momentum: &mut [f32], factors: (f32, f32, f32),
    ) {
        let (scale, toward, ahead) = factors;
        for ((direction, gradient), momentum) in direction.iter_mut().zip(gradient).zip(momentum) {
            let gradient = gradient * scale;
            *momentum = mul_add::<FMA>(gradient - *momentum, toward, *momentum);
            *direction = mul_add::<FMA>(*momentum - gradient, ahead, gradient);
        }
    }

    /// `y ← keep · y − step · x`.
    fn move_run<FMA>(y: &mut [f32], x: &[f32], factors: (f32, f32)) {
        let (keep, step) = factors;
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(-step, *x, *y * keep);
        }
    }

    /// `y ← c · y + b · x`.
    fn combine_run<FMA>(y: &mut [f32], x: &[f32], factors: (f32, f32)) {
        let (c, b) = factors;
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(b, *x, *y * c);
        }
    }
}
