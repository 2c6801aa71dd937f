//! `grades train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use grades_report::record::Summary;
use grades_train::config::Config;
use grades_train::train::run;

use crate::output;

/// Fine-tune a model as a config file says.
///
/// The run's directory (output_dir) gets the resolved config, metrics.jsonl (a line a step), signals.jsonl (the signal
/// of every matrix), events.jsonl (what froze when), summary.json, report.html (all of it as figures), and model/ in the
/// Hugging Face layout, or with adapter: lora adapter/ as PEFT stores it. A directory that holds something is never
/// overwritten.
///
/// Example: grades train configs/piqa.yaml learning_rate=1e-5 early_stopping.tau=auto
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The config, a YAML file.
    config: PathBuf,
    /// Options that replace those of the file: key=value, dotted for nested keys.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        let config = Config::load(&self.config, &self.overrides)?;
        output::set_threads(threads.or(config.threads.count()))?;
        let summary = grades_kernels::on_worker(|| run(&config, true))?;
        if json {
            return output::print_json(&summary);
        }
        print(&summary);
        Ok(())
    }
}

fn print(summary: &Summary) {
    let Summary { steps, planned_steps, units, frozen_units, seconds, .. } = summary;
    let ended = summary.stopped_by.as_ref().map_or(String::new(), |reason| format!(", stopped by {reason}"));
    output::print(&format!("steps         {steps} of {planned_steps}{ended}"));
    output::print(&format!("frozen        {frozen_units} of {units} matrices"));
    output::print(&format!("training loss {:.4}", summary.train_loss));
    if let Some(loss) = summary.val_loss {
        output::print(&format!("validation    {loss:.4}"));
    }
    let rate = summary.tokens as f64 / seconds.max(1e-9);
    output::print(&format!(
        "time          {seconds:.1} s ({rate:.0} tokens/s), of it validation {:.1} s and monitoring {:.1} s",
        summary.validation_seconds.unwrap_or(0.0),
        summary.monitor_seconds
    ));
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
