//! `grades bench` as scripts use it.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

fn grades(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_grades")).args(arguments.split(' ')).output().unwrap()
}

fn json(arguments: &str) -> Value {
    let output = grades(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn step_prints_every_figure() {
    let report = json("bench step --shape tiny --rows 1 --tokens 8 --steps 1 --frozen all-but-last --monitor --json");
    for key in [
        "tokens_per_second",
        "step_seconds",
        "forward_seconds",
        "backward_seconds",
        "optimizer_seconds",
        "monitor_seconds",
        "gflops",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
        // Of one step the median is the fastest.
        assert_eq!(report[key], report["best"][key], "{key}");
    }
    assert!(report["flops"]["weight_gradient"].as_u64() < report["flops"]["forward"].as_u64());
    assert!(report["flops_ratio"].as_f64().unwrap() < 1.0);
    assert_eq!((&report["shape"], &report["frozen"]), (&"tiny".into(), &"all-but-last".into()));
    assert_eq!((&report["units"], &report["frozen_units"]), (&28.into(), &21.into()));
    #[cfg(target_os = "linux")]
    assert!(report["peak_memory_bytes"].as_u64() > report["optimizer_bytes"].as_u64());
}

#[test]
fn adapters_alone_train_in_mode_lora() {
    let report = json("bench step --mode lora --shape tiny --rows 1 --tokens 8 --steps 1 --json");
    assert_eq!((&report["mode"], &report["units"]), (&"lora".into(), &28.into()));
    // Rank 32 times the sides of q, k, v, o, gate, up and down, in four layers.
    let sides = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 160);
    assert_eq!(report["trainable_parameters"], 4 * 32 * sides);
    // Two moments in f32.
    assert_eq!(report["optimizer_bytes"], 4 * 32 * sides * 2 * 4);
}

#[test]
fn gemm_prints_the_three_products_of_each_size() {
    let report = json("bench gemm --size 8x4x2,2x4x8 --threads 1 --json");
    assert_eq!(report["threads"], 1);
    let sizes: Vec<_> = report["sizes"].as_array().unwrap().iter().map(|size| &size["size"]).collect();
    assert_eq!(sizes, ["8x4x2", "2x4x8"]);
    for product in ["nt", "nn", "tn"] {
        assert!(report["sizes"][1][product]["gflops"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn sizes_that_were_measured_are_kept_and_change_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("caches/blocks.json");
    let run = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grades"));
        let output = command.env("GRADES_BLOCKS", &file).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report, String::from_utf8(output.stderr).unwrap())
    };
    let (report, _) = run("bench gemm --tune --size 8x40x24 --json");
    let mut tuned: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["tuned"], tuned);
    assert!(report["trials"].as_array().unwrap().len() >= 12);

    const STEP: &str = "bench step --shape tiny --rows 2 --tokens 70 --steps 1 --json";
    let mut losses = vec![run(STEP).0["loss"].clone()];
    for dtype in ["f32", "bf16"] {
        tuned[dtype] = serde_json::json!({ "panels": 5, "rows": 7, "gradient_rows": 144 });
    }
    fs::write(&file, tuned.to_string()).unwrap();
    losses.push(run(STEP).0["loss"].clone());
    fs::write(&file, "{}").unwrap();
    let (report, log) = run(STEP);
    assert!(log.contains("blocks.json") && log.contains("--tune"), "{log}");
    losses.push(report["loss"].clone());
    assert!(losses[0].is_f64() && losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");
}

#[test]
fn a_step_is_simulated_on_more_threads() {
    let report = json("bench step --shape tiny --rows 2 --tokens 32 --steps 1 --simulate-threads 1,64 --json");
    let [one, many] = [&report["simulated"][0], &report["simulated"][1]];
    assert_eq!([&one["threads"], &many["threads"]], [1, 64]);
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    // One thread waits for nobody; a tiny model has not the items for 64.
    assert!((number(one, "speedup") - 1.0).abs() < 1e-9 && number(one, "lost_uneven").abs() < 1e-9, "{one}");
    assert!(number(many, "speedup") < 64.0 && number(many, "short_of_items") > 0.0, "{many}");
    assert!(number(many, "jobs") >= 28.0 && many["places"][0]["place"].as_str().unwrap().contains(".rs:"));
}

#[test]
fn what_cannot_be_measured_is_said_in_a_sentence() {
    for (arguments, part) in [
        ("--precision fp8", "known are auto, f32 and bf16"),
        ("--frozen half", "`half` is no pattern"),
        ("--shape huge", "there is no shape `huge`"),
        ("--shape tiny --tokens 100000", "1 to 512 a row"),
        ("--shape tiny --fold-frozen", "--mode lora"),
        ("--shape tiny --simulate-threads 0", "1 to 1024"),
    ] {
        let output = grades(&format!("bench step {arguments}"));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(part), "{arguments}: {message}");
    }
}

/// Most memory of a step is its weights, its gradients and states, or its activations, in turn.
#[cfg(target_os = "linux")]
#[test]
fn the_plan_of_memory_is_what_a_step_takes() {
    for options in [
        "--rows 4 --tokens 256 --precision f32",
        "--rows 2 --tokens 128 --precision bf16 --monitor",
        "--rows 2 --tokens 256 --precision f32 --gradient-checkpointing",
        "--rows 4 --tokens 256 --precision f32 --mode lora --lora-r 64",
        "--rows 1 --tokens 256 --precision bf16 --mode lora --load-in-4bit",
        "--rows 1 --tokens 128 --precision f32 --shape smollm2-moe",
    ] {
        let report = json(&format!("bench step {options} --steps 1 --json"));
        let peak = report["peak_memory_bytes"].as_f64().unwrap();
        let planned = report["memory"]["peak"].as_f64().unwrap();
        assert!((planned / peak - 1.0).abs() < 0.1, "{options}: planned {planned}, held {peak}");
    }
}
