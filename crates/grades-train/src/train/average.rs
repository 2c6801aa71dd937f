//! A running average of the weights, which the run may end with.
//!
//! Averaging the weights of a run with a constant rate does what a falling rate does, without knowing the length of the run
//! (Polyak and Juditsky 1992; Shamir and Zhang 2013, whose polynomial decay averaging `polynomial` is).

use grades_models::parameters::{Parameter, Parameters, Piece};
use grades_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::significance::t_test;

/// `weight_average`: which average is kept, of everything that trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightAverage {
    /// Weighs the n-th update by about n to this power: `W̄ += (p + 1) / (n + p) · (W − W̄)`.
    Polynomial {
        /// p; 3 gives the last quarter of the run most of the weight. Default: 3.
        #[serde(default = "power")]
        power: f64,
    },
    /// The exponential average over so many updates, unbiased from the first on.
    Ema {
        /// Updates. Default: 20.
        #[serde(default = "updates")]
        updates: f64,
    },
}

fn power() -> f64 {
    3.0
}

fn updates() -> f64 {
    20.0
}

impl WeightAverage {
    /// The weight of the n-th value in the average of the first n, n from 1.
    fn weight(self, n: u64) -> f64 {
        let n = n as f64;
        match self {
            Self::Polynomial { power } => (power + 1.0) / (n + power),
            Self::Ema { updates } => {
                let keep = 1.0 - 1.0 / updates;
                (1.0 - keep) / (1.0 - keep.powf(n))
            }
        }
    }

    /// What is wrong with the options, if anything.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Polynomial { power } if !(0.0..=100.0).contains(&power) => {
                Some(format!("`weight_average.power: {power}` must be a number from 0 to 100"))
            }
            Self::Ema { updates } if !(updates >= 1.0 && updates.is_finite()) => {
                Some(format!("`weight_average.updates: {updates}` must be a number from 1"))
            }
            _ => None,
        }
    }
}

/// An update in so many is taken into the average: neighbours differ by little, and each costs a walk over all weights, 4 % of a step. Every
/// second and every fourth give the same on the quickstart to 0.0003 nats.
const EVERY: usize = 4;

/// The averages of a run.
#[derive(Clone, Debug)]
pub struct Average {
    kind: WeightAverage,
    /// Values that each average is of.
    pub(super) count: u64,
    /// Its loss and that of the weights over the batches that came next, for each of the steps at which it was compared with them.
    pub(super) compared: Vec<[f64; 2]>,
    /// By the slot of the piece, of those that train.
    pub(super) values: Vec<Option<Tensor>>,
}

impl Average {
    /// Of nothing yet, over a table of `slots` pieces.
    #[must_use]
    pub fn new(kind: WeightAverage, slots: usize) -> Self {
        Self { kind, count: 0, compared: Vec::new(), values: vec![None; slots] }
    }

    /// Whether the weights after step `step` are taken in: none before the end of the warm-up are.
    #[must_use]
    pub fn takes(&self, step: usize, warmup_steps: usize) -> bool {
        step > warmup_steps && (step - warmup_steps).is_multiple_of(EVERY)
    }

    /// Takes the weights of all pieces that train into the average.
    pub fn add(&mut self, parameters: &Parameters) {
        self.count += 1;
        let weight = self.kind.weight(self.count) as f32;
        for (parameter, piece) in parameters.pieces().filter(|(_, piece)| piece.is_trainable()) {
            let (first, shape) = parameter.extent(piece);
            let device = parameter.value.device();
            match &mut self.values[piece.slot()] {
                Some(average) => device.average(average, &parameter.value, first, weight),
                place => *place = Some(device.part(&parameter.value, first, shape)),
            }
        }
    }

    /// Whether the weights had lower losses by more than chance (Student's test of the differences, one side, 5 %). A low learning rate makes
    /// them so by a little at every step; a high one makes either better from step to step, and the weights that a run would end with are then worse
    /// than those that were compared as often as not.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        let differences: Vec<f64> = self.compared.iter().map(|[averaged, raw]| averaged - raw).collect();
        // Of both sides.
        differences.iter().sum::<f64>() > 0.0 && t_test(&differences).is_some_and(|p| p < 0.1)
    }

    /// Whether anything was taken in.
    #[must_use]
    pub fn is_of_something(&self) -> bool {
        self.count > 0
    }

    /// Bytes of the average of one piece.
    #[must_use]
    pub fn bytes_of(&self, slot: usize) -> u64 {
        self.values.get(slot).and_then(Option::as_ref).map_or(0, |value| value.bytes() as u64)
    }

    /// Bytes of the averages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.values.iter().flatten().map(|value| value.bytes() as u64).sum()
    }

    /// Exchanges the weights with their averages, and back.
    pub fn swap(&mut self, parameters: &mut Parameters) {
        for parameter in parameters.iter_mut() {
            for piece in parameter.pieces().to_vec() {
                self.exchange(parameter, &piece);
            }
        }
    }

    /// Gives a piece that stops training its average, which is kept no longer. If it trains again, a new one begins where it stood, with
    /// the weights of the whole run's.
    pub fn settle(&mut self, parameters: &mut Parameters, slot: usize) {
        let Some(average) = self.values[slot].take() else { return };
        for parameter in parameters.iter_mut() {
            if let Some(piece) = parameter.pieces().iter().find(|piece| piece.slot() == slot) {
                let first = parameter.extent(piece).0;
                average.device().set_part(&mut parameter.value, first, &average);
            }
        }
    }

    /// Sets the elements of a piece's average that are not kept to zero.
    pub fn mask(&mut self, slot: usize, keep: &[bool]) {
        if let Some(average) = &mut self.values[slot] {
            average.device().mask(average, 0, keep);
        }
    }

    /// Moves the average of a piece to another slot, which may be one more than there were.
    pub fn hand_over(&mut self, from: usize, to: usize) {
        let value = self.values[from].take();
        self.values.resize(self.values.len().max(to + 1), None);
        self.values[to] = value;
    }

    fn exchange(&mut self, parameter: &mut Parameter, piece: &Piece) {
        let Some(average) = &mut self.values[piece.slot()] else { return };
        let (first, shape) = parameter.extent(piece);
        let device = parameter.value.device();
        let raw = device.part(&parameter.value, first, shape);
        device.set_part(&mut parameter.value, first, average);
        *average = raw;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grades_models::parameters::Place;
    use grades_tensor::device;

    fn parameters(values: [f32; 2]) -> Parameters {
        let mut parameters = Parameters::default();
        let value = device("cpu").unwrap().from_host(values.to_vec(), [2, 1]);
        // Two pieces: one that trains, and later one that does not.
        parameters.push(Parameter::new("a", &[2, 1], value, &[(1, Place::Always), (1, Place::Always)]));
        parameters.train();
        parameters
    }

    fn averaged(kind: WeightAverage, count: i32) -> f64 {
        let mut average = Average::new(kind, 2);
        for n in 1..=count {
            average.add(&parameters([(n * n) as f32, 0.0]));
        }
        f64::from(average.values[0].as_ref().unwrap().to_host()[0])
    }

    /// Against the sums that define them.
    #[test]
    fn averages_are_those_of_their_definition() {
        for count in [1, 2, 3, 20] {
            // Weights in the polynomial average: binomial(n + p − 1, p), which grows as nᵖ.
            let weight = |n: i32| f64::from(n * (n + 1) * (n + 2)) / 6.0;
            let sum = |of: &dyn Fn(i32) -> f64| (1..=count).map(of).sum::<f64>();
            let expected = sum(&|n| weight(n) * f64::from(n * n)) / sum(&weight);
            let found = averaged(WeightAverage::Polynomial { power: 3.0 }, count);
            assert!((found - expected).abs() < 1e-5 * expected, "{count}: {found}, not {expected}");
            let plain = averaged(WeightAverage::Polynomial { power: 0.0 }, count);
            let mean = sum(&|n| f64::from(n * n)) / f64::from(count);
            assert!((plain - mean).abs() < 1e-5 * mean, "{count}: {plain}, not {mean}");
            let weight = |n: i32| 0.75_f64.powi(count - n);
            let expected = sum(&|n| weight(n) * f64::from(n * n)) / sum(&weight);
            let found = averaged(WeightAverage::Ema { updates: 4.0 }, count);
            assert!((found - expected).abs() < 1e-5 * expected, "{count}: {found}, not {expected}");
        }
    }

    /// Around the optimum of a quadratic, under a constant rate η and gradients with independent noise, each weight is an
    /// autoregression with r = 1 − ηλ around it. Its average of weights a_s has the variance v · Σ a_s a_t r^|s − t|, and excess
    /// risk in proportion; every fourth value is taken, so r⁴ is in its place.
    #[test]
    fn the_excess_risk_of_an_average_is_that_of_its_closed_form() {
        use rand::{RngExt, SeedableRng};
        const WIDTH: usize = 20_000;
        const COUNT: usize = 40;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut normal = move || {
            let (u, v): (f64, f64) = (random.random(), random.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let r: f64 = 0.8;
        let square = |of: &[f32]| of.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / WIDTH as f64;
        let kind = WeightAverage::Polynomial { power: 3.0 };
        let mut average = Average::new(kind, 1);
        let mut weights: Vec<f64> = (0..WIDTH).map(|_| normal()).collect();
        for _ in 0..COUNT {
            weights.iter_mut().for_each(|w| *w = r * *w + (1.0 - r * r).sqrt() * normal());
            let value = device("cpu").unwrap().from_host(weights.iter().map(|&w| w as f32).collect(), [WIDTH, 1]);
            let mut parameters = Parameters::default();
            parameters.push(Parameter::new("a", &[WIDTH, 1], value, &[(WIDTH, Place::Always)]));
            parameters.train();
            average.add(&parameters);
        }
        let weight = |n: usize| (n * (n + 1) * (n + 2)) as f64;
        let all: f64 = (1..=COUNT).map(weight).sum();
        let pairs = (1..=COUNT).flat_map(|s| (1..=COUNT).map(move |t| (s, t)));
        let expected: f64 =
            pairs.map(|(s, t)| weight(s) * weight(t) * r.powi(s.abs_diff(t) as i32)).sum::<f64>() / (all * all);
        let found = square(&average.values[0].as_ref().unwrap().to_host()[..]);
        // The variance of so many squares is 2 / WIDTH of their own square: 1 % is a standard error.
        assert!((found / expected - 1.0).abs() < 0.04, "{found}, not {expected}");
        // Of what the weights themselves have, a third.
        assert!((0.25..0.45).contains(&expected), "{expected}");
    }

    #[test]
    fn a_swap_goes_there_and_back_and_a_settled_piece_keeps_its_average() {
        let mut average = Average::new(WeightAverage::Polynomial { power: 0.0 }, 2);
        average.add(&parameters([1.0, 10.0]));
        let mut now = parameters([3.0, 30.0]);
        average.add(&now);
        assert_eq!(average.bytes(), 8);
        average.swap(&mut now);
        assert_eq!(*now[0].to_host(), [2.0, 20.0]);
        average.swap(&mut now);
        assert_eq!(*now[0].to_host(), [3.0, 30.0]);
        for _ in 0..2 {
            average.settle(&mut now, 1);
            assert_eq!((&*now[0].to_host(), average.bytes()), (&[3.0, 20.0][..], 4));
        }
        average.mask(0, &[false]);
        average.mask(1, &[false]);
        average.swap(&mut now);
        assert_eq!(*now[0].to_host(), [0.0, 20.0]);
    }

    /// By hand: four differences around 2, and what is too few.
    #[test]
    fn an_average_is_worse_only_by_more_than_chance() {
        let is_worse = |differences: &[f64]| {
            let compared = differences.iter().map(|difference| [3.0 + difference, 3.0]).collect();
            Average { compared, ..Average::new(WeightAverage::Ema { updates: 4.0 }, 0) }.is_worse()
        };
        let around = |spread: f64| [2.0 - spread, 2.0 - spread, 2.0 + spread, 2.0 + spread];
        // Their standard error is spread / √3; 2.353 of it is 2 at a spread of 1.472.
        assert!(is_worse(&around(1.46)) && !is_worse(&around(1.49)));
        assert!(!is_worse(&around(1.46).map(|difference| -difference)));
        assert!(is_worse(&[1.0, 1.0]) && !is_worse(&[0.0, 0.0]) && !is_worse(&[5.0]) && !is_worse(&[]));
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (yaml, named) in [("{kind: polynomial, power: -1}", "power"), ("{kind: ema, updates: 0.5}", "updates")] {
            let kind: WeightAverage = serde_saphyr::from_str(yaml).unwrap();
            assert!(kind.problem().is_some_and(|problem| problem.contains(named)));
        }
        let kind: WeightAverage = serde_saphyr::from_str("{kind: polynomial}").unwrap();
        assert_eq!((kind, kind.problem()), (WeightAverage::Polynomial { power: 3.0 }, None));
    }
}
