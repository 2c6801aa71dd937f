//! Training adapters: what trains, what is measured, what freezes, what is written.

use std::fs;

use grades_models::weights::Checkpoint;

use crate::runs::{Run, Workspace, weights};

/// Values of an adapter of rank 2 on q, and on all of a layer.
const Q: usize = 2 * (32 + 32);
const LAYER: usize = 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48));

const LORA: [&str; 3] = ["adapter=lora", "lora_r=2", "lora_alpha=4"];

fn adapter(run: &Run) -> Vec<u8> {
    fs::read(run.path.join("adapter/adapter_model.safetensors")).unwrap()
}

fn train(workspace: &Workspace, name: &str, options: &[&str]) -> Run {
    workspace.train(name, &[&LORA[..], options].concat())
}

#[test]
fn only_the_adapters_train_and_are_written() {
    let run = train(&Workspace::new(), "run", &[]);
    let loss = run.metric("/loss");
    assert!(loss[7] < 0.9 * loss[0], "{loss:?}");
    // Two moments in f32.
    assert_eq!(run.metric("/optimizer_bytes")[0], (2 * 2 * LAYER * 4) as f64);
    assert_eq!(run.json("environment.json")["trainable_parameters"], 2 * LAYER);
    assert_eq!(run.summary.model_dir, run.path.join("adapter"));
    assert!(!run.path.join("model").exists());
    let saved = Checkpoint::open(run.path.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(saved.names().count(), 2 * 7 * 2);
    for name in saved.names() {
        assert!(saved.load_f32(name).unwrap().iter().any(|value| *value != 0.0), "{name}");
    }
    let config = run.json("adapter/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&2.into(), &4.into()));
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("/model"));
}

#[test]
fn the_signal_of_a_pair_is_that_of_a_plus_that_of_b() {
    let target = "lora_target_modules=[model.layers.0.self_attn.q_proj]";
    let method = "early_stopping={method: grades, signal: gradient, norm: frobenius, tau: 1.0e-9, alpha: 0}";
    let run = train(&Workspace::new(), "run", &[target, method]);
    assert_eq!(run.summary.units, 1);
    let norms = run.metric("/gradient_norm");
    let signals: Vec<f64> =
        run.signals().iter().map(|line| line["signals"]["language.0.q"].as_f64().unwrap()).collect();
    assert_eq!(signals.len(), norms.len());
    // With B = 0 the gradient of A is zero at first; then ‖A‖ + ‖B‖ lies above √(‖A‖² + ‖B‖²), up to √2 times.
    assert!((signals[0] / norms[0] - 1.0).abs() < 1e-6, "{signals:?} {norms:?}");
    for (signal, norm) in signals.iter().zip(&norms).skip(1) {
        assert!(*signal > norm * (1.0 + 1e-6) && *signal < norm * 1.4143, "{signals:?} {norms:?}");
    }
}

#[test]
fn a_frozen_pair_stays_and_drops_its_state() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: grades, alpha: 0.25, tau: {language.0.q: 1.0e9, default: 1.0e-9}}";
    let run = train(&workspace, "run", &[method]);
    assert_eq!(run.summary.frozen_units, 1);
    let bytes = run.metric("/optimizer_bytes");
    assert_eq!(bytes[1] - bytes[7], (2 * Q * 4) as f64);
    let kept = run.metric("/kept_bytes");
    assert_eq!(kept[7], ((2 * LAYER - Q) * 4) as f64);
    let flops = run.metric("/flops/weight_gradient");
    assert!(flops[7] < flops[1]);
    // It froze at the third step, before the update: what a run of two steps would have left.
    let short = train(&workspace, "short", &["max_steps=2"]);
    let values = |run: &Run, name: &str| {
        let saved = Checkpoint::open(run.path.join("adapter/adapter_model.safetensors")).unwrap();
        saved.load_f32(&format!("base_model.model.model.layers.{name}.weight")).unwrap()
    };
    for matrix in ["lora_A", "lora_B"] {
        let frozen = format!("0.self_attn.q_proj.{matrix}");
        assert_eq!(values(&run, &frozen), values(&short, &frozen), "{frozen}");
        let trained = format!("1.self_attn.q_proj.{matrix}");
        assert_ne!(values(&run, &trained), values(&short, &trained), "{trained}");
    }
    let all = train(&workspace, "all", &["early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}"]);
    assert_eq!((all.summary.steps, all.summary.frozen_units), (3, 14));
}

#[test]
fn a_magnitude_trains_and_freezes_with_its_pair() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: grades, alpha: 0.25, tau: {language.0.q: 1.0e9, default: 1.0e-9}}";
    let run = train(&workspace, "run", &[method, "peft_use_dora=true", "save_steps=1"]);
    assert_eq!((run.summary.units, run.summary.frozen_units), (14, 1));
    let magnitudes = 2 * (2 * 32 + 2 * 16 + 2 * 48 + 32);
    let bytes = run.metric("/optimizer_bytes");
    assert_eq!(bytes[0], (2 * (2 * LAYER + magnitudes) * 4) as f64);
    assert_eq!(bytes[0] - bytes[7], (2 * (Q + 32) * 4) as f64);
    let (two, end) = (at(&run, 2), run.weights_of("adapter/adapter_model.safetensors"));
    assert_eq!(end.keys().filter(|name| name.ends_with(".lora_magnitude_vector")).count(), 14);
    for (name, end) in &end {
        assert_eq!(end == &two[name], name.contains("layers.0.self_attn.q_proj"), "{name}");
    }
    assert_eq!(run.json("adapter/adapter_config.json")["use_dora"], true);
    let loss = run.metric("/loss");
    assert!(loss[7] < 0.9 * loss[0], "{loss:?}");
}

#[test]
fn a_resumed_run_ends_as_an_uninterrupted_one() {
    for (index, method) in [
        "{method: grades, tau: auto, auto: {window: 2, exhausted: 0.9}}",
        "{method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}, patience: 2}",
        "{method: grades, signal: weight_change, tau: 1.0e-9, interval: 2, alpha: 0.1}",
        "{method: validation_loss, patience: 50}",
        "{method: aflora, window: 2, initial_share: 0, final_share: 0.25}",
        "{method: loraf, sparsity: 0.75, dense_share: 0.25}",
    ]
    .iter()
    .enumerate()
    {
        let workspace = Workspace::new();
        let early_stopping = format!("early_stopping={method}");
        let options = [&early_stopping, "val_set_size=4", "save_steps=1"];
        let whole = train(&workspace, "whole", &options);
        for step in [1, 2, 4] {
            let checkpoint = whole.path.join(format!("checkpoints/step-{step:06}"));
            if !checkpoint.exists() {
                assert!(step > 1 && whole.summary.steps <= step, "no checkpoint of step {step} with {method}");
                continue;
            }
            let weights = Checkpoint::open(checkpoint.join("weights.safetensors")).unwrap();
            assert!(weights.names().all(|name| name.contains(".lora_")), "the base is in the checkpoint");
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let resumed = train(&workspace, &format!("resumed-{index}-{step}"), &[&options[..], &[&resume]].concat());
            assert_eq!(adapter(&resumed), adapter(&whole), "{step}, {method}");
            let losses = whole.metric("/loss");
            let after = resumed.metric("/loss");
            assert_eq!(after, losses[losses.len() - after.len()..], "{step}, {method}");
            assert_eq!(resumed.summary.frozen_units, whole.summary.frozen_units, "{step}, {method}");
        }
    }
}

/// The adapter's tensors in a checkpoint of the run.
fn at(run: &Run, step: u64) -> std::collections::BTreeMap<String, Vec<f32>> {
    weights(&run.path.join(format!("checkpoints/step-{step:06}/weights.safetensors")))
}

/// The tensor that an event names.
fn tensor(event: &serde_json::Value, part: u64) -> String {
    let unit = event["unit"].as_str().unwrap();
    let [_, layer, role] = unit.split('.').collect::<Vec<_>>()[..] else { panic!("{unit}") };
    let block = if matches!(role, "q" | "k" | "v" | "o") { "self_attn" } else { "mlp" };
    let matrix = if part == 0 { "lora_A" } else { "lora_B" };
    format!("base_model.model.model.layers.{layer}.{block}.{role}_proj.{matrix}.weight")
}

#[test]
fn aflora_freezes_a_and_b_apart() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: aflora, window: 2, initial_share: 0, final_share: 0.25}";
    let run = train(&workspace, "run", &[method, "save_steps=1", "weight_decay=0.1", "max_steps=12"]);
    let mut frozen = std::collections::BTreeMap::new();
    let (mut halves, mut bytes) = (0, Vec::new());
    for event in run.events() {
        let step = event["step"].as_u64().unwrap();
        match event["event"].as_str().unwrap() {
            "freeze_part" => {
                halves += 1;
                frozen.insert(tensor(&event, event["part"].as_u64().unwrap()), step);
            }
            // The rest of a pair, or both at once.
            "freeze" => [0, 1].iter().for_each(|part| {
                frozen.entry(tensor(&event, *part)).or_insert(step);
            }),
            _ => {}
        }
        bytes.push(step);
    }
    assert!(halves > 2, "no half of a pair froze by itself");
    let end = run.weights_of("adapter/adapter_model.safetensors");
    let last = run.summary.steps as u64;
    for (name, step) in &frozen {
        assert_eq!(end[name], at(&run, step - 1)[name], "{name} moved after step {step}");
    }
    // One that froze late moved until then.
    assert!(frozen.iter().any(|(name, step)| *step > 2 && end[name] != at(&run, 1)[name]));
    // A frozen half has neither a gradient nor a state: after the last step's freezing only what trains has one.
    let trains: usize =
        end.iter().filter(|(name, _)| !frozen.contains_key(*name)).map(|(_, values)| values.len()).sum();
    assert_eq!(run.metric("/optimizer_bytes")[last as usize - 1], (2 * 4 * trains) as f64);
    let gradients = run.metric("/flops/weight_gradient");
    assert!(gradients[last as usize - 1] < gradients[0]);
}

#[test]
fn loraf_keeps_a_and_trains_b_under_its_mask() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: loraf, sparsity: 0.75, dense_share: 0.5}";
    let rules: [&[&str]; 2] = [&["weight_decay=0.1"], &["optimizer=sgd", "learning_rate=1", "momentum=0.9"]];
    for (index, rule) in rules.iter().enumerate() {
        let options = [&[method, "save_steps=1"][..], rule].concat();
        let run = train(&workspace, &format!("run-{index}"), &options);
        let (first, masked, end) = (at(&run, 1), at(&run, 4), run.weights_of("adapter/adapter_model.safetensors"));
        let (mut all, mut kept, mut moved) = (0, 0, 0);
        for (name, end) in &end {
            if name.contains("lora_A") {
                assert_eq!(end, &first[name], "{name}");
                continue;
            }
            all += end.len();
            kept += masked[name].iter().filter(|value| **value != 0.0).count();
            for (end, masked) in end.iter().zip(&masked[name]) {
                assert_eq!(*masked == 0.0, *end == 0.0, "{name}");
                moved += usize::from(end != masked);
            }
        }
        assert_eq!((kept, moved), (all / 4, all / 4));
        // Dense until then.
        assert!(first.iter().filter(|(name, _)| name.contains("lora_B")).all(|(_, b)| b.iter().all(|b| *b != 0.0)));
    }
}

#[test]
fn loraplus_takes_larger_steps_with_b() {
    let workspace = Workspace::new();
    let options = ["optimizer=sgd", "learning_rate=0.25", "max_steps=1", "max_grad_norm=0"];
    let b = |name, ratio| {
        let run = train(&workspace, name, &[&options[..], &[ratio][..]].concat());
        run.weights_of("adapter/adapter_model.safetensors").into_iter().filter(|(name, _)| name.contains("lora_B"))
    };
    for ((name, plain), (_, plus)) in b("plain", "loraplus_lr_ratio=1").zip(b("plus", "loraplus_lr_ratio=8")) {
        // B begins at 0 and takes one step; a power of two is exact.
        assert!(plain.iter().zip(&plus).all(|(plain, plus)| 8.0 * plain == *plus), "{name}");
    }
}

#[test]
fn what_does_not_fit_the_model_leaves_no_directory() {
    let workspace = Workspace::new();
    for (options, named) in [
        (["adapter=lora", "lora_target_modules=[q_proj, query]"], "`query`"),
        (["adapter=lora", "lora_r=17"], "`lora_r: 17`"),
    ] {
        let error = workspace.attempt("run", &options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!workspace.path("run").exists());
    }
}
