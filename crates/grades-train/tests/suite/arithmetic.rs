//! Executed operations by kind against counts by hand: 2·m·n·k for a product, and only what was not frozen.

use grades::Flops;
use serde_json::{Value, json};

use crate::runs::{LAYER, Q, Run, Workspace};
use crate::tiny_checkpoint::write_rows;

/// Of every sample of the data below: 5 letters of prompt, 5 of completion, and the end mark, which is only predicted.
const TOKENS: usize = 10;
const LABELS: usize = 6;
/// Pairs of a query and a key that it sees.
const PAIRS: usize = 10 * 11 / 2;

/// Operations of a sample's forward pass through one layer.
pub(crate) const ONE_LAYER: f64 = (2 * TOKENS * LAYER + 2 * 2 * PAIRS * 32) as f64;

/// With a head of its own.
pub(crate) fn workspace_untied() -> Workspace {
    with_equal_samples(Workspace::untied())
}

fn workspace() -> Workspace {
    with_equal_samples(Workspace::new())
}

/// 20 samples of equal lengths.
fn with_equal_samples(workspace: Workspace) -> Workspace {
    let letter = |index: usize| (b'a' + (index % 26) as u8) as char;
    let word = |seed: usize, count: usize| (0..count).map(|i| letter(seed * 7 + i * i)).collect::<String>();
    let row = |index| json!({ "prompt": word(index, 5), "completion": format!(" {}", word(index + 3, 4)) });
    write_rows(&workspace.path("data.jsonl"), (0..20).map(row));
    workspace
}

/// The operations of a step over `samples`: the forward pass is always whole; of the two layers' matrices so many values
/// get input gradients and weight gradients, and so many layers differentiate their attention.
fn count(samples: usize, input_values: usize, attentions: usize, weight_values: usize) -> Flops {
    let matrix = |values: usize| (2 * samples * TOKENS * values) as u64;
    let attention = |products: usize| (2 * samples * PAIRS * 32 * products) as u64;
    let head = (2 * samples * LABELS * 96 * 32) as u64;
    Flops {
        forward: matrix(2 * LAYER) + 2 * attention(2) + head,
        input_gradient: matrix(input_values) + attentions as u64 * attention(5) + head,
        weight_gradient: matrix(weight_values) + head,
    }
}

fn whole(samples: usize) -> Flops {
    count(samples, 2 * LAYER, 2, 2 * LAYER)
}

fn flops(run: &Run) -> Vec<Flops> {
    run.metrics().into_iter().map(|mut line| serde_json::from_value(line["flops"].take()).unwrap()).collect()
}

/// What each step saved.
fn skipped(run: &Run) -> Vec<u64> {
    run.metric("/flops/skipped").into_iter().map(|skipped| skipped as u64).collect()
}

fn sum(steps: &[Flops]) -> Flops {
    steps.iter().fold(Flops::default(), |mut sum, step| {
        sum += *step;
        sum
    })
}

#[test]
fn nothing_frozen() {
    let run = workspace().train("run", &["max_steps=2", "val_set_size=4"]);
    // Validation is not part of training.
    assert_eq!(flops(&run), [whole(4); 2]);
    assert_eq!(skipped(&run), [0; 2]);
    assert_eq!(run.summary.flops, sum(&flops(&run)));
    assert_eq!(run.metric("/tokens"), [40.0, 80.0]);
    assert_eq!(run.summary.tokens, 80);
}

#[test]
fn scattered_matrices_save_their_weight_gradients() {
    let stop = "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, k: 1.0e9, gate: 1.0e9, language.1.down: 1.0e9, \
                default: 1.0e-9}}";
    let run = workspace().train("run", &[stop]);
    // Frozen at step 3, whose gradients are computed still: half of the 14 matrices.
    let frozen = 2 * Q + 2 * (16 * 32) + 3 * (48 * 32);
    let after = count(4, 2 * LAYER, 2, 2 * LAYER - frozen);
    assert_eq!(run.summary.frozen_units, 7);
    assert_eq!(flops(&run), [vec![whole(4); 3], vec![after; 5]].concat());
    let saved = (2 * 4 * TOKENS * frozen) as u64;
    assert_eq!(skipped(&run), [0, 0, 0, saved, saved, saved, saved, saved]);
    assert_eq!(run.summary.flops, sum(&flops(&run)));
}

#[test]
fn a_frozen_lower_half_ends_the_backward_pass_where_companions_follow() {
    let stop = |companions: &str| {
        format!(
            "early_stopping={{method: grades, alpha: 0.25, companions: {companions}, tau: {{\"language.0.*\": 1.0e9, \
             default: 1.0e-9}}}}"
        )
    };
    // A head trains on, be it the embedding or not.
    for workspace in [Workspace::new(), Workspace::untied()].map(with_equal_samples) {
        let follow = workspace.train("follow", &[&stop("follow")]);
        let after = count(4, LAYER, 1, LAYER);
        assert_eq!(flops(&follow), [vec![whole(4); 3], vec![after; 5]].concat());
        // Both gradients of layer 0's matrices, and that of its attention.
        let saved = (2 * 2 * 4 * TOKENS * LAYER + 2 * 4 * PAIRS * 32 * 5) as u64;
        assert_eq!(skipped(&follow), [0, 0, 0, saved, saved, saved, saved, saved]);
        let companions: Vec<Value> =
            follow.events().into_iter().filter(|event| event["event"] == "freeze_companion").collect();
        assert_eq!(
            companions,
            [
                json!({ "event": "freeze_companion", "step": 3, "companion": "norms", "tower": "language", "layer": 0 }),
                json!({ "event": "freeze_companion", "step": 3, "companion": "embedding", "tower": "language" }),
            ]
        );
        // Where they train on, the gradient must still reach the embedding.
        let train = workspace.train("train", &[&stop("train")]);
        let after = count(4, 2 * LAYER, 2, LAYER);
        assert_eq!(flops(&train), [vec![whole(4); 3], vec![after; 5]].concat());
    }
}

#[test]
fn a_freeze_with_accumulation_saves_from_the_next_window_on() {
    // 20 samples as ten micro-batches of 2, three a step: steps of 6, 6, 6 and 2 samples.
    let options = [
        "micro_batch_size=2",
        "gradient_accumulation_steps=3",
        "early_stopping={method: grades, alpha: 0.125, tau: {q: 1.0e9, default: 1.0e-9}}",
    ];
    let run = workspace().train("run", &options);
    let after = |samples| count(samples, 2 * LAYER, 2, 2 * LAYER - 2 * Q);
    let expected = [whole(6), whole(6), after(6), after(2), after(6), after(6), after(6), after(2)];
    assert_eq!(flops(&run), expected);
    let steps: Vec<_> = run.events().iter().map(|event| event["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 2]);
}

#[test]
fn a_freeze_in_the_last_step_costs_what_training_costs() {
    let run = workspace().train("run", &["early_stopping={method: grades, alpha: 0.875, tau: 1.0e9}"]);
    assert_eq!(flops(&run), [whole(4); 8]);
    assert_eq!((run.summary.steps, run.summary.frozen_units), (8, 14));
}
