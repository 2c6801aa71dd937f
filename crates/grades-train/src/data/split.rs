//! Keeping samples back for validation.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::error::DataError;

/// A count (a whole number from 1) or a share of all (a number below 1); 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "serde_json::Number", into = "serde_json::Number")]
pub struct CountOrShare(f64);

impl CountOrShare {
    /// From a number; [`is_valid`](Self::is_valid) says whether it is one of the allowed ones.
    pub fn new(value: f64) -> Self {
        Self(value)
    }

    /// The number as written.
    pub fn value(self) -> f64 {
        self.0
    }

    /// Whether the number is a whole number or between 0 and 1.
    pub fn is_valid(self) -> bool {
        self.0 >= 0.0 && (self.0 < 1.0 || self.0.fract() == 0.0) && self.0 < u32::MAX.into()
    }

    /// How many of `total` are meant; a share is rounded up, so that it is at least one.
    pub fn of(self, total: usize) -> usize {
        if self.0 < 1.0 { (self.0 * total as f64).ceil() as usize } else { self.0 as usize }
    }
}

impl From<serde_json::Number> for CountOrShare {
    fn from(number: serde_json::Number) -> Self {
        Self(number.as_f64().unwrap_or(f64::NAN))
    }
}

impl From<CountOrShare> for serde_json::Number {
    fn from(value: CountOrShare) -> Self {
        // Whole numbers are written without a point; what is not finite cannot be written and never passes validation.
        if value.0.fract() == 0.0 {
            Self::from(value.0 as i64)
        } else {
            Self::from_f64(value.0).unwrap_or_else(|| Self::from(0))
        }
    }
}

/// Parts `samples` into (training, validation) by a seeded draw; both keep the order of the files.
///
/// # Errors
/// The validation set would take all samples.
pub fn split<T>(samples: Vec<T>, size: CountOrShare, seed: u64) -> Result<(Vec<T>, Vec<T>), DataError> {
    let wanted = size.of(samples.len());
    if wanted >= samples.len() && wanted > 0 {
        return Err(DataError::ValidationTakesAll { wanted, samples: samples.len() });
    }
    let mut drawn: Vec<bool> = (0..samples.len()).map(|index| index < wanted).collect();
    drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut parts = (Vec::new(), Vec::new());
    for (sample, validation) in samples.into_iter().zip(drawn) {
        if validation { &mut parts.1 } else { &mut parts.0 }.push(sample);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_exact_and_a_share_rounds_up() {
        for (size, total, wanted) in
            [(0.0, 10, 0), (3.0, 10, 3), (0.25, 10, 3), (0.5, 10, 5), (0.001, 10, 1), (1.0, 10, 1)]
        {
            assert_eq!(CountOrShare::new(size).of(total), wanted, "{size} of {total}");
        }
        assert!(
            !CountOrShare::new(1.5).is_valid()
                && !CountOrShare::new(-1.0).is_valid()
                && !CountOrShare::new(f64::NAN).is_valid()
        );
        assert_eq!(serde_json::to_string(&[CountOrShare::new(200.0), CountOrShare::new(0.05)]).unwrap(), "[200,0.05]");
    }

    #[test]
    fn the_parts_are_disjoint_ordered_and_repeatable() {
        let all: Vec<usize> = (0..100).collect();
        let (train, validation) = split(all.clone(), CountOrShare::new(30.0), 7).unwrap();
        assert_eq!((train.len(), validation.len()), (70, 30));
        assert!(train.is_sorted() && validation.is_sorted());
        let mut both = [train.clone(), validation.clone()].concat();
        both.sort_unstable();
        assert_eq!(both, all);
        assert_eq!(split(all.clone(), CountOrShare::new(30.0), 7).unwrap(), (train, validation.clone()));
        assert_ne!(split(all.clone(), CountOrShare::new(30.0), 8).unwrap().1, validation);
        assert!(validation.iter().any(|index| *index < 50) && validation.iter().any(|index| *index >= 50));
        assert_eq!(split(all.clone(), CountOrShare::default(), 7).unwrap(), (all.clone(), vec![]));
        assert!(split(all, CountOrShare::new(100.0), 7).unwrap_err().to_string().contains("100"));
    }
}
