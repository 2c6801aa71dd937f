//! A model without its values: what it is made of, and what a pass through it would keep. Plans are made with it.

use std::collections::BTreeSet;

use grades::{Tower, UnitId};
use grades_tensor::Dtype;

use super::decoder::Decoder;
use super::vision::Vision;
use crate::Error;
use crate::adapter::{LoraConfig, linear};
use crate::config::Sizes;
use crate::nn::{FeedForward, Layer, Mlp, Projection};
use crate::parameters::{Group, Parameter, Parameters, Place};
use crate::source::{Form, Source, holdable};

/// A model without its values.
#[derive(Debug)]
pub struct Outline {
    model: Decoder,
    /// What each parameter may be held as, also where it is held as it is.
    forms: Vec<Forms>,
}

/// What a parameter of an outline may be held as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// Whether 4 bits are for it.
    pub packable: bool,
    /// How it is stored, if it may be held so where it does not train.
    pub stored: Form,
}

/// A tower of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TowerSize {
    /// Which.
    pub tower: Tower,
    /// Its layers.
    pub layers: usize,
    /// The width of its rows.
    pub hidden: usize,
    /// Its numbers, with what is before and behind the layers; those of the vision tower with the projector's.
    pub parameters: usize,
}

/// Bytes of a number in f32.
const F32: usize = 4;

impl Outline {
    /// Of a model whose values `source` has.
    pub(crate) fn new(model: Decoder, source: &dyn Source) -> Self {
        let forms = model.parameters().iter().map(|parameter| Forms {
            packable: parameter.may_be_packed(),
            stored: holdable(
                source,
                &parameter.name,
                &parameter.shape,
                parameter.pieces().iter().map(|piece| piece.place),
            ),
        });
        Self { forms: forms.collect(), model }
    }

    /// The sizes.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        self.model.sizes()
    }

    /// The parameters, with names, shapes and places; they hold no values.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    /// What of it reads pictures.
    #[must_use]
    pub fn vision(&self) -> Option<&Vision> {
        self.model.vision()
    }

    /// The parameters, each with what it may be held as.
    pub fn forms(&self) -> impl Iterator<Item = (&Parameter, Forms)> {
        self.parameters().iter().zip(self.forms.iter().copied())
    }

    /// Whether an adapter is beside a parameter.
    #[must_use]
    pub fn has_adapter(&self, parameter: &Parameter, config: &LoraConfig) -> bool {
        let mut own = self.adaptable().filter(|(weight, _)| std::ptr::eq(*weight, parameter));
        own.any(|(weight, place)| self.is_adapted(weight, place, config))
    }

    /// Its towers, in the order of the data.
    #[must_use]
    pub fn towers(&self) -> Vec<TowerSize> {
        let reads =
            |parameter: &&Parameter| parameter.pieces().iter().any(|piece| piece.place.group() != Group::Language);
        let of_pictures = self.parameters().iter().filter(reads).map(Parameter::len).sum();
        let all: usize = self.parameters().iter().map(Parameter::len).sum();
        let vision = self.vision().map(|vision| TowerSize {
            tower: Tower::Vision,
            layers: vision.layers(),
            hidden: vision.width(self.parameters()),
            parameters: of_pictures,
        });
        let language = TowerSize {
            tower: Tower::Language,
            layers: self.model.stack.layers.len(),
            hidden: self.sizes().hidden_size,
            parameters: all - of_pictures,
        };
        vision.into_iter().chain([language]).collect()
    }

    /// Leaves these groups as they are: nothing of them trains.
    pub fn hold(&mut self, groups: &[Group]) {
        self.model.hold(groups);
    }

    /// The units that freeze one by one: those of the matrices, or of the adapters beside them.
    #[must_use]
    pub fn units(&self, adapter: Option<&LoraConfig>) -> BTreeSet<UnitId> {
        let Some(config) = adapter else {
            return self.parameters().pieces().filter_map(|(_, piece)| piece.place.unit()).collect();
        };
        let adapted = self.adaptable().filter(|(weight, place)| self.is_adapted(weight, *place, config));
        adapted.filter_map(|(_, place)| place.unit()).collect()
    }

    /// Numbers of the adapters beside it, one entry an adapted matrix.
    ///
    /// # Errors
    /// If a target is unknown or the rank is out of range.
    pub fn adapters(&self, config: &LoraConfig) -> Result<Vec<usize>, Error> {
        let weights: Vec<(&Parameter, Place)> = self.adaptable().collect();
        config.check(
            &weights.iter().map(|&(weight, place)| linear(weight, place, self.model.names())).collect::<Vec<_>>(),
        )?;
        let adapted = weights.into_iter().filter(|&(weight, place)| self.is_adapted(weight, place, config));
        Ok(adapted.map(|(weight, _)| numbers_of_adapter(weight, config)).collect())
    }

    /// What a recorded pass keeps of each layer for its backward pass, in bytes a token, with products in `dtype`.
    #[must_use]
    pub fn kept_by_layers(&self, dtype: Dtype, adapter: Option<&LoraConfig>) -> Vec<usize> {
        self.layers().map(|layer| self.kept_by_layer(layer, dtype.bytes(), adapter)).collect()
    }

    /// The same of the layers of the vision tower, in bytes a patch.
    #[must_use]
    pub fn kept_by_vision_layers(&self, dtype: Dtype, adapter: Option<&LoraConfig>) -> Vec<usize> {
        let layers = self.vision().into_iter().flat_map(|vision| &vision.stack.layers);
        layers.map(|layer| self.kept_by_layer(layer, dtype.bytes(), adapter)).collect()
    }

    /// Bytes of the keys and values that are kept of a token while a text is written.
    #[must_use]
    pub fn kept_while_writing(&self, dtype: Dtype) -> usize {
        let heads = self.layers().map(|layer| &layer.attention.heads);
        heads.map(|heads| 2 * heads.kv_heads * heads.head_dim * dtype.bytes()).sum()
    }

    /// Whether anything of the vision tower trains, and whether anything does of what makes rows of the language model of it.
    #[must_use]
    pub fn pictures_train(&self, adapter: Option<&LoraConfig>) -> [bool; 2] {
        [Group::Vision, Group::Projector].map(|group| match adapter {
            None => self.parameters().pieces().any(|(_, piece)| piece.place.group() == group),
            Some(config) => {
                self.adaptable().any(|(weight, place)| place.group() == group && self.is_adapted(weight, place, config))
            }
        })
    }

    /// The residual stream before and behind attention, what each norm makes of it, the rotated heads, and the MLP's products.
    /// What the activation makes of these is computed again.
    fn kept_by_layer(&self, layer: &Layer, number: usize, adapter: Option<&LoraConfig>) -> usize {
        let (hidden, heads) = (self.rows(&layer.attention.o), &layer.attention.heads);
        let normed = F32 * hidden + number * hidden + F32;
        let (seen, all) = (heads.heads * heads.head_dim, (heads.heads + 2 * heads.kv_heads) * heads.head_dim);
        let attention = number * (all + seen) + F32 * heads.heads;
        let of_heads = match layer.attention.head_norms {
            Some(_) => number * all + F32 * (heads.heads + heads.kv_heads),
            None => 0,
        };
        let of_outputs = if layer.out.is_some() { 2 * (number * hidden + F32) } else { 0 };
        let adapters = |projection: &Projection| self.kept_by_adapters(projection, number, adapter);
        let of_mlp = |mlp: &Mlp| number * self.rows(&mlp.up) + adapters(&mlp.up) + adapters(&mlp.down);
        let mlp = match &layer.mlp {
            FeedForward::Dense(mlp) => of_mlp(mlp),
            // Each has rows of its own, and what it makes of them.
            FeedForward::Sparse(experts) => {
                let of_expert = experts.experts.first().map_or(0, |mlp| 2 * number * hidden + of_mlp(mlp));
                3 * F32 * experts.experts.len() + experts.top_k * of_expert
            }
        };
        let beside = adapters(&layer.attention.qkv) + adapters(&layer.attention.o);
        2 * normed + attention + of_heads + of_outputs + mlp + beside
    }

    /// What the adapters of a linear layer keep of a token.
    fn kept_by_adapters(&self, projection: &Projection, number: usize, adapter: Option<&LoraConfig>) -> usize {
        let Some(config) = adapter else { return 0 };
        let all = || projection.weights.iter().zip(&projection.places);
        let own = || all().map(|(&id, &place)| (self.parameters().get(id), place));
        let adapted =
            || own().filter(|&(weight, place)| place != Place::Base && self.is_adapted(weight, place, config));
        let Some((first, _)) = adapted().next() else { return 0 };
        let input = if config.lora_dropout > 0.0 { first.row_len() } else { 0 };
        let output = if config.use_dora { self.rows(projection) } else { 0 };
        number * (config.r * adapted().count() + input + output)
    }

    /// The weights that can have an adapter, each with its place.
    fn adaptable(&self) -> impl Iterator<Item = (&Parameter, Place)> {
        let all = self.model.projections().flat_map(|projection| projection.weights.iter().zip(&projection.places));
        all.filter(|(_, place)| **place != Place::Base).map(|(&id, &place)| (self.parameters().get(id), place))
    }

    fn is_adapted(&self, weight: &Parameter, place: Place, config: &LoraConfig) -> bool {
        config.targets(&linear(weight, place, self.model.names()))
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.model.stack.layers.iter()
    }

    fn weights<'a>(&'a self, projection: &Projection) -> impl Iterator<Item = &'a Parameter> {
        projection.weights.iter().map(|&id| self.parameters().get(id))
    }

    fn rows(&self, projection: &Projection) -> usize {
        self.weights(projection).map(Parameter::rows).sum()
    }
}

fn numbers_of_adapter(weight: &Parameter, config: &LoraConfig) -> usize {
    let (out, width) = (weight.rows(), weight.row_len());
    config.r * (out + width) + if config.use_dora { out } else { 0 }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HfConfig;
    use crate::registry;

    fn outline(config: &Value) -> Outline {
        registry::outline(&HfConfig::new(config.clone()).unwrap(), true).unwrap()
    }

    /// The sizes of the paper's models as their config files have them, and the counts of their model cards.
    #[test]
    fn the_models_of_the_paper_have_their_published_numbers() {
        let qwen3 = |hidden: usize, inner: usize, layers: usize, heads: usize, tied: bool| {
            json!({
                "model_type": "qwen3", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
                "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
                "tie_word_embeddings": tied, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 40_960,
                "attention_bias": false, "max_window_layers": layers, "use_sliding_window": false, "sliding_window": null,
            })
        };
        let phi4 = json!({
            "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17_920, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": 10, "vocab_size": 100_352, "tie_word_embeddings": false,
            "rope_theta": 250_000, "rms_norm_eps": 1e-5, "max_position_embeddings": 16_384, "original_max_position_embeddings":
            16_384, "sliding_window": null, "rope_scaling": null, "pad_token_id": 100_349,
        });
        let llama = json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": false,
            "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072, "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        });
        let mistral = json!({
            "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32_768, "tie_word_embeddings": false,
            "rope_theta": 1e6, "rms_norm_eps": 1e-5, "max_position_embeddings": 32_768, "sliding_window": null,
        });
        for (config, parameters, matrices) in [
            (qwen3(1024, 3072, 28, 16, true), 596_049_920, 28 * 7),
            (qwen3(5120, 17_408, 40, 40, false), 14_768_307_200, 40 * 7),
            (phi4, 14_659_507_200, 40 * 7),
            (llama, 8_030_261_248, 32 * 7),
            (mistral, 7_248_023_552, 32 * 7),
        ] {
            let outline = outline(&config);
            let found: usize = outline.parameters().iter().map(Parameter::len).sum();
            assert_eq!((found, outline.units(None).len()), (parameters, matrices), "{config}");
        }
    }

    /// By hand for one layer of 4 hidden numbers, 2 query heads and 1 of keys and values, 2 wide, and an MLP of 6.
    #[test]
    fn what_a_pass_keeps_is_counted_by_hand() {
        let config = json!({
            "model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 8, "max_position_embeddings": 16,
        });
        let outline = outline(&config);
        // Twice the stream, its norm and the norm's factor; q, k, v; what heads see and its sum; gate and up.
        let f32s = 2 * (4 + 4 + 1) + 8 + 4 + 2 + 12;
        assert_eq!(outline.kept_by_layers(Dtype::F32, None), [4 * f32s]);
        let halves = 4 * (2 * (4 + 1) + 2) + 2 * (2 * 4 + 8 + 4 + 12);
        assert_eq!(outline.kept_by_layers(Dtype::Bf16, None), [halves]);
        assert_eq!(outline.kept_while_writing(Dtype::Bf16), 2 * 2 * 2);
        let adapter =
            LoraConfig { r: 2, target_modules: vec!["q_proj".into(), "down_proj".into()], ..LoraConfig::default() };
        assert_eq!(outline.kept_by_layers(Dtype::F32, Some(&adapter)), [4 * (f32s + 2 + 2)]);
        assert_eq!(outline.adapters(&adapter).unwrap(), [2 * (4 + 4), 2 * (4 + 6)]);
        let units: Vec<String> = outline.units(Some(&adapter)).iter().map(ToString::to_string).collect();
        assert_eq!(units, ["language.0.q", "language.0.down"]);
        assert!(outline.adapters(&LoraConfig { r: 5, ..adapter }).unwrap_err().to_string().contains("lora_r: 5"));
    }
}
