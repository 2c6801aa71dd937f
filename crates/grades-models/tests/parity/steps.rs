//! Outputs, loss, every gradient and three AdamW steps of a model, in f32 and in bf16, against what a fixture says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use grades::{Role, Tower};
use grades_models::parameters::{Parameter, Parameters, Piece};
use grades_tensor::Gradients;

use crate::fixture::{
    Bf16Bounds, TOLERANCE, Values, assert_close, assert_within, gradient, reference_name, relative_error,
};

/// A model with its batch.
pub(crate) trait Trained {
    fn parameters(&self) -> &Parameters;

    fn parameters_mut(&mut self) -> &mut Parameters;

    /// What it computes before the loss, as far as it means anything.
    fn outputs(&self) -> Vec<f32>;

    /// The same in the reference, if the fixture has it.
    fn expected_outputs(&self, expected: &Values) -> Option<Vec<f64>>;

    /// The loss, and the gradients of what trains.
    fn pass(&self) -> (f32, Gradients);
}

/// AdamW as the fixtures' script runs it, in f64: betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
pub(crate) fn adamw(rate: f64, step: i32, weight: &mut [f32], gradient: &[f32], (m, v): &mut (Vec<f64>, Vec<f64>)) {
    for (((w, &g), m), v) in weight.iter_mut().zip(gradient).zip(m).zip(v) {
        let g = f64::from(g);
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        let (m, v) = (*m / (1.0 - 0.9f64.powi(step)), *v / (1.0 - 0.999f64.powi(step)));
        let decayed = f64::from(*w) * (1.0 - rate * 0.01);
        *w = (decayed - rate * m / (v.sqrt() + 1e-8)) as f32;
    }
}

fn l1(values: impl Iterator<Item = f64>) -> f32 {
    values.map(f64::abs).sum::<f64>() as f32
}

/// What freezing measures of one parameter at one step: the sums over its pieces are the reference's, and at the first step,
/// of which there are gradients, each piece's is.
fn check_l1(step: i32, parameter: &Parameter, gradients: &Gradients, before: Option<&[f32]>, expected: &Values) {
    let name = reference_name(expected, &parameter.name);
    // The change of a bias of the keys is as small as the rounding of its gradient.
    if expected.find(&format!("l1.{step}.{name}")).is_none() {
        assert!(parameter.shape.len() != 2 || !expects_all(expected), "no L1 of {name}");
        return;
    }
    let (mut whole, mut change) = (0.0, 0.0);
    for piece in parameter.pieces() {
        let (first, [rows, columns]) = parameter.extent(piece);
        let of_piece = first..first + rows * columns;
        let now = gradients.get(piece.slot()).unwrap().to_host();
        let before = |i: usize| before.map_or(0.0, |before| f64::from(before[of_piece.start + i]));
        let norm = l1(now.iter().map(|&g| f64::from(g)));
        whole += norm;
        change += l1(now.iter().enumerate().map(|(i, &g)| f64::from(g) - before(i)));
        if step == 1 {
            let reference = l1(expected.get(&format!("grad.{name}"))[of_piece].iter().copied());
            assert_close(&format!("L1 of {name}, {:?}", piece.place), &[norm], &[reference.into()]);
        }
    }
    assert_close(&format!("L1 of {name}"), &[whole], expected.get(&format!("l1.{step}.{name}")));
    let reference = expected.get(&format!("l1_change.{step}.{name}"));
    assert_close(&format!("L1 change of {name} at step {step}"), &[change], reference);
}

/// Whether a fixture has the measures of every matrix, and every weight after the steps.
fn expects_all(expected: &Values) -> bool {
    let of = |what: &str| expected.names().filter(|name| name.starts_with(what)).count();
    of("weight.3.") == of("grad.")
}

/// What the authors of the method measure of weights: how far they were moved, alone and with the bias that is theirs.
fn check_moves(step: i32, moves: &HashMap<String, f64>, expected: &Values) {
    for (name, moved) in moves {
        if let Some(reference) = expected.find(&format!("l1_weight.{step}.{name}")) {
            assert_close(&format!("L1 of the move of {name} at step {step}"), &[*moved as f32], reference);
        }
        let module = name.strip_suffix(".weight").unwrap_or(name);
        if let Some(reference) = expected.find(&format!("l1_module.{step}.{module}")) {
            // As below, of the bias of the keys.
            let keys = ["k_proj", "qkv_proj"].iter().any(|end| module.ends_with(end));
            let tolerance = if keys { 10.0 * TOLERANCE } else { TOLERANCE };
            let moved = moved + moves[&format!("{module}.bias")];
            assert_within(tolerance, &format!("L1 of the move of {module} at step {step}"), &[moved as f32], reference);
        }
    }
}

/// The learning rate of a parameter in a fixture.
fn rate(folder: &Path, name: &str) -> f64 {
    match name.split('.').next() {
        Some("vision_encoder") if folder.ends_with("nanovlm_split") => 2e-3,
        Some("decoder") if folder.ends_with("nanovlm_split") => 5e-3,
        _ => 1e-2,
    }
}

/// Everything in f32.
pub(crate) fn check_steps(folder: &Path, model: &mut impl Trained) {
    let expected = Values::expected(folder);
    if let Some(outputs) = model.expected_outputs(&expected) {
        assert_close("outputs", &model.outputs(), &outputs);
    }
    // Every gradient of the reference has its parameter here.
    let trained = model.parameters().iter().filter(|parameter| parameter.is_trainable());
    let trained: BTreeSet<String> = trained.map(|parameter| reference_name(&expected, &parameter.name)).collect();
    let known: BTreeSet<String> =
        expected.names().filter_map(|name| Some(name.strip_prefix("grad.")?.into())).collect();
    assert_eq!(trained, known);

    let zeros = |parameter: &Parameter| (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
    let mut state: Vec<_> = model.parameters().iter().map(zeros).collect();
    let mut before: HashMap<String, Vec<f32>> = HashMap::new();
    for step in 1..=3 {
        let (loss, gradients) = model.pass();
        let mut moves = HashMap::new();
        assert_close(&format!("loss of step {step}"), &[loss], expected.get(&format!("loss.{step}")));
        for (parameter, state) in model.parameters_mut().iter_mut().zip(&mut state) {
            let found = gradient(parameter, &gradients);
            assert_eq!(found.is_some(), !parameter.is_base(), "gradient of {}", parameter.name);
            let Some(found) = found else { continue };
            let name = reference_name(&expected, &parameter.name);
            check_l1(step, parameter, &gradients, before.get(&name).map(Vec::as_slice), &expected);
            if step == 1 {
                let reference = expected.get(&format!("grad.{name}"));
                let (found, reference) = visible(parameter, &found, reference, &expected);
                assert_close(&format!("gradient of {name}"), &found, &reference);
            }
            let mut weight = parameter.to_host().into_owned();
            let old = weight.clone();
            adamw(rate(folder, &name), step, &mut weight, &found, state);
            let moved =
                weight.iter().zip(&old).map(|(new, old)| (f64::from(*new) - f64::from(*old)).abs()).sum::<f64>();
            moves.insert(name.clone(), moved);
            let (device, shape) = (parameter.value.device(), parameter.value.shape());
            parameter.value = device.from_host(weight, shape);
            before.insert(name, found);
        }
        check_moves(step, &moves, &expected);
    }
    for parameter in model.parameters().iter().filter(|parameter| !parameter.is_base()) {
        let Some(reference) = expected.find(&format!("weight.3.{}", reference_name(&expected, &parameter.name))) else {
            assert!(!expects_all(&expected), "no {} after three steps", parameter.name);
            continue;
        };
        // Softmax hardly sees a bias of the keys: its gradient is what is left of large terms that cancel, and AdamW,
        // which divides by the gradient's size, makes that rounding visible.
        let tolerance = if parameter.name.ends_with("k_proj.bias") { 10.0 * TOLERANCE } else { TOLERANCE };
        let (found, reference) = visible(parameter, &parameter.to_host(), reference, &expected);
        assert_within(tolerance, &format!("{} after three steps", parameter.name), &found, &reference);
    }
}

/// A parameter without the bias of the keys of a tower that does not rotate: softmax does not see it at all, and where its rounding
/// leads AdamW means nothing.
fn visible(parameter: &Parameter, found: &[f32], of: &[f64], expected: &Values) -> (Vec<f32>, Vec<f64>) {
    let rotates = expected.find("image_grid_thw").is_some();
    let hidden = |piece: &&Piece| {
        let unit = piece.place.unit().filter(|unit| unit.tower == Tower::Vision && unit.role == Role::K);
        unit.is_some() && parameter.name.ends_with(".bias") && !rotates
    };
    let pieces = parameter.pieces().iter().filter(|piece| !hidden(piece)).map(|piece| parameter.extent(piece));
    let kept: Vec<_> = pieces.map(|(first, [rows, columns])| first..first + rows * columns).collect();
    let found = kept.iter().flat_map(|kept| &found[kept.clone()]).copied().collect();
    (found, kept.iter().flat_map(|kept| &of[kept.clone()]).copied().collect())
}

/// Outputs, loss and every gradient of a model whose products are of bf16 numbers.
pub(crate) fn check_in_bf16(folder: &Path, model: &impl Trained) {
    let Some(bounds) = Bf16Bounds::read(folder) else { return };
    let expected = Values::expected(folder);
    let reference = model.expected_outputs(&expected).unwrap();
    let (loss, gradients) = model.pass();
    // A bias is judged with its matrix, of whose unit it is: softmax hardly sees one of the keys, so that its gradient is what
    // is left of large terms that cancel.
    let mut modules: BTreeMap<String, (Vec<f32>, Vec<f64>)> = BTreeMap::new();
    for parameter in model.parameters().iter() {
        let Some(found) = gradient(parameter, &gradients) else {
            assert!(parameter.is_base(), "no gradient of {}", parameter.name);
            continue;
        };
        let name = parameter.name.replace(".bias", ".weight");
        let (all_found, all_expected) = modules.entry(name).or_default();
        all_found.extend_from_slice(&found);
        all_expected.extend_from_slice(expected.get(&format!("grad.{}", reference_name(&expected, &parameter.name))));
    }
    let together = modules.values().cloned().reduce(|all, one| ([all.0, one.0].concat(), [all.1, one.1].concat()));
    let (all_found, all_expected) = together.unwrap();
    let each = modules.iter().map(|(name, (found, expected))| (relative_error(found, expected), name));
    let (worst, name) = each.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
    let errors = [
        ("outputs".to_owned(), relative_error(&model.outputs(), &reference), bounds.logits),
        // One number, in which the errors of the tokens' logits cancel more or less, as luck has it: on these fixtures
        // autocast's is a tenth to a hundredth of that in its logits, and products of unrounded weights give a loss that is
        // off by up to four times as much.
        ("loss".to_owned(), relative_error(&[loss], expected.get("loss.1")), bounds.logits),
        ("all gradients".to_owned(), relative_error(&all_found, &all_expected), bounds.gradients),
        (format!("gradient of {name}"), worst, bounds.each_gradient),
    ];
    for (what, error, bound) in &errors {
        println!("  {what} in bf16: off by {error:.2e} of {bound:.2e}");
    }
    for (what, error, bound) in errors {
        assert!(error <= bound, "{what} in bf16 differs by {error:.2e}, and {bound:.2e} is allowed");
    }
}
