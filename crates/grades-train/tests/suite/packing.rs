//! Samples that share a row do not see each other: a packed sample's loss and gradients are its own alone.

use std::sync::Arc;

use grades_models::model::PassOptions;
use grades_models::source::LoadOptions;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, registry};
use grades_tensor::{Gradients, IGNORE_INDEX, device};
use grades_train::data::{Batch, Tokenized};

use crate::runs::{exclusive, relative_error};
use crate::tiny_checkpoint::fixture;

fn sample(ids: &[u32], prompt: usize) -> Tokenized {
    let label = |(index, &id): (usize, &u32)| if index < prompt { IGNORE_INDEX } else { i64::from(id) };
    Tokenized { ids: ids.to_vec(), labels: ids.iter().enumerate().map(label).collect(), ..Tokenized::default() }
}

fn samples() -> [Tokenized; 3] {
    [
        sample(&[5, 17, 30, 8, 60, 41, 2], 3),
        sample(&[90, 5, 5, 12, 2], 1),
        sample(&[33, 71, 8, 8, 25, 64, 19, 80, 3, 2], 6),
    ]
}

fn batch<'a>(samples: impl IntoIterator<Item = &'a Tokenized>) -> Batch {
    let mut batch = Batch::default();
    for (index, sample) in samples.into_iter().enumerate() {
        batch.push(index, sample);
    }
    batch
}

/// The summed loss over the labels, and every parameter's gradient by its name.
type LossAndGradients = (f32, Vec<(String, Vec<f32>)>);

fn loss_and_gradients(model: &Decoder, batch: &Batch, targets: Vec<i64>) -> LossAndGradients {
    let pass = model.pass(&batch.inputs(), Arc::new(targets), 1.0, PassOptions::default());
    let value = pass.loss().to_host()[0];
    let mut found = Gradients::new(model.parameters().slots());
    pass.backward(&mut found);
    let gradients = model
        .parameters()
        .pieces()
        .map(|(parameter, piece)| (parameter.name.clone(), found.get(piece.slot()).unwrap().to_host().into_owned()));
    (value, gradients.collect())
}

fn models() -> [Decoder; 2] {
    ["llama", "llama3"].map(|name| {
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let mut model = registry::open(&checkpoint, LoadOptions::new(device("cpu").unwrap())).unwrap();
        model.parameters_mut().train();
        model
    })
}

#[track_caller]
fn assert_equal(found: &LossAndGradients, expected: &LossAndGradients) {
    assert!((found.0 / expected.0 - 1.0).abs() < 1e-5, "loss {} against {}", found.0, expected.0);
    for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
        let error = relative_error(found, expected);
        assert!(error < 1e-5, "the gradient of {name} differs by {error:.2e}");
    }
}

#[test]
fn a_packed_sample_has_the_loss_and_the_gradients_that_it_has_alone() {
    let _counters = exclusive();
    for model in models() {
        let samples = samples();
        let packed = batch(&samples);
        for (index, sample) in samples.iter().enumerate() {
            // The same row with the labels of this sample only.
            let (start, end) = packed.segments[index];
            let only = |(row, &target): (usize, &i64)| if (start..end).contains(&row) { target } else { IGNORE_INDEX };
            let targets = packed.targets.iter().enumerate().map(only).collect();
            let alone = batch([sample]);
            let expected = loss_and_gradients(&model, &alone, alone.targets.clone());
            assert_equal(&loss_and_gradients(&model, &packed, targets), &expected);
        }
    }
}

#[test]
fn a_packed_row_has_the_sum_of_its_samples() {
    let _counters = exclusive();
    for model in models() {
        let samples = samples();
        let packed = batch(&samples);
        let mut sum: Option<LossAndGradients> = None;
        for sample in &samples {
            let alone = batch([sample]);
            let (loss, gradients) = loss_and_gradients(&model, &alone, alone.targets.clone());
            match &mut sum {
                None => sum = Some((loss, gradients)),
                Some((total, sums)) => {
                    *total += loss;
                    for ((_, sum), (_, gradient)) in sums.iter_mut().zip(&gradients) {
                        sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                    }
                }
            }
        }
        assert_equal(&loss_and_gradients(&model, &packed, packed.targets.clone()), &sum.unwrap());
    }
}
