//! A training pass: what trains is recorded for gradients, all of it at once or, with checkpointing, a layer at a time.
//!
//! With checkpointing (Chen et al. 2016) the layers run without a record and only their inputs are kept; the backward
//! pass runs each layer again with one. A layer's gradients come out as soon as it is done, and its record is dropped
//! before the next layer's is made.

use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};
use grades::Companion;

use super::{Decoder, Draw, Recorded, Tokens};
use crate::ops::{self, AttentionSpec, CrossEntropySpec, Flops, Label, Tie};
use crate::parameters::{Parameter, Place};

/// The output of a model's first layers for a batch.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// `[tokens, hidden]`.
    pub output: Tensor<2>,
    /// How many layers it is the output of; 0 for the embedding's.
    pub layers: usize,
}

/// How a training pass runs.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Where the pass begins; left out, at the tokens. Not used where something that it holds trains.
    pub prefix: Option<Prefix>,
    /// Whether layers run again in the backward pass instead of being recorded all at once.
    pub checkpointing: bool,
    /// What the adapters' dropout is drawn from; left out, nothing is dropped.
    pub draw: Option<Draw>,
}

/// A forward pass of training, ready for its backward pass.
#[derive(Debug)]
pub struct Pass<'a> {
    model: &'a Decoder,
    tokens: Tokens,
    spec: AttentionSpec,
    lowest: usize,
    draw: Option<Draw>,
    tie: Option<Tie>,
    loss: Tensor<1>,
    /// The input of what is recorded, where the gradient goes on below it.
    recorded: Option<Tensor<2>>,
    /// The layers to run again, from the input, with what went into them.
    inputs: Vec<(usize, Tensor<2>)>,
}

impl Decoder {
    /// Where the lowest trainable parameter stands: 0 for the embedding as input, `i + 1` for layer `i`, and above the
    /// layers for what comes after them, or if nothing trains.
    fn lowest_trainable(&self) -> usize {
        let top = self.layers.len() + 1;
        let height = |parameter: &Parameter| match parameter.place {
            Place::Unit(unit) => unit.layer + 1,
            Place::Companion(Companion::Norms { layer, .. }) => layer + 1,
            Place::Companion(Companion::Embedding { .. }) => 0,
            Place::Tied(_) if self.input_trains => 0,
            Place::Tied(_) | Place::Always | Place::Base => top,
        };
        self.parameters.iter().filter(|parameter| parameter.is_trainable()).map(height).min().unwrap_or(top)
    }

    /// How many layers from the input on hold nothing that trains, the embedding as input included.
    #[must_use]
    pub fn frozen_layers(&self) -> usize {
        self.lowest_trainable().saturating_sub(1).min(self.layers.len())
    }

    /// Whether the output of the [`frozen_layers`](Self::frozen_layers) stays what it is while the rest trains. A tied
    /// embedding that trains on as head moves it.
    #[must_use]
    pub fn is_prefix_constant(&self) -> bool {
        self.frozen_layers() > 0 && !(self.head.is_none() && self.parameters.get(self.embedding).is_trainable())
    }

    /// The output of the first `layers` layers, from that of fewer where there is one. Nothing is recorded for gradients.
    #[must_use]
    pub fn prefix(&self, tokens: &Tokens, from: Option<Prefix>, layers: usize) -> Prefix {
        let Prefix { mut output, layers: first } = from.unwrap_or_else(|| self.embedded(tokens));
        let spec = self.attention_spec(tokens);
        for layer in self.layers.iter().take(layers).skip(first) {
            output = self.layer(layer, output, spec.clone(), None, Recorded::default());
        }
        Prefix { output, layers: layers.max(first) }
    }

    /// The operations of a pass with `labels` targets in which everything trains and nothing was computed before, counted
    /// from the wiring alone; `None` with adapters, under which the matrices never train.
    #[must_use]
    pub fn whole_pass(&self, tokens: &Tokens, labels: usize, checkpointing: bool) -> Option<Flops> {
        if self.parameters.iter().any(|parameter| parameter.place == Place::Base) {
            return None;
        }
        let last = self.layers.len().saturating_sub(1);
        let product = |rows: usize, values: usize| 2 * (rows * values) as u64;
        let (mut matrices, mut below_last) = (0, 0);
        for parameter in self.parameters.iter().filter(|parameter| parameter.shape.len() == 2) {
            let Place::Unit(unit) = parameter.place else { continue };
            matrices += parameter.len();
            below_last += if unit.layer < last { parameter.len() } else { 0 };
        }
        let (matrices, below_last) = (product(tokens.ids.len(), matrices), product(tokens.ids.len(), below_last));
        let attention = self.attention_spec(tokens).operations();
        let layers = self.layers.len() as u64;
        let head = product(labels, self.config.vocab_size * self.config.hidden_size);
        let again = if checkpointing { below_last + last as u64 * attention } else { 0 };
        Some(Flops {
            forward: matrices + layers * attention + head + again,
            input_gradient: matrices + layers * (attention / 2 * 5) + head,
            weight_gradient: matrices + head,
        })
    }

    pub(super) fn embedded(&self, tokens: &Tokens) -> Prefix {
        Prefix { output: self.embed(tokens, None, false), layers: 0 }
    }

    /// [`log_likelihoods`](Self::log_likelihoods) from a prefix. Above the last layer's attention there are only the rows
    /// that have a label.
    #[must_use]
    pub fn log_likelihoods_from(&self, prefix: Prefix, tokens: &Tokens, labels: &[Label]) -> Tensor<1> {
        let of_rows = labels.chunk_by(|one, other| one.row == other.row);
        let rows: Arc<Vec<u32>> = Arc::new(of_rows.clone().map(|labels| labels[0].row).collect());
        let labels = (0..).zip(of_rows).flat_map(|(row, labels)| labels.iter().map(move |l| Label { row, ..*l }));
        let labels = Arc::new(labels.collect());
        let only = |x| ops::embed(x, rows.clone(), None);
        let last = self.layers.len().saturating_sub(1);
        let Prefix { output, layers } = self.prefix(tokens, Some(prefix), last);
        let recorded = Recorded::default();
        let x = match self.layers.get(layers) {
            None => only(output),
            Some(layer) => {
                let seen = self.seen(layer, output.clone(), self.attention_spec(tokens), None, recorded);
                self.beyond_attention(layer, only(seen), only(output), recorded)
            }
        };
        ops::log_likelihoods(self.norm(x, self.norm, recorded), self.head_weight(false), labels)
    }

    /// A forward pass with the mean-like loss `scale · Σ −log p(target)`.
    #[must_use]
    pub fn pass(&self, tokens: &Tokens, targets: Arc<Vec<i64>>, scale: f32, options: PassOptions) -> Pass<'_> {
        let (lowest, draw) = (self.lowest_trainable(), options.draw);
        let tie = (self.head.is_none() && lowest == 0).then(Tie::default);
        let prefix = options.prefix.filter(|prefix| prefix.layers < lowest);
        let mut inputs = Vec::new();
        let (x, first) = match (options.checkpointing, prefix) {
            (true, prefix) => {
                let last = self.layers.len().saturating_sub(1);
                self.run_without_record(tokens, prefix, (last, draw), lowest, &mut inputs)
            }
            (false, Some(prefix)) => (prefix.output, prefix.layers),
            (false, None) => (self.embed(tokens, tie.clone(), self.head.is_some() || self.input_trains), 0),
        };
        let below = options.checkpointing && lowest <= first;
        let x = if below { x.autodiff().require_grad() } else { x };
        let recorded = below.then(|| x.clone());
        let hidden = self.run_layers(x, first, tokens, None, Recorded { track: true, draw });
        let loss = ops::cross_entropy(hidden, self.head_weight(true), CrossEntropySpec { targets, scale }, tie.clone());
        let (tokens, spec) = (tokens.clone(), self.attention_spec(tokens));
        Pass { model: self, tokens, spec, lowest, draw, tie, loss, recorded, inputs }
    }

    /// Runs the layers below `last`, and keeps the inputs of those that must run again. Returns the output of all of them.
    fn run_without_record(
        &self,
        tokens: &Tokens,
        prefix: Option<Prefix>,
        (last, draw): (usize, Option<Draw>),
        lowest: usize,
        inputs: &mut Vec<(usize, Tensor<2>)>,
    ) -> (Tensor<2>, usize) {
        let Prefix { mut output, layers: first } = prefix.unwrap_or_else(|| self.embedded(tokens));
        let spec = self.attention_spec(tokens);
        for (index, layer) in self.layers.iter().enumerate().take(last).skip(first) {
            let next = self.layer(layer, output.clone(), spec.clone(), None, Recorded { track: false, draw });
            if lowest <= index + 1 {
                inputs.push((index, output));
            }
            output = next;
        }
        (output, last.max(first))
    }

    fn take_gradients<E>(
        &self,
        found: &mut Gradients,
        take: &mut impl FnMut(usize, Tensor<2>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            if let Some(gradient) = parameter.value.grad_remove(found) {
                take(index, gradient)?;
            }
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// The loss, `[1]`.
    #[must_use]
    pub fn loss(&self) -> &Tensor<1> {
        &self.loss
    }

    pub(super) fn into_loss(self) -> Tensor<1> {
        self.loss
    }

    /// The backward pass: hands over each trainable parameter's gradient with the parameter's index, once.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn backward<E>(self, mut take: impl FnMut(usize, Tensor<2>) -> Result<(), E>) -> Result<(), E> {
        let Self { model, tokens, spec, lowest, draw, tie, loss, recorded, mut inputs } = self;
        if !loss.is_tracked() {
            return Ok(());
        }
        let mut found = loss.backward();
        let mut upstream = recorded.and_then(|x| x.grad_remove(&mut found));
        model.take_gradients(&mut found, &mut take)?;
        drop(found);
        while let Some(dy) = upstream.take() {
            let (y, input) = match inputs.pop() {
                Some((index, x)) => {
                    let below = lowest <= index;
                    let x = if below { x.autodiff().require_grad() } else { x };
                    let input = below.then(|| x.clone());
                    (model.layer(&model.layers[index], x, spec.clone(), None, Recorded { track: true, draw }), input)
                }
                None => (model.embed(&tokens, tie.clone(), true), None),
            };
            // The derivative of Σ y · dy in y is dy, exactly.
            let mut found = (y * dy.autodiff()).sum().backward();
            upstream = input.and_then(|x| x.grad_remove(&mut found));
            model.take_gradients(&mut found, &mut take)?;
        }
        Ok(())
    }
}
