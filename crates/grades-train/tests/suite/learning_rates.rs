//! `learning_rate: auto` in whole runs.

use crate::runs::Workspace;

const OPTIONS: [&str; 4] = ["optimizer=adamw", "lr_scheduler=constant", "max_steps=6", "save_steps=3"];

#[test]
fn a_run_finds_its_rate_and_is_then_as_if_it_had_been_given() {
    let workspace = Workspace::new();
    for more in [
        &[][..],
        &["adapter=lora", "lora_r=2"],
        &["warmup_steps=2", "weight_average={kind: polynomial}", "save_both_averages=true"],
    ] {
        let options = [&OPTIONS[..], more].concat();
        let with = |name: &str, rate: &str| workspace.train(name, &[&options[..], &[rate]].concat());
        let name = format!("found-{}", more.len());
        let found = with(&name, "learning_rate=auto");
        let rate = found.summary.learning_rate.unwrap();
        let rates = found.metric("/learning_rate");
        assert_eq!(rates.last().copied(), Some(rate));
        let given = with(&format!("given-{}", more.len()), &format!("learning_rate={rate:e}"));
        // What adapters lie beside is put back, too: the losses after the first step tell.
        assert_eq!(found.metric("/loss"), given.metric("/loss"));
        assert_eq!(given.summary.learning_rate, None);
        assert!(found.summary.monitor_flops > given.summary.monitor_flops);
        let event = found.events().into_iter().find(|event| event["event"] == "learning_rate").unwrap();
        assert!(event["step"] == 0 && event["reason"].as_str().unwrap().contains(&format!("{rate:e}")), "{event}");

        let checkpoint = |name: &str| workspace.path(name).join("checkpoints/step-000003");
        let resume = format!("resume_from_checkpoint={}", checkpoint(&name).display());
        let resumed = workspace
            .train(&format!("resumed-{}", more.len()), &[&options[..], &["learning_rate=auto", &resume]].concat());
        assert_eq!(resumed.metric("/loss"), found.metric("/loss")[3..]);
        assert_eq!(resumed.summary.learning_rate, Some(rate));
        let resume = format!("resume_from_checkpoint={}", checkpoint(&format!("given-{}", more.len())).display());
        let other = format!("other-{}", more.len());
        let error = workspace.attempt(&other, &[&options[..], &["learning_rate=auto", &resume]].concat());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("learning rate was given"), "{error}");
    }
}
