//! A training pass: what trains is recorded for gradients, all of it at once or, with checkpointing, a layer at a time.
//!
//! With checkpointing (Chen et al. 2016) the layers run without a record and only their inputs are kept; the backward
//! pass runs each layer again with one. A layer's record is dropped before the next layer's is made.

use std::rc::Rc;
use std::sync::Arc;

use grades::Flops;
use grades_tensor::ops::Balance;
use grades_tensor::{CrossEntropySpec, Gradients, IGNORE_INDEX, Tape, Tensor, Var, ops};

use super::decoder::Decoder;
use super::inputs::{Inputs, Prefix};
use super::noise::embedding_noise;
use crate::nn::{DropoutKey, Layer, Run};

/// How a training pass runs.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Where the pass begins; left out, at the tokens. Not used where something that it holds trains or counts in the loss.
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
    how: How,
    tape: Tape,
    loss: Tensor,
    /// The input of what is recorded, where the gradient goes on below it.
    recorded: Option<Var>,
    /// The layers to run again, from the input, with what went into them.
    layers: Vec<(usize, Tensor)>,
    lowest: usize,
}

/// What every layer of a pass is run with.
#[derive(Clone, Debug)]
struct How {
    dropout: Option<DropoutKey>,
    balance: Option<Rc<Balance>>,
}

impl How {
    fn run<'a>(&'a self, model: &'a Decoder, tape: &'a Tape) -> Run<'a> {
        Run { balance: self.balance.as_ref(), ..model.run(tape, self.dropout) }
    }
}

impl Decoder {
    /// Whether the loss of training balances the experts of layers that have some.
    pub(super) fn balances(&self) -> bool {
        self.sizes().router_aux_loss > 0.0 && self.stack.layers.iter().any(Layer::is_sparse)
    }

    /// A forward pass with the mean-like loss `scale · Σ −log p(target)`, and where the config says so the loss that balances
    /// experts, times the share of all labels that are here (`scale` times their number).
    #[must_use]
    pub fn pass(&self, inputs: &Inputs, targets: Arc<Vec<i64>>, scale: f32, options: PassOptions) -> Pass<'_> {
        let PassOptions { prefix, checkpointing, dropout, noise } = options;
        let (lowest, tape, count) = (self.lowest_trainable(), Tape::recording(), self.stack.layers.len());
        let prefix = prefix.filter(|prefix| prefix.layers < lowest && !self.balances());
        let noise = noise.zip(dropout).filter(|_| prefix.is_none()).map(|(alpha, key)| {
            let device = self.parameters.get(self.embedding).value.device();
            embedding_noise(alpha, key, &inputs.layout, self.sizes().hidden_size, device)
        });
        let labels = targets.iter().filter(|&&target| target != IGNORE_INDEX).count();
        let coefficient = f64::from(self.sizes().router_aux_loss) * f64::from(scale) * labels as f64;
        let how = How { dropout, balance: self.balances().then(|| Rc::new(Balance::new(coefficient))) };
        let mut layers = Vec::new();
        let (x, first) = match (checkpointing, prefix) {
            (true, prefix) => {
                let mut start = prefix.unwrap_or_else(|| self.embedded(inputs));
                if let Some(noise) = &noise {
                    start.output.device().add(&mut start.output, noise);
                }
                let last = count.saturating_sub(1);
                let kept = (lowest, &mut layers);
                let Prefix { output, layers: first } = self.keep_inputs(inputs, start, last, &how, kept);
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
        let run = how.run(self, &tape);
        let x = self.stack.run(run, x, first..count, &inputs.layout, None);
        let hidden = self.stack.norm.forward(run, &x);
        drop(x);
        let spec = CrossEntropySpec { targets, scale };
        let mut loss = ops::cross_entropy(&tape, &hidden, &self.head_weight(&tape), &spec).value;
        if let Some(balance) = &how.balance {
            balance.finish();
            let device = loss.device();
            device.add(&mut loss, &device.from_host(vec![balance.loss() as f32], [1, 1]));
        }
        Pass { model: self, inputs: inputs.clone(), how, tape, loss, recorded, layers, lowest }
    }

    /// Runs the layers below `last` without a record, and keeps the inputs of those that must run again: from the one where
    /// the lowest trainable parameter stands.
    fn keep_inputs(
        &self,
        inputs: &Inputs,
        start: Prefix,
        last: usize,
        how: &How,
        (lowest, kept): (usize, &mut Vec<(usize, Tensor)>),
    ) -> Prefix {
        let tape = Tape::off();
        let Prefix { mut output, layers: first } = start;
        for index in first..last {
            let x = Var::constant(output.clone());
            let next = self.stack.run(how.run(self, &tape), x, index..index + 1, &inputs.layout, None).value;
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
        let tokens = inputs.ids.len();
        let values: Vec<usize> =
            self.stack.layers.iter().map(|layer| layer.values_per_token(&self.parameters)).collect();
        let (matrices, below_last) = (values.iter().sum(), values.iter().take(last).sum());
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
        let Self { model, inputs, how, tape, loss: _, recorded, mut layers, lowest } = self;
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
            let run = how.run(model, &tape);
            let y = model.stack.run(run, x.clone(), index..index + 1, &inputs.layout, None);
            upstream = tape.backward(Some((&y, dy)), Some(&x), gradients);
        }
    }
}
