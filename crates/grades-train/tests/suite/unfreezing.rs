//! A policy that takes a freeze back.

use grades::policy::none::NoPolicy;
use grades::{Cost, Decision, Observation, Policy, PolicyState, RestoreError, Role, UnitId, Wants};
use grades_models::LoraConfig;
use grades_train::train::TrainError;
use serde_json::Value;

use crate::runs::exclusive;
use crate::tiny_run::{self, RATE};

fn unit() -> UnitId {
    UnitId::language(1, Role::Up)
}

/// Freezes one matrix at step 2, and unfreezes it at step 4.
#[derive(Debug, Default)]
struct Scripted {
    frozen: bool,
}

impl Policy for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn wants(&self, _: usize) -> Wants {
        Wants { measure_gradients: true, keep_gradient: true, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, _: &Observation<'_>) -> Decision {
        let when = |at| if step == at { vec![unit()] } else { Vec::new() };
        self.frozen = (2..4).contains(&step);
        Decision { step, freeze: when(2), unfreeze: when(4), ..Decision::default() }
    }

    fn in_force(&self) -> Decision {
        let freeze = if self.frozen { vec![unit()] } else { Vec::new() };
        Decision { freeze, ..Decision::default() }
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

/// The matrix after so many steps, and the steps' metrics.
fn train(steps: usize) -> (Vec<f32>, Vec<Value>) {
    attempt(steps, None).unwrap()
}

/// With adapters in place of the matrices, if there are any; those are folded when they freeze.
fn attempt(steps: usize, adapter: Option<LoraConfig>) -> Result<(Vec<f32>, Vec<Value>), TrainError> {
    let (model, metrics) = tiny_run::train(Box::new(Scripted::default()), steps, adapter)?;
    let matrix = model.parameters().iter().find(|p| p.name == "model.layers.1.mlp.up_proj.weight").unwrap();
    Ok((matrix.to_host().into_owned(), metrics))
}

#[test]
fn an_unfrozen_matrix_trains_again_from_a_fresh_state() {
    let _counters = exclusive();
    let (one, _) = train(1);
    assert!(train(4).0 == one, "it moved while it was frozen");
    let (five, metrics) = train(5);
    let number =
        |path: &str| metrics.iter().map(|line| line.pointer(path).unwrap().as_u64().unwrap()).collect::<Vec<_>>();
    // The pass of the step that decides is over, so both decisions show in the next one.
    let gradients = number("/flops/weight_gradient");
    let matrix = 2 * 4 * 8 * 64 * 160;
    assert_eq!([gradients[2], gradients[3]], [gradients[0] - matrix; 2]);
    assert_eq!([gradients[1], gradients[4]], [gradients[0]; 2]);
    assert_eq!(number("/flops/skipped"), [0, 0, matrix, matrix, 0]);
    let (state, kept) = (number("/optimizer_bytes"), number("/kept_bytes"));
    let values = 64 * 160;
    assert_eq!([1, 2, 3, 4].map(|step| state[0] - state[step]), [8 * values, 8 * values, 8 * values, 0]);
    assert_eq!([1, 2, 3, 4].map(|step| kept[0] - kept[step]), [4 * values, 4 * values, 4 * values, 0]);
    // AdamW's first step is the rate in the gradient's direction; with moments of before it would be of any size.
    let size = |(after, before): (&f32, &f32)| f64::from((after - before).abs()) / RATE;
    let one_rate = five.iter().zip(&one).map(size).filter(|size| (size - 1.0).abs() < 1e-2).count();
    assert!(one_rate * 100 > five.len() * 99, "{one_rate} of {}", five.len());
}

#[test]
fn a_folded_adapter_does_not_train_again() {
    let _counters = exclusive();
    let adapter = LoraConfig { r: 2, ..LoraConfig::default() };
    assert!(attempt(3, Some(adapter.clone())).is_ok());
    let error = attempt(4, Some(adapter)).unwrap_err().to_string();
    assert!(error.contains("trains language.1.up again") && error.contains("fold_frozen: false"), "{error}");
}
