//! Reading a checkpoint's `config.json`, in the spelling of transformers 5 and in the older one.

use serde::de::DeserializeOwned;
use serde_json::Value;

use grades_tensor::Activation;

use crate::Error;
use crate::nn::{RopeConfig, RopeScaling};

/// The sizes that every decoder has.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Added to the mean square inside a norm.
    pub rms_norm_eps: f64,
    /// Longest text that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Sizes {
    /// Width of the queries.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the keys, and of the values.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// A checkpoint's config.
#[derive(Clone, Debug)]
pub struct HfConfig(Value);

impl From<serde_json::Map<String, Value>> for HfConfig {
    fn from(object: serde_json::Map<String, Value>) -> Self {
        Self(Value::Object(object))
    }
}

impl HfConfig {
    /// Takes the parsed `config.json`.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn new(value: Value) -> Result<Self, Error> {
        match value {
            Value::Object(_) => Ok(Self(value)),
            _ => Err(Error::config("is not a JSON object; check config.json")),
        }
    }

    /// The config as JSON.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The architecture's name.
    ///
    /// # Errors
    /// When the key is missing.
    pub fn model_type(&self) -> Result<String, Error> {
        self.required("model_type")
    }

    pub(crate) fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        optional(&self.0, key)
    }

    fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| Error::config(format!("lacks `{key}`; check config.json")))
    }

    /// A size: a whole number above 0.
    fn size(&self, key: &str) -> Result<usize, Error> {
        match self.required(key)? {
            0 => Err(Error::config(format!("has `{key}: 0`; it must be at least 1"))),
            size => Ok(size),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The sizes of a decoder.
    pub(crate) fn sizes(&self) -> Result<Sizes, Error> {
        let (hidden_size, num_attention_heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let num_key_value_heads = self.optional("num_key_value_heads")?.unwrap_or(num_attention_heads);
        if num_key_value_heads == 0 || num_attention_heads % num_key_value_heads != 0 {
            return Err(Error::config(format!(
                "has `num_key_value_heads: {num_key_value_heads}`, which does not divide `num_attention_heads: \
                 {num_attention_heads}`"
            )));
        }
        let head_dim = self.optional("head_dim")?.unwrap_or(hidden_size / num_attention_heads);
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(Error::config(format!("has a head size of {head_dim}; it must be even and at least 2")));
        }
        Ok(Sizes {
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: self.optional("rms_norm_eps")?.unwrap_or(1e-6),
            max_position_embeddings: self.max_position_embeddings()?,
            tie_word_embeddings: self.flag("tie_word_embeddings"),
        })
    }

    /// The MLP's non-linearity.
    pub(crate) fn activation(&self) -> Result<Activation, Error> {
        match self.optional::<String>("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
            Some(other) => {
                Err(Error::config(format!("has `hidden_act: {other}`; supported are silu, gelu and gelu_pytorch_tanh")))
            }
        }
    }

    /// Rotary positions: `rope_parameters` of transformers 5, or `rope_theta`, `partial_rotary_factor` and `rope_scaling`
    /// before it.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<RopeConfig, Error> {
        let parameters = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| self.0.get(key).filter(|value| value.is_object()))
            .unwrap_or(&Value::Null);
        let either = |key: &str| Ok::<_, Error>(optional::<f64>(parameters, key)?.or(self.optional(key)?));
        let theta = either("rope_theta")?.unwrap_or(10_000.0);
        let share = either("partial_rotary_factor")?.unwrap_or(1.0);
        // As transformers rounds.
        let rotary_dim = (head_dim as f64 * share) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(Error::config(format!(
                "has `partial_rotary_factor: {share}`, by which {rotary_dim} of a head's {head_dim} elements rotate; their \
                 number must be even, at least 2 and at most {head_dim}"
            )));
        }
        Ok(RopeConfig { rotary_dim, theta, scaling: self.rope_scaling(parameters, rotary_dim)? })
    }

    fn rope_scaling(&self, parameters: &Value, rotary_dim: usize) -> Result<RopeScaling, Error> {
        let number = |key: &str| {
            optional::<f64>(parameters, key)?
                .filter(|number| *number > 0.0)
                .ok_or_else(|| Error::config(format!("lacks a positive `{key}` in its rope scaling")))
        };
        let kind = optional::<String>(parameters, "rope_type")?.or(optional(parameters, "type")?);
        Ok(match kind.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: number("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            },
            // The first Phi-3 called it so.
            Some("longrope" | "su") => self.long_rope(parameters, rotary_dim)?,
            Some(other) => {
                return Err(Error::config(format!(
                    "has the rope type `{other}`; supported are default, linear, llama3 and longrope"
                )));
            }
        })
    }

    fn long_rope(&self, parameters: &Value, rotary_dim: usize) -> Result<RopeScaling, Error> {
        let factors = |key: &str| {
            optional::<Vec<f64>>(parameters, key)?
                .filter(|factors| factors.len() == rotary_dim / 2 && factors.iter().all(|factor| *factor > 0.0))
                .ok_or_else(|| {
                    Error::config(format!("needs `{key}` in its rope scaling: {} positive numbers", rotary_dim / 2))
                })
        };
        // Beside the scaling or in it; the first counts.
        let key = "original_max_position_embeddings";
        let original: usize = match self.optional(key)? {
            Some(original) => original,
            None => optional(parameters, key)?.unwrap_or(0),
        };
        if original < 2 {
            return Err(Error::config(format!("has `{key}: {original}` for its rope scaling; it must be at least 2")));
        }
        let attention_factor = match optional(parameters, "attention_factor")? {
            Some(factor) => factor,
            None => {
                let stretched = self.max_position_embeddings()? as f64 / original as f64;
                let factor = optional(parameters, "factor")?.unwrap_or(stretched);
                (1.0 + factor.max(1.0).ln() / (original as f64).ln()).sqrt()
            }
        };
        Ok(RopeScaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor,
        })
    }

    fn max_position_embeddings(&self) -> Result<usize, Error> {
        Ok(self.optional("max_position_embeddings")?.unwrap_or(2048))
    }
}

fn optional<T: DeserializeOwned>(object: &Value, key: &str) -> Result<Option<T>, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|_| Error::config(format!("has `{key}: {value}`, which is not of the expected type"))),
    }
}
