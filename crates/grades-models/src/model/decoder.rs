//! A decoder-only language model.

use std::sync::Arc;

use grades_tensor::{Dtype, Label, Layout, Leaf, Tape, Tensor, Var, ops};

use super::inputs::{Inputs, Prefix};
use super::stack::Stack;
use crate::adapter::LoraConfig;
use crate::config::Sizes;
use crate::nn::{Adapting, DropoutKey, KeysAndValues, Projection, Run};
use crate::parameters::{Parameter, ParameterId, Parameters, Place};

/// What a family puts together.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) embedding: ParameterId,
    pub(crate) stack: Stack,
    /// The head, where it is not the embedding.
    pub(crate) head: Option<ParameterId>,
}

/// Keys and values of the tokens that were seen, by layer.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<Option<KeysAndValues>>,
    tokens: usize,
}

impl KvCache {
    /// Number of tokens held.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// A decoder-only language model.
#[derive(Debug)]
pub struct Decoder {
    sizes: Sizes,
    pub(super) parameters: Parameters,
    pub(super) embedding: ParameterId,
    pub(super) stack: Stack,
    /// The untied head.
    pub(super) head: Option<ParameterId>,
    /// Whether a tied embedding trains as input too; as head it does where it is trainable.
    pub(super) input_trains: bool,
    /// Whether a tied embedding has parted.
    pub(super) untied: bool,
    dtype: Dtype,
    adapter: Option<LoraConfig>,
    /// The places of the parameters under the adapter, as they were without it.
    places: Vec<Vec<Place>>,
}

impl Decoder {
    /// The model that a family has put together.
    pub(crate) fn new(sizes: Sizes, wiring: Wiring, parameters: Parameters) -> Self {
        let Wiring { embedding, stack, head } = wiring;
        Self {
            sizes,
            parameters,
            embedding,
            stack,
            head,
            input_trains: true,
            untied: false,
            dtype: Dtype::F32,
            adapter: None,
            places: Vec::new(),
        }
    }

    /// The sizes.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
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

    /// The dtype of its products and of the activations between them: f32 unless set.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sets the dtype of its products and of the activations between them; the weights stay as they are.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.dtype = dtype;
    }

    /// The options of its adapters.
    #[must_use]
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref()
    }

    /// Every linear layer, in the order of the data.
    fn projections(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.stack.layers.iter_mut().flat_map(|layer| layer.projections_mut())
    }

    /// Puts adapters beside its linear layers: `attach` adds their parameters to the table and their pairs to the layers.
    /// From here on only they train.
    pub(crate) fn adapt<E>(
        &mut self,
        config: LoraConfig,
        attach: impl FnOnce(&LoraConfig, Parameters, Vec<&mut Projection>) -> Result<Parameters, E>,
    ) -> Result<(), E> {
        let places = |parameter: &Parameter| parameter.pieces().iter().map(|piece| piece.place).collect();
        self.places = self.parameters.iter().map(places).collect();
        for parameter in self.parameters.iter_mut() {
            parameter.set_trainable(false);
            let all = vec![Place::Base; parameter.pieces().len()];
            parameter.set_places(all);
        }
        let parameters = std::mem::take(&mut self.parameters);
        self.parameters = attach(&config, parameters, self.projections().collect())?;
        self.adapter = Some(config);
        Ok(())
    }

    /// The same model without adapters, all of it dense: each weight becomes what it is with its own.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.parameters.iter_mut().for_each(Parameter::unpack);
        let scaling = self.adapter.take().as_ref().map_or(0.0, LoraConfig::scaling);
        let mut parameters = std::mem::take(&mut self.parameters);
        for projection in self.projections() {
            for (&weight, pair) in projection.weights.iter().zip(std::mem::take(&mut projection.pairs)) {
                if let Some(pair) = pair.filter(|pair| !pair.folded) {
                    pair.fold(&mut parameters, weight, scaling);
                }
            }
        }
        let places = std::mem::take(&mut self.places);
        if !places.is_empty() {
            parameters.truncate(places.len());
        }
        for (parameter, places) in parameters.iter_mut().zip(places) {
            parameter.set_places(places);
        }
        self.parameters = parameters;
        self
    }

    /// Adds every adapter of which nothing trains any more to its weight, so that its products vanish; a packed weight stays
    /// as it is. The adapter's values stay in the table, and are saved as before.
    pub fn fold_frozen(&mut self) {
        let scaling = self.adapter.as_ref().map_or(0.0, LoraConfig::scaling);
        let mut parameters = std::mem::take(&mut self.parameters);
        for projection in self.projections() {
            for (&weight, pair) in projection.weights.iter().zip(&mut projection.pairs) {
                let Some(pair) = pair.as_mut().filter(|pair| !pair.folded) else { continue };
                let trains = pair.parameters().any(|id| parameters.get(id).is_trainable());
                if !trains && !parameters.get(weight).is_packed() {
                    pair.fold(&mut parameters, weight, scaling);
                    pair.folded = true;
                }
            }
        }
        self.parameters = parameters;
    }

    /// `log p(token)` of each label after the token of its row, `[1, labels]`; they are in the order of their rows. Nothing
    /// is recorded for gradients.
    #[must_use]
    pub fn log_likelihoods(&self, inputs: &Inputs, labels: &[Label]) -> Tensor {
        self.log_likelihoods_from(self.embedded(inputs), inputs, labels)
    }

    /// [`log_likelihoods`](Self::log_likelihoods) from a prefix. Above the last layer's attention there are only the rows
    /// that have a label.
    #[must_use]
    pub fn log_likelihoods_from(&self, prefix: Prefix, inputs: &Inputs, labels: &[Label]) -> Tensor {
        let of_rows = labels.chunk_by(|one, other| one.row == other.row);
        let rows: Vec<u32> = of_rows.clone().map(|labels| labels[0].row).collect();
        let labels: Vec<Label> =
            (0..).zip(of_rows).flat_map(|(row, labels)| labels.iter().map(move |l| Label { row, ..*l })).collect();
        let last = self.stack.layers.len().saturating_sub(1);
        let Prefix { output, layers } = self.prefix(inputs, Some(prefix), last);
        let (tape, output) = (Tape::off(), Var::constant(output));
        let run = self.run(&tape, None);
        let x = match self.stack.layers.get(layers) {
            None => ops::gather_rows(&output, &rows),
            Some(layer) => {
                let seen = layer.see(run, &output, &inputs.layout, None);
                layer.beyond_attention(run, &ops::gather_rows(&seen, &rows), &ops::gather_rows(&output, &rows))
            }
        };
        let hidden = self.stack.norm.forward(run, &x);
        ops::log_likelihoods(&hidden, &self.head_weight(&tape).value, &labels)
    }

    /// Logits of every token, `[tokens, vocabulary]`. Nothing is recorded for gradients.
    #[must_use]
    pub fn logits(&self, inputs: &Inputs) -> Tensor {
        self.logits_of(&self.hidden(inputs, None))
    }

    /// Logits that follow the last of `ids`, `[1, vocabulary]`; `ids` follow what the cache holds, and join it.
    #[must_use]
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache) -> Tensor {
        let layout = Arc::new(Layout::cached(cache.tokens, ids.len()));
        let hidden = self.hidden(&Inputs::tokens(Arc::new(ids.to_vec()), layout), Some(cache));
        cache.tokens += ids.len();
        self.logits_of(&ops::gather_rows(&hidden, &[ids.len() as u32 - 1]))
    }

    /// Whether `more` tokens turn those in the cache, as embeddings of long texts do: then all must be read again into an
    /// empty one.
    #[must_use]
    pub fn outgrows(&self, cache: &KvCache, more: usize) -> bool {
        let seen = cache.tokens;
        let ropes = self.stack.layers.iter().filter_map(|layer| layer.attention.heads.rope.as_ref());
        seen > 0 && ropes.into_iter().any(|rope| rope.changes(seen, seen + more))
    }

    fn logits_of(&self, hidden: &Var) -> Tensor {
        let (tape, hidden) = (Tape::off(), Var::constant(hidden.value.cast(Dtype::F32)));
        ops::project(&tape, &hidden, &[self.head_weight(&tape)], &[], None).value
    }

    /// The normed output of the last layer, `[tokens, hidden]`, without a record.
    fn hidden(&self, inputs: &Inputs, cache: Option<&mut KvCache>) -> Var {
        let tape = Tape::off();
        let run = self.run(&tape, None);
        let (x, all) = (self.embed(&tape, inputs), 0..self.stack.layers.len());
        let x = self.stack.run(run, x, all, &inputs.layout, cache.map(|cache| &mut cache.layers));
        self.stack.norm.forward(run, &x)
    }

    /// What its blocks are run with.
    pub(super) fn run<'a>(&'a self, tape: &'a Tape, dropout: Option<DropoutKey>) -> Run<'a> {
        let adapting = |config: &LoraConfig| Adapting { scaling: config.scaling(), dropout: config.lora_dropout };
        let adapting = self.adapter.as_ref().map(adapting);
        Run { tape, parameters: &self.parameters, adapting, dropout, balance: None, dtype: self.dtype }
    }

    /// The input of the first layer, `[tokens, hidden]`.
    pub(super) fn embed(&self, tape: &Tape, inputs: &Inputs) -> Var {
        let track = tape.is_recording() && (self.head.is_some() || self.input_trains);
        let x = ops::embed(tape, &self.parameters.leaf(self.embedding, track), inputs.ids.clone());
        let x = match self.sizes.embedding_scale {
            1.0 => x,
            factor => ops::scale(tape, x, factor),
        };
        match &inputs.replaced {
            None => x,
            Some(replaced) => ops::replace_rows(tape, x, replaced.rows.clone(), &replaced.by),
        }
    }

    /// The head on a tape.
    pub(super) fn head_weight(&self, tape: &Tape) -> Leaf {
        self.parameters.leaf(self.head.unwrap_or(self.embedding), tape.is_recording())
    }

    /// Where its lowest trainable parameter stands, as [`Stack::lowest_trainable`].
    pub(super) fn lowest_trainable(&self) -> usize {
        self.stack.lowest_trainable(&self.parameters, self.input_trains || self.head.is_some())
    }
}
