//! A policy gets all that it wants of a step, in every combination, in one observation.

use std::sync::{Arc, Mutex};

use grades::policy::none::NoPolicy;
use grades::{Cost, Decision, Norm, Observation, Policy, PolicyState, RestoreError, StepGains, Wants};

use crate::runs::exclusive;
use crate::tiny_run;

const STEPS: usize = 3;
/// Matrices of the model: seven in each of four layers.
const MATRICES: usize = 28;

/// What one observation held.
#[derive(Clone, Debug, Default)]
struct Seen {
    step: usize,
    gradients: usize,
    gradient_changes: usize,
    weight_changes: usize,
    gradient_elements: Vec<f64>,
    weight_elements: Vec<f64>,
    /// The norms that were measured, to be compared with those of the elements.
    norms: Vec<f64>,
    moves: Vec<f64>,
    validation_loss: Option<f64>,
    spent: u64,
    gains: Vec<(usize, f64)>,
    /// The arithmetic that freezing all matrices would save, as the last gains have it.
    saves: u64,
}

/// Wants the same at every step, and decides nothing.
#[derive(Debug)]
struct Curious {
    wants: Wants,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The gains that came since the last observation, with their steps.
    gains: Vec<(usize, f64)>,
    saves: u64,
}

impl Policy for Curious {
    fn name(&self) -> &'static str {
        "curious"
    }

    fn wants(&self, _: usize) -> Wants {
        self.wants
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let parts = || observation.measurements.iter().flat_map(|(_, parts)| parts);
        let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).abs()).sum::<f64>();
        self.seen.lock().unwrap().push(Seen {
            step,
            gradients: parts().filter(|part| part.gradient.is_some()).count(),
            gradient_changes: parts().filter(|part| part.change.is_some() && part.previous.is_some()).count(),
            weight_changes: parts().filter(|part| part.weight_change.is_some()).count(),
            gradient_elements: observation.gradients.iter().map(|elements| norm(elements.values)).collect(),
            weight_elements: observation.weights.iter().map(|elements| norm(elements.values)).collect(),
            norms: parts().filter_map(|part| part.gradient).collect(),
            moves: parts().filter_map(|part| part.weight_change).collect(),
            validation_loss: observation.validation_loss,
            spent: observation.spent.flops,
            gains: std::mem::take(&mut self.gains),
            saves: self.saves,
        });
        Decision { step, ..Decision::default() }
    }

    fn observe_gains(&mut self, step: usize, gains: &StepGains<'_>) {
        // A gain for every matrix, each with the arithmetic that it takes: less than a third of the step's all together.
        assert_eq!(gains.units.len(), MATRICES);
        let saves: u64 = gains.units.iter().map(|unit| unit.saves).sum();
        assert!(gains.units.iter().all(|unit| unit.saves > 0) && 3 * saves < gains.flops, "{gains:?}");
        self.saves = saves;
        self.gains.push((step, gains.total()));
    }

    fn in_force(&self) -> Decision {
        Decision::default()
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn state(&self) -> PolicyState {
        NoPolicy.state()
    }

    fn restore(&mut self, _: PolicyState) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// The observations of the steps after step 0, and the losses.
fn observed(wants: Wants) -> (Vec<Seen>, Vec<f64>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (_, metrics) =
        tiny_run::train(Box::new(Curious { wants, seen: seen.clone(), gains: Vec::new(), saves: 0 }), STEPS, None)
            .unwrap();
    let losses = metrics.iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    let seen = seen.lock().unwrap().iter().filter(|seen| seen.step > 0).cloned().collect();
    (seen, losses)
}

#[test]
fn every_combination_is_observed_at_once_and_whole() {
    let _counters = exclusive();
    let (_, losses) = observed(Wants::default());
    for combination in 1_u32..256 {
        let wanted = |bit: u32| combination & (1 << bit) != 0;
        let wants = Wants {
            decide: wanted(7),
            gain: wanted(6),
            measure_gradients: wanted(0),
            keep_gradient: wanted(0),
            measure_weights: wanted(1),
            keep_weight: wanted(1),
            gradients: wanted(2),
            weights: wanted(3),
            validation_loss: wanted(4),
            end_of_step: wanted(7) && wanted(5),
            norm: if wanted(5) { Norm::Frobenius } else { Norm::L1 },
        };
        if wants.is_idle() {
            continue;
        }
        let (seen, same) = observed(wants);
        // Looking changes nothing.
        assert_eq!(same, losses, "{wants:?}");
        assert_eq!(seen.iter().map(|seen| seen.step).collect::<Vec<_>>(), [1, 2, 3], "{wants:?}");
        // The first update has none before it, and what an update finds is known to observations after it.
        let gains: Vec<_> = seen.iter().flat_map(|seen| &seen.gains).map(|(step, _)| *step).collect();
        let known = if wants.after_update() { vec![2, 3] } else { vec![2] };
        assert_eq!(gains, if wants.gain { known } else { vec![] }, "{wants:?}");
        // All that was spent is known, with the step's own passes.
        assert!(seen[0].spent > 0 && seen.is_sorted_by(|a, b| a.spent < b.spent), "{wants:?}, {seen:?}");
        for seen in &seen {
            let all = |wanted: bool| if wanted { MATRICES } else { 0 };
            assert_eq!(seen.gradients, all(wants.measure_gradients), "{wants:?}, {seen:?}");
            assert_eq!(seen.gradient_changes, all(wants.measure_gradients && seen.step > 1), "{wants:?}, {seen:?}");
            assert_eq!(seen.weight_changes, all(wants.measure_weights), "{wants:?}, {seen:?}");
            assert_eq!(seen.gradient_elements.len(), all(wants.gradients), "{wants:?}, {seen:?}");
            assert_eq!(seen.weight_elements.len(), all(wants.weights), "{wants:?}, {seen:?}");
            assert_eq!(seen.validation_loss.is_some(), wants.validation_loss, "{wants:?}, {seen:?}");
            assert!(seen.moves.iter().all(|moved| *moved > 0.0), "{wants:?}, {seen:?}");
            if wants.measure_gradients && wants.gradients && wants.norm == Norm::L1 {
                for (norm, elements) in seen.norms.iter().zip(&seen.gradient_elements) {
                    assert!((norm / elements - 1.0).abs() < 1e-5, "{wants:?}: {norm} and {elements}");
                }
            }
        }
    }
}

/// A weight gradient of n tokens takes two operations a token and element.
#[test]
fn freezing_a_matrix_saves_its_weight_gradient() {
    let _counters = exclusive();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let wants = Wants { gain: true, end_of_step: true, ..Wants::default() };
    let policy = Curious { wants, seen: seen.clone(), gains: Vec::new(), saves: 0 };
    let (model, metrics) = tiny_run::train(Box::new(policy), STEPS, None).unwrap();
    let matrices = model.parameters().iter().filter(|parameter| parameter.name.ends_with("_proj.weight"));
    let elements: u64 = matrices.map(|parameter| parameter.len() as u64).sum();
    let tokens = metrics[2]["tokens"].as_u64().unwrap() - metrics[1]["tokens"].as_u64().unwrap();
    assert_eq!(seen.lock().unwrap().last().unwrap().saves, 2 * tokens * elements);
}
