//! Where the method meets the model: measures gradients for the policy and carries out what it decides.
//!
//! Nothing else in the trainer knows of units; nothing in the `grades` crate knows of tensors.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use grades::{Companion, Decision, Elements, Mask, Measurement, Norm, PartId, UnitId, Wants};
use grades_kernels::optimizer::{Measure, Sums, measure, sum_squares};
use grades_models::parameters::{Parameters, Place};
use grades_models::{Decoder, Error, host};

use super::TrainError;
use super::optimizer::Optimizer;

/// The gradients of one step by the index of their parameter; `None` where a parameter is frozen.
pub type Gradients = Vec<Option<Tensor<2>>>;

/// A gradient of the step before, kept for comparison.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) gradient: Tensor<2>,
    /// Its norm, where it was measured.
    pub(super) norm: Option<f64>,
}

/// The units of a model, in their order.
#[must_use]
pub fn units(model: &Decoder) -> Vec<UnitId> {
    let mut units: Vec<UnitId> = model.parameters().iter().filter_map(|p| unit(p.place)).collect();
    units.sort_unstable();
    units.dedup();
    units
}

fn unit(place: Place) -> Option<UnitId> {
    match place {
        Place::Unit(unit) => Some(unit),
        Place::Companion(_) | Place::Tied(_) | Place::Always | Place::Base => None,
    }
}

/// What is kept between steps for the policy, and how its decisions reach the parameters.
#[derive(Debug)]
pub struct Freezing {
    /// The matrices of the units (not their biases) by index in the parameter table; of an adapter A, then B.
    matrices: Vec<(usize, PartId)>,
    pub(super) previous: BTreeMap<usize, Kept>,
    pub(super) weights: BTreeMap<usize, Vec<f32>>,
    /// Which elements of a matrix train, where not all do.
    masks: BTreeMap<usize, Vec<bool>>,
    /// Whether frozen adapters are added to their weights.
    fold: bool,
}

/// What one look at all gradients gave.
#[derive(Debug, Default)]
pub struct Measured {
    /// The Frobenius norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// The measurements of the units, if any were wanted.
    pub units: Vec<(UnitId, Vec<Measurement>)>,
    /// Operations that they took: two an element for its own size, three more for a change. Norms of rows, columns and
    /// singular values take more.
    pub operations: u64,
}

impl Freezing {
    /// For a model all of whose units train.
    #[must_use]
    pub fn new(model: &Decoder) -> Self {
        let matrices = model.parameters().iter().enumerate().filter(|(_, p)| p.shape.len() == 2);
        let mut parts: BTreeMap<UnitId, usize> = BTreeMap::new();
        let matrices = matrices.filter_map(|(index, p)| {
            let unit = unit(p.place)?;
            let next = parts.entry(unit).or_default();
            *next += 1;
            Some((index, PartId { unit, part: *next - 1 }))
        });
        let matrices = matrices.collect();
        Self { matrices, previous: BTreeMap::new(), weights: BTreeMap::new(), masks: BTreeMap::new(), fold: false }
    }

    /// With frozen adapters added to their weights. They then stay frozen.
    #[must_use]
    pub fn with_folding(self, fold: bool) -> Self {
        Self { fold, ..self }
    }

    /// Goes once through all gradients: their global norm, and what the policy wants of the units.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn measure(&self, model: &Decoder, gradients: &Gradients, wants: &Wants) -> Result<Measured, Error> {
        let by_index: BTreeMap<usize, PartId> = self.matrices.iter().copied().collect();
        let mut measured = Measured::default();
        let mut squares = 0.0;
        for (index, (parameter, gradient)) in model.parameters().iter().zip(gradients).enumerate() {
            let Some(gradient) = gradient else { continue };
            let name = &parameter.name;
            match by_index.get(&index).filter(|_| wants.measure && !wants.after_update()) {
                None => squares += host::read(name, gradient, sum_squares)?,
                Some(part) => {
                    let shape = gradient.dims();
                    let (measurement, sum) = host::read(name, gradient, |now| match self.previous.get(&index) {
                        None => Ok(of(wants.norm, shape, now, None)),
                        Some(Kept { gradient, norm }) => {
                            host::read(name, gradient, |before| of(wants.norm, shape, now, Some((before, *norm))))
                        }
                    })??;
                    squares += sum;
                    let each = if measurement.change.is_some() { 5 } else { 2 };
                    measured.operations += each * shape.iter().product::<usize>() as u64;
                    add(&mut measured.units, part.unit, measurement);
                }
            }
        }
        measured.gradient_norm = squares.sqrt();
        Ok(measured)
    }

    /// How far the weights have moved from the copies that were kept, for signals of the weights.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn measure_weights(&self, model: &Decoder, norm: Norm) -> Result<Measured, Error> {
        let mut measured = Measured::default();
        for &(index, part) in &self.matrices {
            let parameter = &model.parameters()[index];
            if !parameter.is_trainable() {
                continue;
            }
            let mut measurement = Measurement::default();
            if let Some(kept) = self.weights.get(&index) {
                let shape = parameter.value.dims();
                let moved = |now: &[f32]| Measurement::of_weight(norm, shape, now, kept).unwrap_or_default();
                measurement = host::read(&parameter.name, &parameter.value, moved)?;
                measured.operations += 3 * kept.len() as u64;
            }
            add(&mut measured.units, part.unit, measurement);
        }
        Ok(measured)
    }

    /// Hands the elements of the units' matrices to `f`: of their gradients, or of their weights.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn with_elements<T>(
        &self,
        parameters: &Parameters,
        gradients: Option<&Gradients>,
        f: impl FnOnce(&[Elements<'_>]) -> T,
    ) -> Result<T, Error> {
        let mut copies = Vec::new();
        for &(index, part) in &self.matrices {
            let parameter = &parameters[index];
            let tensor = match gradients {
                Some(gradients) => gradients.get(index).and_then(Option::as_ref),
                None => Some(&parameter.value),
            };
            if let Some(tensor) = tensor {
                copies.push((part, host::read(&parameter.name, tensor, <[f32]>::to_vec)?));
            }
        }
        let elements: Vec<_> = copies.iter().map(|(tensor, values)| Elements { tensor: *tensor, values }).collect();
        Ok(f(&elements))
    }

    /// Freezes and unfreezes what the decision names: an untracked parameter has no gradient, no optimizer state and
    /// nothing kept for comparison. Of a masked matrix all other elements become zero.
    ///
    /// # Errors
    /// If a mask does not fit, what is folded shall train again, or the device fails to hand values over.
    pub fn apply(
        &mut self,
        decision: &Decision,
        model: &mut Decoder,
        optimizer: &mut Optimizer,
    ) -> Result<(), TrainError> {
        let named = |place: Place, units: &[UnitId], companions: &[Companion]| match place {
            Place::Unit(unit) => units.contains(&unit),
            Place::Companion(companion) => companions.contains(&companion),
            Place::Tied(_) | Place::Always | Place::Base => false,
        };
        let folded = |unit: &&UnitId| {
            let mut of = model.parameters().iter().filter(|parameter| parameter.place == Place::Unit(**unit));
            self.fold && of.all(|parameter| !parameter.is_trainable())
        };
        if let Some(unit) = decision.unfreeze.iter().find(folded) {
            return Err(TrainError::Other(format!(
                "the method trains {unit} again, but its adapter is part of the weight by now; set fold_frozen: false"
            )));
        }
        let named_part = |index: usize| {
            self.matrices.iter().any(|(matrix, part)| *matrix == index && decision.freeze_parts.contains(part))
        };
        let parts: Vec<bool> = (0..model.parameters().len()).map(named_part).collect();
        let before = (optimizer.bytes(), self.bytes());
        for (index, parameter) in model.parameters_mut().iter_mut().enumerate() {
            if parts[index] || named(parameter.place, &decision.freeze, &decision.freeze_companions) {
                parameter.set_trainable(false);
                optimizer.release(index);
                self.previous.remove(&index);
                self.weights.remove(&index);
            }
            if named(parameter.place, &decision.unfreeze, &decision.unfreeze_companions) {
                parameter.set_trainable(true);
                optimizer.release(index);
            }
        }
        let tied = |companions: &[Companion]| {
            let named = |place| matches!(place, Place::Tied(companion) if companions.contains(&companion));
            model.parameters().iter().any(|parameter| named(parameter.place))
        };
        let (frozen, thawed) = (tied(&decision.freeze_companions), tied(&decision.unfreeze_companions));
        if frozen || thawed {
            model.set_tied_input_trainable(thawed);
        }
        decision.masks.iter().try_for_each(|mask| self.mask(mask, model, optimizer))?;
        if self.fold {
            model.fold_frozen()?;
        }
        if (optimizer.bytes(), self.bytes()) != before {
            grades_kernels::return_freed_memory();
        }
        Ok(())
    }

    fn mask(&mut self, mask: &Mask, model: &mut Decoder, optimizer: &mut Optimizer) -> Result<(), TrainError> {
        let Some(&(index, _)) = self.matrices.iter().find(|(_, part)| *part == mask.tensor) else { return Ok(()) };
        let parameter = &mut model.parameters_mut()[index];
        if parameter.len() != mask.keep.len() {
            return Err(TrainError::Other(format!(
                "the mask of {} has {} elements, but the matrix {}; resume from a checkpoint of this model",
                parameter.name,
                mask.keep.len(),
                parameter.len()
            )));
        }
        host::update(&parameter.name, &mut parameter.value, |values| keep(values, &mask.keep))?;
        optimizer.mask(index, &mask.keep);
        self.masks.insert(index, mask.keep.clone());
        Ok(())
    }

    /// Sets the gradients of elements that are masked out to zero: with them their weights, which are zero, stay so.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn mask_gradients(&self, model: &Decoder, gradients: &mut Gradients) -> Result<(), Error> {
        for (&index, mask) in &self.masks {
            if let Some(gradient) = gradients.get_mut(index).and_then(Option::as_mut) {
                host::update(&model.parameters()[index].name, gradient, |values| keep(values, mask))?;
            }
        }
        Ok(())
    }

    /// Keeps what the next steps will be compared with, and lets go of what they will not.
    ///
    /// The gradients themselves are kept, not copies: the optimizer is done with them.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn keep(
        &mut self,
        model: &Decoder,
        gradients: &mut Gradients,
        measured: &Measured,
        wants: &Wants,
    ) -> Result<(), Error> {
        self.previous.clear();
        let norms: BTreeMap<UnitId, &[Measurement]> =
            measured.units.iter().map(|(unit, parts)| (*unit, parts.as_slice())).collect();
        for &(index, PartId { unit, part }) in &self.matrices {
            let parameter = &model.parameters()[index];
            if !parameter.is_trainable() {
                continue;
            }
            if wants.keep_gradient
                && let Some(gradient) = gradients.get_mut(index).and_then(Option::take)
            {
                let norm = norms.get(&unit).and_then(|parts| parts.get(part)?.gradient);
                self.previous.insert(index, Kept { gradient, norm });
            }
            if wants.keep_weight {
                let copy = host::read(&parameter.name, &parameter.value, <[f32]>::to_vec)?;
                self.weights.insert(index, copy);
            }
        }
        Ok(())
    }

    /// Bytes kept for comparison.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let gradients: usize = self.previous.values().map(|kept| kept.gradient.shape().num_elements()).sum();
        let weights: usize = self.weights.values().map(Vec::len).sum();
        ((gradients + weights) * size_of::<f32>()) as u64
    }
}

/// Sets what is not kept to zero.
fn keep(values: &mut [f32], keep: &[bool]) {
    values.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(value, _)| *value = 0.0);
}

/// Adds a measurement to those of its unit, whose parts follow one another.
fn add(units: &mut Vec<(UnitId, Vec<Measurement>)>, unit: UnitId, measurement: Measurement) {
    match units.last_mut() {
        Some((last, parts)) if *last == unit => parts.push(measurement),
        _ => units.push((unit, vec![measurement])),
    }
}

/// The measurement of one gradient against the one before and its norm, and the sum of its squares.
fn of(norm: Norm, shape: [usize; 2], now: &[f32], before: Option<(&[f32], Option<f64>)>) -> (Measurement, f64) {
    let values = before.map(|(values, _)| values);
    let sums = |norm_of: fn(&Sums) -> f64, change_of: fn(&Sums) -> f64| {
        let sums = measure(now, values.map_or(Measure::First, Measure::Against));
        let known =
            |(values, norm): (&[f32], Option<f64>)| norm.unwrap_or_else(|| norm_of(&measure(values, Measure::First)));
        let measurement = Measurement {
            gradient: Some(norm_of(&sums)),
            previous: before.map(known),
            change: before.map(|_| change_of(&sums)),
            weight_change: None,
        };
        (measurement, sums.sq)
    };
    match norm {
        Norm::L1 => sums(|s| s.l1, |s| s.l1_change),
        Norm::Frobenius => sums(|s| s.sq.sqrt(), |s| s.sq_change.sqrt()),
        Norm::Spectral | Norm::Inf | Norm::One => {
            (Measurement::of_gradient(norm, shape, now, values).unwrap_or_default(), sum_squares(now))
        }
    }
}
