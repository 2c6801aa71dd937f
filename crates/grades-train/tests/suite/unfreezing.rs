//! A policy that takes a freeze back.

use burn::tensor::Device;
use grades::{Cost, Decision, Observation, Policy, PolicyMemory, PolicyState, RestoreError, Role, UnitId, Wants};
use grades_models::random::Random;
use grades_models::{Decoder, LoraConfig, host};
use grades_train::bench::Shape;
use grades_train::data::{Loader, LoaderOptions, Tokenized};
use grades_train::schedule::{LrScheduler, Schedule};
use grades_train::train::optimizer::Rule;
use grades_train::train::prefix_cache;
use grades_train::train::trainer::Options;
use grades_train::train::{RunDir, Start, TrainError, Trainer};
use serde_json::Value;

use crate::runs::exclusive;

const RATE: f64 = 1e-3;

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
        Wants { measure: true, keep_gradient: true, ..Wants::default() }
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
        PolicyState { memory: PolicyMemory::None, cost: Cost::default(), buffers: Default::default() }
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
    let folder = tempfile::tempdir().unwrap();
    let fold_frozen = adapter.is_some();
    let mut model = Decoder::load(Shape::Tiny.config(), &Random::new(1), &Device::default().autodiff()).unwrap();
    if let Some(adapter) = adapter {
        model = model.with_adapter(adapter, &LoraConfig::initial(1)).unwrap();
    }
    let sample = |row: u32| {
        let ids: Vec<u32> = (0..9).map(|i| (i * i + 37 * row) % 256).collect();
        Tokenized { labels: ids.iter().map(|&id| id.into()).collect(), ids }
    };
    let order = LoaderOptions { micro_batch_size: 2, gradient_accumulation_steps: 2, packing: None, seed: 1 };
    let loader = Loader::new((0..8).map(sample).collect(), order);
    let scheduler = LrScheduler::Constant;
    let options = Options {
        schedule: Schedule { scheduler, learning_rate: RATE, warmup_steps: 0, total_steps: steps },
        rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-12 },
        weight_decay: 0.0,
        loraplus_lr_ratio: 1.0,
        seed: 0,
        fold_frozen,
        max_grad_norm: None,
        gradient_checkpointing: false,
        prefix_cache: prefix_cache::Options::default(),
        eval_steps: None,
        save_steps: None,
        logging_steps: 1,
    };
    let start = Start::new(model, Box::new(Scripted::default()), &options);
    let mut dir = RunDir::create(&folder.path().join("run")).unwrap();
    let (model, _) = Trainer::new(start, loader, &[], options, &mut dir).train()?;
    let matrix = model.parameters().iter().find(|p| p.name == "model.layers.1.mlp.up_proj.weight").unwrap();
    let values = host::read("matrix", &matrix.value, <[f32]>::to_vec).unwrap();
    let metrics = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    Ok((values, metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
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
