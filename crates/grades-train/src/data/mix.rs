//! Several data sets as one: one behind another, or interleaved.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::error::DataError;

/// How several data sets become one; named as in LLaMA-Factory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// One behind another.
    #[default]
    Concat,
    /// Sample by sample from one set or another, until the first of them has no more.
    #[serde(alias = "under", alias = "first_exhausted")]
    InterleaveUnder,
    /// The same until each of them was gone through once; those that end before begin again.
    #[serde(alias = "over", alias = "all_exhausted")]
    InterleaveOver,
}

/// Times that interleaving may make of all samples together. It is reached by sets of very different sizes, of which the large one
/// comes seldom.
const MOST: usize = 100;

/// A stream of random numbers apart from those of packing and of the epochs.
const STREAM: u64 = u64::MAX;

/// Which set the next sample is of, drawn without end.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// Of each set the end of its part of 0..1.
    ends: Vec<f64>,
    random: ChaCha8Rng,
}

impl Turns {
    /// By the share of each set, which add up to 1.
    pub(super) fn new(shares: &[f64], seed: u64) -> Self {
        let ends = shares.iter().scan(0.0, |end, share| {
            *end += share;
            Some(*end)
        });
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        Self { ends: ends.collect(), random }
    }

    /// The next one.
    pub(super) fn take(&mut self) -> usize {
        let point: f64 = self.random.random();
        // Rounded sums may end below 1.
        self.ends.iter().position(|end| point < *end).unwrap_or(self.ends.len() - 1)
    }
}

/// The samples of a mix of sets of these lengths, each as (set, place in it). What is interleaved is what `interleave_datasets` of
/// Hugging Face datasets makes of it with `probabilities` and the stopping strategies `first_exhausted` and `all_exhausted`; the
/// random numbers are others.
///
/// # Errors
/// The mix would be many times as long as its sets.
pub fn mixed(
    lengths: &[usize],
    strategy: MixStrategy,
    shares: Option<&[f64]>,
    seed: u64,
) -> Result<Vec<(usize, usize)>, DataError> {
    let total: usize = lengths.iter().sum();
    if strategy == MixStrategy::Concat {
        let all = |(set, &length): (usize, &usize)| Range { start: 0, end: length }.map(move |place| (set, place));
        return Ok(lengths.iter().enumerate().flat_map(all).collect());
    }
    let Some(shares) = shares else {
        // In turn, by whole rounds.
        let rounds = if strategy == MixStrategy::InterleaveUnder { lengths.iter().min() } else { lengths.iter().max() };
        let round = |round| {
            let sets = lengths.iter().enumerate().filter(|(_, length)| **length > 0);
            sets.map(move |(set, length)| (set, round % length))
        };
        return Ok((0..rounds.copied().unwrap_or(0)).flat_map(round).collect());
    };
    let (mut turns, mut order) = (Turns::new(shares, seed), Vec::new());
    let mut places = vec![0; lengths.len()];
    let mut gone: Vec<bool> = lengths.iter().map(|&length| length == 0).collect();
    let is_over = |gone: &[bool]| match strategy {
        MixStrategy::InterleaveUnder => gone.contains(&true),
        _ => !gone.contains(&false),
    };
    while !is_over(&gone) {
        let set = turns.take();
        // Of nothing there is nothing to repeat.
        if lengths[set] == 0 {
            continue;
        }
        if order.len() >= total.saturating_mul(MOST) {
            return Err(DataError::Format(format!(
                "`mix_strategy: interleave_over` makes more than {MOST} times the {total} samples that there are, as one of the \
                 sets comes seldom for its size; raise its share in `interleave_probs`, or take interleave_under"
            )));
        }
        order.push((set, places[set]));
        places[set] += 1;
        if places[set] == lengths[set] {
            (places[set], gone[set]) = (0, true);
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MixStrategy::{Concat, InterleaveOver, InterleaveUnder};

    /// What `interleave_datasets` of datasets 5.2 makes of `Dataset.from_dict({"at": ["a0", "a1"]})` and the like, without
    /// probabilities.
    #[test]
    fn sets_in_turn_as_datasets_has_them() {
        let of = |lengths: &[usize], strategy| {
            let name = |(set, place)| format!("{}{place}", ['a', 'b', 'c'][set]);
            mixed(lengths, strategy, None, 1).unwrap().into_iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&[2, 3, 4], Concat), "a0 a1 b0 b1 b2 c0 c1 c2 c3");
        assert_eq!(of(&[2, 3, 4], InterleaveUnder), "a0 b0 c0 a1 b1 c1");
        assert_eq!(of(&[3, 2, 4], InterleaveUnder), "a0 b0 c0 a1 b1 c1");
        assert_eq!(of(&[2, 3, 4], InterleaveOver), "a0 b0 c0 a1 b1 c1 a0 b2 c2 a1 b0 c3");
        assert_eq!(of(&[3, 2, 4], InterleaveOver), "a0 b0 c0 a1 b1 c1 a2 b0 c2 a0 b1 c3");
        assert_eq!(of(&[3], InterleaveOver), "a0 a1 a2");
    }

    #[test]
    fn shares_are_kept_and_each_end_is_where_it_should_be() {
        let (lengths, shares) = ([4_000, 1_000, 3_000], [0.5, 0.2, 0.3]);
        let over = mixed(&lengths, InterleaveOver, Some(&shares), 7).unwrap();
        for (set, (&length, share)) in lengths.iter().zip(shares).enumerate() {
            let places: Vec<usize> = over.iter().filter(|(of, _)| *of == set).map(|(_, place)| *place).collect();
            // In order, again from the beginning behind the last.
            assert!(places.iter().enumerate().all(|(at, place)| *place == at % length), "{set}");
            assert!(places.len() >= length, "{set}");
            let found = places.len() as f64 / over.len() as f64;
            assert!((found - share).abs() < 0.015, "{set}: {found}");
        }
        // The last sample is the one with which the last set was gone through for the first time.
        let (set, place) = *over.last().unwrap();
        assert_eq!(place + 1, lengths[set]);
        assert_eq!(over.iter().filter(|one| **one == (set, place)).count(), 1);
        let under = mixed(&lengths, InterleaveUnder, Some(&shares), 7).unwrap();
        assert_eq!(under, over[..under.len()]);
        let gone = |order: &[(usize, usize)]| lengths.iter().enumerate().any(|(set, n)| order.contains(&(set, n - 1)));
        assert!(gone(&under) && !gone(&under[..under.len() - 1]));
        assert_eq!(mixed(&lengths, InterleaveUnder, Some(&shares), 7).unwrap(), under);
        assert_ne!(mixed(&lengths, InterleaveUnder, Some(&shares), 8).unwrap(), under);
    }

    #[test]
    fn a_mix_without_end_is_refused_and_empty_sets_are_passed_over() {
        let error = mixed(&[1, 1_000], InterleaveOver, Some(&[0.9999, 0.0001]), 1).unwrap_err().to_string();
        assert!(error.contains("interleave_probs") && error.contains("1001 samples"), "{error}");
        assert_eq!(mixed(&[0, 2], InterleaveOver, None, 1).unwrap(), [(1, 0), (1, 1)]);
        assert_eq!(mixed(&[0, 2], InterleaveUnder, None, 1).unwrap(), []);
        assert_eq!(mixed(&[], InterleaveOver, None, 1).unwrap(), []);
    }
}
