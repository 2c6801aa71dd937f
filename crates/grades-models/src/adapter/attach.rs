//! Adapters beside the linear layers of a model.

use super::config::{LoraConfig, module};
use super::names::{MAGNITUDE, PREFIX};
use crate::Error;
use crate::model::Decoder;
use crate::nn::{Dora, Pair, Projection};
use crate::parameters::{ParameterId, Parameters, Place};
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
        self.adapt(config, |config, parameters, projections| attach(config, parameters, projections, values))?;
        Ok(self)
    }
}

/// Adds the pairs to the table, and to each linear layer its list of pairs. What was in the table before keeps its index.
fn attach(
    config: &LoraConfig,
    parameters: Parameters,
    projections: Vec<&mut Projection>,
    values: &dyn Source,
) -> Result<Parameters, Error> {
    let ids = projections.iter().flat_map(|projection| projection.weights.iter());
    let layers: Vec<_> = ids.map(|&id| parameters.get(id)).collect();
    config.check(&layers.iter().map(|layer| (module(&layer.name), layer.shape.as_slice())).collect::<Vec<_>>())?;
    let Some(device) = layers.first().map(|layer| layer.value.device()) else { return Ok(parameters) };
    drop(layers);
    let mut builder = Builder::onto(parameters, values, device);
    for projection in projections {
        for (&id, &unit) in projection.weights.iter().zip(&projection.units) {
            let targeted = config.targets(module(&builder.parameters().get(id).name));
            let pair = targeted.then(|| pair(config, &mut builder, id, Place::Unit(unit)));
            projection.pairs.push(pair.transpose()?);
        }
        if projection.pairs.iter().all(Option::is_none) {
            projection.pairs.clear();
        }
    }
    Ok(builder.finish())
}

fn pair(config: &LoraConfig, builder: &mut Builder<'_>, weight: ParameterId, place: Place) -> Result<Pair, Error> {
    let layer = builder.parameters().get(weight);
    let (name, [out, width]) = (module(&layer.name).to_owned(), layer.value.shape());
    let squares = config.use_dora.then(|| layer.value.device().row_squares(&layer.value));
    let mut add = |matrix, shape| builder.add(&format!("{PREFIX}{name}.{matrix}.weight"), shape, place);
    let (a, b) = (add("lora_A", &[config.r, width])?, add("lora_B", &[out, config.r])?);
    let dora = squares.map(|squares| {
        let start = squares.to_host().iter().map(|square| square.sqrt()).collect();
        let magnitude = builder.add_pieces(&format!("{PREFIX}{name}{MAGNITUDE}"), &[out], &[(out, place)], start)?;
        Ok::<_, Error>(Dora { magnitude, squares })
    });
    Ok(Pair { a, b, dora: dora.transpose()?, folded: false })
}
