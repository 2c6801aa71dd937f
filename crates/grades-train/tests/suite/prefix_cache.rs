//! Runs that start above their frozen prefix.

use crate::arithmetic::{ONE_LAYER, workspace_untied};
use crate::resuming::after;
use crate::runs::{Run, Workspace, relative_error, weights};

/// Layer 0 freezes at step 6 of 20, the first of the second of four epochs.
const PREFIX: &str = "early_stopping={method: grades, alpha: 0.25, companions: follow, \
                      tau: {language.0.*: 1.0e9, default: 1.0e-9}}";

fn train(workspace: &Workspace, name: &str, options: &[&str]) -> Run {
    workspace.train(name, &[&["max_steps=20", PREFIX][..], options].concat())
}

/// Weights and losses agree within rounding: a product of fewer rows may add up in another order.
fn assert_same(found: &Run, expected: &Run) {
    let expected_weights = expected.weights();
    for (name, found) in found.weights() {
        let error = relative_error(&found, &expected_weights[&name]);
        assert!(error < 1e-5, "{name} differs by {error:.2e}");
    }
    for (found, expected) in found.metric("/loss").iter().zip(expected.metric("/loss")) {
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} against {expected}");
    }
}

/// How many samples did not go through layer 0, by epoch.
fn saved(without: &Run, with: &Run) -> Vec<f64> {
    let (without, with) = (without.metric("/flops/forward"), with.metric("/flops/forward"));
    let saved: Vec<f64> = without.iter().zip(&with).map(|(without, with)| (without - with) / ONE_LAYER).collect();
    saved.chunks(5).map(|epoch| epoch.iter().sum()).collect()
}

#[test]
fn a_cached_prefix_changes_nothing_but_the_arithmetic() {
    let workspace = workspace_untied();
    let without = train(&workspace, "without", &[]);
    for place in ["memory", "disk"] {
        let with = train(&workspace, place, &[&format!("prefix_cache={place}")]);
        assert_same(&with, &without);
        let skipped = |run: &Run| run.metric("/flops/skipped")[19];
        assert_eq!(skipped(&with) - skipped(&without), 4.0 * ONE_LAYER);
        // The second epoch keeps what comes after step 6, the third the rest.
        assert_eq!(saved(&without, &with), [0.0, 0.0, 16.0, 20.0]);
        assert_eq!(with.metric("/prefix_cache_bytes")[19], (20 * 10 * 32 * 4) as f64);
    }
    // Half of it fits.
    let half = train(&workspace, "half", &["prefix_cache=memory", "prefix_cache_size=12.8kB"]);
    assert_same(&half, &without);
    assert_eq!(saved(&without, &half), [0.0, 0.0, 10.0, 10.0]);
    let bf16 =
        train(&workspace, "bf16", &["prefix_cache=memory", "prefix_cache_dtype=bf16", "prefix_cache_size=12.8kB"]);
    assert_eq!(saved(&without, &bf16), [0.0, 0.0, 16.0, 20.0]);
    for (bf16, exact) in bf16.metric("/loss").iter().zip(without.metric("/loss")) {
        assert!((bf16 / exact - 1.0).abs() < 1e-2, "{bf16} against {exact}");
    }
    assert_ne!(bf16.weights(), without.weights());
}

#[test]
fn packed_rows_accumulation_and_validation_go_with_a_cached_prefix() {
    let workspace = Workspace::untied();
    let options = [
        "sample_packing=true",
        "micro_batch_size=1",
        "gradient_accumulation_steps=2",
        "val_set_size=4",
        "eval_steps=1",
        "gradient_checkpointing=true",
    ];
    let without = train(&workspace, "without", &options);
    let with = train(&workspace, "with", &[&options[..], &["prefix_cache=memory"][..]].concat());
    assert_same(&with, &without);
    for (with, without) in with.metric("/val_loss").iter().zip(without.metric("/val_loss")) {
        assert!((with / without - 1.0).abs() < 1e-5, "{with} against {without}");
    }
    let cheaper = with.metric("/flops/forward")[19] < without.metric("/flops/forward")[19];
    assert!(cheaper && with.metric("/prefix_cache_bytes")[19] > 0.0);
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[test]
fn a_tied_embedding_parts_so_that_the_prefix_stays_what_it_is() {
    let workspace = Workspace::new();
    let shared = ["save_steps=1", "val_set_size=2"];
    let cached = |name, more: &[&str]| {
        train(&workspace, name, &[&shared[..], &["prefix_cache=memory", "max_steps=18"][..], more].concat())
    };
    let (with, empty) = (cached("with", &[]), cached("empty", &["prefix_cache_size=0B"]));
    assert_same(&with, &empty);
    assert!(with.metric("/prefix_cache_bytes")[17] > 0.0 && empty.metric("/prefix_cache_bytes") == [0.0; 18]);
    assert!(with.metric("/flops/forward")[17] < empty.metric("/flops/forward")[17]);
    let told: Vec<_> = with.events().into_iter().filter(|event| event["event"] == "embedding_untied").collect();
    let frozen: Vec<_> = with.events().into_iter().filter(|event| event["event"] == "freeze_companion").collect();
    let step = frozen[0]["step"].as_u64().unwrap();
    assert_eq!((told.len(), told[0]["step"].as_u64()), (1, Some(step + 1)));

    // The optimizer goes on with one state for the one matrix that still trains.
    let state = with.metric("/optimizer_bytes");
    assert_eq!(state[step as usize], state[step as usize - 1]);
    // As input it stays as the step that froze it left it; as head it trains on; the model is saved with both.
    let saved = with.weights();
    let at = weights(&with.path.join(format!("checkpoints/step-{step:06}/weights.safetensors")));
    assert_eq!(saved[EMBEDDING], at[EMBEDDING]);
    assert!(!at.contains_key(HEAD) && relative_error(&saved[HEAD], &at[EMBEDDING]) > 1e-3);
    assert_eq!(with.json("model/config.json")["tie_word_embeddings"], false);
    // What is loaded again computes the same: a step at rate 0 of another run validates it.
    let model = format!("model={}", with.summary.model_dir.display());
    let again = workspace.train("again", &["max_steps=1", "val_set_size=2", "learning_rate=0", &model]);
    assert_eq!(again.summary.val_loss, with.summary.val_loss);
    assert_ne!(again.metric("/loss")[0], with.metric("/loss")[0]);

    // Without a cache the embedding stays one matrix.
    let off = train(&workspace, "off", &shared);
    assert!(!off.weights().contains_key(HEAD));
    assert_eq!(off.metric("/loss")[..step as usize], with.metric("/loss")[..step as usize]);
}

#[test]
fn a_run_is_resumed_before_and_after_the_embedding_has_parted() {
    let workspace = Workspace::new();
    let options = ["save_steps=1", "weight_decay=0.1", "prefix_cache=memory", "prefix_cache_size=0B"];
    let whole = train(&workspace, "whole", &options);
    let untied = |event: &serde_json::Value| event["event"] == "embedding_untied";
    let step = whole.events().into_iter().find(untied).unwrap()["step"].as_u64().unwrap() as usize;
    for from in [step - 2, step - 1, step, step + 4] {
        let resume =
            format!("resume_from_checkpoint={}", whole.path.join(format!("checkpoints/step-{from:06}")).display());
        let resumed = train(&workspace, &format!("from-{from}"), &[&options[..], &[resume.as_str()][..]].concat());
        assert!(resumed.weights() == whole.weights(), "from step {from}");
        assert_eq!(resumed.metric("/loss"), whole.metric("/loss")[from..], "from step {from}");
        // What is kept is computed anew, so the counts of operations are others.
        let step = from as u64;
        assert_eq!(after(resumed.signals(), step), after(whole.signals(), step), "from step {from}");
        assert_eq!(after(resumed.events(), step), after(whole.events(), step), "from step {from}");
    }
}
