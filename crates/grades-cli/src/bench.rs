//! `grades bench`.

use anyhow::Context;
use grades::Companions;
use grades_tensor::Dtype;
use grades_train::bench::gemm::{self, Size, Speed};
use grades_train::bench::step::{self, Mode, StepMemory, StepOptions, StepReport};
use grades_train::bench::tune;
use grades_train::bench::{Frozen, Scaling, Shape};
use grades_train::blocks;
use grades_train::config::Precision;

use crate::output;

/// Measure this machine: the training step, or the matrix products that it is made of.
///
/// Only figures that were measured alternately on one quiet machine compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    Step(Step),
    Gemm(Gemm),
}

/// Time the training step on random tokens, with a model of random values.
///
/// One step to warm up, then the measured ones. The JSON object has the median of each figure, and under `best` the
/// figures of the fastest step.
///
/// Example: grades bench step --frozen scattered:0.5 --monitor
#[derive(Debug, clap::Args)]
struct Step {
    /// The model: smollm2-135m, smollm2-moe (8 experts, 2 of them active, for each MLP of smollm2-135m: as many active
    /// parameters), smollm2-360m, llama-1b, qwen3-0.6b, qwen3-14b, nanovlm-222m, qwen2.5-vl-3b, qwen2.5-vl-7b (these read pictures),
    /// tiny or tiny-vlm.
    #[arg(long, default_value_t = Shape::SmolLm2M135)]
    shape: Shape,
    /// What trains: all parameters, adapters on the seven projections of every layer of the language model, or nothing: the forward pass alone, as
    /// in evaluation.
    #[arg(long, value_parser = ["full", "lora", "forward"], default_value = "full")]
    mode: String,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 32)]
    lora_r: usize,
    /// Hold the matrices under the adapters in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// What the file of the model is taken to have where nothing of the model itself trains (lora, forward), which is then held so: bf16,
    /// as most are published, or f32.
    #[arg(long, value_parser = ["bf16", "f32"], default_value = "bf16")]
    base: String,
    /// Numbers of the matrix products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Rows of the batch.
    #[arg(long, default_value_t = 4)]
    rows: usize,
    /// Tokens of each row, beside those of its pictures.
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Pictures of each row, of random pixels, for shapes that read some.
    #[arg(long, default_value_t = 1)]
    pictures: usize,
    /// Pixels along a side of a picture; nanovlm-222m reads 224 alone.
    #[arg(long, default_value_t = 448, value_name = "PIXELS")]
    image_size: usize,
    /// Share of each row's tokens, at its end, that have a label.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    completion_share: f64,
    /// Measured steps.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Frozen matrices: none, scattered:SHARE, prefix:SHARE (of the layers), roles:ROLE,… or all-but-last.
    #[arg(long, default_value_t = Frozen::None, value_name = "PATTERN")]
    frozen: Frozen,
    /// Whether norms and the embedding freeze with the matrices around them.
    #[arg(long, value_parser = ["train", "follow"], default_value = "train")]
    companions: String,
    /// Measure the change of every matrix's gradient at each step, as training with GradES does.
    #[arg(long)]
    monitor: bool,
    /// Clip the gradients to this norm; 0 does not measure their norm either.
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    max_grad_norm: f64,
    /// Compute each layer again in the backward pass instead of keeping its activations.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Add frozen adapters to their weights, so that their products vanish.
    #[arg(long)]
    fold_frozen: bool,
    /// Start above the frozen layers, from outputs that were kept.
    #[arg(long)]
    prefix_cache: bool,
    /// Simulate a step on so many threads, for example 8,32,64: each job's items are run one after the other and dealt out as to so many
    /// threads. That counts who waits for whom, not that threads share memory.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',')]
    simulate_threads: Vec<usize>,
    /// Tell what a step keeps, by kind, beside what a plan says; JSON has it always.
    #[arg(long)]
    memory: bool,
}

/// Time the products of a linear layer: forward, input gradient and weight gradient.
#[derive(Debug, clap::Args)]
struct Gemm {
    /// The layer's size, ROWSxINxOUT; may be repeated. Left out, the sizes of SmolLM2-135M.
    #[arg(long = "size", value_name = "MxKxN", value_delimiter = ',')]
    sizes: Vec<Size>,
    /// Numbers of the products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Measure candidates of the sizes that products are cut by, in f32 and bf16, and write the fastest to the file that GRADES_BLOCKS names
    /// (else grades/blocks.json in the folder of caches), from where later runs on this processor take them. They change no result.
    /// Nothing else should run meanwhile.
    #[arg(long, conflicts_with = "precision")]
    tune: bool,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        match self.what {
            Bench::Step(args) => args.run(json),
            Bench::Gemm(args) => args.run(json),
        }
    }
}

impl Step {
    fn run(self, json: bool) -> anyhow::Result<()> {
        let companions = if self.companions == "follow" { Companions::Follow } else { Companions::Train };
        let options = StepOptions {
            shape: self.shape,
            precision: self.precision.resolve(),
            mode: match self.mode.as_str() {
                "lora" => Mode::Lora,
                "forward" => Mode::Forward,
                _ => Mode::Full,
            },
            lora_r: self.lora_r,
            load_in_4bit: self.load_in_4bit,
            base: if self.base == "f32" { Dtype::F32 } else { Dtype::Bf16 },
            rows: self.rows,
            tokens: self.tokens,
            pictures: self.pictures,
            image_size: self.image_size,
            completion_share: self.completion_share,
            steps: self.steps,
            frozen: self.frozen,
            companions,
            monitor: self.monitor,
            max_grad_norm: self.max_grad_norm,
            gradient_checkpointing: self.gradient_checkpointing,
            fold_frozen: self.fold_frozen,
            prefix_cache: self.prefix_cache,
            simulated_threads: self.simulate_threads,
        };
        let mut step = 0;
        let report = step::run(&options, &mut |figures| {
            step += 1;
            output::log(&format!("step {step}/{} · {:.3} s", options.steps, figures.step_seconds));
        })?;
        if json {
            return output::print_json(&report);
        }
        print(&report);
        if self.memory {
            match &report.kept {
                Some(kept) => print_kept(kept),
                None => output::print("a pass forward alone keeps nothing for another"),
            }
        }
        Ok(())
    }
}

fn print(report: &StepReport) {
    let (median, best, flops) = (report.median, report.best, report.flops);
    let short = output::short;
    output::print(&format!(
        "model         {}, {}, {} of {} parameters train, {} of {} matrices frozen",
        report.options.shape,
        report.options.mode.name(),
        short(report.trainable_parameters as u64),
        short(report.parameters as u64),
        report.frozen_units,
        report.units
    ));
    output::print(&format!(
        "base          {}B, {:.3} of what it takes in bf16; of it the matrices {}B, {:.3}",
        short(report.base_bytes),
        report.base_bytes as f64 / report.base_bf16_bytes as f64,
        short(report.matrices_bytes),
        report.matrices_bytes as f64 / report.matrices_bf16_bytes as f64
    ));
    let processor = report.processor.as_deref().unwrap_or("unknown processor");
    let precision = report.options.precision.name();
    output::print(&format!(
        "machine       {processor}, {} threads, {precision} on {}",
        report.threads, report.instructions
    ));
    output::print("                    median         best");
    for (name, median, best, digits) in [
        ("tokens/s", median.tokens_per_second, best.tokens_per_second, 1),
        ("step s", median.step_seconds, best.step_seconds, 4),
        ("  forward s", median.forward_seconds, best.forward_seconds, 4),
        ("  backward s", median.backward_seconds, best.backward_seconds, 4),
        ("  optimizer s", median.optimizer_seconds, best.optimizer_seconds, 4),
        ("  monitor s", median.monitor_seconds, best.monitor_seconds, 4),
        ("GFLOP/s", median.gflops, best.gflops, 1),
    ] {
        output::print(&format!("{name:<13} {median:>12.digits$} {best:>12.digits$}"));
    }
    output::print(&format!(
        "arithmetic    {}FLOP a step: forward {}, input gradient {}, weight gradient {}; {:.3} of nothing frozen",
        short(flops.total()),
        short(flops.forward),
        short(flops.input_gradient),
        short(flops.weight_gradient),
        report.flops_ratio
    ));
    let peak = report.peak_memory_bytes.map_or("unknown".into(), |peak| format!("{}B", short(peak)));
    // Plans are of training.
    let planned = match report.options.mode {
        Mode::Forward => String::new(),
        _ => format!(" (planned {}B)", short(report.memory.peak)),
    };
    output::print(&format!(
        "memory        peak {peak}{planned}, optimizer {}B, kept gradients {}B",
        short(report.optimizer_bytes),
        short(report.kept_bytes)
    ));
    report.simulated.iter().for_each(print_scaling);
}

/// A step on a simulated number of threads, and the places of the kernels where most is lost.
fn print_scaling(scaling: &Scaling) {
    const PLACES: usize = 6;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    output::print(&format!(
        "{} threads simulated: {:.4} s, {:.1} times one; {} jobs of {:.0} items on average; lost: {} outside of jobs, {} waiting for the \
         last, {} handing out (assumed)",
        scaling.threads,
        scaling.step_seconds,
        scaling.speedup,
        scaling.jobs,
        scaling.items as f64 / scaling.jobs.max(1) as f64,
        percent(scaling.lost_outside),
        percent(scaling.lost_uneven),
        percent(scaling.lost_barriers)
    ));
    if scaling.short_of_items > 0.0 {
        let share = percent(scaling.short_of_items);
        output::print(&format!("  {share} of the work is in jobs of fewer items than {} threads", scaling.threads));
    }
    for place in scaling.places.iter().take(PLACES) {
        output::print(&format!(
            "  {:<34} {:>5} jobs of {:>4} to {:>5} items, {:>6} of the work, loses {:>6}",
            place.place,
            place.jobs,
            place.fewest_items,
            place.most_items,
            percent(place.work),
            percent(place.lost)
        ));
    }
}

/// A table of what a step keeps.
fn print_kept(memory: &StepMemory) {
    let megabytes = |bytes: u64| match bytes {
        0 => String::new(),
        _ => format!("{:.1}", bytes as f64 / 1e6),
    };
    let line = |name: &str, [begins, ends]: [u64; 2], planned: Option<u64>| {
        let planned = planned.map_or(String::new(), megabytes);
        output::print(&format!("{name:<42} {:>10} {:>10} {planned:>10}", megabytes(begins), megabytes(ends)));
    };
    output::print("");
    output::print("MB held when the backward pass                 begins       ends    planned");
    for kind in &memory.kinds {
        line(kind.name, kind.bytes(), kind.planned);
        for part in &kind.parts {
            line(&format!("  {}", part.name), [part.begins, part.ends], None);
        }
    }
    let most = memory.begins.max(memory.ends);
    line("all of these", [memory.begins, memory.ends], None);
    if let (Some(other), Some(peak)) = (memory.other, memory.peak) {
        output::print(&format!("{:<42} {:>10}", "other: the program, data, a layer's way back", megabytes(other)));
        line(
            "most that the process has held",
            [if memory.begins == most { peak } else { 0 }, if memory.begins == most { 0 } else { peak }],
            Some(memory.planned),
        );
    }
}

impl Gemm {
    fn run(self, json: bool) -> anyhow::Result<()> {
        let sizes = if self.sizes.is_empty() { Size::DEFAULT.to_vec() } else { self.sizes };
        if self.tune {
            return tune(&sizes, json);
        }
        if !json {
            output::print("GFLOP/s, median (best)      forward nt     input gradient nn    weight gradient tn");
        }
        let report = gemm::run(&sizes, self.precision.resolve(), &mut |products| {
            if !json {
                let column = |speed: Speed| format!("{:.1} ({:.1})", speed.gflops, speed.best_gflops);
                let (nt, nn, tn) = (column(products.nt), column(products.nn), column(products.tn));
                output::print(&format!("{:<20} {nt:>17} {nn:>21} {tn:>21}", products.size));
            }
        });
        if json { output::print_json(&report) } else { Ok(()) }
    }
}

/// Finds the sizes of blocks and writes their file.
fn tune(layers: &[Size], json: bool) -> anyhow::Result<()> {
    let path =
        blocks::place().context("GRADES_BLOCKS names no file for the sizes; leave it out, or set it to a path")?;
    let sizes = |sizes: blocks::Sizes| {
        let blocks::Sizes { panels, rows, gradient_rows } = sizes;
        format!("panels {panels:>2}, rows {rows:>3}, rows of a weight gradient {gradient_rows:>3}")
    };
    let report = tune::run(layers, &mut |trial| {
        if !json {
            let name = trial.precision.name();
            output::print(&format!("{name:<5} {}: {:.3} ms", sizes(trial.sizes), 1e3 * trial.seconds));
        }
    });
    report.tuned.write(&path).with_context(|| format!("{}: the sizes cannot be written", path.display()))?;
    if json {
        return output::print_json(&report);
    }
    let known = if report.kind_measured { "measured" } else { "not measured" };
    output::print(&format!("kind          {} (the table's sizes for it were {known})", report.kind));
    output::print(&format!("f32           {}", sizes(report.tuned.f32)));
    output::print(&format!("bf16          {}", sizes(report.tuned.bf16)));
    output::print(&format!("written       {}", path.display()));
    Ok(())
}
