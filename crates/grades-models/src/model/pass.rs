//! A training pass: what trains is recorded for gradients, all of it at once or, with checkpointing, a layer at a time.
//!
//! With checkpointing (Chen et al. 2016) the layers run without a record and only their inputs are kept; the backward
//! pass runs each layer again with one. A layer's record is dropped before the next layer's is made.

use std::sync::Arc;

use grades::Flops;
use grades_tensor::{CrossEntropySpec, Gradients, Tape, Tensor, Var, ops};

use super::decoder::Decoder;
use super::inputs::{Inputs, Prefix};
use super::noise::embedding_noise;
use crate::nn::DropoutKey;

/// How a training pass runs.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Where the pass begins; left out, at the tokens. Not used where something that it holds trains.
    pub prefix: Option<Prefix>,
    /// Whether layers run again in the backward pass instead of being recorded all at once.
    pub checkpointing: bool,
    /// What the adapters' dropout and the noise are drawn from; left out, nothing is dropped and there is no noise.
    pub dropout: Option<DropoutKey>,
    /// α of NEFTune: uniform noise in ±α / √(tokens of the sample · hidden) on the input embeddings; not above a prefix.
    pub noise: Option<f64>,
}

/// A forward pass of training, ready for its backward pass.
#[derive(Debug)]
pub struct Pass<'a> {
    model: &'a Decoder,
    inputs: Inputs,
    dropout: Option<DropoutKey>,
    tape: Tape,
    loss: Tensor,
    /// The input of what is recorded, where the gradient goes on below it.
    recorded: Option<Var>,
    /// The layers to run again, from the input, with what went into them.
    layers: Vec<(usize, Tensor)>,
    lowest: usize,
}

impl Decoder {
    /// A forward pass with the mean-like loss `scale · Σ −log p(target)`.
    #[must_use]
    pub fn pass(&self, inputs: &Inputs, targets: Arc<Vec<i64>>, scale: f32, options: PassOptions) -> Pass<'_> {
        let PassOptions { prefix, checkpointing, dropout, noise } = options;
        let (lowest, tape, count) = (self.lowest_trainable(), Tape::recording(), self.stack.layers.len());
        let prefix = prefix.filter(|prefix| prefix.layers < lowest);
        let noise = noise.zip(dropout).filter(|_| prefix.is_none()).map(|(alpha, key)| {
            let device = self.parameters.get(self.embedding).value.device();
            embedding_noise(alpha, key, &inputs.layout, self.sizes().hidden_size, device)
        });
        let mut layers = Vec::new();
        let (x, first) = match (checkpointing, prefix) {
            (true, prefix) => {
                let mut start = prefix.unwrap_or_else(|| self.embedded(inputs));
                if let Some(noise) = &noise {
                    start.output.device().add(&mut start.output, noise);
                }
                let last = count.saturating_sub(1);
                let kept = (lowest, &mut layers);
                let Prefix { output, layers: first } = self.keep_inputs(inputs, start, last, dropout, kept);
                let x = if lowest <= first { tape.input(output) } else { Var::constant(output) };
                (x, first)
            }
            (false, Some(Prefix { output, layers })) => (Var::constant(output), layers),
            (false, None) => {
                let x = self.embed(&tape, inputs);
                (if let Some(noise) = &noise { ops::shift(&tape, x, noise) } else { x }, 0)
            }
        };
        let recorded = (checkpointing && x.is_tracked()).then(|| x.clone());
        let run = self.run(&tape, dropout);
        let x = self.stack.run(run, x, first..count, &inputs.layout, None);
        let hidden = self.stack.norm.forward(run, &x);
        drop(x);
        let spec = CrossEntropySpec { targets, scale };
        let loss = ops::cross_entropy(&tape, &hidden, &self.head_weight(&tape), &spec).value;
        Pass { model: self, inputs: inputs.clone(), dropout, tape, loss, recorded, layers, lowest }
    }

    /// Runs the layers below `last` without a record, and keeps the inputs of those that must run again: from the one where
    /// the lowest trainable parameter stands.
    fn keep_inputs(
        &self,
        inputs: &Inputs,
        start: Prefix,
        last: usize,
        dropout: Option<DropoutKey>,
        (lowest, kept): (usize, &mut Vec<(usize, Tensor)>),
    ) -> Prefix {
        let tape = Tape::off();
        let Prefix { mut output, layers: first } = start;
        for index in first..last {
            let x = Var::constant(output.clone());
            let next = self.stack.run(self.run(&tape, dropout), x, index..index + 1, &inputs.layout, None).value;
            if lowest <= index + 1 {
                kept.push((index, output));
            }
            output = next;
        }
        Prefix { output, layers: last.max(first) }
    }

    /// The operations of a pass with `labels` targets in which everything trains and nothing was computed before, counted
    /// from the wiring alone; `None` with adapters, under which the matrices never train.
    #[must_use]
    pub fn whole_pass(&self, inputs: &Inputs, labels: usize, checkpointing: bool) -> Option<Flops> {
        if self.adapter().is_some() {
            return None;
        }
        let last = self.stack.layers.len().saturating_sub(1);
        let product = |rows: usize, values: usize| 2 * (rows * values) as u64;
        let (mut matrices, mut below_last) = (0, 0);
        for (parameter, piece) in self.parameters.pieces().filter(|(parameter, _)| parameter.shape.len() == 2) {
            let Some(unit) = piece.place.unit() else { continue };
            let values = piece.rows.len() * parameter.row_len();
            matrices += values;
            below_last += if unit.layer < last { values } else { 0 };
        }
        let tokens = inputs.ids.len();
        let (matrices, below_last) = (product(tokens, matrices), product(tokens, below_last));
        let attention: Vec<u64> =
            self.stack.layers.iter().map(|layer| layer.attention.spec(&inputs.layout).operations()).collect();
        let (all, but_last) = (attention.iter().sum::<u64>(), attention.iter().take(last).sum::<u64>());
        let head = product(labels, self.sizes().vocab_size * self.sizes().hidden_size);
        let again = if checkpointing { below_last + but_last } else { 0 };
        Some(Flops {
            forward: matrices + all + head + again,
            input_gradient: matrices + all / 2 * 5 + head,
            weight_gradient: matrices + head,
        })
    }
}

impl Pass<'_> {
    /// The loss, `[1, 1]`.
    #[must_use]
    pub fn loss(&self) -> &Tensor {
        &self.loss
    }

    /// The backward pass: adds the gradient of every piece that trains to `gradients`.
    pub fn backward(self, gradients: &mut Gradients) {
        let Self { model, inputs, dropout, tape, loss: _, recorded, mut layers, lowest } = self;
        let mut upstream = tape.backward(None, recorded.as_ref(), gradients);
        drop(recorded);
        while let Some(dy) = upstream.take() {
            let tape = Tape::recording();
            let Some((index, x)) = layers.pop() else {
                let y = model.embed(&tape, &inputs);
                tape.backward(Some((&y, dy)), None, gradients);
                break;
            };
            let x = if lowest <= index { tape.input(x) } else { Var::constant(x) };
            let run = model.run(&tape, dropout);
            let y = model.stack.run(run, x.clone(), index..index + 1, &inputs.layout, None);
            upstream = tape.backward(Some((&y, dy)), Some(&x), gradients);
        }
    }
}
