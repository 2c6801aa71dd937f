//! The average of the weights that a run ends with.

use std::collections::BTreeMap;

use crate::runs::{Workspace, weights as weights_in};

type Weights = BTreeMap<String, Vec<f32>>;

/// Five steps an epoch; the average begins after a warm-up of one step and takes every fourth.
const OPTIONS: [&str; 3] = ["max_steps=17", "warmup_steps=1", "save_steps=1"];

/// Σ weight · values over some checkpoints, over Σ weight.
fn mean(of: &[(f64, Weights)]) -> BTreeMap<String, Vec<f64>> {
    let total: f64 = of.iter().map(|(weight, _)| weight).sum();
    let value = |name: &str, i: usize| of.iter().map(|(weight, w)| weight * f64::from(w[name][i])).sum::<f64>() / total;
    of[0].1.iter().map(|(name, values)| (name.clone(), (0..values.len()).map(|i| value(name, i)).collect())).collect()
}

#[test]
fn a_run_ends_with_the_average_of_the_steps_after_the_warm_up() {
    let workspace = Workspace::new();
    let with = |name: &str, average: &str| workspace.train(name, &[&OPTIONS[..], &[average]].concat());
    let polynomial = with("polynomial", "weight_average={kind: polynomial, power: 2}");
    let ema = with("ema", "weight_average={kind: ema, updates: 4}");
    let plain = with("plain", "weight_average=none");
    // An average changes nothing of the run itself.
    assert_eq!(polynomial.metric("/loss"), plain.metric("/loss"));
    let after = |step: usize| weights_in(&plain.path.join(format!("checkpoints/step-{step:06}/weights.safetensors")));
    // Steps 5, 9 and 13; the last, 17, has no checkpoint but the model.
    let values = [after(5), after(9), after(13), plain.weights()];
    // n (n + 1) / 2 of the n-th, which grows as n².
    let by_power = values.iter().zip([1.0, 3.0, 6.0, 10.0]).map(|(w, weight)| (weight, w.clone())).collect::<Vec<_>>();
    let by_age = values.iter().zip([0.421_875, 0.562_5, 0.75, 1.0]).map(|(w, weight)| (weight, w.clone()));
    for (run, expected) in [(polynomial, mean(&by_power)), (ema, mean(&by_age.collect::<Vec<_>>()))] {
        let found = run.weights();
        for (name, expected) in &expected {
            for (found, expected) in found[name].iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{name}: {found}, not {expected}");
            }
        }
        let events = run.events();
        assert!(events.iter().any(|event| event["event"] == "weight_average" && event["step"] == 17), "{events:?}");
    }
}

#[test]
fn what_is_not_taken_can_be_saved_too() {
    let workspace = Workspace::new();
    let options = [&OPTIONS[..], &["weight_average={kind: polynomial, power: 2}"]].concat();
    let with = |name: &str, more: &[&str]| workspace.train(name, &[&options[..], more].concat());
    let (one, both) = (with("one", &[]), with("both", &["save_both_averages=true"]));
    let plain = workspace.train("plain", &OPTIONS);
    assert_eq!(both.weights(), one.weights());
    assert_eq!(weights_in(&both.path.join("model-weights")), plain.weights());
    assert!(!one.path.join("model-weights").exists() && !both.path.join("model-average").exists());
}

/// In the first epoch the next samples are not known, and tell which is better: far from the minimum the newest weights.
#[test]
fn an_average_that_is_worse_on_new_samples_is_left() {
    let workspace = Workspace::new();
    let options = ["micro_batch_size=1", "max_steps=10", "learning_rate=1e-4", "save_steps=1"];
    let plain = workspace.train("plain", &options);
    let averaged = |name: &str, more: &[&str]| {
        workspace.train(name, &[&options[..], &["weight_average={kind: polynomial, power: 0}"], more].concat())
    };
    let run = averaged("averaged", &[]);
    assert_eq!(run.weights(), plain.weights());
    let said = |run: &crate::runs::Run| {
        let end = run.events().into_iter().find(|event| event["event"] == "weight_average").unwrap();
        end["reason"].as_str().unwrap().to_owned()
    };
    assert!(said(&run).contains("ends with its weights"), "{}", said(&run));
    // It is compared after step 6, four steps before the end: a run that is resumed later knows it, too.
    for step in [1, 5, 6, 7, 9] {
        let checkpoint = run.path.join(format!("checkpoints/step-{step:06}"));
        let resumed = averaged(&format!("from-{step}"), &[&format!("resume_from_checkpoint={}", checkpoint.display())]);
        assert_eq!((resumed.weights(), said(&resumed)), (plain.weights(), said(&run)), "from step {step}");
    }
    // A checkpoint of a run without an average serves none with one.
    let checkpoint = plain.path.join("checkpoints/step-000005");
    let resume = format!("resume_from_checkpoint={}", checkpoint.display());
    let error = workspace.attempt("other", &[&options[..], &["weight_average={kind: ema}", &resume]].concat());
    assert!(error.unwrap_err().to_string().contains("weight_average"));
}

/// What is masked or frozen on the way is averaged up to there, and a frozen matrix has its average at once.
#[test]
fn a_matrix_that_freezes_takes_its_average() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: grades, alpha: 0.5, tau: {language.0.q: 1e9, default: 1e-9}}";
    let options = [&OPTIONS[..], &[method]].concat();
    let plain = workspace.train("plain", &options);
    let run = workspace.train("averaged", &[&options[..], &["weight_average={kind: polynomial, power: 0}"]].concat());
    // α · 17 rounded up is 9: q of layer 0 freezes at step 10, before its update, at the mean of steps 5 and 9.
    let after = |step: usize| weights_in(&plain.path.join(format!("checkpoints/step-{step:06}/weights.safetensors")));
    let (fifth, ninth) = (after(5), after(9));
    let name = "model.layers.0.self_attn.q_proj.weight";
    let frozen = &weights_in(&run.path.join("checkpoints/step-000010/weights.safetensors"))[name];
    for ((found, fifth), ninth) in frozen.iter().zip(&fifth[name]).zip(&ninth[name]) {
        assert!((found - (fifth + ninth) / 2.0).abs() < 1e-6);
    }
    assert_eq!(&run.weights()[name], frozen);
}
