//! The weights of a model for a file: each with its own adapter in it, one at a time.

use std::borrow::Cow;
use std::collections::HashMap;

use super::decoder::Decoder;
use crate::adapter::LoraConfig;
use crate::nn::Pair;
use crate::parameters::{Parameter, Parameters};

/// A weight as it is without adapters: its own is added when the values are asked for, so that one matrix at a time of a model that is
/// held in fewer bits is in f32.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    parameter: &'a Parameter,
    may_be_packed: bool,
    /// Its adapter, unless there is none or the weight holds it already.
    pair: Option<&'a Pair>,
    parameters: &'a Parameters,
    scaling: f32,
}

impl<'a> Weight<'a> {
    /// Its name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.parameter.name
    }

    /// Its shape there.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        &self.parameter.shape
    }

    /// Whether it is a matrix that 4 bits are for.
    #[must_use]
    pub fn may_be_packed(&self) -> bool {
        self.may_be_packed
    }

    /// Its values with those of its adapter, row-major.
    #[must_use]
    pub fn values(&self) -> Cow<'a, [f32]> {
        match self.pair {
            None => self.parameter.to_host(),
            Some(pair) => {
                let sum = pair.folded(self.parameters, self.parameter, self.scaling);
                Cow::Owned(sum.to_host().into_owned())
            }
        }
    }
}

impl Decoder {
    /// All weights as they are without adapters, in the order of [`parameters`](Self::parameters): what [`merged`](Self::merged)
    /// has, without holding it.
    #[must_use]
    pub fn weights(&self) -> Vec<Weight<'_>> {
        let beside = self.projections().flat_map(|projection| projection.weights.iter().zip(&projection.pairs));
        let mut pairs: HashMap<usize, &Pair> = HashMap::new();
        for (weight, pair) in beside {
            pairs.extend(pair.iter().filter(|pair| !pair.folded).map(|pair| (weight.index(), pair)));
        }
        let scaling = self.adapter().map_or(0.0, LoraConfig::scaling);
        let places = self.places_without_adapters();
        let all = self.parameters.iter().zip(places).enumerate();
        all.map(|(index, (parameter, places))| Weight {
            parameter,
            may_be_packed: parameter.shape.len() == 2 && places.iter().all(|place| place.may_be_packed()),
            pair: pairs.get(&index).copied(),
            parameters: &self.parameters,
            scaling,
        })
        .collect()
    }
}
