//! `grades train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use grades_report::record::{Summary, main_score};
use grades_train::config::Config;
use grades_train::hub::Hub;
use grades_train::hub::upload::Upload;
use grades_train::train::plan::MemoryPlan;
use grades_train::train::{DryRun, Interrupt, TimeEstimate, dry_run, run_until, timed_dry_run};

use crate::{output, upload};

/// Fine-tune a model as a config file says.
///
/// The run's directory (output_dir) gets the resolved config, metrics.jsonl (a line a step), signals.jsonl (the signal
/// of every matrix), events.jsonl (what froze when), summary.json, report.html (all of it as figures), and model/ in the
/// Hugging Face layout, or with adapter: lora adapter/ as PEFT stores it. A directory that holds something is never
/// overwritten.
///
/// Ctrl-C and SIGTERM end a run after the step that it is at, with a checkpoint; a second one ends it at once. The same call with
/// resume_from_checkpoint=auto goes on from the last whole checkpoint, and takes the same decisions, bit for bit.
///
/// Example: grades train configs/piqa.yaml learning_rate=1e-5 early_stopping.tau=auto
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The config, a YAML file.
    config: PathBuf,
    /// Options that replace those of the file: key=value, dotted for nested keys.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go through config, tokenizer and data up to where the weights would be loaded, and show what the run would be and how
    /// much memory it would take. Of a model of the Hub no weights are fetched; nothing is written.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run load the weights, too (and fetch them, of a model of the Hub), and time a few steps for an estimate of how long
    /// the run would take. That costs about five steps and the loading; still nothing is written.
    #[arg(long, requires = "dry_run")]
    time: bool,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>, interrupt: &Interrupt) -> anyhow::Result<()> {
        let config = Config::load(&self.config, &self.overrides)?;
        output::set_threads(threads.or(config.threads.count()))?;
        if self.dry_run {
            let plan = match self.time {
                true => grades_kernels::on_worker(|| timed_dry_run(&config))?,
                false => dry_run(&config)?,
            };
            if json {
                return output::print_json(&plan);
            }
            print_plan(&plan);
            return Ok(());
        }
        // What is wrong with name or token shows before the training.
        let (hub, upload) = (Hub::from_env(), Upload::of_config(&config));
        upload.iter().try_for_each(|upload| hub.prepare_upload(upload))?;
        let summary = grades_kernels::on_worker(|| run_until(&config, true, interrupt))?;
        let uploaded = upload.as_ref().map(|upload| {
            let uploaded = hub.upload(&summary.model_dir, upload);
            uploaded.with_context(|| {
                let (run, id) = (summary.run_dir.display(), &upload.id);
                format!(
                    "{run}: the run has ended, but its model is not on the Hub (`grades upload {run} {id}` tries again)"
                )
            })
        });
        let uploaded = uploaded.transpose()?;
        if json {
            return output::print_json(&summary);
        }
        print(&summary);
        if let Some(uploaded) = uploaded {
            output::print(&format!("uploaded      {}", upload::sentence(&uploaded)));
        }
        Ok(())
    }
}

fn print_plan(plan: &DryRun) {
    let short = output::short;
    output::print(&format!(
        "model         {}, {} of {} parameters train in {} matrices, products in {}",
        plan.model_type,
        short(plan.trainable_parameters),
        short(plan.parameters),
        plan.units,
        plan.precision
    ));
    let left_out = |count: usize, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    let data = match plan.steps_per_epoch {
        Some(_) => format!("{} samples of {} tokens", plan.samples, short(plan.tokens)),
        None => "read while training goes on".to_owned(),
    };
    output::print(&format!(
        "data          {data}{}{}{}",
        left_out(plan.validation_samples, "kept for validation"),
        left_out(plan.dropped_samples, "left out as too long"),
        left_out(plan.truncated_samples, "cut")
    ));
    let epoch = plan.steps_per_epoch.map_or(String::new(), |steps| format!(", {steps} an epoch"));
    output::print(&format!(
        "steps         {}{epoch}; {} tokens in the largest micro-batch",
        plan.planned_steps, plan.largest_batch_tokens
    ));
    print_memory("memory       ", &plan.memory);
    if let Some(available) = plan.available_memory {
        output::print(&format!("available     {}B", short(available)));
    }
    let disk = &plan.disk;
    output::print(&format!(
        "disk          {}B: model {}B, {} checkpoints of {}B{}",
        short(disk.total()),
        short(disk.model),
        disk.checkpoints,
        short(disk.checkpoint),
        disk.available.map_or(String::new(), |free| format!("; {}B are free", short(free)))
    ));
    plan.time.iter().for_each(print_time);
}

fn print_time(time: &TimeEstimate) {
    let evaluations = match time.evaluations {
        0 => String::new(),
        count => format!(", {count} evaluations of {:.1} s", time.evaluation_seconds),
    };
    output::print(&format!(
        "time          about {}: steps of {:.2} s ({:.0} tokens/s), {} validations of {:.1} s{evaluations}, if nothing freezes or \
         ends earlier; {} steps were timed, in {:.1} s with the loading",
        duration(time.seconds),
        time.step_seconds,
        time.tokens_per_second,
        time.validations,
        time.validation_seconds,
        time.timed_steps,
        time.cost_seconds
    ));
}

/// Seconds in words that fit a line: 42 s, 12 min, 3 h 20 min.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// A plan of memory, after what it is of.
pub(crate) fn print_memory(what: &str, memory: &MemoryPlan) {
    let short = output::short;
    output::print(&format!(
        "{what} {}B: weights {}B, gradients {}B, optimizer {}B, kept for the method {}B, average {}B, activations {}B{}{}",
        short(memory.peak),
        short(memory.weights),
        short(memory.gradients),
        short(memory.optimizer),
        short(memory.kept),
        short(memory.average),
        short(memory.activations),
        match memory.pictures + memory.features {
            0 => String::new(),
            _ => format!(", pictures {}B, kept of them {}B", short(memory.pictures), short(memory.features)),
        },
        match memory.evaluation {
            0 => String::new(),
            bytes => format!(", answers and scores between steps {}B", short(bytes)),
        }
    ));
}

fn print(summary: &Summary) {
    let Summary { steps, planned_steps, units, frozen_units, seconds, .. } = summary;
    let ended = summary.stopped_by.as_ref().map_or(String::new(), |reason| format!(", stopped by {reason}"));
    output::print(&format!("steps         {steps} of {planned_steps}{ended}"));
    output::print(&format!("frozen        {frozen_units} of {units} matrices"));
    output::print(&format!("training loss {:.4}", summary.train_loss));
    if let Some(loss) = summary.val_loss {
        let sets = summary.val_losses.iter().flatten().map(|(set, loss)| format!(", {set} {loss:.4}"));
        output::print(&format!("validation    {loss:.4}{}", sets.collect::<String>()));
    }
    for (name, scores) in summary.eval_tasks.iter().flatten() {
        if let Some((of, value)) = main_score(scores) {
            output::print(&format!("{name:<13} {of} {:.2}", 100.0 * value));
        }
    }
    let rate = summary.tokens as f64 / seconds.max(1e-9);
    output::print(&format!(
        "time          {seconds:.1} s ({rate:.0} tokens/s), of it validation {:.1} s and monitoring {:.1} s",
        summary.validation_seconds.unwrap_or(0.0),
        summary.monitor_seconds
    ));
    if let Some(seconds) = summary.evaluation_seconds {
        output::print(&format!("evaluation    {seconds:.1} s beside it, of answers and benchmarks"));
    }
    let flops = summary.flops;
    output::print(&format!(
        "arithmetic    {}FLOP: forward {}, input gradient {}, weight gradient {}",
        output::short(flops.total()),
        output::short(flops.forward),
        output::short(flops.input_gradient),
        output::short(flops.weight_gradient)
    ));
    if let Some(peak) = summary.peak_memory_bytes {
        output::print(&format!("peak memory   {}B", output::short(peak)));
    }
    output::print(&format!("model         {}", summary.model_dir.display()));
}
