//! Configs as users write them, and the sentences that wrong ones get.

use grades::{AutoTau, Companions, Config, ConfigError, EarlyStopping, Norm, Role, RunFacts, Signal, Tau, UnitId};

fn config(json: &str) -> Config {
    serde_json::from_str(json).unwrap()
}

fn problem(json: &str) -> String {
    config(json).validate().unwrap_err().to_string()
}

#[test]
fn an_empty_config_is_auto_and_the_rest_is_the_paper() {
    let config = config("{}");
    assert_eq!(config, Config::default());
    assert_eq!(
        (config.tau.clone(), config.signal(), config.norm()),
        (Tau::Auto, Signal::RelativeGradientChange, Norm::Frobenius)
    );
    assert_eq!((config.patience, config.interval, config.max_frozen_share), (1, 1, 1.0));
    assert_eq!((config.companions, config.split_fused), (Companions::Train, true));
    let paper = Config::paper(1.5);
    assert_eq!(
        (paper.signal(), paper.norm(), paper.grace(120), paper.grace(121)),
        (Signal::GradientChange, Norm::L1, 60, 61)
    );
}

#[test]
fn every_key_is_read_and_written_back() {
    let json = r#"{"signal": "weight_change", "norm": "frobenius", "tau": {"default": 1.5, "language.*.q": 0.5},
        "alpha": 0.3, "patience": 2, "interval": 5, "max_frozen_share": 0.9, "companions": "follow",
        "split_fused": false, "trace": true, "auto": {"warmup_steps": 3}}"#;
    let config = config(json);
    assert_eq!((config.signal(), config.norm(), config.alpha), (Signal::WeightChange, Norm::Frobenius, Some(0.3)));
    assert_eq!((config.patience, config.interval, config.max_frozen_share), (2, 5, 0.9));
    assert_eq!((config.companions, config.split_fused, config.trace), (Companions::Follow, false, true));
    assert_eq!(config.auto, AutoTau { warmup_steps: Some(3), ..AutoTau::default() });
    assert_eq!(config.tau.of(UnitId::language(7, Role::Q)), Some(0.5));
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&written).unwrap(), config);
}

#[test]
fn unknown_keys_are_errors_at_every_level() {
    for json in [r#"{"alfa": 0.5}"#, r#"{"auto": {"windows": 3}}"#] {
        assert!(serde_json::from_str::<Config>(json).is_err(), "{json}");
    }
    for json in [
        r#"{"method": "grades", "min_delta": 0.1}"#,
        r#"{"method": "none", "tau": 1}"#,
        r#"{"method": "validation_loss", "tau": 1}"#,
        r#"{"method": "guess"}"#,
    ] {
        assert!(serde_json::from_str::<EarlyStopping>(json).is_err(), "{json}");
    }
}

#[test]
fn methods_are_chosen_by_name() {
    let units = [UnitId::language(0, Role::Q)];
    for (json, name) in [
        (r#"{"method": "none"}"#, "none"),
        (r#"{"method": "grades", "tau": 1.5, "alpha": 0.5}"#, "grades"),
        (r#"{"method": "validation_loss", "patience": 5}"#, "validation_loss"),
        (r#"{"method": "autofreeze", "num_intervals": 5}"#, "autofreeze"),
        (r#"{"method": "aflora", "window": 5}"#, "aflora"),
        (r#"{"method": "loraf", "sparsity": 0.5}"#, "loraf"),
    ] {
        let method: EarlyStopping = serde_json::from_str(json).unwrap();
        assert_eq!((method.name(), method.build(&units, 100).unwrap().name()), (name, name));
        assert_eq!(method.needs_lora(), ["aflora", "loraf"].contains(&name));
        assert_eq!(method.needs_validation(), name == "validation_loss");
        let written = serde_json::to_string(&method).unwrap();
        assert_eq!(serde_json::from_str::<EarlyStopping>(&written).unwrap(), method);
    }
}

#[test]
fn presets_bring_their_signal_and_grace_and_take_no_other_signal() {
    let preset = config(r#"{"tau": "paper-qwen3-0.6b-full"}"#);
    preset.validate().unwrap();
    assert_eq!((preset.signal(), preset.grace(100), preset.grace(101)), (Signal::WeightChange, 55, 56));
    assert_eq!(preset.tau.of(UnitId::language(0, Role::Q)), Some(1.804456));
    let multimodal = config(r#"{"tau": "paper-qwen2.5-vl-7b-lora", "signal": "weight_change"}"#);
    multimodal.validate().unwrap();
    assert_eq!(multimodal.tau.of(UnitId::vision(0, Role::Fc1)), Some(3.3));
    assert_eq!(multimodal.tau.of(UnitId::language(0, Role::Up)), Some(33.0));
    assert_eq!(multimodal.grace(100), 30);
    let wrong = problem(r#"{"tau": "paper-qwen3-0.6b-full", "signal": "gradient_change"}"#);
    assert!(wrong.contains("`weight_change`, not `gradient_change`"), "{wrong}");
}

#[test]
fn grace_is_the_exact_ceiling() {
    let grace = |alpha, steps| Config { alpha: Some(alpha), ..Config::paper(1.0) }.grace(steps);
    // 0.55 · 100 is 55.000000000000007 in doubles, 0.1 · 30 is 3.0000000000000004.
    assert_eq!((grace(0.55, 100), grace(0.1, 30), grace(0.5, 7), grace(0.0, 7), grace(1.0, 7)), (55, 3, 4, 0, 7));
}

#[test]
fn values_out_of_range_name_their_key() {
    for (json, key) in [
        (r#"{"tau": 0}"#, "`tau: 0`"),
        (r#"{"tau": -1}"#, "`tau: -1`"),
        (r#"{"tau": {"q": 0}}"#, "`tau.q: 0`"),
        (r#"{"tau": 1.2, "signal": "relative_gradient_change"}"#, "`tau: 1.2`"),
        (r#"{"tau": 1, "alpha": 1.5}"#, "`alpha: 1.5`"),
        (r#"{"tau": 1, "alpha": -0.1}"#, "`alpha: -0.1`"),
        (r#"{"patience": 0}"#, "`patience: 0`"),
        (r#"{"interval": 0}"#, "`interval: 0`"),
        (r#"{"max_frozen_share": 0}"#, "`max_frozen_share: 0`"),
        (r#"{"max_frozen_share": 1.1}"#, "`max_frozen_share: 1.1`"),
        (r#"{"auto": {"window": 0}}"#, "`auto.window: 0`"),
        (r#"{"auto": {"floor": 1.5}}"#, "`auto.floor: 1.5`"),
        (r#"{"auto": {"stalled": -1}}"#, "`auto.stalled: -1`"),
        (r#"{"auto": {"exhausted": 1}}"#, "`auto.exhausted: 1`"),
    ] {
        assert!(problem(json).contains(key), "{json}: {}", problem(json));
    }
    for tau in [f64::NAN, f64::INFINITY] {
        assert!(Config::paper(tau).validate().is_err());
        assert!(Config { alpha: Some(tau), ..Config::default() }.validate().is_err());
        assert!(Config { max_frozen_share: tau, ..Config::default() }.validate().is_err());
    }
    assert!(problem(r#"{"tau": "auto", "signal": "gradient"}"#).contains("`relative_gradient_change`, not `gradient`"));
    assert!(problem(r#"{"tau": "auto", "norm": "inf"}"#).contains("`frobenius`"));
}

#[test]
fn configs_are_checked_against_the_model() {
    let units = [UnitId::language(0, Role::Q), UnitId::language(1, Role::Q)];
    let check = |json: &str, units: &[UnitId], steps| config(json).validate_for(units, steps);
    assert_eq!(check(r#"{"tau": {"default": 1, "*.1.q": 2, "vision": 3}}"#, &units, 10), Ok(()));
    assert_eq!(check(r#"{"tau": {"mlp": 1}}"#, &units, 10), Err(ConfigError::NoThreshold { unit: units[0] }));
    assert_eq!(
        check(r#"{"tau": {"default": 1, "language.2.*": 2}}"#, &units, 10),
        Err(ConfigError::PatternMatchesNothing { pattern: "language.2.*".to_owned(), example: units[0] })
    );
    assert_eq!(check("{}", &[], 10), Err(ConfigError::NoUnits));
    assert_eq!(check("{}", &[units[0], units[1], units[0]], 10), Err(ConfigError::DuplicateUnit { unit: units[0] }));
    assert_eq!(check("{}", &units, 0), Err(ConfigError::NoSteps));
}

#[test]
fn towers_and_roles_that_are_not_known_have_thresholds_by_default_and_pattern() {
    let units = ["audio.0.q", "language.0.in_proj", "language.0.experts.3.gate"].map(|name| name.parse().unwrap());
    let check = |json: &str| config(json).validate_for(&units, 10);
    let map = config(r#"{"tau": {"default": 1, "attention": 2, "mlp": 3, "q": 4, "*.in_proj": 5, "l*": 6}}"#);
    assert_eq!(map.validate_for(&units, 10), Ok(()));
    assert_eq!(units.map(|unit| map.tau.of(unit)), [Some(4.0), Some(5.0), Some(6.0)]);
    // Neither kind matches a role that it does not know.
    let kinds = r#"{"tau": {"attention": 2, "mlp": 3}}"#;
    assert_eq!(check(kinds), Err(ConfigError::NoThreshold { unit: units[1] }));
    assert_eq!(check(r#"{"tau": 1}"#), Ok(()));
    assert_eq!(check("{}"), Ok(()));
    let error = check(r#"{"tau": {"default": 1, "*.out_proj": 2}}"#).unwrap_err().to_string();
    assert!(error.contains("`*.out_proj`") && error.contains("`audio.0.q`"), "{error}");
    // A word alone may be a misspelt kind: it is refused before the model is read.
    let error = serde_json::from_str::<Config>(r#"{"tau": {"in_proj": 1}}"#).unwrap_err().to_string();
    assert!(error.contains("`in_proj`") && error.contains("`*.in_proj`"), "{error}");
    let error = check(r#"{"tau": "paper-nanovlm-full"}"#).unwrap_err().to_string();
    assert!(error.contains("`vision` and `language` only") && error.contains("`audio.0.q`"), "{error}");
}

#[test]
fn options_are_checked_without_a_model() {
    for (json, key) in [
        (r#"{"method": "grades", "tau": 0}"#, "`tau: 0`"),
        (r#"{"method": "validation_loss", "every": 0}"#, "`every: 0`"),
        (r#"{"method": "validation_loss", "min_delta": -1}"#, "`min_delta: -1`"),
        (r#"{"method": "validation_loss", "patience": 0}"#, "`patience: 0`"),
        (r#"{"method": "autofreeze", "num_intervals": 0}"#, "`num_intervals: 0`"),
        (r#"{"method": "autofreeze", "percentile": 101}"#, "`percentile: 101`"),
        (r#"{"method": "freezeout", "t0": 0}"#, "`t0: 0`"),
        (r#"{"method": "layerwise_decay", "decay": 1.5}"#, "`decay: 1.5`"),
        (r#"{"method": "lisa", "active_layers": 0}"#, "`active_layers: 0`"),
        (r#"{"method": "lisa", "lisa_step_interval": 0}"#, "`interval_steps: 0`"),
        (r#"{"method": "aflora", "window": 0}"#, "`window: 0`"),
        (r#"{"method": "aflora", "beta_uncertainty": 1}"#, "`beta_uncertainty: 1`"),
        (r#"{"method": "aflora", "initial_share": 0.5, "final_share": 0.75}"#, "`final_share: 0.75`"),
        (r#"{"method": "loraf", "sparsity": 1}"#, "`sparsity: 1`"),
        (r#"{"method": "loraf", "dense_share": 0}"#, "`dense_share: 0`"),
    ] {
        let method: EarlyStopping = serde_json::from_str(json).unwrap();
        let error = method.validate().unwrap_err();
        assert!(error.to_string().contains(key), "{json}: {error}");
        assert_eq!(method.build(&[UnitId::language(0, Role::Q)], 10).unwrap_err(), error);
    }
}

#[test]
fn fused_projections_are_split_unless_the_options_say_otherwise() {
    for (json, split) in [
        (r#"{"method": "grades"}"#, true),
        (r#"{"method": "grades", "split_fused": false}"#, false),
        (r#"{"method": "autofreeze"}"#, true),
    ] {
        let method: EarlyStopping = serde_json::from_str(json).unwrap();
        assert_eq!(method.split_fused(), split, "{json}");
        let roles: Vec<Role> =
            [Role::Qkv, Role::O].into_iter().flat_map(|role| role.monitored(method.split_fused())).collect();
        let expected = if split { vec![Role::Q, Role::K, Role::V, Role::O] } else { vec![Role::Qkv, Role::O] };
        assert_eq!(roles, expected);
        let units: Vec<_> = roles.into_iter().map(|role| UnitId::language(0, role)).collect();
        assert_eq!(method.build(&units, 10).unwrap().frozen(), []);
    }
}

const FACTS: RunFacts = RunFacts { warmup_steps: 3, epoch_steps: 20, seed: 7 };

#[test]
fn the_run_fills_in_what_the_config_leaves_out() {
    let method: EarlyStopping = serde_json::from_str(r#"{"method": "grades", "auto": {"epoch_steps": 7}}"#).unwrap();
    let EarlyStopping::Grades(config) = method.for_run(&FACTS) else { panic!("still grades") };
    assert_eq!((config.auto.warmup_steps, config.auto.epoch_steps), (Some(3), Some(7)));
    // Warm-up and a window of ten measurements.
    assert_eq!(config.grace(120), 13);
    assert_eq!(Config { interval: 2, ..config }.grace(120), 23);
    let none = EarlyStopping::None(Default::default());
    assert_eq!(none.clone().for_run(&FACTS), none);
}
