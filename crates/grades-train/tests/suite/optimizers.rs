//! Three steps of each optimizer against its reference implementation, and runs with it.

use std::fs;

use grades_models::parameters::{Parameter, Parameters, Place};
use grades_models::weights::Checkpoint;
use grades_tensor::{DEVICES, DeviceRef, Gradients, StateMap};
use grades_train::train::optimizer::Optimizer;
use grades_train::train::optimizer_state::Rates;
use grades_train::train::rule::{Adam, AdjustLrFn, MIN_8BIT, Rule};

use crate::resuming::after;
use crate::runs::{Run, Workspace, relative_error};
use crate::tiny_checkpoint::fixture;

const RATE: f64 = 0.05;
const DECAY: f64 = 0.1;
const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };

/// `fixtures/optimizers`, which `make_optimizers.py` wrote.
struct Expected(Checkpoint);

impl Expected {
    fn open() -> Self {
        Self(Checkpoint::open(fixture("optimizers").join("expected.safetensors")).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.0.load_f32(name).unwrap()
    }

    /// The parameter of a case after its three steps by a rule, and the buffers of the optimizer's state.
    fn run(&self, case: &str, rule: Rule, device: DeviceRef) -> (Vec<f32>, Vec<Vec<f32>>) {
        let name = format!("{case}.parameter");
        let shape = self.0.info(&name).unwrap().shape.clone();
        let size = [shape[0], shape[1]];
        let unit = grades::UnitId::language(0, grades::Role::Q);
        let mut parameters = Parameters::default();
        let value = device.from_host(self.get(&name), size);
        parameters.push(Parameter::new("q", &shape, value, &[(size[0], Place::Unit(unit))]));
        parameters.train();
        let mut optimizer = Optimizer::new(rule, DECAY, 1);
        for step in 0..3 {
            let mut gradients = Gradients::new(1);
            gradients.add(0, device.from_host(self.get(&format!("{case}.gradient.{step}")), size));
            let rates = Rates { learning_rate: RATE, gain_of: None };
            optimizer.update(&mut parameters, &gradients, |_| rates, 1.0);
        }
        let state = optimizer.states()[0].as_ref().unwrap();
        (parameters[0].to_host().into_owned(), state.buffers().map(|buffer| buffer.to_host().into_owned()).collect())
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let error = relative_error(found, expected);
    assert!(error < 2e-6, "{what}: {error:.1e}");
}

#[test]
fn codes_of_8_bits_stand_for_what_bitsandbytes_says() {
    let expected = Expected::open();
    let sorted = |map: &StateMap| {
        let mut values: Vec<f32> = (0..=u8::MAX).map(|code| map.value(code)).collect();
        values.sort_by(f32::total_cmp);
        values
    };
    assert_eq!(sorted(StateMap::signed()), expected.get("map.dynamic"));
    assert_eq!(sorted(StateMap::unsigned()), expected.get("map.udynamic"));
}

#[test]
fn adamw_8bit_is_that_of_bitsandbytes() {
    let expected = Expected::open();
    for (name, device) in DEVICES {
        let (parameter, state) = expected.run("adamw_8bit", Rule::AdamW8bit(ADAM), *device);
        assert_near(&parameter, &expected.get("adamw_8bit.expected"), name);
        for (k, map) in [StateMap::signed(), StateMap::unsigned()].into_iter().enumerate() {
            let codes: Vec<u8> = state[2 * k].iter().map(|code| *code as u8).collect();
            let mut values = vec![0.0; codes.len()];
            map.decode(&codes, &state[2 * k + 1], &mut values);
            assert_near(&values, &expected.get(&format!("adamw_8bit.moment.{}", k + 1)), name);
        }
        // Rounded moments are not those of AdamW.
        let plain = expected.run("adamw_8bit", Rule::AdamW(ADAM), *device).0;
        assert!(relative_error(&plain, &parameter) > 1e-4);
    }
}

#[test]
fn lion_is_that_of_bitsandbytes() {
    let expected = Expected::open();
    for (name, device) in DEVICES {
        let (parameter, state) = expected.run("lion", Rule::Lion { beta1: 0.9, beta2: 0.99 }, *device);
        assert_near(&parameter, &expected.get("lion.expected"), name);
        assert_near(&state[0], &expected.get("lion.momentum"), name);
    }
}

#[test]
fn muon_is_that_of_pytorch() {
    let expected = Expected::open();
    for (name, device) in DEVICES {
        for (adjust, adjust_lr_fn) in [
            ("original", AdjustLrFn::Original),
            ("match_rms_adamw", AdjustLrFn::MatchRmsAdamW),
            ("spectral_unclamped", AdjustLrFn::SpectralUnclamped),
        ] {
            for shape in ["wide", "tall", "square"] {
                let nesterov = shape != "square";
                let rule = Rule::Muon { momentum: 0.95, nesterov, ns_steps: 5, adjust_lr_fn, adam: ADAM };
                let case = format!("muon.{shape}.{adjust}");
                let (parameter, state) = expected.run(&case, rule, *device);
                assert_near(&parameter, &expected.get(&format!("{case}.expected")), &format!("{case} on {name}"));
                assert_near(&state[0], &expected.get(&format!("{case}.momentum")), &case);
            }
        }
    }
}

#[test]
fn muon_leaves_to_adamw_what_is_no_matrix_of_a_layer() {
    let adjust_lr_fn = AdjustLrFn::Original;
    let muon = Rule::Muon { momentum: 0.95, nesterov: true, ns_steps: 5, adjust_lr_fn, adam: ADAM };
    let unit = Place::Unit(grades::UnitId::language(0, grades::Role::Q));
    let embedding = Place::Tied(grades::Companion::Embedding { tower: grades::Tower::Language });
    let device = DEVICES[0].1;
    for (shape, place, expected) in [
        (&[2, 3][..], unit, muon),
        (&[3][..], unit, Rule::AdamW(ADAM)),
        (&[2, 3][..], embedding, Rule::AdamW(ADAM)),
        (&[2, 3][..], Place::Always, Rule::AdamW(ADAM)),
    ] {
        let (rows, columns) = if shape.len() == 2 { (2, 3) } else { (1, 3) };
        let value = device.from_host(vec![0.0; rows * columns], [rows, columns]);
        let parameter = Parameter::new("x", shape, value, &[(shape[0], place)]);
        assert_eq!(muon.of_piece(&parameter, &parameter.pieces()[0]), expected);
    }
}

/// What the optimizer of a run takes, in bytes: the tiny model has no tensor of 4,096 elements.
#[test]
fn states_take_the_memory_that_they_should() {
    let workspace = Workspace::new();
    let bytes = |optimizer: &str| {
        let run = workspace.train(optimizer, &[&format!("optimizer={optimizer}"), "max_steps=2"]);
        run.metric("/optimizer_bytes")[1] as usize
    };
    let all = crate::runs::ALL;
    assert_eq!([bytes("adamw"), bytes("lion"), bytes("adamw_8bit")], [8 * all, 4 * all, 8 * all]);
    // Muon keeps one number of each element of a matrix.
    assert_eq!(bytes("muon"), 8 * all - 4 * 2 * crate::runs::LAYER);

    // Of 17 blocks: two codes an element, two scales a block.
    let mut parameters = Parameters::default();
    let (device, len) = (DEVICES[0].1, MIN_8BIT + 4);
    parameters.push(Parameter::new("x", &[1, len], device.from_host(vec![1.0; len], [1, len]), &[(1, Place::Always)]));
    parameters.train();
    let mut optimizer = Optimizer::new(Rule::AdamW8bit(ADAM), 0.0, 1);
    optimizer.prepare(&parameters);
    assert_eq!(optimizer.bytes(), 2 * len as u64 + 2 * 17 * 4);
    optimizer.mask(0, &vec![false; len]);
    optimizer.release(0);
    assert_eq!(optimizer.bytes(), 0);
}

fn model(run: &Run) -> Vec<u8> {
    fs::read(run.summary.model_dir.join("model.safetensors")).unwrap()
}

#[test]
fn each_optimizer_learns_and_resumes_to_the_bit() {
    for (optimizer, rate) in [("adamw_8bit", "0.01"), ("lion", "0.001"), ("muon", "0.01"), ("sgd", "0.1")] {
        let workspace = Workspace::new();
        let (optimizer, rate) = (format!("optimizer={optimizer}"), format!("learning_rate={rate}"));
        let freezes = [
            "early_stopping={method: lisa, active_layers: 1, interval_steps: 3}",
            "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}, patience: 2}",
        ];
        for method in ["early_stopping=none", freezes[0], freezes[1]] {
            let options = [&optimizer, &rate, "weight_decay=0.01", method, "save_steps=5", "max_steps=12"];
            let whole = workspace.train(&format!("whole-{}", method.len()), &options);
            let losses = whole.metric("/loss");
            assert!(losses[11] < losses[0], "{optimizer}: {losses:?}");
            for step in [5, 10] {
                let checkpoint = whole.path.join(format!("checkpoints/step-{step:06}"));
                let resume = format!("resume_from_checkpoint={}", checkpoint.display());
                let name = format!("resumed-{}-{step}", method.len());
                let resumed = workspace.train(&name, &[&options[..], &[&resume]].concat());
                assert_eq!(model(&resumed), model(&whole), "{optimizer}, {method}, {step}");
                assert_eq!(
                    after(resumed.metrics(), step),
                    after(whole.metrics(), step),
                    "{optimizer}, {method}, {step}"
                );
                assert_eq!(
                    after(resumed.signals(), step),
                    after(whole.signals(), step),
                    "{optimizer}, {method}, {step}"
                );
                assert_eq!(after(resumed.events(), step), after(whole.events(), step), "{optimizer}, {method}, {step}");
            }
        }
    }
}

/// Codes and scales survive a checkpoint; the tiny model's tensors are too small for them.
#[test]
fn states_in_8_bits_resume_to_the_bit() {
    let workspace = Workspace::new();
    let options = ["init=random", "optimizer=adamw_8bit", "max_steps=6", "save_steps=3"];
    let folder = workspace.path("model");
    let config: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut wide = config;
    (wide["hidden_size"], wide["intermediate_size"]) = (64.into(), 128.into());
    wide.as_object_mut().unwrap().remove("head_dim");
    fs::write(workspace.path("wide.json"), wide.to_string()).unwrap();
    let model_of =
        format!("model={{config: {}, tokenizer: {}}}", workspace.path("wide.json").display(), folder.display());
    let options = [&options[..], &[&model_of]].concat();
    let whole = workspace.train("whole", &options);
    let plain = workspace.train("plain", &[&options[..], &["optimizer=adamw"]].concat());
    let bytes = |run: &Run| run.metric("/optimizer_bytes")[1];
    assert!(bytes(&whole) < 0.5 * bytes(&plain), "{} of {}", bytes(&whole), bytes(&plain));
    let resume = format!("resume_from_checkpoint={}", whole.path.join("checkpoints/step-000003").display());
    let resumed = workspace.train("resumed", &[&options[..], &[&resume]].concat());
    assert_eq!(model(&resumed), model(&whole));
    assert_ne!(model(&plain), model(&whole));
}
