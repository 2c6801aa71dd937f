//! Training adapters on a base that stays in 4 bits or in bf16, and a whole model from such a checkpoint.

use std::fs;

use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};
use grades_train::train::dry_run;

use crate::runs::{Run, Workspace};
use crate::tiny_checkpoint::fixture;

const LORA: [&str; 4] = ["adapter=lora", "lora_r=2", "lora_alpha=4", "load_in_4bit=true"];

/// A workspace whose model is the one that bitsandbytes quantised.
fn quantised() -> Workspace {
    let workspace = Workspace::new();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("nf4/llama").join(name), workspace.path("model").join(name)).unwrap();
    }
    workspace
}

fn train(workspace: &Workspace, name: &str, options: &[&str]) -> Run {
    workspace.train(name, &[&LORA[..], options].concat())
}

fn adapter(run: &Run) -> Vec<u8> {
    fs::read(run.path.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn adapters_train_on_a_base_in_4_bits() {
    let workspace = Workspace::new();
    let run = train(&workspace, "run", &[]);
    let loss = run.metric("/loss");
    assert!(loss[7] < 0.9 * loss[0], "{loss:?}");
    // On the dense base the same adapters begin with another loss, but not a far one.
    let dense = workspace.train("dense", &LORA[..3]);
    let difference = (loss[0] - dense.metric("/loss")[0]).abs();
    assert!(difference > 1e-3 && difference < 0.3, "{difference}");
    let bytes = |run: &Run| run.json("environment.json")["model_bytes"].as_u64().unwrap();
    let matrices = (2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)) as u64;
    let saved = 4 * matrices - matrices * 33 / 64;
    // Besides the codes and their scales each of the 14 matrices has a scale of scales and an offset.
    assert_eq!(bytes(&dense) - bytes(&run), saved - 14 * 8);
    // What bitsandbytes quantised is the same base.
    let theirs = train(&quantised(), "run", &[]);
    let close = theirs.metric("/loss").iter().zip(&loss).all(|(theirs, ours)| (theirs - ours).abs() < 1e-3);
    assert!(close, "{:?} {loss:?}", theirs.metric("/loss"));
}

#[test]
fn pairs_on_a_packed_base_freeze_and_a_run_resumes() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: grades, alpha: 0.25, tau: {language.0.q: 1.0e9, default: 1.0e-9}}";
    let whole = train(&workspace, "whole", &[method, "save_steps=4"]);
    assert_eq!((whole.summary.steps, whole.summary.frozen_units), (8, 1));
    let flops = whole.metric("/flops/weight_gradient");
    assert!(flops[7] < flops[1]);
    let checkpoint = whole.path.join("checkpoints/step-000004");
    let saved = Checkpoint::open(checkpoint.join("weights.safetensors")).unwrap();
    assert!(saved.names().all(|name| name.contains(".lora_")), "the base is in the checkpoint");
    let resume = format!("resume_from_checkpoint={}", checkpoint.display());
    let resumed = train(&workspace, "resumed", &[method, "save_steps=4", &resume]);
    assert_eq!(adapter(&resumed), adapter(&whole));
    let all = train(&workspace, "all", &["early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}"]);
    assert_eq!((all.summary.steps, all.summary.frozen_units), (3, 14));
}

#[test]
fn a_whole_model_trains_from_a_checkpoint_in_4_bits_as_a_dense_one() {
    let workspace = quantised();
    let run = workspace.train("run", &[]);
    let loss = run.metric("/loss");
    assert!(loss[7] < 0.9 * loss[0], "{loss:?}");
    let beside = train(&workspace, "beside", &[]).metric("/loss")[0];
    assert!((loss[0] - beside).abs() < 1e-4, "{} {beside}", loss[0]);
    let saved = Checkpoint::open(&run.summary.model_dir).unwrap();
    assert_eq!(saved.quantized_types(), []);
    let config = saved.config().unwrap();
    assert!(config.get("quantization_config").is_none(), "{config}");
    assert_eq!(saved.info("model.layers.0.self_attn.q_proj.weight").unwrap().shape, [32, 32]);
}

/// Two workspaces with the same values, in a file of bf16 and in one of f32.
fn rounded() -> [Workspace; 2] {
    let dtypes = [(SaveDtype::BF16, "bfloat16"), (SaveDtype::F32, "float32")];
    let [half, whole] = dtypes.map(|(dtype, name)| {
        let (workspace, original) = (Workspace::new(), Checkpoint::open(fixture("llama")).unwrap());
        let tensors = original.names().map(|name| {
            let values = original.load_f32(name).unwrap().into_iter();
            let values = values.map(|value| half::bf16::from_f32(value).to_f32()).collect::<Vec<f32>>();
            TensorToSave::new(name, &original.info(name).unwrap().shape, values)
        });
        let (config, written) = (original.config().unwrap(), workspace.path(name));
        save_checkpoint(&written, config, tensors, &SaveOptions { dtype, ..SaveOptions::default() }).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(written.join(file), workspace.path("model").join(file)).unwrap();
        }
        workspace
    });
    [half, whole]
}

#[test]
fn a_base_in_bf16_takes_half_the_memory_and_changes_nothing() {
    let [half, whole] = rounded();
    let matrices = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32) + 96 * 32;
    let fold = [
        "early_stopping={method: grades, alpha: 0.25, tau: {language.0.q: 1.0e9, default: 1.0e-9}}",
        "fold_frozen=true",
    ];
    for (name, options, saved) in [
        ("lora", &LORA[..3], 2 * matrices),
        // What is folded is f32, so a plan counts what may be so.
        ("folded", &[&LORA[..3], &fold].concat(), 2 * matrices),
        // 4 bits are made of the values in both; the embedding stays.
        ("packed", &LORA[..], 2 * 96 * 32),
    ] {
        for precision in ["precision=f32", "precision=bf16"] {
            let options = [options, &[precision]].concat();
            let name = format!("{name}-{}", &precision[10..]);
            let (found, expected) = (half.train(&name, &options), whole.train(&name, &options));
            assert_eq!(found.metric("/loss"), expected.metric("/loss"), "{name}");
            assert_eq!(adapter(&found), adapter(&expected), "{name}");
            assert_eq!(found.summary.val_loss, expected.summary.val_loss, "{name}");
            let bytes = |run: &Run| run.json("environment.json")["model_bytes"].as_u64().unwrap();
            assert_eq!(bytes(&expected) - bytes(&found), saved as u64, "{name}");
            // The plan knows it from the headers.
            let planned = |workspace: &Workspace| {
                dry_run(&workspace.config(&format!("{name}-plan"), &options)).unwrap().memory.weights
            };
            let saved = if name.starts_with("folded") { 2 * 96 * 32 } else { saved };
            assert_eq!(planned(&whole) - planned(&half), saved as u64, "{name}");
        }
    }
    // Where all trains, all is f32.
    let (found, expected) = (half.train("full", &[]), whole.train("full", &[]));
    assert_eq!(found.metric("/loss"), expected.metric("/loss"));
    assert_eq!(found.json("environment.json")["model_bytes"], expected.json("environment.json")["model_bytes"]);
}
