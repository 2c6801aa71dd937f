//! Methods that give layers learning rates of their own, or let a few train at a time.

use crate::runs::{Run, Workspace, relative_error, weights};

/// How far each tensor has moved from the checkpoint.
fn moves(workspace: &Workspace, run: &Run) -> Vec<(String, Vec<f32>)> {
    let start = weights(&workspace.path("model"));
    let moved = |now: &[f32], start: &[f32]| now.iter().zip(start).map(|(now, start)| now - start).collect();
    run.weights().into_iter().map(|(name, now)| (name.clone(), moved(&now, &start[&name]))).collect()
}

#[test]
fn layerwise_decay_shrinks_the_step_of_each_layer_by_its_factor() {
    let workspace = Workspace::new();
    let sgd = ["optimizer=sgd", "learning_rate=1", "max_grad_norm=0", "max_steps=1"];
    let plain = moves(&workspace, &workspace.train("plain", &sgd));
    let options = [&sgd[..], &["early_stopping={method: layerwise_decay, decay: 0.5}"]].concat();
    let decayed = moves(&workspace, &workspace.train("decayed", &options));
    for ((name, plain), (_, decayed)) in plain.iter().zip(&decayed) {
        let factor = match name.as_str() {
            name if name.contains("layers.1.") => 0.5,
            name if name.contains("layers.0.") => 0.25,
            "model.embed_tokens.weight" => 0.125,
            _ => 1.0,
        };
        let expected: Vec<f32> = plain.iter().map(|moved| moved * factor).collect();
        // A move is a difference of two f32 weights.
        assert!(relative_error(decayed, &expected) < 1e-3, "{name}");
    }
}

#[test]
fn the_embedding_and_an_untied_head_have_a_rate_of_their_own() {
    let workspace = Workspace::untied();
    let sgd = ["optimizer=sgd", "learning_rate=0.5", "max_grad_norm=0", "max_steps=1"];
    let plain = moves(&workspace, &workspace.train("plain", &sgd));
    for (index, option) in ["embedding_lr=1", "embedding_lr_scale=2"].into_iter().enumerate() {
        let run = workspace.train(&format!("run-{index}"), &[&sgd[..], &[option]].concat());
        for ((name, plain), (_, moved)) in plain.iter().zip(&moves(&workspace, &run)) {
            let is_table = ["model.embed_tokens.weight", "lm_head.weight"].contains(&name.as_str());
            let factor = if is_table { 2.0 } else { 1.0 };
            let expected: Vec<f32> = plain.iter().map(|moved| moved * factor).collect();
            assert!(relative_error(moved, &expected) < 1e-3, "{name}, {option}");
        }
    }
}

#[test]
fn freezeout_freezes_the_first_layer_once_its_rate_is_0() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["early_stopping={method: freezeout, t0: 0.5, strategy: linear}"]);
    // Layer 0 trains for half of the 8 steps, layer 1 to the end.
    assert_eq!(run.metric("/frozen_units"), [0, 0, 0, 7, 7, 7, 7, 7].map(f64::from));
    let events = run.events();
    let frozen = events.iter().filter(|event| event["event"] == "freeze");
    assert!(frozen.clone().count() == 7 && frozen.clone().all(|event| event["step"] == 4), "{events:?}");
    let bytes = run.metric("/optimizer_bytes");
    assert!(bytes[4] < bytes[2], "{bytes:?}");
    let short = workspace.train("short", &["max_steps=4", "early_stopping={method: none}"]);
    let (run, short) = (moves(&workspace, &run), moves(&workspace, &short));
    for ((name, run), (_, short)) in run.iter().zip(&short).filter(|((name, _), _)| name.contains("layers.0.")) {
        assert!(run.iter().any(|moved| *moved != 0.0) && run != short, "{name}");
    }
}

#[test]
fn lisa_trains_the_drawn_layers_with_embedding_and_head() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: lisa, active_layers: 1, interval_steps: 3, seed: 1}";
    let run = workspace.train("run", &[method, "max_steps=3"]);
    let moved: Vec<String> = moves(&workspace, &run)
        .into_iter()
        .filter(|(_, moved)| moved.iter().any(|moved| *moved != 0.0))
        .map(|(name, _)| name)
        .collect();
    let of = |part: &str| moved.iter().filter(|name| name.contains(part)).count();
    // Seven matrices and two norms of one layer; nothing of the other.
    assert!([(9, 0), (0, 9)].contains(&(of("layers.0."), of("layers.1."))), "{moved:?}");
    assert_eq!((of("embed_tokens"), of("model.norm")), (1, 1));
    assert_eq!(run.metric("/frozen_units"), [7.0; 3]);

    // Another draw: what leaves gives its optimizer state back, and what comes begins afresh.
    let long = workspace.train("long", &[method, "max_steps=40"]);
    let events = long.events();
    assert!(events.iter().any(|event| event["event"] == "unfreeze"), "{events:?}");
    assert!(long.metric("/frozen_units").iter().all(|frozen| *frozen == 7.0));
    let bytes = long.metric("/optimizer_bytes");
    assert!(bytes.iter().max_by(|a, b| a.total_cmp(b)) <= Some(&(bytes[0] + 1.0)), "{bytes:?}");
    let layers = moves(&workspace, &long).into_iter().filter(|(name, _)| name.contains("layers."));
    for (name, moved) in layers {
        assert!(moved.iter().any(|moved| *moved != 0.0), "{name}");
    }
    let again = workspace.train("again", &[method, "max_steps=40"]);
    assert_eq!(again.weights(), long.weights());
}
