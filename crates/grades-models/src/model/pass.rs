//! A training pass: what trains is recorded for gradients, all of it at once or, with checkpointing, a layer at a time.
//!
//! With checkpointing (Chen et al. 2016) the layers run without a record and only their inputs are kept; the backward
//! pass runs each layer again with one. A layer's record is dropped before the next layer's is made.

use std::rc::Rc;
use std::sync::Arc;

use grades::Flops;
use grades_tensor::ops::Balance;
use grades_tensor::{CrossEntropySpec, Gradients, IGNORE_INDEX, LossScale, Tape, Tensor, Var, ops};

use super::decoder::Decoder;
use super::inputs::Inputs;
use super::noise::embedding_noise;
use super::stack::Prefix;
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
    way_back: WayBack<'a>,
    loss: Tensor,
}

/// The same that ends with the log-probabilities of labels; what they come to is not known here.
#[derive(Debug)]
pub struct ScoredPass<'a> {
    way_back: WayBack<'a>,
    scores: Var,
}

/// What a backward pass needs beside its beginning.
#[derive(Debug)]
struct WayBack<'a> {
    model: &'a Decoder,
    inputs: Inputs,
    how: How,
    tape: Tape,
    /// The input of what is recorded, where the gradient goes on below it.
    recorded: Option<Var>,
    /// What runs again, from the input.
    again: Vec<Again>,
}

/// A part of a pass that ran without a record and runs once more with one, with the value that went into it.
#[derive(Debug)]
struct Again {
    part: Part,
    input: Option<Tensor>,
}

/// What runs again by itself.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// What comes before the layers of the tower.
    Patches,
    /// A layer of the tower.
    Vision(usize),
    /// What makes rows of the tower's output.
    Pictures,
    /// What comes before the layers, of the rows of pictures where there are some.
    Embedding,
    /// A layer.
    Layer(usize),
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
        let labels = targets.iter().filter(|&&target| target != IGNORE_INDEX).count();
        let (way_back, hidden) = self.recorded(inputs, scale * labels as f32, options);
        let spec = CrossEntropySpec { targets, scale: LossScale::Same(scale) };
        let mut loss = ops::cross_entropy(&way_back.tape, &hidden, &self.head_weight(&way_back.tape), &spec).value;
        if let Some(balance) = way_back.finish_balance() {
            let device = loss.device();
            device.add(&mut loss, &device.from_host(vec![balance as f32], [1, 1]));
        }
        Pass { way_back, loss }
    }

    /// A forward pass up to the log-probability of each target, in the order of their rows. `share` is what part of a step's
    /// samples is here, which the loss that balances experts counts by.
    #[must_use]
    pub fn scored_pass(
        &self,
        inputs: &Inputs,
        targets: Arc<Vec<i64>>,
        share: f32,
        options: PassOptions,
    ) -> ScoredPass<'_> {
        let (way_back, hidden) = self.recorded(inputs, share, options);
        let scores = ops::label_log_probabilities(&way_back.tape, &hidden, &self.head_weight(&way_back.tape), targets);
        ScoredPass { way_back, scores }
    }

    /// The normed output of the last layer, with a record of how it came about. `share` is what the loss that balances experts
    /// is multiplied by.
    fn recorded(&self, inputs: &Inputs, share: f32, options: PassOptions) -> (WayBack<'_>, Var) {
        let PassOptions { prefix, checkpointing, dropout, noise } = options;
        let (tape, count) = (Tape::recording(), self.stack.layers.len());
        let lowest = self.lowest_trainable(inputs.pictures().is_some());
        let prefix = prefix.filter(|prefix| prefix.layers < lowest && !self.balances());
        let noise = noise.zip(dropout).filter(|_| prefix.is_none()).map(|(alpha, key)| {
            let device = self.parameters.get(self.embedding).value.device();
            let mut noise = embedding_noise(alpha, key, &inputs.layout, self.sizes().hidden_size, device);
            // It is of embeddings alone.
            if let Some(replaced) = &inputs.replaced {
                let nothing = device.zeros([replaced.rows.len(), noise.columns()], noise.dtype());
                device.put_rows(&mut noise, &replaced.rows, &nothing);
            }
            noise
        });
        let coefficient = f64::from(self.sizes().router_aux_loss) * f64::from(share);
        let how = How { dropout, balance: self.balances().then(|| Rc::new(Balance::new(coefficient))) };
        let mut again = Vec::new();
        let (x, first) = match (checkpointing, prefix) {
            (true, prefix) => {
                let mut start = prefix.unwrap_or_else(|| self.keep_embedding(inputs, &how, lowest, &mut again));
                if let Some(noise) = &noise {
                    start.output.device().add(&mut start.output, noise);
                }
                let last = count.saturating_sub(1);
                let Prefix { output, layers: first } = self.keep_inputs(inputs, start, last, &how, lowest, &mut again);
                let x = if again.is_empty() { Var::constant(output) } else { tape.input(output) };
                (x, first)
            }
            (false, Some(Prefix { output, layers })) => (Var::constant(output), layers),
            (false, None) => {
                let rows = self.replaced(how.run(self, &tape), inputs);
                let x = self.embed(&tape, inputs, rows.as_ref());
                (if let Some(noise) = &noise { ops::shift(&tape, x, noise) } else { x }, 0)
            }
        };
        let recorded = (checkpointing && x.is_tracked()).then(|| x.clone());
        let run = how.run(self, &tape);
        let x = self.stack.run(run, x, first..count, &inputs.layout, None);
        let hidden = self.stack.norm.forward(run, &x);
        drop(x);
        (WayBack { model: self, inputs: inputs.clone(), how, tape, recorded, again }, hidden)
    }

    /// Runs what comes before the layers without a record, and keeps what must run again: the embedding if the gradient goes
    /// below the first layer, and of what makes rows of pictures that which stands not below all that trains.
    fn keep_embedding(&self, inputs: &Inputs, how: &How, lowest: usize, kept: &mut Vec<Again>) -> Prefix {
        let tape = Tape::off();
        let run = how.run(self, &tape);
        let rows = match (&self.vision, inputs.pictures()) {
            (Some(vision), Some(pictures)) if self.pictures_train() && vision.known(pictures).is_none() => {
                let (mut x, first) = vision.start(run, pictures);
                let count = vision.stack.layers.len();
                let lowest = vision.stack.lowest_trainable(&self.parameters, true);
                if lowest == 0 && first == 0 {
                    kept.push(Again { part: Part::Patches, input: None });
                }
                for index in first..count {
                    let next = vision.stack.run(run, x.clone(), index..index + 1, &pictures.arranged.layout, None);
                    if lowest <= index + 1 {
                        kept.push(Again { part: Part::Vision(index), input: Some(x.value) });
                    }
                    x = next;
                }
                let rows = vision.finish(run, &x, pictures);
                kept.push(Again { part: Part::Pictures, input: Some(x.value) });
                Some(rows)
            }
            _ => self.replaced(run, inputs),
        };
        let output = self.embed(&tape, inputs, rows.as_ref()).value;
        if lowest == 0 {
            kept.push(Again { part: Part::Embedding, input: rows.map(|rows| rows.value) });
        }
        Prefix { output, layers: 0 }
    }

    /// Runs the layers below `last` without a record, and keeps the inputs of those that must run again: from the one where
    /// the lowest trainable parameter stands.
    fn keep_inputs(
        &self,
        inputs: &Inputs,
        start: Prefix,
        last: usize,
        how: &How,
        lowest: usize,
        kept: &mut Vec<Again>,
    ) -> Prefix {
        let tape = Tape::off();
        let Prefix { mut output, layers: first } = start;
        for index in first..last {
            let x = Var::constant(output.clone());
            let next = self.stack.run(how.run(self, &tape), x, index..index + 1, &inputs.layout, None).value;
            if lowest <= index + 1 {
                kept.push(Again { part: Part::Layer(index), input: Some(output) });
            }
            output = next;
        }
        Prefix { output, layers: last.max(first) }
    }

    /// A part by itself, of what goes into it.
    fn part(&self, run: Run<'_>, part: Part, x: Option<&Var>, inputs: &Inputs) -> Option<Var> {
        let vision = || Some((self.vision.as_ref()?, inputs.pictures()?));
        Some(match part {
            Part::Patches => {
                let (vision, pictures) = vision()?;
                vision.start(run, pictures).0
            }
            Part::Vision(index) => {
                let (vision, pictures) = vision()?;
                vision.stack.run(run, x?.clone(), index..index + 1, &pictures.arranged.layout, None)
            }
            Part::Pictures => {
                let (vision, pictures) = vision()?;
                vision.finish(run, x?, pictures)
            }
            Part::Embedding => self.embed(run.tape, inputs, x),
            Part::Layer(index) => self.stack.run(run, x?.clone(), index..index + 1, &inputs.layout, None),
        })
    }

    /// The operations of a pass with `labels` targets in which everything trains and nothing was computed before, counted
    /// from the wiring alone; `None` with adapters, under which the matrices never train.
    #[must_use]
    pub fn whole_pass(&self, inputs: &Inputs, labels: usize, checkpointing: bool) -> Option<Flops> {
        if self.adapter().is_some() {
            return None;
        }
        let product = |rows: usize, values: usize| 2 * (rows * values) as u64;
        let (tokens, count) = (inputs.ids.len(), self.stack.layers.len());
        let head = product(labels, self.sizes().vocab_size * self.sizes().hidden_size);
        let of_layers = |layers| {
            let matrices = product(tokens, self.stack.values_per_row(&self.parameters, layers));
            (matrices, self.stack.attention_operations(&inputs.layout, layers))
        };
        let ((matrices, attention), below_last) = (of_layers(count), of_layers(count.saturating_sub(1)));
        let again = if checkpointing { below_last.0 + below_last.1 } else { 0 };
        let language = Flops {
            forward: matrices + attention + head + again,
            input_gradient: matrices + attention / 2 * 5 + head,
            weight_gradient: matrices + head,
        };
        let (Some(vision), Some(pictures)) = (&self.vision, inputs.pictures()) else { return Some(language) };
        let of_pictures = vision.whole_pass(&self.parameters, pictures, checkpointing);
        Some(Flops {
            forward: language.forward + of_pictures.forward,
            input_gradient: language.input_gradient + of_pictures.input_gradient,
            weight_gradient: language.weight_gradient + of_pictures.weight_gradient,
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
        self.way_back.go(None, gradients);
    }
}

impl ScoredPass<'_> {
    /// The log-probability of each target, `[1, targets]`.
    #[must_use]
    pub fn scores(&self) -> &Tensor {
        &self.scores.value
    }

    /// The loss that balances experts, where there is one; to be asked once.
    #[must_use]
    pub fn balance(&self) -> Option<f64> {
        self.way_back.finish_balance()
    }

    /// The backward pass of a loss whose gradient in each log-probability is known: adds the gradient of every piece that
    /// trains to `gradients`.
    pub fn backward(self, of_scores: Vec<f32>, gradients: &mut Gradients) {
        let device = self.scores.value.device();
        let seed = device.from_host(of_scores, self.scores.value.shape());
        self.way_back.go(Some((&self.scores, seed)), gradients);
    }
}

impl WayBack<'_> {
    /// The loss that balances experts, now that the pass has told how tokens are spread.
    fn finish_balance(&self) -> Option<f64> {
        let balance = self.how.balance.as_ref()?;
        balance.finish();
        Some(balance.loss())
    }

    fn go(self, seed: Option<(&Var, Tensor)>, gradients: &mut Gradients) {
        let Self { model, inputs, how, tape, recorded, mut again } = self;
        let mut upstream = tape.backward(seed, recorded.as_ref(), gradients);
        drop(recorded);
        while let (Some(dy), Some(Again { part, input })) = (upstream.take(), again.pop()) {
            let (tape, below) = (Tape::recording(), !again.is_empty());
            let x = input.map(|input| if below { tape.input(input) } else { Var::constant(input) });
            let Some(y) = model.part(how.run(model, &tape), part, x.as_ref(), &inputs) else { break };
            upstream = tape.backward(Some((&y, dy)), x.as_ref(), gradients);
        }
    }
}
