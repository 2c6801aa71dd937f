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
    states: Vec<Option<State>>,
}

impl Optimizer {
    /// An optimizer for a table of `parameters` entries; states come into being with the first update.
    #[must_use]
    pub fn new(rule: Rule, weight_decay: f64, parameters: usize) -> Self {
        Self { rule, weight_decay, states: vec![None; parameters] }
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
