//! The frontier: how low the loss gets without stopping, by what it costs.
//!
//! A method that ends early is easily better than a run that is too long, or has a learning rate that does not suit it. The
//! honest question is whether a shorter schedule at a tuned rate would have done as well at the same cost. So training
//! without stopping is run over a grid of lengths and learning rates; its best losses are the frontier, and the *excess* of
//! a run is how far its loss lies above it at its own cost.

use super::finished::Finished;
use super::outcome::flops;
use crate::significance::t_test;
use grades_report::table::Mean;

/// Which schedules make the frontier.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontierOptions {
    /// Their lengths as shares of the planned run, in (0, 1].
    pub lengths: Vec<f64>,
    /// Their learning rates as multiples of the config's.
    pub rates: Vec<f64>,
}

impl Default for FrontierOptions {
    fn default() -> Self {
        Self { lengths: vec![0.25, 0.5, 1.0], rates: vec![0.5, 1.0, 2.0, 4.0] }
    }
}

/// A length and learning rate, and the runs with them.
#[derive(Clone, Debug)]
pub struct Point {
    /// The length as a share of the planned run.
    pub length: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Its runs by seed.
    pub runs: Vec<(u64, Finished)>,
}

/// What training without stopping comes to.
#[derive(Clone, Debug)]
pub struct Frontier {
    /// `full`, or the adapter's name.
    pub adapter: String,
    /// What was run, by length, the rates of a length from low to high.
    pub points: Vec<Point>,
}

/// How far the runs of a row lie above the frontier.
#[derive(Clone, Debug, PartialEq)]
pub struct Excess {
    /// In nats, by seed; below 0 is better than the frontier.
    pub by_seed: Vec<(u64, f64)>,
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` of one seed.
    pub error: Option<f64>,
    /// The probability of such a mean, either way, if there were no difference: Student's test paired by seed; `None` of one
    /// seed.
    pub p: Option<f64>,
}

impl Point {
    fn loss(&self, seed: u64) -> Option<f64> {
        self.runs
            .iter()
            .find(|(of, _)| *of == seed)
            .and_then(|(_, run)| run.summary.val_loss)
            .filter(|loss| loss.is_finite())
    }
}

impl Frontier {
    pub(super) fn new(adapter: &str) -> Self {
        Self { adapter: adapter.to_owned(), points: Vec::new() }
    }

    /// Adds a run to its point, which may be new; of a run that failed the point alone.
    pub(super) fn add(&mut self, length: f64, learning_rate: f64, run: Option<(u64, Finished)>) {
        let same = |point: &Point| point.length == length && point.learning_rate == learning_rate;
        let place = self.points.iter().position(same).unwrap_or_else(|| {
            let key = |point: &Point| (point.length, point.learning_rate);
            let place = self.points.partition_point(|point| key(point) < (length, learning_rate));
            self.points.insert(place, Point { length, learning_rate, runs: Vec::new() });
            place
        });
        self.points[place].runs.extend(run);
    }

    /// The loss of a point with a seed; infinite where there is none.
    pub(super) fn loss_of(&self, length: f64, learning_rate: f64, seed: u64) -> f64 {
        let same = |point: &&Point| point.length == length && point.learning_rate == learning_rate;
        self.points.iter().find(same).and_then(|point| point.loss(seed)).unwrap_or(f64::INFINITY)
    }

    /// The points of a length in the order of their loss with the seed `seed`, the best first.
    pub(super) fn ranked(&self, length: f64, seed: u64) -> Vec<&Point> {
        let mut points: Vec<_> = self.points.iter().filter(|point| point.length == length).collect();
        points.sort_by(|a, b| {
            let loss = |point: &Point| point.loss(seed).unwrap_or(f64::INFINITY);
            loss(a).total_cmp(&loss(b))
        });
        points
    }

    /// The points that make the frontier: of each length the rate that was best with the first seed.
    #[must_use]
    pub fn best(&self) -> Vec<&Point> {
        let first = self.points.iter().find_map(|point| point.runs.first());
        let Some(seed) = first.map(|(seed, _)| *seed) else { return Vec::new() };
        let mut lengths: Vec<f64> = self.points.iter().map(|point| point.length).collect();
        lengths.dedup();
        lengths.into_iter().filter_map(|length| self.ranked(length, seed).into_iter().next()).collect()
    }

    /// The loss that is there with a seed by what it `cost`s: the best run that costs no more, and between two runs on the
    /// straight line over the logarithm of the cost. `None` below the shortest run.
    #[must_use]
    pub fn loss(&self, seed: u64, at: f64, cost: impl Fn(&Finished) -> f64) -> Option<f64> {
        let mut curve: Vec<(f64, f64)> = Vec::new();
        for point in self.best() {
            let run = point.runs.iter().find(|(of, _)| *of == seed);
            curve.extend(run.and_then(|(_, run)| Some((cost(run).ln(), point.loss(seed)?))));
        }
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest = f64::INFINITY;
        for (_, loss) in &mut curve {
            lowest = lowest.min(*loss);
            *loss = lowest;
        }
        let at = at.ln();
        let after = curve.partition_point(|(cost, _)| *cost <= at);
        let (cost, loss) = *curve.get(after.checked_sub(1)?)?;
        Some(curve.get(after).map_or(loss, |(next, lower)| loss + (lower - loss) * (at - cost) / (next - cost)))
    }

    /// How far runs lie above the frontier of their own seed at their own arithmetic; `None` where none can be compared.
    #[must_use]
    pub fn excess(&self, runs: &[(u64, Finished)]) -> Option<Excess> {
        let of = |(seed, run): &(u64, Finished)| {
            let loss = run.summary.val_loss? - self.loss(*seed, flops(run), flops)?;
            Some((*seed, loss)).filter(|_| loss.is_finite())
        };
        Excess::of(runs.iter().filter_map(of).collect())
    }
}

impl Excess {
    /// Of differences by seed.
    pub(super) fn of(by_seed: Vec<(u64, f64)>) -> Option<Self> {
        let values: Vec<f64> = by_seed.iter().map(|(_, value)| *value).collect();
        let Mean { mean, deviation } = Mean::of(&values)?;
        let error = deviation.map(|deviation| deviation / (values.len() as f64).sqrt());
        Some(Self { by_seed, mean, error, p: t_test(&values) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::costing;

    /// A frontier of two lengths with the costs 100 and 400, and two rates of the shorter.
    fn frontier() -> Frontier {
        let point = |length, learning_rate, runs: &[(u64, f64, f64)]| Point {
            length,
            learning_rate,
            runs: runs.iter().map(|(seed, flops, loss)| (*seed, costing(*flops, *loss))).collect(),
        };
        let points = vec![
            point(0.25, 1e-4, &[(0, 100.0, 3.5), (1, 100.0, 3.4)]),
            point(0.25, 2e-4, &[(0, 100.0, 3.6)]),
            point(1.0, 1e-4, &[(0, 400.0, 2.9), (1, 400.0, 3.6)]),
        ];
        Frontier { points, ..Frontier::new("full") }
    }

    #[test]
    fn the_frontier_is_a_line_between_the_best_runs_that_never_rises() {
        let frontier = frontier();
        let rates: Vec<_> = frontier.best().iter().map(|point| (point.length, point.learning_rate)).collect();
        assert_eq!(rates, [(0.25, 1e-4), (1.0, 1e-4)]);
        let at = |seed, cost| frontier.loss(seed, cost, flops);
        // Halfway between 100 and 400 in logarithms is 200.
        for (cost, loss) in [(100.0, 3.5), (200.0, 3.2), (400.0, 2.9), (1000.0, 2.9)] {
            assert!((at(0, cost).unwrap() - loss).abs() < 1e-12, "{cost}");
        }
        assert_eq!((at(0, 99.0), at(2, 200.0)), (None, None));
        // With the second seed the longer run is worse, and nobody has to run it.
        assert_eq!((at(1, 200.0), at(1, 4000.0)), (Some(3.4), Some(3.4)));
    }

    #[test]
    fn the_excess_is_paired_by_seed() {
        let runs = [(0, costing(200.0, 3.1)), (1, costing(200.0, 3.6)), (7, costing(200.0, 1.0))];
        let excess = frontier().excess(&runs).unwrap();
        // −0.1 and +0.2: mean 0.05, deviation 0.3/√2, error 0.15, t = 1/3 with one degree of freedom: 1 − 2/π · atan(1/3).
        let p = 1.0 - (1.0_f64 / 3.0).atan() * std::f64::consts::FRAC_2_PI;
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
        assert_eq!(excess.by_seed.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(), [0, 1]);
        close(excess.mean, 0.05);
        close(excess.error.unwrap(), 0.15);
        close(excess.p.unwrap(), p);
        let alone = frontier().excess(&runs[..1]).unwrap();
        assert_eq!((alone.error, alone.p), (None, None));
        assert_eq!(frontier().excess(&[(0, costing(50.0, 3.0))]), None);
    }
}
