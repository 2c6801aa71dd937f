//! What an optimizer remembers of one piece, and the step that it takes with it.

use grades_models::parameters::{Parameter, Piece};
use grades_tensor::{AdamW, Blockwise, Dtype, Lion, Muon, Sgd, Tensor, Update, state_scales};

use super::rule::{Adam, Rule};

/// The learning rates of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Its own.
    pub learning_rate: f64,
    /// That of the update before, if its gain is wanted: −⟨gradient, last change of the weights⟩, how far the change has
    /// lowered the loss of this batch, to first order.
    pub gain_of: Option<f64>,
}

impl Rates {
    /// Both times a factor.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let Self { learning_rate, gain_of } = self;
        Self { learning_rate: learning_rate * factor, gain_of: gain_of.map(|rate| rate * factor) }
    }
}

/// What the optimizer remembers of one piece.
#[derive(Clone, Debug)]
pub struct State {
    /// The rule that the piece goes by.
    rule: Rule,
    /// The number of updates that the piece has had.
    steps: u64,
    /// What the rule remembers, in a fixed order: of AdamW the first and the second moment, in 8 bits each as codes and
    /// scales; of the others the momentum, which SGD need not have.
    buffers: Vec<Tensor>,
}

impl State {
    /// Before the first update of a piece.
    #[must_use]
    pub fn fresh(rule: Rule, parameter: &Parameter, piece: &Piece) -> Self {
        let rule = rule.of_piece(parameter, piece);
        let shape @ [rows, columns] = parameter.extent(piece).1;
        let zeros = |shape, dtype| parameter.value.device().zeros(shape, dtype);
        let (codes, scales) = ((shape, Dtype::U8), ([1, state_scales(rows * columns)], Dtype::F32));
        let like = (shape, Dtype::F32);
        let buffers = match rule {
            Rule::AdamW(_) => vec![like, like],
            Rule::AdamW8bit(_) => vec![codes, scales, codes, scales],
            Rule::Sgd { momentum: 0.0 } => Vec::new(),
            Rule::Lion { .. } | Rule::Muon { .. } | Rule::Sgd { .. } => vec![like],
        };
        Self { rule, steps: 0, buffers: buffers.into_iter().map(|(shape, dtype)| zeros(shape, dtype)).collect() }
    }

    /// The number of updates that the piece has had.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of updates: of a state that is put back.
    pub fn set_steps(&mut self, count: u64) {
        self.steps = count;
    }

    /// Its tensors, in a fixed order.
    pub fn buffers(&self) -> impl Iterator<Item = &Tensor> {
        self.buffers.iter()
    }

    /// Its tensors, in a fixed order, to be changed.
    pub fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.buffers.iter_mut()
    }

    /// Those of its tensors that have an element for each of the piece, to be changed; a 0 in them stands for 0.
    pub(super) fn elements_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let every = if matches!(self.rule, Rule::AdamW8bit(_)) { 2 } else { 1 };
        self.buffers.iter_mut().step_by(every)
    }

    /// Returns the gain of the update before, where it is asked for and known.
    pub(super) fn update(&mut self, update: Update<'_>, rates: Rates, weight_decay: f64) -> Option<f64> {
        let Rates { learning_rate, gain_of } = rates;
        let device = update.gradient.device();
        self.steps += 1;
        let step = self.steps;
        let adamw = |Adam { beta1, beta2, epsilon }| AdamW {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            step,
            gain_of,
        };
        match (self.rule, self.buffers.as_mut_slice()) {
            (Rule::AdamW(adam), [first, second]) => {
                let gain = device.adamw(update, [first, second], &adamw(adam));
                return gain_of.filter(|_| step > 1).map(|_| gain);
            }
            (Rule::AdamW8bit(adam), [first, first_scales, second, second_scales]) => {
                let moments = [(first, first_scales), (second, second_scales)];
                let moments = moments.map(|(codes, scales)| Blockwise { codes, scales });
                device.adamw_8bit(update, moments, &adamw(adam));
            }
            (Rule::Lion { beta1, beta2 }, [momentum]) => {
                device.lion(update, momentum, &Lion { learning_rate, beta1, beta2, weight_decay });
            }
            (Rule::Muon { momentum: decay, nesterov, ns_steps, adjust_lr_fn, .. }, [momentum]) => {
                let adjust = adjust_lr_fn.into();
                let options = Muon { learning_rate, momentum: decay, nesterov, ns_steps, adjust, weight_decay };
                device.muon(update, momentum, &options);
            }
            (Rule::Sgd { momentum }, velocity) => {
                let options = Sgd { learning_rate, momentum, nesterov: false, weight_decay, first: step == 1 };
                device.sgd(update, velocity.first_mut(), &options);
            }
            // `fresh` makes the tensors of the rule.
            _ => {}
        }
        None
    }
}
