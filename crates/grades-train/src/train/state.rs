//! What a step of training changes and a checkpoint holds.

use grades::{Decision, Policy, RatePart, UnitId};
use grades_models::Decoder;
use grades_tensor::Tensor;

use super::average::Average;
use super::error::TrainError;
use super::freeze::{Freezing, units};
use super::ledger::Ledger;
use super::optimizer::Optimizer;
use super::options::TrainOptions;

/// The model with everything that is remembered from step to step.
pub struct TrainState {
    /// The model.
    pub model: Decoder,
    /// What updates it.
    pub optimizer: Optimizer,
    /// What is kept for comparison, and how decisions reach the parameters.
    pub freezing: Freezing,
    /// What decides.
    pub policy: Box<dyn Policy>,
    /// What was counted.
    pub ledger: Ledger,
    /// The average of the weights, where one is kept.
    pub average: Option<Average>,
    /// The best values so far by parameter, where the policy keeps them; none of what lies under adapters.
    pub best: Option<Vec<Option<Tensor>>>,
    /// The matrices that can freeze, in their order.
    pub units: Vec<UnitId>,
}

impl TrainState {
    /// Before the first step: every parameter of the model trains, or of its adapters where it has any.
    #[must_use]
    pub fn new(mut model: Decoder, policy: Box<dyn Policy>, options: &TrainOptions) -> Self {
        model.parameters_mut().train();
        let slots = model.parameters().slots();
        Self {
            optimizer: Optimizer::of(options, slots),
            freezing: Freezing::new(&model).with_folding(options.fold_frozen),
            units: units(&model),
            model,
            policy,
            ledger: Ledger::default(),
            average: options.weight_average.map(|kind| Average::new(kind, slots)),
            best: None,
        }
    }

    /// Carries out what a decision says of the model.
    ///
    /// # Errors
    /// If a mask does not fit, or what is folded shall train again.
    pub fn apply(&mut self, decision: &Decision) -> Result<(), TrainError> {
        // What freezes at the end is averaged with all the rest, if the average is better.
        let average = self.average.as_mut().filter(|_| decision.stop.is_none());
        self.freezing.apply(decision, &mut self.model, &mut self.optimizer, average)?;
        if decision.save_best {
            self.best = Some(own_values(&self.model));
        }
        if decision.restore_best
            && let Some(best) = self.best.take()
        {
            self.average = None;
            put_back(&mut self.model, &best);
        }
        Ok(())
    }

    /// Keeps a tied embedding as it is as input, and lets a copy train on as head; whether there was one.
    pub fn untie(&mut self) -> bool {
        let Some(untied) = self.model.untie() else { return false };
        self.optimizer.hand_over(untied.input, untied.head);
        if let Some(average) = &mut self.average {
            average.hand_over(untied.input, untied.head);
        }
        let index = self.model.parameters().iter().position(|p| p.pieces().iter().any(|p| p.slot() == untied.input));
        if let (Some(best), Some(index)) = (&mut self.best, index) {
            let head = best[index].as_ref().map(|input| input.device().copy(input));
            best.push(head);
        }
        true
    }

    /// Bytes that are kept for the policy until the next step: gradients, weights, its own arrays, the best weights, their
    /// average.
    #[must_use]
    pub fn monitor_bytes(&self) -> u64 {
        let best: usize = self.best.iter().flatten().flatten().map(Tensor::bytes).sum();
        let average = self.average.as_ref().map_or(0, Average::bytes);
        self.freezing.bytes() + self.policy.cost().bytes + best as u64 + average
    }
}

/// The values of the parameters, in their order, but for what lies under adapters and never changes. Nothing is copied until one
/// of them changes.
pub(super) fn own_values(model: &Decoder) -> Vec<Option<Tensor>> {
    model.parameters().iter().map(|parameter| (!parameter.is_base()).then(|| parameter.value.clone())).collect()
}

/// Gives the parameters such values again.
pub(super) fn put_back(model: &mut Decoder, values: &[Option<Tensor>]) {
    for (parameter, value) in model.parameters_mut().iter_mut().zip(values) {
        if let Some(value) = value {
            parameter.value = value.clone();
        }
    }
}

/// Whether a policy at its start asks for nothing up to and including step `step`, leaves the learning rates as they are, and
/// has decided nothing.
pub(super) fn idle_until(policy: &dyn Policy, units: &[UnitId], step: usize) -> bool {
    let in_force = policy.in_force();
    let nothing = Decision { step: in_force.step, ..Decision::default() };
    let parts: Vec<RatePart> = units
        .iter()
        .flat_map(|&UnitId { tower, layer, .. }| {
            [RatePart::Embedding { tower }, RatePart::TiedEmbedding { tower }, RatePart::Layer { tower, layer }]
        })
        .chain([RatePart::Rest])
        .collect();
    let same_rates = |step: usize| parts.iter().all(|part| policy.rate_factor(step, *part) == 1.0);
    in_force == nothing && (0..=step).all(|step| policy.wants(step).is_idle() && (step == 0 || same_rates(step)))
}
