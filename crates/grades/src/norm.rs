//! The five norms of a matrix (paper, Appendix A), over row-major slices, accumulated in double precision.

use serde::{Deserialize, Serialize};

/// A norm of a matrix `[rows, cols]`.
///
/// Theorem 1 of the paper: every one of them is at most the element-wise L1 norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Σ|aᵢⱼ|, element-wise: the paper's choice.
    #[default]
    L1,
    /// √Σaᵢⱼ².
    Frobenius,
    /// The largest singular value, by power iteration: costs tens of passes over the matrix where the others cost one.
    Spectral,
    /// The largest row sum of absolute values (the norm induced by ‖·‖∞).
    Inf,
    /// The largest column sum of absolute values (the norm induced by ‖·‖₁).
    One,
}

/// A slice that does not hold the matrix it is said to hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a matrix of {rows} × {cols} elements was announced but {found} values were given: pass the row-major elements of the whole matrix"
)]
pub struct ShapeError {
    /// Rows announced.
    pub rows: usize,
    /// Columns announced.
    pub cols: usize,
    /// Values given.
    pub found: usize,
}

impl Norm {
    /// The relative residual at which the power iteration of [`Norm::Spectral`] ends: the result lies within half of
    /// this, relatively, of a singular value, in practice of the largest.
    pub const SPECTRAL_TOLERANCE: f64 = 1e-5;

    /// Most steps that the power iteration takes. Where singular values are so close that this does not separate them,
    /// the result lies between them: never above the largest, and within about 1 % of it.
    pub const SPECTRAL_ITERATIONS: usize = 500;

    /// The name used in configs and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::Frobenius => "frobenius",
            Self::Spectral => "spectral",
            Self::Inf => "inf",
            Self::One => "one",
        }
    }

    /// The norm of `values`, the row-major elements of a matrix `[rows, cols]`.
    ///
    /// A matrix without elements has norm 0. NaN and infinite elements are never hidden: the result is then NaN or
    /// infinite.
    ///
    /// # Errors
    /// If `values` does not hold `rows · cols` elements.
    pub fn of(self, values: &[f32], shape: [usize; 2]) -> Result<f64, ShapeError> {
        check(values, shape)?;
        Ok(self.evaluate(shape, |i| f64::from(values[i])))
    }

    /// The norm of `a − b` without storing the difference; both are row-major `[rows, cols]`.
    ///
    /// # Errors
    /// If either slice does not hold `rows · cols` elements.
    pub fn of_difference(self, a: &[f32], b: &[f32], shape: [usize; 2]) -> Result<f64, ShapeError> {
        check(a, shape)?;
        check(b, shape)?;
        Ok(self.evaluate(shape, |i| f64::from(a[i]) - f64::from(b[i])))
    }

    fn evaluate(self, [rows, cols]: [usize; 2], at: impl Fn(usize) -> f64) -> f64 {
        match self {
            Self::L1 => sum(rows * cols, |i| at(i).abs()),
            Self::Frobenius => sum(rows * cols, |i| at(i) * at(i)).sqrt(),
            Self::Inf => largest((0..rows).map(|r| sum(cols, |c| at(r * cols + c).abs()))),
            Self::One => {
                let mut sums = vec![0.0; cols];
                for r in 0..rows {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum += at(r * cols + c).abs();
                    }
                }
                largest(sums.into_iter())
            }
            Self::Spectral => spectral([rows, cols], at),
        }
    }
}

fn check(values: &[f32], [rows, cols]: [usize; 2]) -> Result<(), ShapeError> {
    if rows.checked_mul(cols) == Some(values.len()) {
        Ok(())
    } else {
        Err(ShapeError { rows, cols, found: values.len() })
    }
}

/// Σ term(i) for i < len, in eight interleaved partial sums: one alone would wait for each addition to finish.
fn sum(len: usize, term: impl Fn(usize) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    sums.iter().sum::<f64>() + (whole..len).map(term).sum::<f64>()
}

/// The largest of non-negative values. `f64::max` drops NaN, which would turn a broken gradient into a small signal.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most, value| if value > most || value.is_nan() { value } else { most })
}

/// σ_max by power iteration on AᵀA, until the residual ‖AᵀAv − λv‖ falls below the tolerance times λ.
fn spectral([rows, cols]: [usize; 2], at: impl Fn(usize) -> f64) -> f64 {
    if rows == 0 || cols == 0 {
        return 0.0;
    }
    // Scaled by the largest element, so that squares neither overflow nor vanish.
    let scale = largest((0..rows * cols).map(|i| at(i).abs()));
    if scale == 0.0 || !scale.is_finite() {
        return scale;
    }
    let mut v = starting_direction(cols);
    let mut w = vec![0.0; cols];
    let mut eigenvalue = 0.0;
    for _ in 0..Norm::SPECTRAL_ITERATIONS {
        w.fill(0.0);
        for r in 0..rows {
            let row = r * cols;
            let product: f64 = v.iter().enumerate().map(|(c, x)| at(row + c) / scale * x).sum();
            for (c, y) in w.iter_mut().enumerate() {
                *y += at(row + c) / scale * product;
            }
        }
        eigenvalue = v.iter().zip(&w).map(|(x, y)| x * y).sum();
        let residual = v.iter().zip(&w).map(|(x, y)| (y - eigenvalue * x).powi(2)).sum::<f64>().sqrt();
        if residual <= Norm::SPECTRAL_TOLERANCE * eigenvalue {
            break;
        }
        let length = length(&w);
        for (x, y) in v.iter_mut().zip(&w) {
            *x = y / length;
        }
    }
    scale * eigenvalue.sqrt()
}

/// A fixed unit vector without structure. A structured one (all ones, the longest row) is orthogonal to the top
/// singular vector of some matrices that do occur, such as rows that sum to zero.
fn starting_direction(len: usize) -> Vec<f64> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut v: Vec<f64> = (0..len)
        .map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        })
        .collect();
    let length = length(&v);
    v.iter_mut().for_each(|x| *x /= length);
    v
}

fn length(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Norm; 5] = [Norm::L1, Norm::Frobenius, Norm::Spectral, Norm::Inf, Norm::One];

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * b.abs()
    }

    #[test]
    fn by_hand() {
        // AAᵀ = [[25, 20], [20, 25]]: eigenvalues 45 and 5.
        let a = [3.0, 4.0, 0.0, 5.0];
        assert_eq!(Norm::L1.of(&a, [2, 2]).unwrap(), 12.0);
        assert!(close(Norm::Frobenius.of(&a, [2, 2]).unwrap(), 50_f64.sqrt()));
        assert!(close(Norm::Spectral.of(&a, [2, 2]).unwrap(), 45_f64.sqrt()));
        assert_eq!(Norm::Inf.of(&a, [2, 2]).unwrap(), 7.0);
        assert_eq!(Norm::One.of(&a, [2, 2]).unwrap(), 9.0);
    }

    #[test]
    fn rows_and_columns_are_not_mixed_up() {
        let a = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0];
        assert_eq!(Norm::Inf.of(&a, [2, 3]).unwrap(), 15.0);
        assert_eq!(Norm::Inf.of(&a, [3, 2]).unwrap(), 11.0);
        assert_eq!(Norm::One.of(&a, [2, 3]).unwrap(), 9.0);
        assert_eq!(Norm::One.of(&a, [3, 2]).unwrap(), 12.0);
    }

    #[test]
    fn spectral_finds_what_structured_starts_miss() {
        assert!(close(Norm::Spectral.of(&[1.0, -1.0, 1.0, -1.0], [2, 2]).unwrap(), 2.0));
        let a = [2.0, 0.0, 0.0, 1.9, 0.0, 1.9];
        assert!(close(Norm::Spectral.of(&a, [3, 2]).unwrap(), 1.9 * 2_f64.sqrt()));
        assert!(close(Norm::Spectral.of(&[3.0, 0.0, 0.0, 4.0], [1, 4]).unwrap(), 5.0));
        assert!(close(Norm::Spectral.of(&[3.0, 0.0, 0.0, 4.0], [4, 1]).unwrap(), 5.0));
        assert!(close(Norm::Spectral.of(&[3e-30, 4e-30], [1, 2]).unwrap(), 5e-30));
    }

    #[test]
    fn every_element_counts_once_whatever_the_length() {
        for len in 0..40 {
            let ones = vec![-1.0; len];
            let n = len as f64;
            assert_eq!(Norm::L1.of(&ones, [1, len]), Ok(n));
            assert_eq!(Norm::Inf.of(&ones, [1, len]), Ok(n));
            assert_eq!(Norm::One.of(&ones, [len, 1]), Ok(n));
            assert_eq!(Norm::Frobenius.of(&ones, [1, len]), Ok(n.sqrt()));
        }
    }

    #[test]
    fn difference_equals_the_norm_of_the_difference() {
        let (a, b) = ([1.5, -2.0, 0.25, 8.0, 1.0, 3.0], [0.5, 2.0, 0.25, -8.0, 0.0, 1.0]);
        let d: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
        for norm in ALL {
            assert_eq!(norm.of_difference(&a, &b, [2, 3]), norm.of(&d, [2, 3]));
        }
    }

    #[test]
    fn broken_elements_are_never_hidden() {
        for norm in ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in 0..6 {
                    let mut a = [1.0; 6];
                    a[place] = bad;
                    assert!(!norm.of(&a, [2, 3]).unwrap().is_finite(), "{norm:?} {bad} at {place}");
                }
            }
        }
    }

    #[test]
    fn empty_and_zero_matrices_have_norm_zero_and_wrong_lengths_are_refused() {
        for norm in ALL {
            assert_eq!(norm.of(&[], [0, 3]), Ok(0.0));
            assert_eq!(norm.of(&[], [3, 0]), Ok(0.0));
            assert_eq!(norm.of(&[0.0; 6], [2, 3]), Ok(0.0));
            assert_eq!(norm.of(&[0.0; 5], [2, 3]), Err(ShapeError { rows: 2, cols: 3, found: 5 }));
            assert!(norm.of_difference(&[0.0; 6], &[0.0; 5], [2, 3]).is_err());
            assert!(norm.of(&[], [usize::MAX, 2]).is_err());
        }
    }
}
