//! The decoder that the llama-like families share: embedding, layers of attention and gated MLP, norm, head.

mod pass;
mod tied;

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use grades::{Companion, Role, Tower, UnitId};

pub use pass::{Pass, PassOptions, Prefix};
pub use tied::Untied;

use super::lora::{Draw, LoraConfig};
use super::projection::{Context, Projection, fold};
use super::{Rope, RopeScaling};
use crate::Error;
use crate::ops::{self, Activation, AttentionSpec, Label, Layout, Precision, Tie};
use crate::parameters::{Builder, Parameter, ParameterId, Parameters, Place, Source, Storage};

/// The sizes of a decoder and what tells the families apart.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
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
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Stretching of the rotary embedding.
    pub rope_scaling: RopeScaling,
    /// Longest text that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has one.
    pub o_bias: bool,
    /// Whether the MLP's projections have them.
    pub mlp_bias: bool,
    /// Sliding window of the attention.
    pub sliding_window: Option<usize>,
    /// The MLP's non-linearity.
    pub activation: Activation,
}

/// A flat batch of tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Token ids, `[tokens]`.
    pub ids: Arc<Vec<u32>>,
    /// Samples and positions.
    pub layout: Arc<Layout>,
}

/// Keys and values of the tokens that were seen, per layer, each `[tokens, kv_heads · head_dim]`.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<Option<(Tensor<2>, Tensor<2>)>>,
    tokens: usize,
}

impl KvCache {
    /// Number of tokens held.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Adds the new tokens' keys and values of one layer; returns all of that layer.
    fn extend(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let all = match self.layers[layer].take() {
            Some((keys, values)) => (Tensor::cat(vec![keys, k], 0), Tensor::cat(vec![values, v], 0)),
            None => (k, v),
        };
        self.layers[layer] = Some(all.clone());
        all
    }
}

/// How layers run: without anything, or in training.
#[derive(Clone, Copy, Debug, Default)]
struct Recorded {
    /// Whether what trains is recorded for gradients.
    track: bool,
    /// What the adapters' dropout is drawn from.
    draw: Option<Draw>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: ParameterId,
    qkv: Projection,
    o: Projection,
    mlp_norm: ParameterId,
    gate_up: Projection,
    down: Projection,
}

/// A decoder-only language model.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    parameters: Parameters,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: ParameterId,
    /// The untied head.
    head: Option<ParameterId>,
    /// Whether a tied embedding is tracked as input too; as head it is where it is trainable.
    input_trains: bool,
    /// Whether a tied embedding has parted.
    untied: bool,
    precision: Precision,
    rope: Rope,
    adapter: Option<LoraConfig>,
    /// The places of the parameters under the adapter, as they were without it.
    places: Vec<Place>,
}

impl Decoder {
    /// Puts the model together from the tensors of `source`, named as transformers' llama names them.
    ///
    /// # Errors
    /// When a tensor is missing, cannot be read, or has another shape than the config says.
    pub fn load(config: DecoderConfig, source: &dyn Source, device: &Device) -> Result<Self, Error> {
        Self::load_as(config, source, device, Storage::Dense)
    }

    /// As [`load`](Self::load), with the projection matrices held as `storage` says; embedding, head, norms and biases are
    /// dense.
    ///
    /// # Errors
    /// As there, and if a matrix to be packed holds what is no finite number.
    pub fn load_as(
        config: DecoderConfig,
        source: &dyn Source,
        device: &Device,
        storage: Storage,
    ) -> Result<Self, Error> {
        let mut builder = Builder::new(source, device, storage);
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let input = Companion::Embedding { tower: Tower::Language };
        let place = if config.tie_word_embeddings { Place::Tied(input) } else { Place::Companion(input) };
        let embedding = builder.add("model.embed_tokens.weight", &[vocabulary, hidden], place)?;
        let layers = (0..config.num_hidden_layers).map(|index| Layer::load(&config, index, &mut builder));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = builder.add("model.norm.weight", &[hidden], Place::Always)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(builder.add(tied::HEAD, &[vocabulary, hidden], Place::Always)?),
        };
        let rope = Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling);
        Ok(Self {
            parameters: builder.finish(),
            config,
            embedding,
            layers,
            norm,
            head,
            input_trains: true,
            untied: false,
            precision: Precision::F32,
            rope,
            adapter: None,
            places: Vec::new(),
        })
    }

    /// The same model with low-rank adapters, their values from `values` by PEFT's names. From here on only they train.
    ///
    /// # Errors
    /// If the model has adapters, a target is unknown, the rank is out of range, or the values do not fit.
    pub fn with_adapter(mut self, config: LoraConfig, values: &dyn Source) -> Result<Self, Error> {
        if self.adapter.is_some() {
            return Err(Error::Input("the model has an adapter already; merge that one into it first".into()));
        }
        let projections = self.layers.iter_mut().flat_map(Layer::projections);
        let mut lists: Vec<_> = projections.map(|projection| (&projection.weights, &mut projection.pairs)).collect();
        let device = self.parameters.get(self.embedding).value.device();
        self.places = self.parameters.iter().map(|parameter| parameter.place).collect();
        self.parameters = config.attach(std::mem::take(&mut self.parameters), &mut lists, values, &device)?;
        self.adapter = Some(config);
        Ok(self)
    }

    /// The same model without adapters, all of it dense: each weight becomes what it is with its own.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn merged(mut self) -> Result<Self, Error> {
        self.parameters.iter_mut().for_each(Parameter::unpack);
        let scale = self.adapter.take().as_ref().map_or(0.0, LoraConfig::scale);
        for projection in self.layers.iter_mut().flat_map(Layer::projections) {
            for (&weight, pair) in projection.weights.iter().zip(std::mem::take(&mut projection.pairs)) {
                if let Some(pair) = pair.filter(|pair| !pair.folded) {
                    fold(&mut self.parameters, weight, &pair, scale)?;
                }
            }
        }
        let places = std::mem::take(&mut self.places);
        if !places.is_empty() {
            self.parameters.truncate(places.len());
        }
        for (parameter, place) in self.parameters.iter_mut().zip(places) {
            parameter.place = place;
        }
        Ok(self)
    }

    /// Adds every adapter of which nothing trains any more to its weight, so that its products vanish; a packed weight stays
    /// as it is. The adapter's values stay in the table, and are saved as before.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn fold_frozen(&mut self) -> Result<(), Error> {
        let scale = self.adapter.as_ref().map_or(0.0, LoraConfig::scale);
        for projection in self.layers.iter_mut().flat_map(Layer::projections) {
            for (&weight, pair) in projection.weights.iter().zip(&mut projection.pairs) {
                let Some(pair) = pair.as_mut().filter(|pair| !pair.folded) else { continue };
                if self.parameters.get(weight).packed.is_some() {
                    continue;
                }
                if pair.parameters().all(|id| !self.parameters.get(id).is_trainable()) {
                    fold(&mut self.parameters, weight, pair, scale)?;
                    pair.folded = true;
                }
            }
        }
        Ok(())
    }

    /// The options of its adapters.
    #[must_use]
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref()
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All parameters.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The numbers of its products and of the activations between them: f32 unless set.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the numbers of its products and of the activations between them; the weights stay f32.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The mean-like loss `scale · Σ −log p(target)` of a training batch, `[1]`.
    #[must_use]
    pub fn loss(&self, tokens: &Tokens, targets: Arc<Vec<i64>>, scale: f32) -> Tensor<1> {
        self.pass(tokens, targets, scale, PassOptions::default()).into_loss()
    }

    /// `log p(token)` of each label after the token of its row, `[labels]`; they are in the order of their rows. Nothing is
    /// recorded for gradients.
    #[must_use]
    pub fn log_likelihoods(&self, tokens: &Tokens, labels: &[Label]) -> Tensor<1> {
        self.log_likelihoods_from(self.embedded(tokens), tokens, labels)
    }

    /// Logits of every token, `[tokens, vocabulary]`. Nothing is recorded for gradients.
    #[must_use]
    pub fn logits(&self, tokens: &Tokens) -> Tensor<2> {
        let hidden = self.hidden(tokens, None).cast(FloatDType::F32);
        ops::project(hidden, vec![self.head_weight(false)], Vec::new(), None)
    }

    /// Logits that follow the last of `ids`, `[1, vocabulary]`; `ids` follow what the cache holds, and join it.
    #[must_use]
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache) -> Tensor<2> {
        let layout = Arc::new(Layout::cached(cache.tokens, ids.len()));
        let hidden = self.hidden(&Tokens { ids: Arc::new(ids.to_vec()), layout }, Some(cache));
        cache.tokens += ids.len();
        let last = hidden.narrow(0, ids.len() - 1, 1).cast(FloatDType::F32);
        ops::project(last, vec![self.head_weight(false)], Vec::new(), None)
    }

    /// The normed output of the last layer, `[tokens, hidden]`, outside autodiff.
    fn hidden(&self, tokens: &Tokens, cache: Option<&mut KvCache>) -> Tensor<2> {
        let x = self.embed(tokens, None, false);
        self.run_layers(x, 0, tokens, cache, Recorded::default())
    }

    fn embed(&self, tokens: &Tokens, tie: Option<Tie>, track: bool) -> Tensor<2> {
        ops::embed(self.parameters.value(self.embedding, track), tokens.ids.clone(), tie)
    }

    /// Layers `first..` and the final norm.
    fn run_layers(
        &self,
        mut x: Tensor<2>,
        first: usize,
        tokens: &Tokens,
        mut cache: Option<&mut KvCache>,
        recorded: Recorded,
    ) -> Tensor<2> {
        let spec = self.attention_spec(tokens);
        for (index, layer) in self.layers.iter().enumerate().skip(first) {
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            x = self.layer(layer, x, spec.clone(), cache, recorded);
        }
        self.norm(x, self.norm, recorded)
    }

    fn norm(&self, x: Tensor<2>, scale: ParameterId, recorded: Recorded) -> Tensor<2> {
        let scale = self.parameters.value(scale, recorded.track);
        ops::rms_norm(x, scale, self.config.rms_norm_eps as f32, self.precision)
    }

    fn project(&self, with: &Projection, x: Tensor<2>, residual: Option<Tensor<2>>, recorded: Recorded) -> Tensor<2> {
        with.run(self.context(recorded), x, residual)
    }

    fn context(&self, Recorded { track, draw }: Recorded) -> Context<'_> {
        Context { parameters: &self.parameters, adapter: self.adapter.as_ref(), track, draw }
    }

    fn layer(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        spec: AttentionSpec,
        cache: Option<(&mut KvCache, usize)>,
        recorded: Recorded,
    ) -> Tensor<2> {
        let seen = self.seen(layer, x.clone(), spec, cache, recorded);
        self.beyond_attention(layer, seen, x, recorded)
    }

    /// What each token of a layer's input sees of the others, `[tokens, heads · head_dim]`.
    fn seen(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        spec: AttentionSpec,
        cache: Option<(&mut KvCache, usize)>,
        recorded: Recorded,
    ) -> Tensor<2> {
        let qkv = self.project(&layer.qkv, self.norm(x, layer.attention_norm, recorded), None, recorded);
        match cache {
            None => match spec.layout.key_rows.clone() {
                None => ops::self_attention(qkv, spec),
                Some(rows) => {
                    let (q, k, v) = ops::split_heads(qkv, spec.clone());
                    ops::attend(q, ops::embed(k, rows.clone(), None), ops::embed(v, rows, None), spec)
                }
            },
            Some((cache, index)) => {
                let (q, k, v) = ops::split_heads(qkv, spec.clone());
                let (k, v) = cache.extend(index, k, v);
                ops::attend(q, k, v, spec)
            }
        }
    }

    /// The rest of a layer, which is row by row: what the rows saw is added to their input x, and the MLP follows.
    fn beyond_attention(&self, layer: &Layer, seen: Tensor<2>, x: Tensor<2>, recorded: Recorded) -> Tensor<2> {
        let x = self.project(&layer.o, seen, Some(x), recorded);
        let normed = self.norm(x.clone(), layer.mlp_norm, recorded);
        let activated = layer.gate_up.run_gated(self.context(recorded), normed, self.config.activation);
        self.project(&layer.down, activated, Some(x), recorded)
    }

    fn attention_spec(&self, tokens: &Tokens) -> AttentionSpec {
        let longest = tokens.layout.positions.iter().max().map_or(0, |&p| p as usize + 1);
        AttentionSpec {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            scale: (self.config.head_dim as f32).powf(-0.5),
            causal: true,
            window: self.config.sliding_window,
            rope: Some(self.rope.table(longest)),
            layout: tokens.layout.clone(),
        }
    }

    fn head_weight(&self, track: bool) -> Tensor<2> {
        self.parameters.value(self.head.unwrap_or(self.embedding), track)
    }
}

impl Layer {
    fn projections(&mut self) -> [&mut Projection; 4] {
        [&mut self.qkv, &mut self.o, &mut self.gate_up, &mut self.down]
    }

    fn load(config: &DecoderConfig, index: usize, builder: &mut Builder<'_>) -> Result<Self, Error> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        let norm = |builder: &mut Builder<'_>, name: &str| {
            let norms = Companion::Norms { tower: Tower::Language, layer: index };
            builder.add(&format!("model.layers.{index}.{name}.weight"), &[hidden], Place::Companion(norms))
        };
        let mut site = 4 * index as u64;
        let mut projection = |builder: &mut Builder<'_>, bias: bool, parts: &[(&str, Role, usize, usize)]| {
            let mut projection = Projection { weights: Vec::new(), biases: Vec::new(), pairs: Vec::new(), site };
            site += 1;
            for &(name, role, rows, columns) in parts {
                let unit = Place::Unit(UnitId::language(index, role));
                let name = format!("model.layers.{index}.{name}");
                projection.weights.push(builder.add(&format!("{name}.weight"), &[rows, columns], unit)?);
                if bias {
                    projection.biases.push(builder.add(&format!("{name}.bias"), &[rows], unit)?);
                }
            }
            Ok::<_, Error>(projection)
        };
        Ok(Self {
            attention_norm: norm(builder, "input_layernorm")?,
            qkv: projection(
                builder,
                config.qkv_bias,
                &[
                    ("self_attn.q_proj", Role::Q, query, hidden),
                    ("self_attn.k_proj", Role::K, key, hidden),
                    ("self_attn.v_proj", Role::V, key, hidden),
                ],
            )?,
            o: projection(builder, config.o_bias, &[("self_attn.o_proj", Role::O, hidden, query)])?,
            mlp_norm: norm(builder, "post_attention_layernorm")?,
            gate_up: projection(
                builder,
                config.mlp_bias,
                &[("mlp.gate_proj", Role::Gate, inner, hidden), ("mlp.up_proj", Role::Up, inner, hidden)],
            )?,
            down: projection(builder, config.mlp_bias, &[("mlp.down_proj", Role::Down, hidden, inner)])?,
        })
    }
}
