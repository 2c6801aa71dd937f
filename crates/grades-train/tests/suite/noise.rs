//! NEFTune's noise in whole runs.

use crate::runs::Workspace;

#[test]
fn noise_is_the_same_when_a_layer_runs_again_and_after_a_resumed_run() {
    let workspace = Workspace::new();
    let options = ["micro_batch_size=2", "gradient_accumulation_steps=2", "save_steps=1", "val_set_size=4"];
    let train = |name: &str, more: &[&str]| {
        let run = workspace.train(name, &[&options[..], more].concat());
        let losses = [run.metric("/loss"), run.metric("/gradient_norm")];
        let folder = if run.path.join("model").exists() { "model" } else { "adapter/adapter_model.safetensors" };
        (run.weights_of(folder), losses, run.summary.val_loss)
    };
    let (weights, losses, val_loss) = train("whole", &["neftune_noise_alpha=5"]);
    let again = train("again", &["neftune_noise_alpha=5", "gradient_checkpointing=true"]);
    assert_eq!(again, (weights.clone(), losses.clone(), val_loss));
    for step in [1, 3, 6] {
        let checkpoint = workspace.path("whole").join(format!("checkpoints/step-{step:06}"));
        let resume = format!("resume_from_checkpoint={}", checkpoint.display());
        let resumed = train(&format!("from-{step}"), &["neftune_noise_alpha=5", &resume]);
        assert!(resumed.0 == weights && resumed.2 == val_loss, "from step {step}");
        assert_eq!(resumed.1, losses.clone().map(|values| values[step..].to_vec()), "from step {step}");
    }
    let plain = train("plain", &[]);
    assert!(plain.1[0].iter().zip(&losses[0]).all(|(plain, noisy)| plain != noisy), "{:?}", plain.1);
    // A little noise changes the first loss by little.
    let slight = train("slight", &["neftune_noise_alpha=0.001"]);
    assert!((slight.1[0][0] - plain.1[0][0]).abs() < 1e-3 * (losses[0][0] - plain.1[0][0]).abs().max(1.0));
    // With adapters, too, whose base has an embedding that does not train.
    let adapted = train("adapted", &["adapter=lora", "lora_r=2", "neftune_noise_alpha=5", "max_steps=2"]);
    let quiet = train("quiet", &["adapter=lora", "lora_r=2", "max_steps=2"]);
    assert_ne!(adapted.1[0][0], quiet.1[0][0]);
}
