//! Three steps of each method on the `llama` fixture, against TRL's (`fixtures/make_preference.py`).

use std::path::{Path, PathBuf};

use grades_models::config::HfConfig;
use grades_models::registry;
use grades_models::source::LoadOptions;
use grades_models::weights::Checkpoint;
use grades_tensor::{Gradients, device};
use serde_json::Value;

use super::{Objective, PreferenceLoss, Preferences, Rows};
use crate::config::{Config, DpoLossType};
use crate::data::preference::Preference;
use crate::data::{Batch, LoaderOptions, Tokenized};
use crate::train::prefix_cache::Set;
use crate::train::step::{self, Drawn, Pass, Read};

const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn tokens(row: &Value, answer: &str) -> Tokenized {
    let (prompt, answer) = (ids(&row["prompt"]), ids(&row[answer]));
    let labels = prompt.iter().map(|_| -100).chain(answer.iter().map(|&id| i64::from(id))).collect();
    Tokenized { ids: [prompt, answer].concat(), labels, pictures: Vec::new() }
}

fn loss(method: &str) -> PreferenceLoss {
    let dpo = |kind| PreferenceLoss::Dpo { kind, beta: 0.5, label_smoothing: 0.0, rpo_alpha: 0.0 };
    match method {
        "dpo" => dpo(DpoLossType::Sigmoid),
        "ipo" => dpo(DpoLossType::Ipo),
        "orpo" => PreferenceLoss::Orpo { beta: 0.3 },
        "simpo" => PreferenceLoss::SimPo { beta: 2.0, gamma: 0.5, cpo_alpha: 0.7 },
        "kto" => PreferenceLoss::Kto { beta: 0.5, desirable_weight: 1.5, undesirable_weight: 0.8 },
        other => panic!("{other}"),
    }
}

fn rows(method: &str) -> Vec<Preference> {
    let rows: Value = serde_json::from_slice(&std::fs::read(fixture("preference/rows.json")).unwrap()).unwrap();
    let row = |(index, row): (usize, &Value)| match method {
        "kto" => Preference::Judged(
            tokens(row, if index.is_multiple_of(2) { "chosen" } else { "rejected" }),
            index.is_multiple_of(2),
        ),
        _ => Preference::Pair(Box::new([tokens(row, "chosen"), tokens(row, "rejected")])),
    };
    rows.as_array().unwrap().iter().enumerate().map(row).collect()
}

/// ‖found − expected‖ / ‖expected‖.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().copied().map(square).sum::<f64>().max(1e-20)).sqrt()
}

/// The same of whole batches and of micro-batches of one pair, whose mean is that of all, where a loss is a mean over rows alone.
#[test]
fn three_steps_are_those_of_trl() {
    let expected = Checkpoint::open(fixture("preference/expected.safetensors")).unwrap();
    let of = |name: &str| expected.load_f32(name).unwrap();
    let text = std::fs::read(fixture("llama/config.json")).unwrap();
    let hf = HfConfig::new(serde_json::from_slice(&text).unwrap()).unwrap();
    let source = Checkpoint::open(fixture("llama")).unwrap();
    for (method, micro_batch_size) in [("dpo", 4), ("dpo", 1), ("ipo", 2), ("orpo", 4), ("simpo", 4), ("kto", 4)] {
        let mut model = registry::load(&hf, &source, LoadOptions::new(device("cpu").unwrap())).unwrap();
        model.parameters_mut().train();
        let config = Config { micro_batch_size, ..Config::default() };
        let rows = Rows::of(rows(method), &config, None);
        let mut preferences = Preferences::new(loss(method), [rows.desirable.clone(), Vec::new()]);
        let options =
            LoaderOptions { micro_batch_size, gradient_accumulation_steps: 4, packing: None, seed: 1, shuffle: true };
        let mut loader = rows.clone().loader(options);
        let asked = preferences.ask(&model, &mut loader, 1, &[]).unwrap();
        assert_eq!(asked.is_some(), preferences.loss.needs_reference(), "{method}");
        let batches: Vec<Batch> = rows.in_order();
        let objective = Objective::Preference(preferences.clone());
        let mut state: Vec<(Vec<f64>, Vec<f64>)> =
            model.parameters().iter().map(|p| (vec![0.0; p.len()], vec![0.0; p.len()])).collect();
        for step in 1..=3 {
            let drawn = Drawn { seed: 1, step: 1, noise: None };
            let mut read = |batch: &Batch| Ok(Read { inputs: batch.inputs(), prefix: None });
            let checkpointing = step == 2;
            let pass = step::pass(&model, drawn, &batches, checkpointing, &objective, &mut read).unwrap();
            let Pass { loss, rewards, gradients, .. } = pass;
            let what = format!("{method} in micro-batches of {micro_batch_size}, step {step}");
            let reference = of(&format!("{method}.loss.{step}"));
            assert!(error(&[loss as f32], &reference) < TOLERANCE, "{what}: the loss is {loss}, not {reference:?}");
            // Without a record it is the same.
            let scored: f64 = batches
                .iter()
                .map(|batch| {
                    let found = preferences.evaluate(&model, Set::Train, batch, None, &batch.inputs());
                    found.loss * preferences.rows(Set::Train, batch) as f64 / 4.0
                })
                .sum();
            assert!((scored - loss).abs() < 1e-5 * loss.abs(), "{what}: {scored} and {loss}");
            if step == 3 {
                let (means, _, kl) = rewards.unwrap().means();
                let found = [means.chosen.unwrap() as f32, means.rejected.unwrap() as f32];
                let off = error(&found, &of(&format!("{method}.rewards")));
                assert!(off < 1e-3, "{what}: rewards are off by {off}");
                if let Some(kl) = kl {
                    assert!(error(&[kl as f32], &of("kto.kl")) < 1e-3, "{what}: KL is {kl}");
                }
            }
            check_and_update(&mut model, &gradients, &mut state, step, &|name| {
                (step == 3).then(|| of(&format!("{method}.grad.{name}")))
            });
        }
    }
}

/// Compares gradients with those that there are, and takes a step of AdamW with `eps: 1e-5`.
fn check_and_update(
    model: &mut grades_models::Decoder,
    gradients: &Gradients,
    state: &mut [(Vec<f64>, Vec<f64>)],
    step: i32,
    expected: &dyn Fn(&str) -> Option<Vec<f32>>,
) {
    for (parameter, (m, v)) in model.parameters_mut().iter_mut().zip(state) {
        let pieces = parameter.pieces().iter().map(|piece| gradients.get(piece.slot()).unwrap().to_host().into_owned());
        let gradient: Vec<f32> = pieces.collect::<Vec<_>>().concat();
        if let Some(expected) = expected(&parameter.name) {
            let off = error(&gradient, &expected);
            assert!(off < TOLERANCE, "the gradient of {} is off by {off:.1e}", parameter.name);
        }
        let mut weight = parameter.to_host().into_owned();
        for (((w, &g), m), v) in weight.iter_mut().zip(&gradient).zip(m).zip(v) {
            let g = f64::from(g);
            (*m, *v) = (0.9 * *m + 0.1 * g, 0.999 * *v + 0.001 * g * g);
            let (m, v) = (*m / (1.0 - 0.9_f64.powi(step)), *v / (1.0 - 0.999_f64.powi(step)));
            *w = (f64::from(*w) - 1e-3 * m / (v.sqrt() + 1e-5)) as f32;
        }
        let (device, shape) = (parameter.value.device(), parameter.value.shape());
        parameter.value = device.from_host(weight, shape);
    }
}
