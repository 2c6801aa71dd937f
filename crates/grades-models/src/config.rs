//! Reading a checkpoint's `config.json`, in the spelling of transformers 5 and in the older one.

mod keys;
mod rope;

use grades_tensor::Activation;
use serde_json::Value;

use crate::Error;
use crate::fields::{self, Fields, Rest};

pub(crate) use rope::{Rotated, rope, ropes};

/// The sizes that every decoder has, and what of its mathematics is outside its layers.
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
    /// Factor of what the embedding gives; 1 but for architectures that say otherwise.
    pub embedding_scale: f32,
    /// What norms add to their scale; 0 but for architectures that say otherwise.
    pub norm_offset: f32,
    /// What the loss that balances experts counts in training; 0 where there is none.
    pub router_aux_loss: f32,
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

    /// The architecture's name; the configs of nanoVLM have none, and are told by their keys.
    ///
    /// # Errors
    /// When the key is missing.
    pub fn model_type(&self) -> Result<String, Error> {
        let has = |key: &str| self.0.get(key).is_some();
        let nanovlm = has("lm_hidden_dim") && (has("vit_hidden_dim") || has("vision_config"));
        let nanovlm = nanovlm.then_some("nanovlm");
        let name = self.0.get("model_type").and_then(Value::as_str).or(nanovlm);
        name.map(str::to_owned).ok_or_else(|| Error::config("lacks `model_type`; check config.json"))
    }

    /// Reads it by `reader`, which asks for what its architecture has. Of the keys that it leaves those that would change the
    /// mathematics are refused, and others that are not known to be harmless are named once in a warning.
    pub(crate) fn read<T>(&self, reader: impl FnOnce(&Fields<'_>) -> Result<T, Error>) -> Result<T, Error> {
        fields::read("config.json of the model", &self.0, Rest::Warn, |config| {
            let result = reader(config)?;
            keys::settle(config)?;
            Ok(result)
        })
    }
}

// What a config declares is counted with, and allocated, before a tensor is read. These bounds lie far above any model's, and no
// matrix within them has more elements than 64 bits count.
/// The largest width.
pub(crate) const WIDEST: usize = 1 << 18;
/// The largest vocabulary.
pub(crate) const LARGEST_VOCABULARY: usize = 1 << 24;
/// Most layers, heads of a tower, elements of a head, and pixels along a side of a picture.
pub(crate) const MOST: usize = 1 << 12;
/// Most channels and frames of a patch, and most patches along a side that leave a tower as one.
pub(crate) const FEW: usize = 1 << 4;

/// A size that is at least 1 and at most `most`.
pub(crate) fn within(key: &str, size: usize, most: usize) -> Result<usize, Error> {
    match size {
        size if (1..=most).contains(&size) => Ok(size),
        size => Err(Error::config(format!("has `{key}: {size}`; it must be at least 1 and at most {most}"))),
    }
}

/// The size under `key`, or `plain` where there is none.
pub(crate) fn size(config: &Fields<'_>, key: &str, plain: usize, most: usize) -> Result<usize, Error> {
    within(key, config.optional(key)?.unwrap_or(plain), most)
}

/// The sizes of a decoder.
pub(crate) fn sizes(config: &Fields<'_>) -> Result<Sizes, Error> {
    let size = |key: &str, most: usize| within(key, config.required(key)?, most);
    let (hidden_size, num_attention_heads) = (size("hidden_size", WIDEST)?, size("num_attention_heads", WIDEST)?);
    let num_key_value_heads = config.optional("num_key_value_heads")?.unwrap_or(num_attention_heads);
    if num_key_value_heads == 0 || num_attention_heads % num_key_value_heads != 0 {
        return Err(Error::config(format!(
            "has `num_key_value_heads: {num_key_value_heads}`, which does not divide `num_attention_heads: \
             {num_attention_heads}`"
        )));
    }
    let head_dim = config.optional("head_dim")?.unwrap_or(hidden_size / num_attention_heads);
    if !(2..=MOST).contains(&head_dim) || head_dim % 2 != 0 {
        return Err(Error::config(format!(
            "has a head size (`head_dim`) of {head_dim}; it must be even, at least 2 and at most {MOST}"
        )));
    }
    Ok(Sizes {
        vocab_size: size("vocab_size", LARGEST_VOCABULARY)?,
        hidden_size,
        intermediate_size: size("intermediate_size", WIDEST)?,
        num_hidden_layers: size("num_hidden_layers", MOST)?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: config.optional("rms_norm_eps")?.unwrap_or(1e-6),
        max_position_embeddings: config.optional("max_position_embeddings")?.unwrap_or(2048),
        tie_word_embeddings: config.flag("tie_word_embeddings")?,
        embedding_scale: 1.0,
        norm_offset: 0.0,
        router_aux_loss: 0.0,
    })
}

/// The MLP's non-linearity.
pub(crate) fn activation(config: &Fields<'_>) -> Result<Activation, Error> {
    activation_of(config, "hidden_act", Activation::Silu)
}

/// The non-linearity under `key`, or `plain` where there is none.
pub(crate) fn activation_of(config: &Fields<'_>, key: &str, plain: Activation) -> Result<Activation, Error> {
    match config.optional::<String>(key)?.as_deref() {
        None => Ok(plain),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some(other) => {
            Err(Error::config(format!("has `{key}: {other}`; supported are silu, gelu and gelu_pytorch_tanh")))
        }
    }
}

/// How many tokens a token sees where the window slides, which it then does in every layer.
pub(crate) fn sliding_window(config: &Fields<'_>) -> Result<Option<usize>, Error> {
    let window = config.optional("sliding_window")?;
    let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
    config.only("layer_types", &[kind.into()])?;
    Ok(window)
}

/// In which of `layers` layers the window slides, where `layer_types` says so.
pub(crate) fn sliding_layers(config: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, Error> {
    const SLIDING: &str = "sliding_attention";
    config.only("layer_types", &["full_attention".into(), SLIDING.into()])?;
    let Some(types) = config.optional::<Vec<String>>("layer_types")? else { return Ok(None) };
    if types.len() != layers {
        let found = types.len();
        return Err(Error::config(format!(
            "has {found} entries in `layer_types` for {layers} layers; it needs one for each"
        )));
    }
    Ok(Some(types.iter().map(|kind| kind == SLIDING).collect()))
}
