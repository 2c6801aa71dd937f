//! The gradients and signals that PyTorch recorded on tiny llama models (`fixtures/README.md`).

use std::fs;
use std::path::PathBuf;

use grades::{Config, Measurement, Monitor, Norm, Role, Signal, UnitId};
use safetensors::SafeTensors;

const LAYERS: usize = 2;
const ROLES: [(Role, &str); 7] = [
    (Role::Q, "self_attn.q_proj"),
    (Role::K, "self_attn.k_proj"),
    (Role::V, "self_attn.v_proj"),
    (Role::O, "self_attn.o_proj"),
    (Role::Gate, "mlp.gate_proj"),
    (Role::Up, "mlp.up_proj"),
    (Role::Down, "mlp.down_proj"),
];

fn read(family: &str) -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(family).join("expected.safetensors");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<f32>, Vec<usize>) {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (values, tensor.shape().to_vec())
}

fn scalar(file: &SafeTensors<'_>, name: &str) -> f64 {
    f64::from(floats(file, name).0[0])
}

/// Every unit of the fixture with its parameter's name.
fn units() -> Vec<(UnitId, String)> {
    let unit = |layer, (role, name): (Role, &str)| {
        (UnitId::language(layer, role), format!("model.layers.{layer}.{name}.weight"))
    };
    (0..LAYERS).flat_map(|layer| ROLES.map(|role| unit(layer, role))).collect()
}

#[test]
fn the_first_step_equals_the_recorded_one() {
    for family in ["llama", "llama3"] {
        let bytes = read(family);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (unit, name) in units() {
            let (gradient, shape) = floats(&file, &format!("grad.{name}"));
            let shape = [shape[0], shape[1]];
            let l1 = scalar(&file, &format!("l1.1.{name}"));
            let change = scalar(&file, &format!("l1_change.1.{name}"));
            // Recorded as sums in single precision.
            let close = |value: f64, recorded: f64| (value - recorded).abs() <= 1e-6 * recorded;
            let measured = Measurement::of_gradient(Norm::L1, shape, &gradient, None).unwrap();
            assert!(close(measured.gradient.unwrap(), l1), "{family} {unit}: {measured:?}, recorded {l1}");

            // Both ways to the change of step 1: the monitor's ∇W_0 := 0, and a caller's buffer of zeros.
            let zeros = vec![0.0; gradient.len()];
            let explicit = Measurement::of_gradient(Norm::L1, shape, &gradient, Some(&zeros)).unwrap();
            for measurement in [measured, explicit] {
                let mut monitor = Monitor::new(Config::paper(1e-9), &[unit], 3).unwrap();
                let signals = monitor.observe(1, &[(unit, vec![measurement])]).signals;
                assert!(close(signals[0].1, change), "{family} {unit}: {signals:?}, recorded {change}");
            }
        }
    }
}

#[test]
fn the_recorded_series_freezes_what_falls_below_tau() {
    for family in ["llama", "llama3"] {
        let bytes = read(family);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let recorded = |step: usize, name: &str| scalar(&file, &format!("l1_change.{step}.{name}"));
        // A threshold at the median of the last step: half the units or fewer stay above it.
        let mut last: Vec<_> = units().iter().map(|(_, name)| recorded(3, name)).collect();
        last.sort_by(f64::total_cmp);
        let tau = last[last.len() / 2];

        let ids: Vec<_> = units().iter().map(|(unit, _)| *unit).collect();
        let mut monitor = Monitor::new(Config { alpha: Some(1.0 / 3.0), ..Config::paper(tau) }, &ids, 3).unwrap();
        for step in 1..=3 {
            let measured: Vec<_> = units()
                .iter()
                .map(|(unit, name)| (*unit, vec![Measurement::of_signal(Signal::GradientChange, recorded(step, name))]))
                .collect();
            monitor.observe(step, &measured);
        }
        for (unit, name) in units() {
            // Grace is one step: what is below τ at step 2 freezes there, else at step 3, else never.
            let by_hand = (2..=3).find(|step| recorded(*step, &name) < tau);
            assert_eq!(monitor.frozen_at(unit), by_hand, "{family} {unit}");
        }
        let frozen = monitor.frozen().len();
        assert!(frozen >= ids.len() / 2 && frozen < ids.len(), "{family}: {frozen}");
    }
}

#[test]
fn the_llama_series_by_hand() {
    // Recorded at steps 2 and 3, layer 1: q 10.68, 5.80; k 7.92, 3.68; v 15.31, 8.41; o 21.58, 13.01; gate 16.03, 9.01;
    // up 15.08, 8.40; down 13.40, 8.11. Layer 0 stays above 13. With one step of grace and τ = 8.3:
    let bytes = read("llama");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<_> = units().iter().map(|(unit, _)| *unit).collect();
    let mut monitor = Monitor::new(Config { alpha: Some(0.1), ..Config::paper(8.3) }, &ids, 3).unwrap();
    let frozen: Vec<Vec<String>> = (1..=3)
        .map(|step| {
            let signal = |name| scalar(&file, &format!("l1_change.{step}.{name}"));
            let measure = |name| vec![Measurement::of_signal(Signal::GradientChange, signal(name))];
            let measured: Vec<_> = units().iter().map(|(unit, name)| (*unit, measure(name))).collect();
            monitor.observe(step, &measured).freeze.iter().map(UnitId::to_string).collect()
        })
        .collect();
    assert_eq!(frozen, [vec![], vec!["language.1.k"], vec!["language.1.q", "language.1.down"]]);
}
