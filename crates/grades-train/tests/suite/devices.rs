//! A second device: the trainer knows none.

use grades_train::config::Config;
use grades_train::quickstart;
use grades_train::train::run;
use serde_json::Value;

use crate::runs::exclusive;

/// A fine-tune of the quickstart's model in which matrices freeze: its losses, its events and its validation loss.
fn fine_tune(device: &str, options: &[&str]) -> (Vec<f64>, Vec<Value>, f64) {
    let folder = tempfile::tempdir().unwrap();
    let files = quickstart::write(folder.path()).unwrap();
    let yaml = std::fs::read_to_string(&files.config).unwrap();
    let out = format!("output_dir={}", folder.path().join("run").display());
    let device = format!("device={device}");
    let fixed = [
        &*out,
        &*device,
        "precision=f32",
        "max_steps=6",
        "micro_batch_size=4",
        "datasets.0.split=train[:28]",
        "val_set_size=4",
        "eval_steps=0",
    ];
    let options: Vec<String> = fixed.iter().chain(options).map(ToString::to_string).collect();
    let _counters = exclusive();
    let summary = run(&Config::parse(&yaml, &options).unwrap(), false).unwrap();
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(summary.run_dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let losses = lines("metrics.jsonl").iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    let mut events = lines("events.jsonl");
    events.iter_mut().for_each(|event| drop(event.as_object_mut().unwrap().remove("signal")));
    (losses, events, summary.val_loss.unwrap())
}

#[test]
fn a_fine_tune_on_the_reference_is_that_on_the_processor() {
    let freezing = "early_stopping={method: grades, alpha: 0.3, companions: follow, tau: {q: 1.0e9, \"language.0.*\": 1.0e9, \
                    default: 1.0e-9}}";
    let adapters = ["adapter=lora", "lora_r=4", "peft_use_dora=true", "lora_dropout=0.1", "learning_rate=1e-3"];
    for options in [&[freezing][..], &[freezing, "gradient_checkpointing=true", "optimizer=sgd"], &adapters] {
        let (found, expected) = (fine_tune("reference", options), fine_tune("cpu", options));
        assert_eq!(found.0.len(), 6);
        for (found, expected) in found.0.iter().zip(&expected.0) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{options:?}: {found} and {expected}");
        }
        assert_eq!(found.1, expected.1, "{options:?}");
        assert!((found.2 / expected.2 - 1.0).abs() < 1e-4, "{options:?}: {} and {}", found.2, expected.2);
    }
}
