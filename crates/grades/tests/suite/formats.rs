//! Files that the first version wrote are read, and written again as they were.

use grades::{EarlyStopping, Elements, Measurement, Observation, PartId, Policy, PolicyState, Role, UnitId};

const UNITS: [fn() -> UnitId; 3] =
    [|| UnitId::language(0, Role::Q), || UnitId::language(1, Role::Down), || UnitId::vision(0, Role::Fc1)];

/// What a config says, what it is written as in full, and the state after six steps.
const WRITTEN: [[&str; 3]; 10] = [
    [
        r#"{"method": "none"}"#,
        r#"{"method":"none"}"#,
        r#"{"memory":{"method":"none"},"cost":{"measurements":0,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "grades", "tau": 1.5, "alpha": 0.1, "companions": "follow"}"#,
        r#"{"method":"grades","tau":1.5,"alpha":0.1,"patience":1,"interval":1,"max_frozen_share":1.0,"companions":"follow","split_fused":true,"trace":false,"auto":{"exhausted":0.0,"stalled":0.08,"gain":0.2,"freeze":"agreement","parts":"last"}}"#,
        r#"{"memory":{"method":"grades","config":"signal=gradient_change norm=L1 tau=1.5 alpha=0.1 patience=1 interval=1 max_frozen_share=1 companions=Follow","planned_steps":10,"last_step":2,"stopped":true,"measurements":6,"units":{"vision.0.fc1":{"streak":1,"frozen_at":2},"language.0.q":{"streak":1,"frozen_at":2},"language.1.down":{"streak":1,"frozen_at":2}},"events":[{"event":"freeze","step":2,"unit":"vision.0.fc1","signal":1.4},{"event":"freeze","step":2,"unit":"language.0.q","signal":0.13999999999999999},{"event":"freeze","step":2,"unit":"language.1.down","signal":1.4},{"event":"freeze_companion","step":2,"companion":"norms","tower":"vision","layer":0},{"event":"freeze_companion","step":2,"companion":"norms","tower":"language","layer":0},{"event":"freeze_companion","step":2,"companion":"norms","tower":"language","layer":1},{"event":"freeze_companion","step":2,"companion":"embedding","tower":"vision"},{"event":"freeze_companion","step":2,"companion":"embedding","tower":"language"},{"event":"stop","step":2,"reason":"all_frozen"}]},"cost":{"measurements":6,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "grades", "auto": {"window": 2, "warmup_steps": 1}}"#,
        r#"{"method":"grades","tau":"auto","patience":1,"interval":1,"max_frozen_share":1.0,"companions":"train","split_fused":true,"trace":false,"auto":{"warmup_steps":1,"window":2,"exhausted":0.0,"stalled":0.08,"gain":0.2,"freeze":"agreement","parts":"last"}}"#,
        r#"{"memory":{"method":"grades","config":"signal=relative_gradient_change norm=Frobenius tau=auto alpha=default patience=1 interval=1 max_frozen_share=1 companions=Train auto=AutoTau { warmup_steps: Some(1), epoch_steps: None, window: Some(2), floor: None, exhausted: 0.0, stalled: 0.08, gain: 0.2, freeze: Agreement, parts: Last }","planned_steps":10,"last_step":6,"stopped":false,"measurements":17,"units":{"vision.0.fc1":{"streak":1,"frozen_at":6},"language.0.q":{"streak":0},"language.1.down":{"streak":1,"frozen_at":5}},"detector":{"averages":{"vision.0.fc1":{"sum":"-0.10093749999999968","weight":"1.9375","at_floor":1},"language.0.q":{"sum":"1.9375","weight":"1.9375","at_floor":0},"language.1.down":{"sum":"-0.3146874999999999","weight":"1.875","at_floor":1}},"lowest":"inf","since_lowest":0,"gains":{"count":0,"sum":"0","last":[],"small_for":0}},"events":[{"event":"freeze","step":5,"unit":"language.1.down","signal":0.875},{"event":"freeze","step":6,"unit":"vision.0.fc1","signal":0.8399999999999999}]},"cost":{"measurements":17,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "validation_loss", "patience": 5}"#,
        r#"{"method":"validation_loss","every":0.05,"min_delta":0.0005,"patience":5}"#,
        r#"{"memory":{"method":"validation_loss","planned_steps":10,"config":{"every":0.05,"min_delta":0.0005,"patience":5},"best":"2.4","best_step":6,"reference":"2.4","without_improvement":0,"checks":6,"last_step":6,"stopped":false},"cost":{"measurements":0,"validations":6,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "autofreeze", "num_intervals": 5}"#,
        r#"{"method":"autofreeze","num_intervals":5,"percentile":50.0}"#,
        r#"{"memory":{"method":"autofreeze","config":{"num_intervals":5,"percentile":50.0},"planned_steps":10,"last_step":6,"units":["vision.0.fc1","language.0.q","language.1.down"],"prefix":0,"seen":[],"baseline":[{"tower":"vision","layer":0,"norm":"3"},{"tower":"language","layer":0,"norm":"3"},{"tower":"language","layer":1,"norm":"3"}]},"cost":{"measurements":0,"validations":0,"operations":144,"bytes":0}}"#,
    ],
    [
        r#"{"method": "freezeout", "t0": 0.5}"#,
        r#"{"method":"freezeout","t0":0.5,"strategy":"cubic","scale_rates":true}"#,
        r#"{"memory":{"method":"freezeout","config":{"t0":0.5,"strategy":"cubic","scale_rates":true},"planned_steps":10,"last_step":6,"units":["vision.0.fc1","language.0.q","language.1.down"]},"cost":{"measurements":0,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "layerwise_decay", "decay": 0.5}"#,
        r#"{"method":"layerwise_decay","decay":0.5}"#,
        r#"{"memory":{"method":"layerwise_decay","config":{"decay":0.5},"planned_steps":10,"units":["vision.0.fc1","language.0.q","language.1.down"]},"cost":{"measurements":0,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "lisa", "active_layers": 1, "seed": 3}"#,
        r#"{"method":"lisa","active_layers":1,"interval_steps":20,"seed":3}"#,
        r#"{"memory":{"method":"lisa","config":{"active_layers":1,"interval_steps":20,"seed":3},"planned_steps":10,"last_step":6,"units":["vision.0.fc1","language.0.q","language.1.down"]},"cost":{"measurements":0,"validations":0,"operations":0,"bytes":0}}"#,
    ],
    [
        r#"{"method": "aflora", "window": 5}"#,
        r#"{"method":"aflora","window":5,"beta_importance":0.85,"beta_uncertainty":0.95,"initial_share":0.1,"final_share":0.1}"#,
        r#"{"memory":{"method":"aflora","config":{"window":5,"beta_importance":0.85,"beta_uncertainty":0.95,"initial_share":0.1,"final_share":0.1},"planned_steps":10,"last_step":5,"units":["vision.0.fc1","language.0.q","language.1.down"],"seen":[],"frozen":[{"unit":"vision.0.fc1","part":0},{"unit":"vision.0.fc1","part":1},{"unit":"language.0.q","part":0},{"unit":"language.0.q","part":1},{"unit":"language.1.down","part":0},{"unit":"language.1.down","part":1}]},"cost":{"measurements":0,"validations":0,"operations":264,"bytes":0}}"#,
    ],
    [
        r#"{"method": "loraf", "sparsity": 0.5}"#,
        r#"{"method":"loraf","sparsity":0.5,"dense_share":0.5}"#,
        r#"{"memory":{"method":"loraf","config":{"sparsity":0.5,"dense_share":0.5},"planned_steps":10,"last_step":5,"units":["vision.0.fc1","language.0.q","language.1.down"],"masked":[{"unit":"vision.0.fc1","part":1},{"unit":"language.0.q","part":1},{"unit":"language.1.down","part":1}]},"cost":{"measurements":0,"validations":0,"operations":18,"bytes":6},"buffers":{"mask.language.0.q#1":[0.0,1.0],"mask.language.1.down#1":[0.0,1.0],"mask.vision.0.fc1#1":[0.0,1.0]}}"#,
    ],
];

/// Gradients of three matrices: those of the first settle, those of the others move apart.
fn observe(policy: &mut dyn Policy, units: &[UnitId], step: usize) {
    let measurement = |(index, unit): (usize, &UnitId)| {
        let settled = if index == 0 && step > 1 { 0.1 } else { 1.0 };
        let change = Some(step as f64 * 0.7 * settled);
        let gradient = Some(1.0 + index as f64);
        (*unit, vec![Measurement { gradient, previous: Some(2.0), change, weight_change: None }])
    };
    let measurements: Vec<_> = units.iter().enumerate().map(measurement).collect();
    let pair = |unit: &UnitId| [0, 1].map(|part| PartId { unit: *unit, part });
    let elements: Vec<_> =
        units.iter().flat_map(pair).map(|tensor| Elements { tensor, values: &[0.25, -0.5] }).collect();
    let observation = Observation {
        measurements: &measurements,
        gradients: &elements,
        weights: &elements,
        training_loss: None,
        validation_loss: Some(3.0 - 0.1 * step as f64),
        spent: grades::Spent { flops: 100 * step as u64, seconds: step as f64 },
    };
    policy.observe(step, &observation);
}

#[test]
fn every_method_writes_and_reads_what_the_first_version_did() {
    let units = UNITS.map(|unit| unit());
    for [short, config, state] in WRITTEN {
        let method: EarlyStopping = serde_json::from_str(short).unwrap();
        assert_eq!(serde_json::to_string(&method).unwrap(), config);
        assert_eq!(serde_json::from_str::<EarlyStopping>(config).unwrap(), method);

        let mut policy = method.build(&units, 10).unwrap();
        (1..=6).for_each(|step| observe(policy.as_mut(), &units, step));
        assert_eq!(serde_json::to_string(&policy.state()).unwrap(), state);

        let mut resumed = method.build(&units, 10).unwrap();
        resumed.restore(serde_json::from_str(state).unwrap()).unwrap();
        assert_eq!((resumed.in_force(), resumed.cost()), (policy.in_force(), policy.cost()));
        assert_eq!(serde_json::to_string(&resumed.state()).unwrap(), state);
    }
}

#[test]
fn options_and_signals_come_back_to_the_last_bit() {
    // 1.4 · 0.1, one bit below 0.14: most readers of JSON take the one for the other.
    let below = 0.139_999_999_999_999_99;
    assert!(below < 0.14);
    let units = UNITS.map(|unit| unit());
    let json = format!(r#"{{"method": "validation_loss", "every": {below}}}"#);
    let method: EarlyStopping = serde_json::from_str(&json).unwrap();
    let state = serde_json::to_string(&method.build(&units, 10).unwrap().state()).unwrap();
    assert!(state.contains(&format!(r#""every":{below}"#)), "{state}");
    let mut resumed = method.build(&units, 10).unwrap();
    assert_eq!(resumed.restore(serde_json::from_str(&state).unwrap()), Ok(()));
}

#[test]
fn a_state_of_another_method_or_with_keys_of_its_own_is_refused_and_changes_nothing() {
    let units = UNITS.map(|unit| unit());
    for [short, _, state] in WRITTEN {
        let method: EarlyStopping = serde_json::from_str(short).unwrap();
        let mut policy = method.build(&units, 10).unwrap();
        let before = policy.state();
        for [other, _, foreign] in WRITTEN {
            let foreign: PolicyState = serde_json::from_str(foreign).unwrap();
            let saved = foreign.memory.name().to_owned();
            if saved != method.name() {
                let error = policy.restore(foreign).unwrap_err().to_string();
                assert!(error.contains(&format!("of the method `{saved}`")), "{other}: {error}");
            }
        }
        let unknown = state.replacen(r#""method":"#, r#""later":1,"method":"#, 1);
        let error = policy.restore(serde_json::from_str(&unknown).unwrap()).unwrap_err().to_string();
        assert!(error.contains("`later`") && error.contains(method.name()), "{error}");
        assert_eq!(policy.state(), before);
    }
}

#[test]
fn mistakes_in_a_config_get_the_sentences_of_the_first_version() {
    for (json, sentence) in [
        (
            r#"{"method": "grades", "min_delta": 0.1}"#,
            "unknown field `min_delta`, expected one of `tau`, `signal`, `norm`, `alpha`, `patience`, `interval`, \
             `unfreeze`, `max_frozen_share`, `companions`, `split_fused`, `trace`, `auto`",
        ),
        (r#"{"method": "none", "tau": 1}"#, "unknown field `tau`, there are no fields"),
        (
            r#"{"method": "guess"}"#,
            "unknown variant `guess`, expected one of `none`, `grades`, `validation_loss`, `autofreeze`, `freezeout`, \
             `layerwise_decay`, `lisa`, `aflora`, `loraf`",
        ),
        (r#"{"tau": 1}"#, "missing field `method`"),
        (
            r#"{"method": "grades", "tau": {"atention": 1}}"#,
            "`tau` has an unknown key `atention`: use `default`, `attention`, `mlp`, `vision`, `language`, a role such as \
             `q`, or a pattern such as `language.*.down`",
        ),
    ] {
        let error = serde_json::from_str::<EarlyStopping>(json).unwrap_err().to_string();
        assert!(error.starts_with(sentence), "{json}: {error}");
    }
}
