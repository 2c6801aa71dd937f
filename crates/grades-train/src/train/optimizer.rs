//! AdamW and SGD with a state of their own for each parameter, so that freezing a parameter gives its state back.

use grades_kernels::optimizer::{self as kernel, AdamWState, Measure, Update};
use grades_models::parameters::Parameter;
use grades_models::{Error, host};
use serde::{Deserialize, Serialize};

/// The rule of the update, with PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// Decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
    },
    /// As `torch.optim.SGD`.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
    },
}

/// What the optimizer remembers of one parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The number of updates that the parameter has had.
    pub steps: u64,
    /// AdamW's moments, or SGD's velocity; each as long as the parameter.
    pub buffers: Vec<Vec<f32>>,
}

/// An optimizer over a model's parameter table.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    /// What the learning rate of an adapter's B is multiplied by (LoRA+, Hayou et al. 2024).
    loraplus_lr_ratio: f64,
    states: Vec<Option<State>>,
}

impl Optimizer {
    /// An optimizer for a table of `parameters` entries; states come into being with the first update.
    #[must_use]
    pub fn new(rule: Rule, weight_decay: f64, parameters: usize) -> Self {
        Self { rule, weight_decay, loraplus_lr_ratio: 1.0, states: vec![None; parameters] }
    }

    /// With the learning rate of every adapter's B multiplied by `ratio`.
    #[must_use]
    pub fn with_loraplus_lr_ratio(self, ratio: f64) -> Self {
        Self { loraplus_lr_ratio: ratio, ..self }
    }

    /// Updates parameter `index` of the table by `gradient · scale`. Vectors (norms and biases) do not decay, as in
    /// transformers' `Trainer`.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn update(
        &mut self,
        index: usize,
        parameter: &mut Parameter,
        gradient: &[f32],
        learning_rate: f64,
        scale: f32,
    ) -> Result<(), Error> {
        let weight_decay = if parameter.shape.len() > 1 { self.weight_decay } else { 0.0 };
        let learning_rate = learning_rate * if parameter.is_lora_b() { self.loraplus_lr_ratio } else { 1.0 };
        let buffers = match self.rule {
            Rule::AdamW { .. } => 2,
            Rule::Sgd { momentum: 0.0 } => 0,
            Rule::Sgd { .. } => 1,
        };
        let fresh = || State { steps: 0, buffers: vec![vec![0.0; gradient.len()]; buffers] };
        let state = self.states[index].get_or_insert_with(fresh);
        state.steps += 1;
        let rule = self.rule;
        let name = parameter.name.clone();
        host::update(&name, &mut parameter.value, |values| {
            let update = Update { parameter: values, gradient, gradient_scale: scale, measure: Measure::Off };
            match (rule, state.buffers.as_mut_slice()) {
                (Rule::AdamW { beta1, beta2, epsilon }, [first_moment, second_moment]) => {
                    let options =
                        kernel::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: state.steps };
                    kernel::adamw(&options, update, AdamWState { first_moment, second_moment });
                }
                (Rule::Sgd { momentum }, velocity) => {
                    let first = state.steps == 1;
                    let options = kernel::Sgd { learning_rate, momentum, nesterov: false, weight_decay, first };
                    kernel::sgd(&options, update, velocity.first_mut().map(Vec::as_mut_slice));
                }
                _ => {}
            }
        })
    }

    /// Forgets parameter `index`: its memory is free, and if it trains again it starts afresh.
    pub fn release(&mut self, index: usize) {
        self.states[index] = None;
    }

    /// Hands the state of parameter `from` to parameter `to`, which may be one more than there were.
    pub fn hand_over(&mut self, from: usize, to: usize) {
        let state = self.states[from].take();
        self.states.resize(self.states.len().max(to + 1), None);
        self.states[to] = state;
    }

    /// Sets what parameter `index` remembers of the elements that are not kept to zero, so that nothing moves them.
    pub fn mask(&mut self, index: usize, keep: &[bool]) {
        for buffer in self.states[index].iter_mut().flat_map(|state| &mut state.buffers) {
            buffer.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(value, _)| *value = 0.0);
        }
    }

    /// The states, by the index of their parameter.
    #[must_use]
    pub fn states(&self) -> &[Option<State>] {
        &self.states
    }

    /// Puts a saved state back.
    pub fn restore(&mut self, index: usize, state: State) {
        self.states[index] = Some(state);
    }

    /// Bytes of all states.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let values: usize = self.states.iter().flatten().flat_map(|state| &state.buffers).map(Vec::len).sum();
        (values * size_of::<f32>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use grades_models::parameters::Place;

    use super::*;

    fn parameter(name: &str) -> Parameter {
        let value = Tensor::from_data([[1.0, -2.0]], &Device::default());
        Parameter { name: name.into(), shape: vec![1, 2], place: Place::Always, value, packed: None }
    }

    fn updated(rule: Rule, name: &str) -> Vec<f32> {
        let mut parameter = parameter(name);
        let mut optimizer = Optimizer::new(rule, 0.5, 1).with_loraplus_lr_ratio(16.0);
        optimizer.update(0, &mut parameter, &[0.5, 0.25], 0.01, 1.0).unwrap();
        host::read(name, &parameter.value, <[f32]>::to_vec).unwrap()
    }

    fn assert_close(found: &[f32], expected: [f32; 2]) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?}, {expected:?}");
    }

    #[test]
    fn loraplus_raises_the_rate_of_b_alone() {
        // Decay 0.5: the gradient becomes (0.5 + 0.5, 0.25 − 1). The rate is 0.01, and 0.16 for B.
        let sgd = Rule::Sgd { momentum: 0.0 };
        assert_close(&updated(sgd, "x.q_proj.lora_A.weight"), [1.0 - 0.01, -2.0 + 0.0075]);
        assert_close(&updated(sgd, "x.q_proj.lora_B.weight"), [1.0 - 0.16, -2.0 + 0.12]);
        // AdamW's first step is the rate along the sign, after decay by rate · 0.5.
        let adamw = Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 0.0 };
        assert_close(&updated(adamw, "x.q_proj.lora_A.weight"), [0.995 - 0.01, -1.99 - 0.01]);
        assert_close(&updated(adamw, "x.q_proj.lora_B.weight"), [0.92 - 0.16, -1.84 - 0.16]);
    }

    #[test]
    fn a_state_is_handed_over_and_masked() {
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, 0.0, 2);
        optimizer.update(0, &mut parameter("a"), &[0.5, 0.25], 0.01, 1.0).unwrap();
        optimizer.mask(0, &[false, true]);
        optimizer.mask(1, &[false, true]);
        optimizer.hand_over(0, 2);
        let state = State { steps: 1, buffers: vec![vec![0.0, 0.25]] };
        assert_eq!(optimizer.states(), [None, None, Some(state)]);
    }
}
