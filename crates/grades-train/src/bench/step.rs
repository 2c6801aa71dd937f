//! The training step: the trainer's own, on random tokens and a model of random values.

use std::sync::Arc;
use std::time::Instant;

use grades::{Decision, Flops, Wants};
use grades_kernels::Workspace;
use grades_models::model::Vision as Tower;
use grades_models::parameters::Parameter;
use grades_models::{Decoder, Inputs, LoraConfig, registry};
use grades_tensor::{IGNORE_INDEX, executed, labels_of};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::base::{self, Base};
use super::kept::Counted;
pub use super::kept::{Kind, Part, StepMemory};
pub use super::step_options::{Mode, StepOptions};
use super::{BenchError, Scaling, median};
use crate::data::{Batch, Tokenized};
use crate::train::freeze::{Freezing, Measured, units};
use crate::train::memory;
use crate::train::optimizer::Optimizer;
use crate::train::optimizer_state::Rates;
use crate::train::outputs;
use crate::train::plan::{MemoryPlan, Workload};
use crate::train::preference::Objective;
use crate::train::prefix_cache::{PrefixCache, Set};
use crate::train::rule::{Adam, Rule};
use crate::train::step::{self, Drawn, Pass, Read};

/// The options of transformers' `Trainer` where they do not matter for the time.
const RULE: Rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 });
const LEARNING_RATE: f64 = 1e-5;
const WEIGHT_DECAY: f64 = 0.01;
/// Seed of tokens and values.
const SEED: u64 = 0;

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens through the model a second.
    pub tokens_per_second: f64,
    /// The whole step.
    pub step_seconds: f64,
    /// Until the loss is known; with it the gradients of the head, which are computed together.
    pub forward_seconds: f64,
    /// The rest of the backward pass.
    pub backward_seconds: f64,
    /// The update; without `monitor` with the pass over the gradients that clipping needs.
    pub optimizer_seconds: f64,
    /// With `monitor`, the pass over the gradients that measures them (and gives clipping its norm), and keeping them.
    pub monitor_seconds: f64,
    /// Executed arithmetic over the whole step's time, in 10⁹ operations a second.
    pub gflops: f64,
}

/// What a measurement came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// What was measured.
    #[serde(flatten)]
    pub options: StepOptions,
    /// The processor's name.
    pub processor: Option<String>,
    /// The best instruction set that products run on.
    pub instructions: &'static str,
    /// Threads.
    pub threads: usize,
    /// Numbers of the model, with its adapters.
    pub parameters: usize,
    /// Those of them that train while nothing is frozen.
    pub trainable_parameters: usize,
    /// Memory of all weights but the adapters'.
    pub base_bytes: u64,
    /// What these would take in bf16.
    pub base_bf16_bytes: u64,
    /// Memory of the matrices among them that adapters or freezing are for.
    pub matrices_bytes: u64,
    /// What these would take in bf16.
    pub matrices_bf16_bytes: u64,
    /// Memory that the process held when the model was loaded, and the most until then.
    pub loaded_bytes: Option<u64>,
    /// See above.
    pub loading_peak_bytes: Option<u64>,
    /// Matrices of the model.
    pub units: usize,
    /// Frozen ones.
    pub frozen_units: usize,
    /// The median of each figure over the measured steps.
    #[serde(flatten)]
    pub median: Figures,
    /// The figures of the fastest step.
    pub best: Figures,
    /// Most memory that the process held until the last measured step.
    pub peak_memory_bytes: Option<u64>,
    /// What a plan says of it.
    pub memory: MemoryPlan,
    /// What the last step kept, by kind; a pass forward alone keeps nothing.
    pub kept: Option<StepMemory>,
    /// Executed operations of a step by kind.
    pub flops: Flops,
    /// Their sum against that of a step in which everything trains, which is executed once to be counted.
    pub flops_ratio: f64,
    /// State of the optimizer.
    pub optimizer_bytes: u64,
    /// Gradients kept for the next step.
    pub kept_bytes: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// A step on other numbers of threads, simulated.
    pub simulated: Vec<Scaling>,
}

/// Measures the step, and hands each step's figures to `on_step`. The measured operations are counted for the whole
/// process: nothing else may compute meanwhile.
///
/// # Errors
/// If an option is out of range, or the step fails.
pub fn run(options: &StepOptions, on_step: &mut dyn FnMut(&Figures)) -> Result<StepReport, BenchError> {
    options.check()?;
    let mut bench = Bench::new(options)?;
    let units = units(&bench.model);
    let decision = options.frozen.decision(&units, options.companions);
    bench.freezing.apply(&decision, &mut bench.model, &mut bench.optimizer, None)?;

    bench.optimizer.prepare(bench.model.parameters());
    bench.step(0)?;
    [Workspace::Panels, Workspace::Logits].into_iter().for_each(Workspace::reset);
    let mut measured = Vec::with_capacity(options.steps);
    let (mut loss, mut flops) = (f64::NAN, Flops::default());
    for step in 1..=options.steps {
        let figures;
        (figures, loss, flops) = bench.step(step)?;
        on_step(&figures);
        measured.push(figures);
    }
    let peak_memory_bytes = memory::peak();
    let mut simulate = |&threads: &usize| {
        let (step, simulation) = grades_kernels::simulate(threads, || bench.step(options.steps + 1));
        step.map(|_| Scaling::of(&simulation))
    };
    let simulated = options.simulated_threads.iter().map(&mut simulate).collect::<Result<Vec<_>, _>>()?;
    let (optimizer_bytes, kept_bytes) = (bench.optimizer.bytes(), bench.freezing.bytes());
    let memory = plan(options)?;
    let of_step =
        |counted| StepMemory::of(&bench.model, counted, [optimizer_bytes, kept_bytes], &memory, peak_memory_bytes);
    let kept = bench.counted.map(of_step);

    // Only after the peak was read: with nothing frozen a step takes more memory.
    let flops_ratio = match decision.freeze.is_empty() {
        true => 1.0,
        // What is folded cannot train again.
        false if options.fold_frozen => flops.total() as f64 / Bench::new(options)?.whole()?.total() as f64,
        false => flops.total() as f64 / bench.unfrozen(&decision)?.total() as f64,
    };
    let middle = |of: fn(&Figures) -> f64| median(measured.iter().map(of).collect());
    let fastest = measured.iter().copied().min_by(|a, b| a.step_seconds.total_cmp(&b.step_seconds));
    let median = Figures {
        tokens_per_second: middle(|f| f.tokens_per_second),
        step_seconds: middle(|f| f.step_seconds),
        forward_seconds: middle(|f| f.forward_seconds),
        backward_seconds: middle(|f| f.backward_seconds),
        optimizer_seconds: middle(|f| f.optimizer_seconds),
        monitor_seconds: middle(|f| f.monitor_seconds),
        gflops: middle(|f| f.gflops),
    };
    Ok(StepReport {
        options: options.clone(),
        processor: memory::processor(),
        instructions: grades_kernels::instructions(),
        threads: grades_kernels::threads(),
        parameters: bench.model.parameters().iter().map(|parameter| parameter.len()).sum(),
        trainable_parameters: bench.trainable,
        base_bytes: bench.base.bytes,
        base_bf16_bytes: bench.base.bf16,
        matrices_bytes: bench.base.matrices,
        matrices_bf16_bytes: bench.base.matrices_bf16,
        loaded_bytes: bench.base.loaded,
        loading_peak_bytes: bench.base.loading_peak,
        units: units.len(),
        frozen_units: decision.freeze.len(),
        median,
        best: fastest.unwrap_or(median),
        peak_memory_bytes,
        memory,
        kept,
        flops,
        flops_ratio,
        optimizer_bytes,
        kept_bytes,
        loss,
        simulated,
    })
}

/// What a plan says of the memory of a step in which everything trains.
fn plan(options: &StepOptions) -> Result<MemoryPlan, BenchError> {
    let outline = registry::outline_of(&options.shape.config(), base::source(options).as_ref(), true)?;
    let adapter = (options.mode == Mode::Lora).then(|| options.adapter());
    let grids = options.grids(outline.vision());
    let rows: usize = grids.iter().map(|&grid| outline.vision().map_or(0, |vision| vision.rows_of(grid))).sum();
    let patches: usize = grids.iter().map(|grid| grid.patches()).sum();
    let workload = Workload {
        adapter: adapter.as_ref(),
        load_in_4bit: options.load_in_4bit,
        fold_frozen: options.fold_frozen,
        precision: options.precision,
        rule: RULE,
        tokens: (options.rows * (options.tokens + rows)) as u64,
        patches: (options.rows * patches) as u64,
        features: 0,
        accumulates: false,
        gradient_checkpointing: options.gradient_checkpointing,
        kept_copies: options.monitor.into(),
        weight_average: false,
        written_tokens: 0,
        scored_tokens: 0,
        has_texts: false,
    };
    MemoryPlan::of(&outline, &workload).map_err(|error| BenchError::Option(error.to_string()))
}

/// A model with all that its steps need.
struct Bench {
    model: Decoder,
    optimizer: Optimizer,
    freezing: Freezing,
    batch: Batch,
    inputs: Inputs,
    wants: Wants,
    checkpointing: bool,
    forward_only: bool,
    max_grad_norm: Option<f64>,
    trainable: usize,
    cache: PrefixCache,
    base: Base,
    counted: Option<Counted>,
}

impl Bench {
    fn new(options: &StepOptions) -> Result<Self, BenchError> {
        let (mut model, base) = base::load(options)?;
        if options.mode == Mode::Lora {
            model = model.with_adapter(options.adapter(), &LoraConfig::initial(SEED))?;
        }
        model.set_dtype(options.precision);
        model.parameters_mut().train();
        let trainable = model.parameters().iter().filter(|p| p.is_trainable()).map(Parameter::len).sum();
        let monitor = options.monitor;
        let place = if options.prefix_cache { outputs::Place::Memory } else { outputs::Place::Off };
        let (batch, inputs) = batch(options, &model)?;
        let cache = outputs::Options { place, size: u64::MAX, dtype: outputs::Dtype::F32 };
        Ok(Self {
            optimizer: Optimizer::new(RULE, WEIGHT_DECAY, model.parameters().slots()),
            freezing: Freezing::new(&model).with_folding(options.fold_frozen),
            batch,
            inputs,
            checkpointing: options.gradient_checkpointing,
            max_grad_norm: Some(options.max_grad_norm).filter(|&norm| norm > 0.0),
            forward_only: options.mode == Mode::Forward,
            cache: PrefixCache::new(cache, &std::env::temp_dir()),
            wants: Wants { measure_gradients: monitor, keep_gradient: monitor, gain: monitor, ..Wants::default() },
            trainable,
            base,
            counted: None,
            model,
        })
    }

    /// One step of the trainer: its figures, its loss, and the operations that it executed.
    fn step(&mut self, step: usize) -> Result<(Figures, f64, Flops), BenchError> {
        if self.forward_only {
            return self.forward();
        }
        let started = Instant::now();
        let batches = std::slice::from_ref(&self.batch);
        let (model, inputs, cache, layers) = (&self.model, &self.inputs, &mut self.cache, self.model.frozen_layers());
        let mut read = |batch: &Batch| {
            let prefix =
                if inputs.replaced.is_some() { None } else { cache.prefix(model, layers, Set::Train, batch, true) };
            Ok(Read { inputs: inputs.clone(), prefix })
        };
        let Pass { loss, mut gradients, flops, kept, forward_seconds, backward_seconds, .. } = step::pass(
            &self.model,
            Drawn { seed: SEED, step, noise: None },
            batches,
            self.checkpointing,
            &Objective::Tokens,
            &mut read,
        )?;

        self.counted = Some(Counted::new(kept, &gradients));

        let watch = Instant::now();
        let measured = match self.max_grad_norm.is_none() && !self.wants.measure_gradients {
            true => Measured::default(),
            false => self.freezing.measure(&gradients, &self.wants),
        };
        let measuring = watch.elapsed().as_secs_f64();

        let watch = Instant::now();
        let scale = step::clip(self.max_grad_norm, measured.gradient_norm);
        let rates = Rates { learning_rate: LEARNING_RATE, gain_of: self.wants.gain.then_some(LEARNING_RATE) };
        self.optimizer.update(self.model.parameters_mut(), &gradients, |_| rates, scale);
        let updating = watch.elapsed().as_secs_f64();

        let watch = Instant::now();
        self.freezing.keep(&self.model, &mut gradients, &measured, &self.wants);
        drop(gradients);
        let keeping = watch.elapsed().as_secs_f64();

        let step_seconds = started.elapsed().as_secs_f64();
        let (optimizer_seconds, monitor_seconds) = match self.wants.measure_gradients {
            true => (updating, measuring + keeping),
            false => (updating + measuring + keeping, 0.0),
        };
        let figures = Figures {
            tokens_per_second: self.batch.ids.len() as f64 / step_seconds,
            step_seconds,
            forward_seconds,
            backward_seconds,
            optimizer_seconds,
            monitor_seconds,
            gflops: flops.total() as f64 / step_seconds / 1e9,
        };
        Ok((figures, loss, flops))
    }

    /// The likelihoods of the batch's labels, as an evaluation computes them.
    fn forward(&self) -> Result<(Figures, f64, Flops), BenchError> {
        let (started, before) = (Instant::now(), executed());
        let likelihoods = self.model.log_likelihoods(&self.inputs, &labels_of(&self.batch.targets));
        let sum: f64 = likelihoods.to_host().iter().map(|&value| f64::from(value)).sum();
        let loss = -sum / self.batch.label_count.max(1) as f64;
        let (step_seconds, flops) = (started.elapsed().as_secs_f64(), executed().since(&before));
        let figures = Figures {
            tokens_per_second: self.batch.ids.len() as f64 / step_seconds,
            step_seconds,
            forward_seconds: step_seconds,
            backward_seconds: 0.0,
            optimizer_seconds: 0.0,
            monitor_seconds: 0.0,
            gflops: flops.total() as f64 / step_seconds / 1e9,
        };
        Ok((figures, loss, flops))
    }

    /// Takes a decision back, and counts the operations of the pass in which everything trains.
    fn unfrozen(&mut self, decision: &Decision) -> Result<Flops, BenchError> {
        let back = Decision {
            unfreeze: decision.freeze.clone(),
            unfreeze_companions: decision.freeze_companions.clone(),
            ..Decision::default()
        };
        self.freezing.apply(&back, &mut self.model, &mut self.optimizer, None)?;
        self.whole()
    }

    /// Counts the operations of a pass from the tokens on.
    fn whole(&self) -> Result<Flops, BenchError> {
        let batches = std::slice::from_ref(&self.batch);
        Ok(step::pass(
            &self.model,
            Drawn { seed: SEED, step: 0, noise: None },
            batches,
            self.checkpointing,
            &Objective::Tokens,
            &mut |_| Ok(Read { inputs: self.inputs.clone(), prefix: None }),
        )?
        .flops)
    }
}

/// Rows of random pictures and tokens, labels on the last tokens of each, and the same as a model reads it.
fn batch(options: &StepOptions, model: &Decoder) -> Result<(Batch, Inputs), BenchError> {
    let vocabulary = model.sizes().vocab_size as u32;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let labels = ((options.completion_share * options.tokens as f64).round() as usize).max(1);
    let tower = model.vision();
    let (grids, of_picture) = (options.grids(tower), tower.and_then(Tower::token));
    let rows_of_pictures = grids.iter().map(|&grid| tower.map_or(0, |tower| tower.rows_of(grid))).sum();
    let (mut batch, mut replaced, mut pixels) = (Batch::default(), Vec::new(), Vec::new());
    for row in 0..options.rows {
        let start = batch.ids.len();
        replaced.extend((start..start + rows_of_pictures).map(|row| row as u32));
        let mut ids = vec![of_picture.unwrap_or_default(); rows_of_pictures];
        // The last token is only a label. None stands for a picture by chance.
        ids.extend((0..=options.tokens).map(|_| match random.next_u32() % vocabulary {
            id if Some(id) == of_picture => 0,
            id => id,
        }));
        let unlabelled = ids.len() - labels;
        let label = |(index, id): (usize, &u32)| if index < unlabelled { IGNORE_INDEX } else { i64::from(*id) };
        let labels = ids.iter().enumerate().map(label).collect();
        batch.push(row, &Tokenized { ids, labels, ..Tokenized::default() });
        let numbers = grids.iter().map(|grid| grid.patches()).sum::<usize>() * tower.map_or(0, Tower::patch_numbers);
        pixels.extend((0..numbers).map(|_| random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0));
    }
    let Some(tower) = tower.filter(|_| !replaced.is_empty()) else {
        let inputs = batch.inputs();
        return Ok((batch, inputs));
    };
    let patches = [pixels.len() / tower.patch_numbers().max(1), tower.patch_numbers()];
    let pictures = tower.pictures(model.device().from_host(pixels, patches), grids.repeat(options.rows))?;
    let segments: Vec<_> = batch.segments.iter().map(|&(start, end)| start..end).collect();
    let inputs = model.read_at(batch.ids.clone(), &segments, Some(Arc::new(pictures)), replaced)?;
    Ok((batch, inputs))
}
