//! AdamW and SGD with a state of their own for each piece of a parameter, so that freezing it gives its state back.

use grades::RatePart;
use grades_models::parameters::{Parameters, Place};
use grades_tensor::{AdamW, DeviceRef, Dtype, Gradients, Sgd, Tensor, Update};
use serde::{Deserialize, Serialize};

/// The rule of the update, with PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "lowercase")]
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

impl std::fmt::Display for Rule {
    /// As the config would say it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AdamW { beta1, beta2, epsilon } => {
                write!(f, "optimizer: adamw (adam_beta1 {beta1}, adam_beta2 {beta2}, adam_epsilon {epsilon:e})")
            }
            Self::Sgd { momentum } => write!(f, "optimizer: sgd (momentum {momentum})"),
        }
    }
}

/// What the optimizer remembers of one piece.
#[derive(Clone, Debug)]
pub enum State {
    /// Of AdamW.
    AdamW {
        /// Decay of the first moment, of the second, and what is added to the root of the second.
        constants: [f64; 3],
        /// The number of updates that the piece has had.
        steps: u64,
        /// The first and the second moment, each of the gradient's shape.
        moments: [Tensor; 2],
    },
    /// Of SGD.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
        /// The number of updates that the piece has had.
        steps: u64,
        /// Of the gradient's shape; none without momentum.
        velocity: Option<Tensor>,
    },
}

impl State {
    /// Before the first update of a piece whose gradient has this shape.
    #[must_use]
    pub fn fresh(rule: Rule, device: DeviceRef, shape: [usize; 2]) -> Self {
        let zeros = || device.zeros(shape, Dtype::F32);
        match rule {
            Rule::AdamW { beta1, beta2, epsilon } => {
                Self::AdamW { constants: [beta1, beta2, epsilon], steps: 0, moments: [zeros(), zeros()] }
            }
            Rule::Sgd { momentum } => Self::Sgd { momentum, steps: 0, velocity: (momentum != 0.0).then(zeros) },
        }
    }

    /// The number of updates that the piece has had.
    #[must_use]
    pub fn steps(&self) -> u64 {
        match self {
            Self::AdamW { steps, .. } | Self::Sgd { steps, .. } => *steps,
        }
    }

    /// Sets the number of updates: of a state that is put back.
    pub fn set_steps(&mut self, count: u64) {
        match self {
            Self::AdamW { steps, .. } | Self::Sgd { steps, .. } => *steps = count,
        }
    }

    /// Its tensors, in a fixed order.
    pub fn buffers(&self) -> impl Iterator<Item = &Tensor> {
        match self {
            Self::AdamW { moments, .. } => moments.iter(),
            Self::Sgd { velocity, .. } => velocity.as_slice().iter(),
        }
    }

    /// Its tensors, in a fixed order, to be changed.
    pub fn buffers_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        match self {
            Self::AdamW { moments, .. } => moments.iter_mut(),
            Self::Sgd { velocity, .. } => velocity.as_mut_slice().iter_mut(),
        }
    }

    /// Returns the gain of the update before, where it is asked for and known.
    fn update(&mut self, update: Update<'_>, rates: Rates, weight_decay: f64) -> Option<f64> {
        let Rates { learning_rate, gain_of } = rates;
        let device = update.gradient.device();
        match self {
            Self::AdamW { constants: [beta1, beta2, epsilon], steps, moments } => {
                *steps += 1;
                let (beta1, beta2, epsilon) = (*beta1, *beta2, *epsilon);
                let options = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: *steps, gain_of };
                let gain = device.adamw(update, moments.each_mut(), &options);
                gain_of.filter(|_| *steps > 1).map(|_| gain)
            }
            Self::Sgd { momentum, steps, velocity } => {
                *steps += 1;
                let (momentum, first) = (*momentum, *steps == 1);
                let options = Sgd { learning_rate, momentum, nesterov: false, weight_decay, first };
                device.sgd(update, velocity.as_mut(), &options);
                None
            }
        }
    }
}

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
    fn times(self, factor: f64) -> Self {
        let Self { learning_rate, gain_of } = self;
        Self { learning_rate: learning_rate * factor, gain_of: gain_of.map(|rate| rate * factor) }
    }
}

/// The part of a model whose learning rate a piece has.
fn rate_part(place: Place) -> RatePart {
    match place.height() {
        Some((tower, _)) if matches!(place, Place::Tied(_)) => RatePart::TiedEmbedding { tower },
        None => RatePart::Rest,
        Some((tower, 0)) => RatePart::Embedding { tower },
        Some((tower, height)) => RatePart::Layer { tower, layer: height - 1 },
    }
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
    /// An optimizer for a table of `slots` pieces; states come into being with the first update.
    #[must_use]
    pub fn new(rule: Rule, weight_decay: f64, slots: usize) -> Self {
        Self { rule, weight_decay, loraplus_lr_ratio: 1.0, states: vec![None; slots] }
    }

    /// With the learning rate of every adapter's B multiplied by `ratio`.
    #[must_use]
    pub fn with_loraplus_lr_ratio(self, ratio: f64) -> Self {
        Self { loraplus_lr_ratio: ratio, ..self }
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Makes the states of all that train now. They live as long as the run: made before the first step, they lie together, and
    /// the buffers that each step takes and gives back leave no gaps between them.
    pub fn prepare(&mut self, parameters: &Parameters) {
        let rule = self.rule;
        for (parameter, piece) in parameters.pieces().filter(|(_, piece)| piece.is_trainable()) {
            let fresh = || State::fresh(rule, parameter.value.device(), parameter.extent(piece).1);
            self.states[piece.slot()].get_or_insert_with(fresh);
        }
    }

    /// Moves every piece that still trains along its gradient times `scale`, at the rates of its part of the model. Vectors
    /// (norms and biases) do not decay, as in transformers' `Trainer`. Returns the gain of the update before for each piece
    /// that had one, by slot, if it is asked for; of AdamW alone, whose moments tell what the update was.
    pub fn update(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        rates: impl Fn(RatePart) -> Rates,
        scale: f32,
    ) -> Vec<(usize, f64)> {
        let mut gains = Vec::new();
        for parameter in parameters.iter_mut() {
            let weight_decay = if parameter.shape.len() > 1 { self.weight_decay } else { 0.0 };
            let ratio = if parameter.is_lora_b() { self.loraplus_lr_ratio } else { 1.0 };
            let trainable = parameter.pieces().iter().filter(|piece| piece.is_trainable());
            let pieces: Vec<_> =
                trainable.map(|piece| (piece.slot(), parameter.extent(piece).0, rate_part(piece.place))).collect();
            for (slot, first, part) in pieces {
                let rates = rates(part).times(ratio);
                let Some(gradient) = gradients.get(slot) else { continue };
                let (rule, device, shape) = (self.rule, gradient.device(), gradient.shape());
                let state = self.states[slot].get_or_insert_with(|| State::fresh(rule, device, shape));
                let update = Update { parameter: &mut parameter.value, first, gradient, gradient_scale: scale };
                gains.extend(state.update(update, rates, weight_decay).map(|gain| (slot, gain)));
            }
        }
        gains
    }

    /// Forgets a piece: its memory is free, and if it trains again it starts afresh.
    pub fn release(&mut self, slot: usize) {
        self.states[slot] = None;
    }

    /// Hands the state of piece `from` to piece `to`, which may be one more than there were.
    pub fn hand_over(&mut self, from: usize, to: usize) {
        let state = self.states[from].take();
        self.states.resize(self.states.len().max(to + 1), None);
        self.states[to] = state;
    }

    /// Sets what a piece remembers of the elements that are not kept to zero, so that nothing moves them.
    pub fn mask(&mut self, slot: usize, keep: &[bool]) {
        for buffer in self.states[slot].iter_mut().flat_map(State::buffers_mut) {
            buffer.device().mask(buffer, 0, keep);
        }
    }

    /// The states, by the slot of their piece.
    #[must_use]
    pub fn states(&self) -> &[Option<State>] {
        &self.states
    }

    /// Puts a saved state back.
    pub fn restore(&mut self, slot: usize, state: State) {
        self.states[slot] = Some(state);
    }

    /// Bytes of all states.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.states.iter().flatten().flat_map(State::buffers).map(|buffer| buffer.bytes() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use grades_models::parameters::Parameter;
    use grades_tensor::device;

    use super::*;

    const RATES: Rates = Rates { learning_rate: 0.01, gain_of: None };

    fn parameters(name: &str) -> Parameters {
        let value = device("cpu").unwrap().from_host(vec![1.0, -2.0], [1, 2]);
        let mut parameters = Parameters::default();
        parameters.push(Parameter::new(name, &[1, 2], value, &[(1, Place::Always)]));
        parameters.train();
        parameters
    }

    fn gradients() -> Gradients {
        let mut gradients = Gradients::new(1);
        gradients.add(0, device("cpu").unwrap().from_host(vec![0.5, 0.25], [1, 2]));
        gradients
    }

    fn updated(rule: Rule, name: &str) -> Vec<f32> {
        let mut parameters = parameters(name);
        let mut optimizer = Optimizer::new(rule, 0.5, 1).with_loraplus_lr_ratio(16.0);
        optimizer.update(&mut parameters, &gradients(), |_| RATES, 1.0);
        parameters[0].to_host().into_owned()
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

    /// As in a parameter group of PyTorch whose rate is 0.
    #[test]
    fn at_rate_0_nothing_moves_but_the_moments() {
        let mut parameters = parameters("a");
        let mut optimizer = Optimizer::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 0.0 }, 0.5, 1);
        optimizer.update(&mut parameters, &gradients(), |_| RATES.times(0.0), 1.0);
        assert_eq!(*parameters[0].to_host(), [1.0, -2.0]);
        let [Some(State::AdamW { steps: 1, moments: [first, _], .. })] = optimizer.states() else {
            panic!("{:?}", optimizer.states())
        };
        assert_close(&first.to_host(), [0.05, 0.025]);
    }

    #[test]
    fn each_part_of_a_model_has_its_rate() {
        let (tower, layer) = (grades::Tower::Language, 2);
        let unit = grades::UnitId { tower, layer, role: grades::Role::Q };
        let (norms, embedding) = (grades::Companion::Norms { tower, layer }, grades::Companion::Embedding { tower });
        for (place, part) in [
            (Place::Unit(unit), RatePart::Layer { tower, layer }),
            (Place::Companion(norms), RatePart::Layer { tower, layer }),
            (Place::Companion(embedding), RatePart::Embedding { tower }),
            (Place::Tied(embedding), RatePart::TiedEmbedding { tower }),
            (Place::Always, RatePart::Rest),
        ] {
            assert_eq!(rate_part(place), part);
        }
    }

    #[test]
    fn a_state_is_handed_over_and_masked() {
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, 0.0, 2);
        optimizer.update(&mut parameters("a"), &gradients(), |_| RATES, 1.0);
        optimizer.mask(0, &[false, true]);
        optimizer.mask(1, &[false, true]);
        optimizer.hand_over(0, 2);
        let [None, None, Some(State::Sgd { steps: 1, velocity: Some(velocity), .. })] = optimizer.states() else {
            panic!("{:?}", optimizer.states())
        };
        assert_eq!(*velocity.to_host(), [0.0, 0.25]);
    }
}
