//! Training passes by other ways than one recorded whole: with checkpointing, and from a prefix's output.

use grades::Flops;
use grades_models::Decoder;
use grades_models::model::{PassOptions, Prefix};
use grades_tensor::{Gradients, labels_of};

use crate::model::{LABELS, LAYER, LAYERS, attention, batch, exclusive, freeze, matrix, model, relative_error, run};

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
        let found = run(model, PassOptions::default());
        let trained = model.parameters().pieces().map(|(_, piece)| piece.is_trainable());
        assert!(trained.eq(found.gradients.iter().map(Option::is_some)), "{what}");
        let checkpointed = run(model, PassOptions { checkpointing: true, ..PassOptions::default() });
        assert!((checkpointed.loss, &checkpointed.gradients) == (found.loss, &found.gradients), "{what}");
        let forward = found.executed.forward + pattern.again as u64 * layer();
        assert_eq!(checkpointed.executed, Flops { forward, ..found.executed }, "{what}");
        let whole = |checkpointing| model.whole_pass(&batch().0, LABELS, checkpointing).unwrap();
        let all = model.parameters().iter().all(|parameter| parameter.is_trainable());
        for (whole, executed) in [(whole(false), found.executed), (whole(true), checkpointed.executed)] {
            assert_eq!(whole == executed, all, "{what}");
            assert!(whole.total() >= executed.total(), "{what}");
        }
    });
}

/// Log-probabilities that all count alike are the loss of a pass; where they do not, gradients are those of their parts.
#[test]
fn a_pass_that_gives_log_probabilities_has_the_gradients_of_what_they_count() {
    let _counters = exclusive();
    each(|_, model, what| {
        let expected = run(model, PassOptions::default());
        let (inputs, targets) = batch();
        let scored = |weights: &[f32], checkpointing| {
            let options = PassOptions { checkpointing, ..PassOptions::default() };
            let pass = model.scored_pass(&inputs, targets.clone(), 1.0, options);
            let scores = pass.scores().to_host().into_owned();
            let mut found = Gradients::new(model.parameters().slots());
            pass.backward(weights.to_vec(), &mut found);
            let read = |slot| found.get(slot).map(|gradient| gradient.to_host().into_owned());
            (scores, (0..model.parameters().slots()).map(read).collect::<Vec<_>>())
        };
        let close = |found: &[Option<Vec<f32>>], expected: &[Option<Vec<f32>>]| {
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.is_some(), expected.is_some(), "{what}");
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert!(relative_error(found, expected) < 1e-5, "{what}");
                }
            }
        };
        let (scores, gradients) = scored(&[-0.2; LABELS], false);
        let whole = model.log_likelihoods(&inputs, &labels_of(&targets));
        assert!(relative_error(&scores, &whole.to_host()) < 1e-6, "{what}");
        assert!((scores.iter().sum::<f32>() * -0.2 - expected.loss).abs() < 1e-5, "{what}");
        close(&gradients, &expected.gradients);
        let weights = [0.5, -2.0, 0.0, 1.0, -0.25];
        let (_, of_all) = scored(&weights, false);
        assert_eq!(scored(&weights, true).1, of_all, "{what}");
        let mut sum: Vec<Option<Vec<f32>>> =
            of_all.iter().map(|all| all.as_ref().map(|all| vec![0.0; all.len()])).collect();
        for (label, &weight) in weights.iter().enumerate() {
            let mut alone = [0.0; LABELS];
            alone[label] = weight;
            for (sum, part) in sum.iter_mut().zip(scored(&alone, false).1) {
                sum.iter_mut().flatten().zip(part.iter().flatten()).for_each(|(sum, part)| *sum += part);
            }
        }
        close(&of_all, &sum);
    });
}

#[test]
fn a_pass_from_a_prefix_is_the_rest_of_the_pass() {
    let _counters = exclusive();
    each(|pattern, model, what| {
        assert_eq!(model.frozen_layers(), pattern.prefix, "{what}");
        let expected = run(model, PassOptions::default());
        let (inputs, targets) = batch();
        // Grown by a layer at a time, as while layers freeze.
        let grow = |from: Option<Prefix>, layers| Some(model.prefix(&inputs, from, layers));
        let prefix = (0..=pattern.prefix).fold(None, grow);
        for checkpointing in [false, true] {
            let found = run(model, PassOptions { dropout: None, prefix: prefix.clone(), checkpointing, noise: None });
            assert!((found.loss, &found.gradients) == (expected.loss, &expected.gradients), "{what}");
            let again = if checkpointing { pattern.again } else { 0 };
            let forward = expected.executed.forward + again as u64 * layer() - pattern.prefix as u64 * layer();
            assert_eq!(found.executed, Flops { forward, ..expected.executed }, "{what}");
        }
        let labels = labels_of(&targets);
        let whole = model.log_likelihoods(&inputs, &labels);
        let rest = model.log_likelihoods_from(prefix.unwrap(), &inputs, &labels);
        assert_eq!(rest.to_host(), whole.to_host(), "{what}");
    });
}

#[test]
fn a_prefix_in_which_something_trains_is_not_used() {
    let _counters = exclusive();
    let model = model(true);
    let whole = run(&model, PassOptions::default());
    let prefix = Some(model.prefix(&batch().0, None, LAYERS));
    let found = run(&model, PassOptions { prefix, ..PassOptions::default() });
    assert!((found.loss, found.gradients, found.executed) == (whole.loss, whole.gradients, whole.executed));
}

#[test]
fn a_tied_embedding_that_trains_as_head_moves_the_prefix() {
    let _counters = exclusive();
    for (index, constant) in [(0, [false, false]), (3, [false, true]), (5, [true, true])] {
        let found = [true, false].map(|tied| frozen(&PATTERNS[index], tied).is_prefix_constant());
        assert_eq!(found, constant, "pattern {index}");
    }
}
