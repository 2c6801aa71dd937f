//! Training passes by other ways than one recorded whole: with checkpointing, and from a prefix's output.

use super::backward::{LAYER, LAYERS, attention, batch, freeze, matrix, model};
use super::exclusive;
use crate::nn::{PassOptions, Prefix};
use crate::ops::{Flops, executed_flops};
use crate::{Decoder, host};

/// The loss, the gradients by parameter, and what was executed.
type Outcome = (f32, Vec<Option<Vec<f32>>>, Flops);

fn run(model: &Decoder, options: PassOptions) -> Outcome {
    let (tokens, targets) = batch();
    let before = executed_flops();
    let pass = model.pass(&tokens, targets, 0.2, options);
    let loss = host::read("loss", pass.loss(), |loss| loss[0]).unwrap();
    let mut gradients = vec![None; model.parameters().len()];
    pass.backward(|index, gradient| {
        let values = host::read("gradient", &gradient, <[f32]>::to_vec)?;
        assert!(gradients[index].replace(values).is_none(), "{} came twice", model.parameters()[index].name);
        Ok::<_, crate::Error>(())
    })
    .unwrap();
    (loss, gradients, executed_flops().since(&before))
}

/// One layer's products of the forward pass.
fn layer() -> u64 {
    matrix(LAYER) + attention(2)
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
    Pattern {
        frozen: |name| name.contains("layers.1") && (name.contains("k_proj") || name.contains("down_proj")),
        input_trains: true,
        prefix: 0,
        again: 2,
    },
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
    Pattern { frozen: |name| name != "model.norm.weight", input_trains: false, prefix: 3, again: 0 },
];

/// The model with a pattern's parameters frozen. Where the input does not train, an untied embedding is frozen too, and
/// a tied one trains on as head.
fn frozen(pattern: &Pattern, tied: bool) -> Decoder {
    let mut model = model(tied);
    freeze(&mut model, |name| {
        (pattern.frozen)(name) || (!tied && !pattern.input_trains && name == "model.embed_tokens.weight")
    });
    model.set_tied_input_trainable(pattern.input_trains);
    model
}

fn each(mut check: impl FnMut(&Pattern, &Decoder, &str)) {
    for tied in [true, false] {
        for (index, pattern) in PATTERNS.iter().enumerate() {
            check(pattern, &frozen(pattern, tied), &format!("pattern {index}, tied: {tied}"));
        }
    }
}

#[test]
fn checkpointing_gives_the_same_gradients_to_the_bit() {
    let _counters = exclusive();
    each(|pattern, model, what| {
        let (loss, gradients, executed) = run(model, PassOptions::default());
        let trained = model.parameters().iter().map(|parameter| parameter.is_trainable());
        assert!(trained.eq(gradients.iter().map(Option::is_some)), "{what}");
        let labels = batch().1.iter().filter(|&&target| target != crate::ops::IGNORE).count();
        let whole = |checkpointing| model.whole_pass(&batch().0, labels, checkpointing).unwrap();
        let checkpointed = run(model, PassOptions { checkpointing: true, ..PassOptions::default() });
        assert!((checkpointed.0, &checkpointed.1) == (loss, &gradients), "{what}");
        let forward = executed.forward + pattern.again as u64 * layer();
        assert_eq!(checkpointed.2, Flops { forward, ..executed }, "{what}");
        let all = model.parameters().iter().all(|parameter| parameter.is_trainable());
        for (whole, executed) in [(whole(false), executed), (whole(true), checkpointed.2)] {
            assert_eq!(whole == executed, all, "{what}");
            assert!(whole.total() >= executed.total(), "{what}");
        }
    });
}

#[test]
fn a_pass_from_a_prefix_is_the_rest_of_the_pass() {
    let _counters = exclusive();
    each(|pattern, model, what| {
        assert_eq!(model.frozen_layers(), pattern.prefix, "{what}");
        let (loss, gradients, executed) = run(model, PassOptions::default());
        let (tokens, targets) = batch();
        // Grown by a layer at a time, as while layers freeze.
        let grow = |from: Option<Prefix>, layers| Some(model.prefix(&tokens, from, layers));
        let prefix = (0..=pattern.prefix).fold(None, grow);
        for checkpointing in [false, true] {
            let found = run(model, PassOptions { draw: None, prefix: prefix.clone(), checkpointing });
            assert!((found.0, &found.1) == (loss, &gradients), "{what}");
            let again = if checkpointing { pattern.again } else { 0 };
            let forward = executed.forward + again as u64 * layer() - pattern.prefix as u64 * layer();
            assert_eq!(found.2, Flops { forward, ..executed }, "{what}");
        }
        let read = |scores| host::read("scores", &scores, <[f32]>::to_vec).unwrap();
        let labels = crate::ops::labels_of(&targets);
        let whole = read(model.log_likelihoods(&tokens, &labels));
        assert_eq!(read(model.log_likelihoods_from(prefix.unwrap(), &tokens, &labels)), whole, "{what}");
    });
}

#[test]
fn a_prefix_in_which_something_trains_is_not_used() {
    let _counters = exclusive();
    let model = model(true);
    let (tokens, _) = batch();
    let whole = run(&model, PassOptions::default());
    let prefix = Some(model.prefix(&tokens, None, LAYERS));
    assert!(run(&model, PassOptions { prefix, ..PassOptions::default() }) == whole);
}

#[test]
fn a_tied_embedding_that_trains_as_head_moves_the_prefix() {
    let _counters = exclusive();
    for (index, constant) in [(0, [false, false]), (3, [false, true]), (5, [true, true])] {
        let found = [true, false].map(|tied| frozen(&PATTERNS[index], tied).is_prefix_constant());
        assert_eq!(found, constant, "pattern {index}");
    }
}
