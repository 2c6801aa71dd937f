//! Layers that run again in the backward pass, in whole runs.

use crate::runs::Workspace;

#[test]
fn checkpointing_changes_nothing_but_the_arithmetic() {
    for workspace in [Workspace::new(), Workspace::untied()] {
        let options = [
            "micro_batch_size=2",
            "gradient_accumulation_steps=3",
            "sample_packing=true",
            "early_stopping={method: grades, alpha: 0.25, companions: follow, \
             tau: {language.0.*: 1.0e9, language.1.q: 1.0e9, default: 1.0e-9}}",
        ];
        let plain = workspace.train("plain", &options);
        let again = workspace.train("again", &[&options[..], &["gradient_checkpointing=true"][..]].concat());
        assert_eq!(again.summary.frozen_units, 8);
        assert_eq!(plain.weights(), again.weights());
        assert_eq!(plain.metric("/loss"), again.metric("/loss"));
        assert_eq!(plain.signals(), again.signals());
        for kind in ["/flops/input_gradient", "/flops/weight_gradient"] {
            assert_eq!(plain.metric(kind), again.metric(kind));
        }
        assert_eq!(again.metric("/flops/skipped")[..3], [0.0; 3]);
        // The first layer of two runs again until it is frozen, which is decided from the gradients of step 3.
        let (plain, again) = (plain.metric("/flops/forward"), again.metric("/flops/forward"));
        let more = plain.iter().zip(&again).map(|(plain, again)| again > plain);
        assert_eq!(more.collect::<Vec<_>>(), [true, true, true, false, false, false, false, false]);
    }
}
