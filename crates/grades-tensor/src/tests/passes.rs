//! Training passes by other ways than one recorded whole: with checkpointing, and from a prefix's output.

use super::model::{LAYER, LAYERS, Model, matrix, of_attention};
use super::{ALL, exclusive};
use crate::device::DeviceRef;
use crate::dtype::Dtype;
use crate::flops::executed;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use grades::Flops;

/// The loss, the gradients by parameter, and what was executed.
type Outcome = (f32, Vec<Option<Vec<f32>>>, Flops);

/// Everything on one tape, from a prefix's output where there is one: `(its layers, [tokens, hidden])`.
fn recorded_whole(model: &Model, prefix: Option<(usize, Tensor)>) -> Outcome {
    measured(model, |gradients| {
        let tape = Tape::recording();
        let (first, x) = match prefix {
            Some((layers, output)) => (layers, Var::constant(output)),
            None => (0, model.embed(&tape)),
        };
        let x = model.layers(&tape, first..LAYERS, x);
        let loss = model.loss(&tape, &x).value;
        tape.backward(None, None, gradients);
        loss
    })
}

/// The last layer on a tape; those below run without a record, and again on a tape of their own (Chen et al. 2016), as
/// far down as something trains.
fn checkpointed(model: &Model, prefix: Option<(usize, Tensor)>) -> Outcome {
    measured(model, |gradients| {
        let off = Tape::off();
        let lowest = frozen_layers(model);
        let (first, mut x) = match prefix {
            Some((layers, output)) => (layers, Var::constant(output)),
            None => (0, model.embed(&off)),
        };
        let mut inputs = Vec::new();
        for layer in first..LAYERS - 1 {
            inputs.push((layer, x.value.clone()));
            x = model.layer(&off, layer, &x);
        }
        let tape = Tape::recording();
        let last = first.max(LAYERS - 1);
        let below = lowest.is_none_or(|layers| layers < last);
        let x = if below { tape.input(x.value) } else { x };
        let loss = model.loss(&tape, &model.layers(&tape, last..LAYERS, x.clone())).value;
        let mut dx = tape.backward(None, Some(&x), gradients);
        for (layer, input) in inputs.into_iter().rev().filter(|(layer, _)| lowest.is_none_or(|lowest| lowest <= *layer))
        {
            let tape = Tape::recording();
            let below = lowest.is_none_or(|lowest| lowest < layer);
            let x = if below { tape.input(input) } else { Var::constant(input) };
            let y = model.layer(&tape, layer, &x);
            dx = tape.backward(dx.map(|dy| (&y, dy)), Some(&x), gradients);
        }
        let tape = Tape::recording();
        let x = model.embed(&tape);
        tape.backward(dx.map(|dy| (&x, dy)), None, gradients);
        loss
    })
}

fn measured(model: &Model, pass: impl FnOnce(&mut Gradients) -> Tensor) -> Outcome {
    let before = executed();
    let mut gradients = Gradients::new(model.parameters.len());
    let loss = pass(&mut gradients).to_host()[0];
    let taken = (0..model.parameters.len()).map(|slot| gradients.take(slot).map(|g| g.to_host().into_owned()));
    (loss, taken.collect(), executed().since(&before))
}

/// How many layers lie, with all below them, under everything that trains; `None` where the embedding trains as input.
/// It is what a tape says of their outputs.
fn frozen_layers(model: &Model) -> Option<usize> {
    let before = executed();
    let tape = Tape::recording();
    let mut x = model.embed(&tape);
    let mut frozen = (!x.is_tracked()).then_some(0);
    for layer in 0..LAYERS {
        x = model.layer(&tape, layer, &x);
        frozen = frozen.map(|frozen| if x.is_tracked() { frozen } else { layer + 1 });
    }
    assert!(executed().since(&before).input_gradient == 0);
    frozen
}

/// One layer's products of the forward pass.
fn layer() -> u64 {
    matrix(LAYER) + of_attention(2)
}

/// What is frozen, how many layers are frozen whole with all below them, and how many run again.
struct Pattern {
    frozen: fn(&str) -> bool,
    input_trains: bool,
    prefix: usize,
    again: usize,
}

const PATTERNS: [Pattern; 6] = [
    Pattern { frozen: |_| false, input_trains: true, prefix: 0, again: 2 },
    Pattern { frozen: |name| ["layers.1.k", "layers.1.down"].contains(&name), input_trains: true, prefix: 0, again: 2 },
    // Only the embedding trains below the last layer.
    Pattern {
        frozen: |name| name.contains("layers.0") || name.contains("layers.1"),
        input_trains: true,
        prefix: 0,
        again: 2,
    },
    Pattern { frozen: |name| name.contains("layers.0"), input_trains: false, prefix: 1, again: 1 },
    Pattern {
        frozen: |name| name.contains("layers.0") || name.contains("layers.1"),
        input_trains: false,
        prefix: 2,
        again: 0,
    },
    Pattern { frozen: |name| name != "norm", input_trains: false, prefix: 3, again: 0 },
];

/// The model with a pattern's parameters frozen. Where the input does not train, an untied embedding is frozen too, and
/// a tied one trains on as head.
fn frozen(device: DeviceRef, dtype: Dtype, pattern: &Pattern, tied: bool) -> Model {
    let mut model = Model::new(device, tied, dtype);
    model.freeze(|name| (pattern.frozen)(name) || (!tied && !pattern.input_trains && name == "embedding"));
    model.input_trains = pattern.input_trains;
    model
}

fn each(mut check: impl FnMut(&Pattern, &Model, &str)) {
    for device in ALL {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for tied in [true, false] {
                for (index, pattern) in PATTERNS.iter().enumerate() {
                    let model = frozen(device, dtype, pattern, tied);
                    let device = device.name();
                    check(pattern, &model, &format!("{device}, {}, pattern {index}, tied: {tied}", dtype.name()));
                }
            }
        }
    }
}

#[test]
fn checkpointing_gives_the_same_gradients_to_the_bit() {
    let _counters = exclusive();
    each(|pattern, model, what| {
        let (loss, gradients, executed) = recorded_whole(model, None);
        let trained = model.parameters.iter().map(|parameter| parameter.trains);
        assert!(trained.eq(gradients.iter().map(Option::is_some)), "{what}");
        // `checkpointed` finds out what is frozen by a forward pass of its own.
        let finding = LAYERS as u64 * layer();
        let found = checkpointed(model, None);
        assert!((found.0, &found.1) == (loss, &gradients), "{what}");
        let forward = executed.forward + pattern.again as u64 * layer() + finding;
        assert_eq!(found.2, Flops { forward, ..executed }, "{what}");
    });
}

#[test]
fn a_pass_from_a_prefix_is_the_rest_of_the_pass() {
    let _counters = exclusive();
    each(|pattern, model, what| {
        assert_eq!(frozen_layers(model).unwrap_or(0), pattern.prefix, "{what}");
        let (loss, gradients, executed) = recorded_whole(model, None);
        // Grown by a layer at a time, as while layers freeze.
        let off = Tape::off();
        let grow = |x, layer| model.layer(&off, layer, &x);
        let output = (0..pattern.prefix).fold(model.embed(&off), grow);
        assert!(!output.is_tracked());
        let whole = model.layers(&off, 0..LAYERS, model.embed(&off));
        let rest = model.layers(&off, pattern.prefix..LAYERS, Var::constant(output.value.clone()));
        assert_eq!(model.log_likelihoods(&rest).to_host(), model.log_likelihoods(&whole).to_host(), "{what}");
        if pattern.input_trains {
            return;
        }
        let prefix = (pattern.prefix, output.value);
        let saved = pattern.prefix as u64 * layer();
        let found = recorded_whole(model, Some(prefix.clone()));
        assert!((found.0, &found.1) == (loss, &gradients), "{what}");
        assert_eq!(found.2, Flops { forward: executed.forward - saved, ..executed }, "{what}");
        let found = checkpointed(model, Some(prefix));
        assert!((found.0, &found.1) == (loss, &gradients), "{what}");
        let forward = executed.forward - saved + (pattern.again + LAYERS) as u64 * layer();
        assert_eq!(found.2, Flops { forward, ..executed }, "{what}");
    });
}
