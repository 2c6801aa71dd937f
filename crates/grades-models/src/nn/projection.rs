//! A linear layer, possibly of several matrices that share their input, with the adapters beside them.

use grades::{Role, Tower, UnitId};
use grades_tensor::{Activation, Dropout, Var, ops};

use super::adapter::Pair;
use super::run::Run;
use crate::Error;
use crate::parameters::{ParameterId, Parameters, Place};
use crate::source::Builder;

/// The parameters of a linear layer.
#[derive(Debug)]
pub(crate) struct Projection {
    /// Each `[outᵢ, in]`.
    pub(crate) weights: Vec<ParameterId>,
    /// Each `[outᵢ]`; empty where there is none.
    pub(crate) biases: Vec<ParameterId>,
    /// Where each weight as a whole belongs, and its adapter.
    pub(crate) places: Vec<Place>,
    /// The adapter of each weight; empty where none has one.
    pub(crate) pairs: Vec<Option<Pair>>,
    /// Its number in the model, from which its dropout is drawn.
    site: u64,
}

/// One matrix of a linear layer: its name in the checkpoint, and the roles of its rows.
pub(crate) struct Part<'a> {
    /// Without `.weight`.
    pub(crate) name: &'a str,
    /// What it is as a whole.
    pub(crate) role: Role,
    /// The roles inside a fused matrix with their rows; of any other its own with all of them.
    pub(crate) rows: Vec<(Role, usize)>,
}

impl<'a> Part<'a> {
    /// A matrix of one role.
    pub(crate) fn new(name: &'a str, role: Role, rows: usize) -> Self {
        Self { name, role, rows: vec![(role, rows)] }
    }
}

impl Projection {
    /// Loads the matrices `[outᵢ, columns]` of a layer, with a bias each where `bias` says so; `prefix` comes before their
    /// names.
    pub(crate) fn load(
        builder: &mut Builder<'_>,
        prefix: &str,
        (tower, layer): (Tower, usize),
        columns: usize,
        bias: bool,
        parts: &[Part<'_>],
    ) -> Result<Self, Error> {
        let site = builder.next_site();
        let mut projection =
            Self { weights: Vec::new(), biases: Vec::new(), places: Vec::new(), pairs: Vec::new(), site };
        for Part { name, role, rows } in parts {
            let whole = [(*role, rows.iter().map(|(_, rows)| rows).sum())];
            let rows = if builder.options.split_fused { rows.as_slice() } else { &whole };
            let unit = |role| UnitId { tower, layer, role };
            let units: Vec<_> = rows.iter().map(|&(role, rows)| (unit(role), rows)).collect();
            let (weight, bias) = builder.linear(&format!("{prefix}{name}"), columns, &units, bias)?;
            projection.weights.push(weight);
            projection.biases.extend(bias);
            projection.places.push(Place::Unit(unit(*role)));
        }
        Ok(projection)
    }

    /// One matrix that is no unit, `name` without `.weight`, with its bias if it has one. `shape` is that in the checkpoint,
    /// whose first dimension is that of the output, such as that of a convolution over patches.
    pub(crate) fn apart(
        builder: &mut Builder<'_>,
        name: &str,
        shape: &[usize],
        bias: bool,
        place: Place,
    ) -> Result<Self, Error> {
        let (site, out) = (builder.next_site(), shape.first().copied().unwrap_or(1));
        let weight = builder.add(&format!("{name}.weight"), shape, place)?;
        let bias = bias.then(|| builder.add(&format!("{name}.bias"), &[out], place)).transpose()?;
        let biases = bias.into_iter().collect();
        Ok(Self { weights: vec![weight], biases, places: vec![place], pairs: Vec::new(), site })
    }

    /// The numbers of its matrices.
    pub(crate) fn values(&self, parameters: &Parameters) -> usize {
        self.weights.iter().map(|&id| parameters.get(id).len()).sum()
    }

    /// `activation(gate) · up` of the two weights' outputs, in one product where nothing comes between; `[gate | up]` may
    /// be one matrix too.
    pub(super) fn forward_gated(&self, run: Run<'_>, x: &Var, activation: Activation) -> Var {
        let adapted = run.adapting.is_some() && self.pairs.iter().flatten().any(|pair| !pair.folded);
        let packed = self.weights.iter().any(|&id| run.parameters.get(id).is_packed());
        match self.weights.as_slice() {
            &[gate, up] if !adapted && !packed && self.biases.is_empty() => {
                ops::gated_project(run.tape, x, &[run.leaf(gate), run.leaf(up)], activation)
            }
            _ => ops::gated_activation(run.tape, self.forward(run, x, None), activation),
        }
    }

    /// `x · [W₁; W₂; …]ᵀ + b + residual`, each W with what its adapter adds to it.
    pub(crate) fn forward(&self, run: Run<'_>, x: &Var, residual: Option<&Var>) -> Var {
        let (weights, biases) = (run.leaves(&self.weights), run.leaves(&self.biases));
        let rows = weights.iter().map(|weight| weight.value.rows());
        let firsts = rows.scan(0, |end, rows| {
            *end += rows;
            Some(*end - rows)
        });
        let beside = self.pairs.iter().map(|pair| pair.as_ref().filter(|pair| !pair.folded));
        let (firsts, pairs): (Vec<usize>, Vec<&Pair>) =
            firsts.zip(beside).filter_map(|(first, pair)| Some((first, pair?))).unzip();
        let Some(adapting) = run.adapting.filter(|_| !pairs.is_empty()) else {
            return ops::project(run.tape, x, &weights, &biases, residual);
        };
        let dropout = run.dropout.filter(|_| adapting.dropout > 0.0);
        let input =
            dropout.map(|key| ops::dropout(run.tape, x, Dropout { rate: adapting.dropout, key: key.at(self.site) }));
        let (a, b): (Vec<_>, Vec<_>) = pairs.iter().map(|pair| (run.leaf(pair.a), run.leaf(pair.b))).unzip();
        let adapters = ops::LowRank { a, b, firsts, scaling: adapting.scaling };
        if pairs.iter().all(|pair| pair.dora.is_none()) {
            let y = ops::project(run.tape, x, &weights, &biases, residual);
            return ops::add_low_rank(run.tape, y, input.as_ref().unwrap_or(x), adapters);
        }
        let y = ops::project(run.tape, x, &weights, &[], None);
        let y = ops::add_low_rank(run.tape, y, input.as_ref().unwrap_or(x), adapters);
        let scales = self.pairs.iter().zip(&self.weights).map(|(pair, &weight)| match pair {
            Some(pair) if !pair.folded => pair.scale(run, weight, adapting.scaling),
            _ => ops::Scale::Plain(run.parameters.get(weight).rows()),
        });
        ops::rescale(run.tape, y, scales.collect(), &biases, residual)
    }
}
