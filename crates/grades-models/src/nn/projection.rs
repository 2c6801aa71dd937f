//! A linear layer, possibly of several matrices that share their input, with the adapters beside them.

use burn::tensor::{FloatDType, Tensor};

use super::lora::{Draw, LoraConfig, Pair};
use crate::ops::{self, Activation, Dropout, LowRank, Tie};
use crate::parameters::{ParameterId, Parameters};
use crate::{Error, host};

/// The parameters of a linear layer.
#[derive(Debug)]
pub(super) struct Projection {
    pub(super) weights: Vec<ParameterId>,
    pub(super) biases: Vec<ParameterId>,
    /// The adapter of each weight; empty where none has one.
    pub(super) pairs: Vec<Option<Pair>>,
    /// Its number in the model, from which its dropout is drawn.
    pub(super) site: u64,
}

/// What a projection is run with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) adapter: Option<&'a LoraConfig>,
    /// Whether what trains is recorded for gradients.
    pub(super) track: bool,
    /// Where dropout is drawn from, in training.
    pub(super) draw: Option<Draw>,
}

impl Projection {
    /// `activation(gate) · up` of the two weights' outputs, in one product where nothing comes between.
    pub(super) fn run_gated(&self, context: Context<'_>, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        let Context { parameters, track, adapter, .. } = context;
        let adapted = adapter.is_some() && self.pairs.iter().flatten().any(|pair| !pair.folded);
        if adapted || !self.biases.is_empty() || parameters.packed(&self.weights).is_some() {
            return ops::gated_activation(self.run(context, x, None), activation);
        }
        let weights = self.weights.iter().map(|&id| parameters.value(id, track)).collect();
        ops::gated_project(x, weights, activation)
    }

    /// `x · [W₁; W₂; …]ᵀ + b + residual`, each W with what its adapter adds to it.
    pub(super) fn run(&self, context: Context<'_>, x: Tensor<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
        let Context { parameters, track, .. } = context;
        let values = |ids: &[ParameterId]| ids.iter().map(|&id| parameters.value(id, track)).collect::<Vec<_>>();
        let biases = values(&self.biases);
        let project = |x, biases, residual, tie| match parameters.packed(&self.weights) {
            Some(weights) => ops::project_packed(x, weights, biases, residual, tie),
            None => ops::project_beside(x, values(&self.weights), biases, residual, tie),
        };
        let beside: Vec<Option<&Pair>> =
            self.pairs.iter().map(|pair| pair.as_ref().filter(|pair| !pair.folded)).collect();
        let Some(adapter) = context.adapter.filter(|_| beside.iter().any(Option::is_some)) else {
            return project(x, biases, residual, None);
        };
        let rows = |weight: ParameterId| parameters.get(weight).rows();
        let firsts = self.weights.iter().scan(0, |end, &weight| {
            *end += rows(weight);
            Some(*end - rows(weight))
        });
        let pairs = firsts.zip(&beside).filter_map(|(first, pair)| Some((first, (*pair)?)));
        let (firsts, pairs): (Vec<_>, Vec<&Pair>) = pairs.unzip();
        let (a, b): (Vec<_>, Vec<_>) = pairs.iter().map(|pair| (pair.a, pair.b)).unzip();
        let share = adapter.lora_dropout;
        let dropout = context.draw.filter(|_| share > 0.0).map(|draw| Dropout { share, key: draw.key(self.site) });
        let input = dropout.map_or_else(|| x.clone(), |dropout| ops::dropout(x.clone(), dropout));
        // Both take the same x, unless some of it is dropped for the adapters.
        let tie = dropout.is_none().then(Tie::default);
        let spec = LowRank { firsts, scale: adapter.scale(), tie: tie.clone() };
        if !adapter.use_dora {
            let y = project(x, biases, residual, tie);
            return ops::add_low_rank(y, input, values(&a), values(&b), spec);
        }
        let gains = beside.iter().zip(&self.weights).map(|(pair, &weight)| {
            pair.and_then(|pair| gain(pair, context, weight, adapter.scale()))
                .unwrap_or_else(|| Tensor::ones([1, rows(weight)], &x.device()))
        });
        let gains = gains.collect();
        let y = ops::add_low_rank(project(x, Vec::new(), None, tie), input, values(&a), values(&b), spec);
        rescaled(y, gains, biases, residual)
    }
}

/// What DoRA multiplies each row of `W + s · B · A` by, `[1, out]`, if it does: its magnitude over its norm, which counts as
/// constant.
///
/// The squares of the norms are `‖W‖² + 2s · Σ B ⊙ (W · Aᵀ) + s² · Σ (B · A · Aᵀ) ⊙ B` along the rows, so that nothing of
/// the size of W is formed.
fn gain(pair: &Pair, context: Context<'_>, weight: ParameterId, scale: f32) -> Option<Tensor<2>> {
    let value = |id| context.parameters.value(id, false);
    let dora = pair.dora.as_ref()?;
    let (a, b) = (value(pair.a), value(pair.b).transpose());
    let of_weight = match context.parameters.packed(&[weight]) {
        Some(weight) => ops::project_packed(a.clone(), weight, Vec::new(), None, None),
        None => ops::project(a.clone(), vec![value(weight)], Vec::new(), None),
    };
    let crossed = (of_weight * b.clone()).sum_dim(0);
    let squared = (a.clone().matmul(a.transpose()).matmul(b.clone()) * b).sum_dim(0);
    let norms = dora.squares.clone() + crossed * (2.0 * scale) + squared * (scale * scale);
    // A row of zeros has no direction, and stays.
    let norms = norms.clamp_min(f32::MIN_POSITIVE).sqrt();
    let magnitude = context.parameters.value(dora.magnitude, context.track);
    let norms = if magnitude.is_autodiff() { norms.autodiff() } else { norms };
    Some(magnitude / norms)
}

/// `y ⊙ gains + b + residual`, computed in f32; without a residual in the numbers of y.
fn rescaled(y: Tensor<2>, gains: Vec<Tensor<2>>, biases: Vec<Tensor<2>>, residual: Option<Tensor<2>>) -> Tensor<2> {
    let dtype = FloatDType::from(y.dtype());
    let recorded = y.is_autodiff()
        || gains.iter().chain(&biases).any(Tensor::is_autodiff)
        || residual.as_ref().is_some_and(Tensor::is_autodiff);
    let alike = |tensor: Tensor<2>| if recorded && !tensor.is_autodiff() { tensor.autodiff() } else { tensor };
    let joined = |parts: Vec<Tensor<2>>| Tensor::cat(parts.into_iter().map(alike).collect(), 1);
    let mut y = alike(y).cast(FloatDType::F32) * joined(gains);
    if !biases.is_empty() {
        y = y + joined(biases);
    }
    match residual {
        Some(residual) => y + alike(residual),
        None => y.cast(dtype),
    }
}

/// Adds `s · B · A` to the weight; with DoRA each row of the sum becomes as long as its magnitude says.
pub(super) fn fold(parameters: &mut Parameters, weight: ParameterId, pair: &Pair, scale: f32) -> Result<(), Error> {
    let (a, b) = (parameters.value(pair.a, false), parameters.value(pair.b, false));
    let magnitudes = pair.dora.as_ref().map(|dora| {
        let magnitude = parameters.get(dora.magnitude);
        host::read(&magnitude.name, &magnitude.value, <[f32]>::to_vec)
    });
    let magnitudes = magnitudes.transpose()?;
    let weight = parameters.get_mut(weight);
    let width = weight.value.dims()[1];
    host::read("adapter", &b.matmul(a), |product| {
        host::update(&weight.name, &mut weight.value, |values| {
            values.iter_mut().zip(product).for_each(|(value, product)| *value += scale * product);
            for (row, magnitude) in values.chunks_mut(width.max(1)).zip(magnitudes.iter().flatten()) {
                let gain = (f64::from(*magnitude) / sum_squares(row).sqrt().max(f64::MIN_POSITIVE)) as f32;
                row.iter_mut().for_each(|value| *value *= gain);
            }
        })
    })?
}

/// ‖row‖².
pub(super) fn sum_squares(row: &[f32]) -> f64 {
    row.iter().map(|value| f64::from(*value).powi(2)).sum()
}
