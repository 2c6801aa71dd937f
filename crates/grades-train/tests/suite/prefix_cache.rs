//! Runs that start above their frozen prefix.

use crate::arithmetic::{ONE_LAYER, workspace_untied};
use crate::runs::{Run, Workspace, relative_error};

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

#[test]
fn a_tied_embedding_that_trains_as_head_keeps_the_cache_empty() {
    let workspace = Workspace::new();
    let (without, with) = (train(&workspace, "without", &[]), train(&workspace, "with", &["prefix_cache=memory"]));
    assert_eq!(with.weights(), without.weights());
    assert_eq!(with.metric("/prefix_cache_bytes"), [0.0; 20]);
    let told: Vec<_> = with.events().into_iter().filter(|event| event["event"] == "prefix_cache_unused").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["step"], 7);
}
