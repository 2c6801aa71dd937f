//! Adapters beside the linear layers of a model.

use super::config::{Linear, LoraConfig, module};
use super::names::{MAGNITUDE, PREFIX};
use crate::Error;
use crate::model::Decoder;
use crate::names::Names;
use crate::nn::{Dora, Pair, Projection};
use crate::parameters::{Parameter, ParameterId, Parameters, Place};
use crate::source::{Builder, Source};

impl Decoder {
    /// The same model with low-rank adapters, their values from `values` by PEFT's names. From here on only they train.
    ///
    /// # Errors
    /// If the model has adapters, a target is unknown, the rank is out of range, or the values do not fit.
    pub fn with_adapter(mut self, config: LoraConfig, values: &dyn Source) -> Result<Self, Error> {
        if self.adapter().is_some() {
            return Err(Error::Input("the model has an adapter already; merge that one into it first".into()));
        }
        let names = self.names();
        let values = Older { values, names };
        self.adapt(config, |config, parameters, projections| attach(config, parameters, projections, &values, names))?;
        Ok(self)
    }
}

/// Adapters whose tensors may have the names of modules that files have, as older trainers wrote them.
struct Older<'a> {
    values: &'a dyn Source,
    names: Names,
}

impl Older<'_> {
    /// The name under which there are values.
    fn found(&self, name: &str) -> String {
        if self.values.shape(name).is_none()
            && let Some(module) = name.strip_prefix(PREFIX)
        {
            let older = format!("{PREFIX}{}", (self.names.of_module)(module));
            if self.values.shape(&older).is_some() {
                return older;
            }
        }
        name.to_owned()
    }
}

impl Source for Older<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.values.shape(&self.found(name))
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.values.load(&self.found(name), shape)
    }
}

/// Adds the pairs to the table, and to each linear layer its list of pairs. What was in the table before keeps its index.
fn attach(
    config: &LoraConfig,
    parameters: Parameters,
    projections: Vec<&mut Projection>,
    values: &dyn Source,
    names: Names,
) -> Result<Parameters, Error> {
    let all = projections.iter().flat_map(|projection| projection.weights.iter().zip(&projection.places));
    let adaptable = all.filter(|(_, place)| **place != Place::Base);
    let layers: Vec<_> = adaptable.map(|(&id, &place)| linear(parameters.get(id), place, names)).collect();
    config.check(&layers)?;
    let first = projections.first().and_then(|projection| projection.weights.first());
    let Some(device) = first.map(|&id| parameters.get(id).value.device()) else { return Ok(parameters) };
    let mut builder = Builder::onto(parameters, values, device);
    for projection in projections {
        for (&id, &place) in projection.weights.iter().zip(&projection.places) {
            let layer = linear(builder.parameters().get(id), place, names);
            let targeted = place != Place::Base && config.targets(&layer);
            let pair = targeted.then(|| pair(config, &mut builder, id, &layer.module, place));
            projection.pairs.push(pair.transpose()?);
        }
        if projection.pairs.iter().all(Option::is_none) {
            projection.pairs.clear();
        }
    }
    Ok(builder.finish())
}

/// A weight as targets mean it.
pub(crate) fn linear(weight: &Parameter, place: Place, names: Names) -> Linear {
    let file = module(&weight.name).to_owned();
    let (shape, is_convolution) = ([weight.rows(), weight.row_len()], weight.shape.len() > 2);
    Linear { group: place.group(), module: (names.module)(&file), file, shape, is_convolution }
}

fn pair(
    config: &LoraConfig,
    builder: &mut Builder<'_>,
    weight: ParameterId,
    name: &str,
    place: Place,
) -> Result<Pair, Error> {
    let layer = builder.parameters().get(weight);
    let out = layer.rows();
    // Beside a convolution A is one of the same form, and B one over single places.
    let (a, b) = (layer.shape.get(1..).unwrap_or_default(), layer.shape.get(2..).unwrap_or_default());
    let (a, b) = ([&[config.r], a].concat(), [vec![out, config.r], vec![1; b.len()]].concat());
    let squares = config.use_dora.then(|| layer.value.device().row_squares(&layer.value));
    let mut add = |matrix, shape| builder.add(&format!("{PREFIX}{name}.{matrix}.weight"), shape, place);
    let (a, b) = (add("lora_A", &a)?, add("lora_B", &b)?);
    let dora = squares.map(|squares| {
        let start = squares.to_host().iter().map(|square| square.sqrt()).collect();
        let magnitude = builder.add_pieces(&format!("{PREFIX}{name}{MAGNITUDE}"), &[out], &[(out, place)], start)?;
        Ok::<_, Error>(Dora { magnitude, squares })
    });
    Ok(Pair { a, b, dora: dora.transpose()?, folded: false })
}
