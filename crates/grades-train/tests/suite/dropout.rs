//! Dropout of adapters in whole runs.

use crate::runs::Workspace;

#[test]
fn dropout_is_the_same_when_a_layer_runs_again_and_after_a_resumed_run() {
    let workspace = Workspace::new();
    let options = [
        "adapter=lora",
        "lora_r=2",
        "lora_dropout=0.5",
        "micro_batch_size=2",
        "gradient_accumulation_steps=2",
        "save_steps=1",
        "val_set_size=4",
    ];
    let train = |name: &str, more: &str| {
        let run = workspace.train(name, &[&options[..], &[more][..]].concat());
        let losses = [run.metric("/loss"), run.metric("/gradient_norm")];
        (run.weights_of("adapter/adapter_model.safetensors"), losses, run.summary.val_loss)
    };
    let (weights, losses, val_loss) = train("whole", "seed=42");
    assert!(losses[0][7] < losses[0][0], "{losses:?}");
    assert_eq!(train("again", "gradient_checkpointing=true"), (weights.clone(), losses.clone(), val_loss));
    for step in [1, 3, 6] {
        let checkpoint = workspace.path("whole").join(format!("checkpoints/step-{step:06}"));
        let resumed = train(&format!("from-{step}"), &format!("resume_from_checkpoint={}", checkpoint.display()));
        assert!(resumed.0 == weights && resumed.2 == val_loss, "from step {step}");
        assert_eq!(resumed.1, losses.clone().map(|values| values[step..].to_vec()), "from step {step}");
    }
    let exact = train("exact", "lora_dropout=0");
    // B begins at zero, so nothing is seen of the first masks but in its gradient.
    assert!(exact.1[0][0] == losses[0][0] && exact.1[1][0] != losses[1][0] && exact.1[0][1] != losses[0][1]);
}
