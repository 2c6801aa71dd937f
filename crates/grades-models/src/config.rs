//! Reading a checkpoint's `config.json`, in the spelling of transformers 5 and in the older one.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::nn::{DecoderConfig, RopeScaling};
use crate::ops::Activation;

/// A checkpoint's config.
#[derive(Clone, Debug)]
pub struct HfConfig(Value);

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

    /// What the llama-like families share.
    pub(crate) fn decoder(&self) -> Result<DecoderConfig, Error> {
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
        let (rope_theta, rope_scaling) = self.rope()?;
        Ok(DecoderConfig {
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: self.optional("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings: self.optional("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: self.flag("tie_word_embeddings"),
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            sliding_window: None,
            activation: self.activation()?,
        })
    }

    fn activation(&self) -> Result<Activation, Error> {
        match self.optional::<String>("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
            Some(other) => Err(Error::config(format!(
                "has `hidden_act: {other}`; supported are silu, gelu and gelu_pytorch_tanh"
            ))),
        }
    }

    /// Base and scaling: `rope_parameters` of transformers 5, or `rope_theta` with `rope_scaling` before it.
    fn rope(&self) -> Result<(f64, RopeScaling), Error> {
        let parameters = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| self.0.get(key).filter(|value| value.is_object()));
        let nested = parameters.map_or(Ok(None), |p| optional(p, "rope_theta"))?;
        let theta = match nested {
            Some(theta) => theta,
            None => self.optional("rope_theta")?.unwrap_or(10_000.0),
        };
        let Some(parameters) = parameters else { return Ok((theta, RopeScaling::None)) };
        let number = |key: &str| {
            optional::<f64>(parameters, key)?
                .filter(|number| *number > 0.0)
                .ok_or_else(|| Error::config(format!("lacks a positive `{key}` in its rope scaling")))
        };
        let kind = optional::<String>(parameters, "rope_type")?.or(optional(parameters, "type")?);
        let scaling = match kind.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: number("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(Error::config(format!(
                    "has the rope type `{other}`; supported are default, linear and llama3"
                )));
            }
        };
        Ok((theta, scaling))
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
