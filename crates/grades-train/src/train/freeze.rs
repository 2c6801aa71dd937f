//! Where the method meets the model: measures gradients for the policy and carries out what it decides.
//!
//! Nothing else in the trainer knows of units; nothing in the `grades` crate knows of tensors.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use grades::{
    Companion, Decision, Elements, Mask, Measurement, Norm, Observation, PartId, Spent, UnitGain, UnitId, Wants,
};
use grades_models::Decoder;
use grades_models::parameters::{Parameter, Parameters, Piece, Place};
use grades_tensor::{Gradients, Measure, Sums, Tensor};

use super::average::Average;
use super::error::TrainError;
use super::optimizer::Optimizer;

/// A gradient of the step before, kept for comparison.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) gradient: Tensor,
    /// Its norm, where it was measured.
    pub(super) norm: Option<f64>,
}

/// The units of a model, in their order.
#[must_use]
pub fn units(model: &Decoder) -> Vec<UnitId> {
    let units: BTreeSet<UnitId> = model.parameters().pieces().filter_map(|(_, piece)| piece.place.unit()).collect();
    units.into_iter().collect()
}

/// What is kept between steps for the policy, and how its decisions reach the parameters.
#[derive(Debug)]
pub struct Freezing {
    /// The matrices of the units (not their biases) by the slot of their piece; of an adapter A, then B.
    matrices: BTreeMap<usize, PartId>,
    pub(super) previous: BTreeMap<usize, Kept>,
    pub(super) weights: BTreeMap<usize, Tensor>,
    /// Which elements of a matrix train, where not all do.
    masks: BTreeMap<usize, Vec<bool>>,
    /// Whether frozen adapters are added to their weights.
    fold: bool,
    /// Bytes that freezing has freed, and that have not gone back to the system.
    freed: u64,
}

/// What one look at all gradients gave.
#[derive(Debug, Default)]
pub struct Measured {
    /// The Frobenius norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// The measurements of the units' tensors, if any were wanted.
    pub parts: BTreeMap<PartId, Measurement>,
    /// Operations that they took: two an element for its own size, three more for a change. Norms of rows, columns and
    /// singular values take more.
    pub operations: u64,
}

/// The losses of a step, in nats per predicted token (of preferences the training loss per row).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Losses {
    /// Over its batches, before its update; before the first step there is none.
    pub(super) training: Option<f64>,
    /// Over the validation set, where it was wanted.
    pub(super) validation: Option<f64>,
}

impl Measured {
    /// The measurements of each unit.
    pub(super) fn by_unit(&self) -> Vec<(UnitId, Vec<Measurement>)> {
        let mut units: Vec<(UnitId, Vec<Measurement>)> = Vec::new();
        for (PartId { unit, .. }, measurement) in &self.parts {
            match units.last_mut() {
                Some((last, parts)) if last == unit => parts.push(*measurement),
                _ => units.push((*unit, vec![*measurement])),
            }
        }
        units
    }
}

impl Freezing {
    /// For a model all of whose units train.
    #[must_use]
    pub fn new(model: &Decoder) -> Self {
        let mut parts: BTreeMap<UnitId, usize> = BTreeMap::new();
        let matrices = model.parameters().pieces().filter(|(parameter, _)| parameter.shape.len() == 2);
        let matrices = matrices.filter_map(|(_, piece)| {
            let unit = piece.place.unit()?;
            let next = parts.entry(unit).or_default();
            *next += 1;
            Some((piece.slot(), PartId { unit, part: *next - 1 }))
        });
        let matrices = matrices.collect();
        let (previous, weights, masks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { matrices, previous, weights, masks, fold: false, freed: 0 }
    }

    /// With frozen adapters added to their weights. They then stay frozen.
    #[must_use]
    pub fn with_folding(self, fold: bool) -> Self {
        Self { fold, ..self }
    }

    /// Goes once through all gradients: their global norm, and what the policy wants of those of the units.
    #[must_use]
    pub fn measure(&self, gradients: &Gradients, wants: &Wants) -> Measured {
        let part = |slot: usize| self.matrices.get(&slot).filter(|_| wants.measure_gradients);
        let measure = |(slot, gradient)| {
            let kept = part(slot).and_then(|_| self.previous.get(&slot));
            let measure = Measure {
                gradient,
                previous: kept.map(|kept| &kept.gradient),
                norm: part(slot).map(|_| wants.norm),
                want_previous: kept.is_some_and(|kept| kept.norm.is_none()),
            };
            (slot, measure)
        };
        let (slots, all): (Vec<usize>, Vec<Measure<'_>>) = gradients.iter().map(measure).unzip();
        let Some(first) = all.first() else { return Measured::default() };
        let mut measured = Measured::default();
        let mut squares = 0.0;
        for ((slot, measure), sums) in slots.into_iter().zip(&all).zip(first.gradient.device().measure(&all)) {
            squares += sums.squares;
            let Some(part) = part(slot) else { continue };
            let Sums { norm: gradient, previous, change, .. } = sums;
            let previous = self.previous.get(&slot).and_then(|kept| kept.norm).or(previous);
            measured.operations += if change.is_some() { 5 } else { 2 } * measure.gradient.len() as u64;
            measured.parts.insert(*part, Measurement { gradient, previous, change, weight_change: None });
        }
        measured.gradient_norm = squares.sqrt();
        measured
    }

    /// Adds how far the weights have moved from the copies that were kept.
    pub fn measure_weights(&self, model: &Decoder, norm: Norm, measured: &mut Measured) {
        for (parameter, piece, part) in self.trainable(model.parameters()) {
            let measurement = measured.parts.entry(part).or_default();
            if let Some(kept) = self.weights.get(&piece.slot()) {
                let now = values(parameter, piece);
                measurement.weight_change = kept.device().distances(&[(&now, kept)], norm).pop().flatten();
                measured.operations += 3 * kept.len() as u64;
            }
        }
    }

    /// The gains of the units in a step over so many `tokens`, from those of pieces by slot, with what the training of a slot holds in
    /// bytes; and the gain of all else.
    pub(super) fn gains(
        &self,
        model: &Decoder,
        of_pieces: &[(usize, f64)],
        tokens: u64,
        held: impl Fn(usize) -> u64,
    ) -> (Vec<UnitGain>, f64) {
        let (mut units, mut others): (BTreeMap<UnitId, UnitGain>, f64) = (BTreeMap::new(), 0.0);
        let of_pieces: BTreeMap<usize, f64> = of_pieces.iter().copied().collect();
        for (parameter, piece) in model.parameters().pieces() {
            let Some(gain) = of_pieces.get(&piece.slot()) else { continue };
            let Some(unit) = piece.place.unit() else {
                others += gain;
                continue;
            };
            let entry = units.entry(unit).or_insert(UnitGain { unit, gain: 0.0, saves: 0, bytes: 0 });
            entry.gain += gain;
            entry.bytes += held(piece.slot());
            if self.matrices.contains_key(&piece.slot()) {
                entry.saves += 2 * tokens * parameter.extent(piece).1.iter().product::<usize>() as u64;
            }
        }
        (units.into_values().collect(), others)
    }

    /// The matrices that still train.
    fn trainable<'a>(&'a self, parameters: &'a Parameters) -> impl Iterator<Item = (&'a Parameter, &'a Piece, PartId)> {
        let trains = parameters.pieces().filter(|(_, piece)| piece.is_trainable());
        trains.filter_map(|(parameter, piece)| Some((parameter, piece, *self.matrices.get(&piece.slot())?)))
    }

    /// Hands `observe` all that the policy wants to know of a step. Elements come to the host only if they are wanted.
    pub(super) fn observed<T>(
        &self,
        model: &Decoder,
        wants: &Wants,
        (measured, gradients, losses, spent): (&Measured, &Gradients, Losses, Spent),
        observe: impl FnOnce(&Observation<'_>) -> T,
    ) -> T {
        let gradients: Vec<_> = self
            .trainable(model.parameters())
            .filter(|_| wants.gradients)
            .filter_map(|(_, piece, part)| Some((part, gradients.get(piece.slot())?.to_host())))
            .collect();
        let weights: Vec<_> = model
            .parameters()
            .pieces()
            .filter(|_| wants.weights)
            .filter_map(|(parameter, piece)| Some((*self.matrices.get(&piece.slot())?, values(parameter, piece))))
            .collect();
        let weights: Vec<_> = weights.iter().map(|(part, tensor)| (*part, tensor.to_host())).collect();
        observe(&Observation {
            measurements: &measured.by_unit(),
            gradients: &elements(&gradients),
            weights: &elements(&weights),
            training_loss: losses.training,
            validation_loss: losses.validation,
            spent,
        })
    }

    /// Freezes and unfreezes what the decision names: what is frozen has no gradient, no optimizer state and nothing kept
    /// for comparison. It takes its average, where one is given. Of a masked matrix all other elements become zero.
    ///
    /// # Errors
    /// If a mask does not fit, or what is folded shall train again.
    pub fn apply(
        &mut self,
        decision: &Decision,
        model: &mut Decoder,
        optimizer: &mut Optimizer,
        mut average: Option<&mut Average>,
    ) -> Result<(), TrainError> {
        self.refuse_folded(decision, model)?;
        let named = |place: Place, units: &[UnitId], companions: &[Companion]| match place {
            Place::Unit(unit) => units.contains(&unit),
            Place::Companion(companion) => companions.contains(&companion),
            Place::Tied(_) | Place::Always | Place::Projector | Place::Base => false,
        };
        let freezes = |piece: &Piece| {
            let part = self.matrices.get(&piece.slot()).is_some_and(|part| decision.freeze_parts.contains(part));
            part || named(piece.place, &decision.freeze, &decision.freeze_companions)
        };
        let thaws = |piece: &Piece| named(piece.place, &decision.unfreeze, &decision.unfreeze_companions);
        let changes = |piece: &Piece| if thaws(piece) { Some(true) } else { freezes(piece).then_some(false) };
        let changed: Vec<(usize, bool)> =
            model.parameters().pieces().filter_map(|(_, piece)| Some((piece.slot(), changes(piece)?))).collect();
        model.parameters_mut().set_trainable(changes);
        let before = self.held(optimizer, average.as_deref());
        for (slot, trains) in changed {
            optimizer.release(slot);
            if !trains {
                self.previous.remove(&slot);
                self.weights.remove(&slot);
                if let Some(average) = &mut average {
                    average.settle(model.parameters_mut(), slot);
                }
            }
        }
        let tied = |companions: &[Companion]| {
            let named = |place| matches!(place, Place::Tied(companion) if companions.contains(&companion));
            model.parameters().pieces().any(|(_, piece)| named(piece.place))
        };
        let (frozen, thawed) = (tied(&decision.freeze_companions), tied(&decision.unfreeze_companions));
        if frozen || thawed {
            model.set_tied_input_trainable(thawed);
        }
        for mask in &decision.masks {
            self.mask(mask, model, optimizer)?;
            if let (Some(average), Some(slot)) = (&mut average, self.slot_of(mask.tensor)) {
                average.mask(slot, &mask.keep);
            }
        }
        // What is folded at the end would change nothing but the weights that are averaged.
        if self.fold && decision.stop.is_none() {
            model.fold_frozen();
        }
        let held = self.held(optimizer, average.as_deref());
        self.freed += before.saturating_sub(held);
        // Not at each freeze: all that is free goes back, also what the next step needs, which then takes a tenth longer to get it again.
        if self.freed > held / 4 {
            grades_kernels::return_freed_memory();
            self.freed = 0;
        }
        Ok(())
    }

    /// Bytes of what is held for what trains, between steps.
    fn held(&self, optimizer: &Optimizer, average: Option<&Average>) -> u64 {
        optimizer.bytes() + self.bytes() + average.map_or(0, Average::bytes)
    }

    /// What is folded is part of a weight by now.
    fn refuse_folded(&self, decision: &Decision, model: &Decoder) -> Result<(), TrainError> {
        let folded = |unit: &&UnitId| {
            let mut of = model.parameters().pieces().filter(|(_, piece)| piece.place == Place::Unit(**unit));
            self.fold && of.all(|(_, piece)| !piece.is_trainable())
        };
        match decision.unfreeze.iter().find(folded) {
            None => Ok(()),
            Some(unit) => Err(TrainError::Other(format!(
                "the method trains {unit} again, but its adapter is part of the weight by now; set fold_frozen: false"
            ))),
        }
    }

    fn slot_of(&self, tensor: PartId) -> Option<usize> {
        self.matrices.iter().find(|(_, part)| **part == tensor).map(|(slot, _)| *slot)
    }

    fn mask(&mut self, mask: &Mask, model: &mut Decoder, optimizer: &mut Optimizer) -> Result<(), TrainError> {
        let Some(slot) = self.slot_of(mask.tensor) else { return Ok(()) };
        for parameter in model.parameters_mut().iter_mut() {
            let Some(piece) = parameter.pieces().iter().find(|piece| piece.slot() == slot) else { continue };
            let (first, [rows, columns]) = parameter.extent(piece);
            if rows * columns != mask.keep.len() {
                return Err(TrainError::Other(format!(
                    "the mask of {} has {} elements, but the matrix {}; resume from a checkpoint of this model",
                    parameter.name,
                    mask.keep.len(),
                    rows * columns
                )));
            }
            parameter.value.device().mask(&mut parameter.value, first, &mask.keep);
        }
        optimizer.mask(slot, &mask.keep);
        self.masks.insert(slot, mask.keep.clone());
        Ok(())
    }

    /// Sets the gradients of elements that are masked out to zero: with them their weights, which are zero, stay so.
    pub fn mask_gradients(&self, gradients: &mut Gradients) {
        for (&slot, mask) in &self.masks {
            if let Some(gradient) = gradients.get_mut(slot) {
                gradient.device().mask(gradient, 0, mask);
            }
        }
    }

    /// Keeps what the next steps will be compared with, and lets go of what they will not.
    ///
    /// The gradients themselves are kept, not copies: the optimizer is done with them.
    pub fn keep(&mut self, model: &Decoder, gradients: &mut Gradients, measured: &Measured, wants: &Wants) {
        let (mut previous, mut weights) = (BTreeMap::new(), Vec::new());
        for (parameter, piece, part) in self.trainable(model.parameters()) {
            if wants.keep_gradient
                && let Some(gradient) = gradients.take(piece.slot())
            {
                let norm = measured.parts.get(&part).and_then(|measurement| measurement.gradient);
                previous.insert(piece.slot(), Kept { gradient, norm });
            }
            if wants.keep_weight {
                let (first, shape) = parameter.extent(piece);
                weights.push((piece.slot(), parameter.value.device().part(&parameter.value, first, shape)));
            }
        }
        self.previous = previous;
        self.weights.extend(weights);
    }

    /// Bytes kept for comparison.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let gradients = self.previous.values().map(|kept| &kept.gradient);
        gradients.chain(self.weights.values()).map(|tensor| tensor.bytes() as u64).sum()
    }
}

/// The values of a piece: those of the parameter where it is all of it.
fn values<'a>(parameter: &'a Parameter, piece: &Piece) -> Cow<'a, Tensor> {
    let (first, shape) = parameter.extent(piece);
    if shape == parameter.value.shape() {
        Cow::Borrowed(&parameter.value)
    } else {
        Cow::Owned(parameter.value.device().part(&parameter.value, first, shape))
    }
}

/// Values on the host as a policy takes them.
fn elements<'a>(of: &'a [(PartId, Cow<'_, [f32]>)]) -> Vec<Elements<'a>> {
    of.iter().map(|(tensor, values)| Elements { tensor: *tensor, values }).collect()
}
