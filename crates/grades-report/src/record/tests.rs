//! Every record against a line of it in full: read, it is what it says; written again, it is the same text.

use std::fmt::Debug;

use grades::{Companion, Flops, Role, StopReason, Tower, UnitId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

/// The text of `record` is `text`, and reads back as it.
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str, record: &T) {
    assert_eq!(serde_json::to_string(record).unwrap(), text);
    assert_eq!(&serde_json::from_str::<T>(text).unwrap(), record, "{text}");
}

#[test]
fn a_step_reads_back_equal() {
    let executed = Flops { forward: 5, input_gradient: 6, weight_gradient: 7 };
    let step = Step {
        step: 3,
        loss: Some(2.5),
        learning_rate: 0.001,
        gradient_norm: Some(1.25),
        tokens: 48_168,
        seconds: 3.5,
        step_seconds: 0.75,
        monitor_seconds: 0.125,
        data_seconds: 0.0625,
        frozen_units: 2,
        flops: StepFlops { executed, skipped: None },
        optimizer_bytes: 64,
        kept_bytes: 32,
        ..Step::default()
    };
    let start = concat!(
        r#"{"step":3,"loss":2.5,"learning_rate":0.001,"gradient_norm":1.25,"tokens":48168,"seconds":3.5,"#,
        r#""step_seconds":0.75,"monitor_seconds":0.125,"data_seconds":0.0625,"frozen_units":2,"#,
        r#""flops":{"forward":5,"input_gradient":6,"weight_gradient":7"#,
    );
    same(&format!(r#"{start}}},"optimizer_bytes":64,"kept_bytes":32,"resident_bytes":null}}"#), &step);
    let full = Step {
        flops: StepFlops { executed, skipped: Some(9) },
        prefix_cache_bytes: Some(16),
        vision_cache_bytes: Some(24),
        pictures: Some(3),
        computed_pictures: Some(1),
        resident_bytes: Some(4096),
        peak_bytes: Some(8192),
        val_loss: Some(3.125),
        val_losses: Some([("a".to_owned(), 3.0), ("b".to_owned(), 3.5)].into()),
        eval_tasks: Some([("piqa".to_owned(), [("acc".to_owned(), 0.5)].into())].into()),
        evaluation_seconds: Some(0.25),
        ..step
    };
    let end = concat!(
        r#","skipped":9},"optimizer_bytes":64,"kept_bytes":32,"prefix_cache_bytes":16,"vision_cache_bytes":24,"#,
        r#""pictures":3,"computed_pictures":1,"resident_bytes":4096,"#,
        r#""peak_bytes":8192,"val_loss":3.125,"val_losses":{"a":3.0,"b":3.5},"#,
        r#""eval_tasks":{"piqa":{"acc":0.5}},"evaluation_seconds":0.25}"#,
    );
    same(&format!("{start}{end}"), &full);
    // What was not finite is null, as what is not known.
    let lost = Step { gradient_norm: Some(f64::NAN), ..Step::default() };
    let text = serde_json::to_string(&lost).unwrap();
    assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), Step::default());
}

#[test]
fn signals_read_back_equal() {
    let units = [UnitId::language(2, Role::Q), UnitId::language(2, Role::Down), UnitId::language(10, Role::K)];
    let signals = Signals::new(4, &[(units[0], 0.5), (units[1], f64::INFINITY), (units[2], 1e-7)]);
    same(r#"{"step":4,"signals":{"language.2.q":0.5,"language.2.down":null,"language.10.k":1e-7}}"#, &signals);
}

#[test]
fn units_read_back_equal() {
    let unit = |layer, threshold| UnitThreshold { unit: UnitId::language(layer, Role::Q), threshold };
    let units = Units {
        method: Some("grades".into()),
        signal: Some("gradient_change".into()),
        norm: Some("l1".into()),
        freezes: Some("below".into()),
        units: vec![unit(0, Some(0.75)), unit(1, None)],
    };
    same(
        concat!(
            r#"{"method":"grades","signal":"gradient_change","norm":"l1","freezes":"below","#,
            r#""units":[{"unit":"language.0.q","threshold":0.75},{"unit":"language.1.q","threshold":null}]}"#,
        ),
        &units,
    );
}

#[test]
fn every_event_reads_back_equal() {
    let unit = UnitId::language(3, Role::Q);
    let companion = Companion::Norms { tower: Tower::Language, layer: 3 };
    let reason = || "the disk is full".to_owned();
    let events = [
        (
            r#"{"event":"freeze","step":7,"unit":"language.3.q","signal":0.5}"#,
            Event::Decision(grades::Event::Freeze { step: 7, unit, signal: Some(0.5) }),
        ),
        (
            r#"{"event":"freeze_companion","step":7,"companion":"norms","tower":"language","layer":3}"#,
            Event::Decision(grades::Event::FreezeCompanion { step: 7, companion }),
        ),
        (
            r#"{"event":"mask","step":8,"unit":"language.3.q","part":1,"kept":5}"#,
            Event::Decision(grades::Event::Mask { step: 8, unit, part: 1, kept: 5 }),
        ),
        (
            r#"{"event":"plan","step":8,"gain":0.5,"order":[{"unit":"language.3.q","worth":0.25,"freezes":true}]}"#,
            Event::Decision(grades::Event::Plan {
                step: 8,
                plan: grades::Plan { gain: 0.5, order: vec![grades::Worth { unit, worth: 0.25, freezes: true }] },
            }),
        ),
        (
            r#"{"event":"stop","step":9,"reason":"all_frozen"}"#,
            Event::Decision(grades::Event::Stop { step: 9, reason: StopReason::AllFrozen }),
        ),
        (
            r#"{"event":"checkpoint","step":5,"path":"runs/a/checkpoints/step-000005"}"#,
            Event::Run(RunEvent::Checkpoint { step: 5, path: "runs/a/checkpoints/step-000005".into() }),
        ),
        (
            r#"{"event":"prefix_cache_off","step":6,"reason":"the disk is full"}"#,
            Event::Run(RunEvent::PrefixCacheOff { step: 6, reason: reason() }),
        ),
        (
            r#"{"event":"step_skipped","step":6,"reason":"the disk is full"}"#,
            Event::Run(RunEvent::StepSkipped { step: 6, reason: reason() }),
        ),
        (
            r#"{"event":"generated","step":6,"samples":3,"path":"generated.jsonl"}"#,
            Event::Run(RunEvent::Generated { step: 6, samples: 3, path: "generated.jsonl".into() }),
        ),
        (
            r#"{"event":"embedding_untied","step":6,"reason":"the disk is full"}"#,
            Event::Run(RunEvent::EmbeddingUntied { step: 6, reason: reason() }),
        ),
    ];
    for (text, event) in &events {
        same(text, event);
    }
    assert_eq!(events[0].1.freezes(), Some((7, unit, true)));
    // Another program's: kept as it is.
    for text in
        [r#"{"event":"evaluated","at":"noon","step":3}"#, r#"{"event":"freeze","step":3,"unit":"the last block"}"#]
    {
        let event: Event = serde_json::from_str(text).unwrap();
        assert!(matches!(event, Event::Other(_)) && event.freezes().is_none(), "{text}");
        same(text, &event);
    }
    // Its matrices may have names of their own.
    let own: Event = serde_json::from_str(r#"{"event":"freeze","step":3,"unit":"mamba.0.in_proj"}"#).unwrap();
    assert_eq!(
        own.freezes().map(|(step, unit, frozen)| (step, unit.to_string(), frozen)),
        Some((3, "mamba.0.in_proj".into(), true))
    );
}

#[test]
fn an_environment_reads_back_equal() {
    let text = concat!(
        r#"{"version":"0.1.0","commit":null,"operating_system":"linux","architecture":"x86_64","processor":"CPU","instructions":"amx","threads":2,"#,
        r#""precision":"f32","samples":780,"validation_samples":200,"dropped_samples":0,"truncated_samples":0,"#,
        r#""parameters":450624,"trainable_parameters":450624,"model_bytes":1802496,"units":28,"planned_steps":735}"#,
    );
    let environment: Environment = serde_json::from_str(text).unwrap();
    assert_eq!((environment.threads, environment.planned_steps), (Some(2), Some(735)));
    assert!(environment.other.is_empty());
    same(text, &environment);
    // What another program says beside these is kept, and what it does not say is left out.
    let other: Environment = serde_json::from_str(r#"{"torch":"2.9","threads":8}"#).unwrap();
    assert_eq!((other.other["torch"].as_str(), other.threads, other.units), (Some("2.9"), Some(8), None));
    same(r#"{"commit":null,"processor":null,"threads":8,"torch":"2.9"}"#, &other);
}

#[test]
fn a_summary_reads_back_equal() {
    let text = concat!(
        r#"{"run_dir":"runs/a","model_dir":"runs/a/model","steps":168,"planned_steps":735,"stopped_by":"all_frozen","#,
        r#""seconds":3.5,"validation_seconds":0.0,"monitor_seconds":0.125,"tokens":48168,"units":28,"frozen_units":27,"#,
        r#""train_loss":0.75,"val_loss":null,"flops":{"forward":1,"input_gradient":2,"weight_gradient":3},"#,
        r#""validation_flops":4,"monitor_flops":5,"monitor_bytes":6,"#,
        r#""checks":{"measurements":7,"validations":8,"operations":9,"bytes":10},"peak_memory_bytes":11}"#,
    );
    let summary: Summary = serde_json::from_str(text).unwrap();
    assert_eq!((summary.steps, summary.planned_steps, summary.units, summary.frozen_units), (168, 735, 28, 27));
    assert_eq!((summary.stopped_by.as_deref(), summary.validation_seconds), (Some("all_frozen"), Some(0.0)));
    same(text, &summary);
    let other: Summary = serde_json::from_str(r#"{"stopped_by":"EarlyStoppingCallback","val_loss":2.5}"#).unwrap();
    let expected =
        Summary { stopped_by: Some("EarlyStoppingCallback".into()), val_loss: Some(2.5), ..Summary::default() };
    assert_eq!(other, expected);
    assert_eq!(other.validation_seconds, None);
}

#[test]
fn an_answer_reads_back_equal() {
    let answer =
        Answer { task: "piqa".into(), index: 3, loglikelihoods: vec![-1.5, -2.25], target: 0, acc: 1, acc_norm: 0 };
    same(r#"{"task":"piqa","index":3,"loglikelihoods":[-1.5,-2.25],"target":0,"acc":1,"acc_norm":0}"#, &answer);
    let short = Answer { loglikelihoods: Vec::new(), ..answer };
    same(r#"{"task":"piqa","index":3,"target":0,"acc":1,"acc_norm":0}"#, &short);
}
