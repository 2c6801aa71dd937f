//! Figures of this machine: the training step ([`step`]) and the matrix products that it is made of ([`gemm`]).

mod base;
mod frozen;
pub mod gemm;
mod kept;
mod scaling;
mod shape;
pub mod step;
mod step_options;
pub mod tune;

pub use frozen::Frozen;
pub use scaling::{Place, Scaling};
pub use shape::Shape;

use crate::train::TrainError;

/// What can go wrong; each message is one sentence that names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No shape of that name.
    #[error("there is no shape `{found}`; there are {known}")]
    Shape {
        /// What was asked for.
        found: String,
        /// The names, comma separated.
        known: String,
    },
    /// No pattern of frozen matrices.
    #[error(
        "`{0}` is no pattern of frozen matrices; write none, scattered:0.5, prefix:0.5, roles:q,k,v,o or all-but-last, \
         with a share from 0 to 1"
    )]
    Frozen(String),
    /// No size of a product.
    #[error("`{0}` is no size of a product; write ROWSxINxOUT, for example 1024x576x1536, within 2³¹ numbers a matrix")]
    Size(String),
    /// An option is out of range.
    #[error("{0}")]
    Option(String),
    /// The step itself.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl From<grades_models::Error> for BenchError {
    fn from(error: grades_models::Error) -> Self {
        Self::Train(error.into())
    }
}

/// The value in the middle, or the mean of the two there; NaN where there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
        (_, middle) => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
