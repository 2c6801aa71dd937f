//! The gradients of every recorded operation against finite differences, through the tape as the models use it.

mod adapters;
mod experts;
mod layers;
mod losses;
mod projections;

use super::{ALL, relative_error, values};
use crate::device::DeviceRef;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// What an operation is differentiated in.
#[derive(Clone)]
struct Inputs {
    /// Values of the forward pass: shapes and numbers.
    vars: Vec<([usize; 2], Vec<f32>)>,
    /// Parameters, or parts of them that train apart; each has the slot of its index.
    parameters: Vec<([usize; 2], Vec<f32>)>,
}

impl Inputs {
    /// Random ones of these shapes.
    fn of(vars: &[[usize; 2]], parameters: &[[usize; 2]]) -> Self {
        let input =
            |first: u64| move |(index, shape): (u64, &[usize; 2])| (*shape, values(first + index, shape[0] * shape[1]));
        Self {
            vars: (0..).zip(vars).map(input(1)).collect(),
            parameters: (0..).zip(parameters).map(input(21)).collect(),
        }
    }

    fn numbers(&mut self, index: usize) -> &mut Vec<f32> {
        let vars = self.vars.len();
        if index < vars { &mut self.vars[index].1 } else { &mut self.parameters[index - vars].1 }
    }
}

/// An operation on a tape, of values and parameters.
trait Operation: Fn(&Tape, &[Var], &[Tensor]) -> Var {}

impl<F: Fn(&Tape, &[Var], &[Tensor]) -> Var> Operation for F {}

fn run(device: DeviceRef, tape: &Tape, inputs: &Inputs, operation: &impl Operation) -> (Vec<Var>, Var) {
    let tensor = |(shape, values): &([usize; 2], Vec<f32>)| device.from_host(values.clone(), *shape);
    let vars: Vec<Var> = inputs.vars.iter().map(|input| tape.input(tensor(input))).collect();
    let parameters: Vec<Tensor> = inputs.parameters.iter().map(tensor).collect();
    let y = operation(tape, &vars, &parameters);
    (vars, y)
}

/// The gradients of the sum of the output's elements, each times a factor of its own, in every input.
fn check(what: &str, inputs: &Inputs, operation: impl Operation) {
    check_from(what, inputs, true, operation);
}

/// The gradients of a loss, from which the backward pass begins by itself.
fn check_loss(what: &str, inputs: &Inputs, operation: impl Operation) {
    check_from(what, inputs, false, operation);
}

fn check_from(what: &str, inputs: &Inputs, seeded: bool, operation: impl Operation) {
    for device in ALL {
        let what = format!("{what} on the device {}", device.name());
        let factors = |y: &Tensor| if seeded { values(77, y.len()) } else { vec![1.0; y.len()] };
        let vars = inputs.vars.len();
        let mut found = vec![Vec::new(); vars + inputs.parameters.len()];
        // A backward pass gives the gradient in one value.
        for wanted in 0..vars.max(1) {
            let tape = Tape::recording();
            let (of_inputs, y) = run(device, &tape, inputs, &operation);
            assert!(y.is_tracked(), "{what}: nothing is recorded");
            let dy = device.from_host(factors(&y.value), y.value.shape());
            let mut gradients = Gradients::new(inputs.parameters.len());
            let of_var = tape.backward(Some((&y, dy)).filter(|_| seeded), of_inputs.get(wanted), &mut gradients);
            if vars > 0 {
                let of_var = of_var.unwrap_or_else(|| panic!("{what}: no gradient in value {wanted}"));
                assert_eq!(of_var.shape(), inputs.vars[wanted].0, "{what}: shape of the gradient in value {wanted}");
                found[wanted] = of_var.to_host().into_owned();
            }
            for (slot, (shape, _)) in inputs.parameters.iter().enumerate() {
                let gradient = gradients.get(slot).unwrap_or_else(|| panic!("{what}: no gradient in slot {slot}"));
                assert_eq!(gradient.shape(), *shape, "{what}: shape of the gradient in slot {slot}");
                let gradient = gradient.to_host().into_owned();
                assert!(
                    wanted == 0 || gradient == found[vars + slot],
                    "{what}: slot {slot} depends on what is asked for"
                );
                found[vars + slot] = gradient;
            }
        }
        for (index, found) in found.iter().enumerate() {
            let expected = slopes(inputs, index, |moved| {
                let y = run(device, &Tape::off(), moved, &operation).1.value;
                let (values, factors) = (y.to_host(), factors(&y));
                values.iter().zip(factors).map(|(value, factor)| f64::from(*value) * f64::from(factor)).sum()
            });
            let error = relative_error(found, &expected);
            assert!(error < 1e-3, "{what}: the gradient of input {index} differs by {error:.2e}");
        }
    }
}

/// The slopes of `value` in each number of one input, by central differences.
fn slopes(inputs: &Inputs, index: usize, value: impl Fn(&Inputs) -> f64) -> Vec<f32> {
    const STEP: f32 = 1e-2;
    let mut moved = inputs.clone();
    let count = moved.numbers(index).len();
    let slope = |element: usize| {
        let start = moved.numbers(index)[element];
        let [above, below] = [STEP, -STEP].map(|step| {
            moved.numbers(index)[element] = start + step;
            value(&moved)
        });
        moved.numbers(index)[element] = start;
        ((above - below) / (2.0 * f64::from(STEP))) as f32
    };
    (0..count).map(slope).collect()
}
