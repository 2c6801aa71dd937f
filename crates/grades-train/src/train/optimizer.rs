//! The optimizers, with a state of their own for each piece of a parameter, so that freezing it gives its state back.

use grades::RatePart;
use grades_models::parameters::{Group, Parameter, Parameters, Place};
use grades_tensor::{Gradients, Update};

use super::optimizer_state::{Rates, State};
use super::options::TrainOptions;
use super::rule::Rule;

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
    /// What the learning rate of embeddings and of an untied head is multiplied by.
    embedding_lr_ratio: f64,
    /// What those of a tower that looks at pictures, and of what makes rows of its output, are multiplied by.
    picture_lr_ratios: [f64; 2],
    states: Vec<Option<State>>,
}

impl Optimizer {
    /// An optimizer for a table of `slots` pieces; states come into being with the first update.
    #[must_use]
    pub fn new(rule: Rule, weight_decay: f64, slots: usize) -> Self {
        Self {
            rule,
            weight_decay,
            loraplus_lr_ratio: 1.0,
            embedding_lr_ratio: 1.0,
            picture_lr_ratios: [1.0; 2],
            states: vec![None; slots],
        }
    }

    /// That of a run.
    #[must_use]
    pub fn of(options: &TrainOptions, slots: usize) -> Self {
        Self::new(options.rule, options.weight_decay, slots)
            .with_loraplus_lr_ratio(options.loraplus_lr_ratio)
            .with_embedding_lr_ratio(options.embedding_lr_ratio)
            .with_picture_lr_ratios(options.picture_lr_ratios)
    }

    /// With the learning rate of every adapter's B multiplied by `ratio`.
    #[must_use]
    pub fn with_loraplus_lr_ratio(self, ratio: f64) -> Self {
        Self { loraplus_lr_ratio: ratio, ..self }
    }

    /// With the learning rate of embeddings and of an untied head multiplied by `ratio`.
    #[must_use]
    pub fn with_embedding_lr_ratio(self, ratio: f64) -> Self {
        Self { embedding_lr_ratio: ratio, ..self }
    }

    /// With the learning rates of a tower that looks at pictures, and of what makes rows of its output, multiplied by `ratios`.
    #[must_use]
    pub fn with_picture_lr_ratios(self, ratios: [f64; 2]) -> Self {
        Self { picture_lr_ratios: ratios, ..self }
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Makes the states of all that train now. They live as long as the run: made before the first step, they lie together, and
    /// the buffers that each step takes and gives back leave no gaps between them.
    pub fn prepare(&mut self, parameters: &Parameters) {
        self.begin(parameters, |_| true);
    }

    /// Makes the states of those pieces that train and have none, by slot.
    fn begin(&mut self, parameters: &Parameters, of: impl Fn(usize) -> bool) {
        for (parameter, piece) in parameters.pieces().filter(|(_, piece)| piece.is_trainable() && of(piece.slot())) {
            self.states[piece.slot()].get_or_insert_with(|| State::fresh(self.rule, parameter, piece));
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
        self.begin(parameters, |slot| gradients.get(slot).is_some());
        for parameter in parameters.iter_mut() {
            let weight_decay = if parameter.shape.len() > 1 { self.weight_decay } else { 0.0 };
            let ratio = self.ratio(parameter);
            let trainable = parameter.pieces().iter().filter(|piece| piece.is_trainable());
            let pieces: Vec<_> =
                trainable.map(|piece| (piece.slot(), parameter.extent(piece).0, rate_part(piece.place))).collect();
            for (slot, first, part) in pieces {
                let (Some(gradient), Some(state)) = (gradients.get(slot), &mut self.states[slot]) else { continue };
                let mut rates = rates(part).times(ratio);
                // Of some of the parameters it would say nothing of the whole.
                rates.gain_of = rates.gain_of.filter(|_| matches!(self.rule, Rule::AdamW(_)));
                let update = Update { parameter: &mut parameter.value, first, gradient, gradient_scale: scale };
                gains.extend(state.update(update, rates, weight_decay).map(|gain| (slot, gain)));
            }
        }
        gains
    }

    /// What the learning rate of a parameter is multiplied by.
    fn ratio(&self, parameter: &Parameter) -> f64 {
        let is_table = |place: Place| match rate_part(place) {
            _ if place.group() != Group::Language => false,
            RatePart::Embedding { .. } | RatePart::TiedEmbedding { .. } => true,
            // The head; what else lies there is a vector.
            RatePart::Rest => parameter.shape.len() == 2,
            RatePart::Layer { .. } => false,
        };
        let [vision, projector] = self.picture_lr_ratios;
        let of_group = match parameter.pieces().first().map(|piece| piece.place.group()) {
            Some(Group::Vision) => vision,
            Some(Group::Projector) => projector,
            Some(Group::Language) | None => 1.0,
        };
        let own = if parameter.is_lora_b() {
            self.loraplus_lr_ratio
        } else if parameter.pieces().iter().any(|piece| is_table(piece.place)) {
            self.embedding_lr_ratio
        } else {
            1.0
        };
        of_group * own
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
        for buffer in self.states[slot].iter_mut().flat_map(State::elements_mut) {
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

    /// Bytes of the state of one piece.
    #[must_use]
    pub fn bytes_of(&self, slot: usize) -> u64 {
        self.states.get(slot).into_iter().flatten().flat_map(State::buffers).map(|buffer| buffer.bytes() as u64).sum()
    }

    /// Bytes of all states.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.states.iter().flatten().flat_map(State::buffers).map(|buffer| buffer.bytes() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use grades_tensor::device;

    use super::super::rule::Adam;
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
        let adamw = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, epsilon: 0.0 });
        assert_close(&updated(adamw, "x.q_proj.lora_A.weight"), [0.995 - 0.01, -1.99 - 0.01]);
        assert_close(&updated(adamw, "x.q_proj.lora_B.weight"), [0.92 - 0.16, -1.84 - 0.16]);
    }

    /// As in a parameter group of PyTorch whose rate is 0.
    #[test]
    fn at_rate_0_nothing_moves_but_the_moments() {
        let mut parameters = parameters("a");
        let mut optimizer = Optimizer::new(Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, epsilon: 0.0 }), 0.5, 1);
        optimizer.update(&mut parameters, &gradients(), |_| RATES.times(0.0), 1.0);
        assert_eq!(*parameters[0].to_host(), [1.0, -2.0]);
        let [Some(state)] = optimizer.states() else { panic!("{:?}", optimizer.states()) };
        assert_eq!(state.steps(), 1);
        assert_close(&state.buffers().next().unwrap().to_host(), [0.05, 0.025]);
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
    fn what_reads_pictures_has_rates_of_its_own() {
        let vision = grades::Companion::Embedding { tower: grades::Tower::Vision };
        let head = Place::Always;
        let ratios = Optimizer::new(Rule::Sgd { momentum: 0.0 }, 0.0, 1).with_picture_lr_ratios([0.5, 100.0]);
        let ratios = ratios.with_embedding_lr_ratio(3.0).with_loraplus_lr_ratio(16.0);
        for (name, place, ratio) in [
            ("a", Place::Companion(vision), 0.5),
            ("a.lora_B.weight", Place::Companion(vision), 8.0),
            ("a", Place::Projector, 100.0),
            ("a", head, 3.0),
            ("a", Place::Unit(grades::UnitId::language(0, grades::Role::Q)), 1.0),
        ] {
            let value = device("cpu").unwrap().from_host(vec![1.0, -2.0], [1, 2]);
            let parameter = Parameter::new(name, &[1, 2], value, &[(1, place)]);
            assert_eq!(ratios.ratio(&parameter), ratio, "{name}, {place:?}");
        }
    }

    #[test]
    fn a_state_is_handed_over_and_masked() {
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9 }, 0.0, 2);
        optimizer.update(&mut parameters("a"), &gradients(), |_| RATES, 1.0);
        optimizer.mask(0, &[false, true]);
        optimizer.mask(1, &[false, true]);
        optimizer.hand_over(0, 2);
        let [None, None, Some(state)] = optimizer.states() else { panic!("{:?}", optimizer.states()) };
        assert_eq!((state.steps(), state.buffers().count()), (1, 1));
        assert_eq!(*state.buffers().next().unwrap().to_host(), [0.0, 0.25]);
    }
}
