//! `grades eval`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::Checkpoint;
use grades_models::{peft, registry};
use grades_tensor::device;
use grades_train::config::Precision;
use grades_train::encoder::Encoder;
use grades_train::eval::score::{ScoreOptions, TaskScore, score};
use grades_train::eval::task::Task;
use grades_train::hub::Hub;
use serde::Serialize;
use serde_json::json;

use crate::output;

/// Tokens of an evaluation batch: enough for the matrix products to run at full speed.
const BATCH_TOKENS: usize = 2048;

/// Score a model on multiple-choice benchmarks by log-likelihood.
///
/// Prompts, choices and accuracies follow lm-evaluation-harness 0.4: acc takes the likeliest choice, acc_norm the
/// likeliest by character. Questions come from the set on the Hugging Face Hub that the harness reads, fetched once into its
/// cache (HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they always do), or from
/// DATA_DIR/<task>/<split>.jsonl (or json, csv, parquet) with the same columns.
///
/// Example: grades eval --model model-out/model --tasks piqa,arc_easy
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model folder in the Hugging Face layout, a GGUF file, or a model of the Hugging Face Hub (owner/name).
    #[arg(long)]
    model: PathBuf,
    /// The folder of an adapter for it, as PEFT stores them.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Hold the model's matrices in 4 bits, as training with load_in_4bit does: quantised ones as they are, others in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// Benchmarks, separated by commas, or files of questions of your own (jsonl with question, choices and answer: the
    /// right choice, or its place from 0).
    #[arg(long, value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// The folder that holds a folder for each benchmark; left out, data/<task> where there is one, and else the Hub.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The split; left out, the one that lm-evaluation-harness scores the benchmark on.
    #[arg(long)]
    split: Option<String>,
    /// Score only the first so many questions of each benchmark.
    #[arg(long)]
    limit: Option<usize>,
    /// Numbers of the matrix products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Write one JSON line a question to this file: task, index, loglikelihoods, target, acc, acc_norm.
    #[arg(long)]
    samples: Option<PathBuf>,
}

/// A task's result as `--json` has it.
#[derive(Serialize)]
struct Scored {
    #[serde(flatten)]
    score: TaskScore,
    seconds: f64,
    questions_per_second: f64,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let mut questions = Vec::new();
        for name in &self.tasks {
            let (task, of_task) = Task::open(name, self.data_dir.as_deref(), self.split.as_deref(), self.limit)?;
            questions.push((name.as_str(), task, of_task));
        }
        let model = Hub::from_env().model(&self.model)?;
        let checkpoint = Checkpoint::open(&model)?;
        let load = LoadOptions::new(device("auto")?).in_4bit(self.load_in_4bit);
        // A large vocabulary takes about as long to read as a small model.
        let (model, tokenizer) =
            rayon::join(|| registry::open(&checkpoint, load), || Tokenizer::from_checkpoint(&model));
        let (mut model, tokenizer) = (model?, tokenizer?);
        if let Some(adapter) = &self.adapter {
            model = peft::attach(model, adapter)?;
        }
        tokenizer.check_fits(model.sizes().vocab_size)?;
        model.set_dtype(self.precision.resolve());
        // Only now, so that a mistake in the data or the model leaves no empty file behind.
        let mut samples = match &self.samples {
            Some(path) => {
                let file = File::create_new(path);
                let file = file.with_context(|| format!("{}: the samples cannot be written there", path.display()))?;
                Some((path, BufWriter::new(file)))
            }
            None => None,
        };
        let options = ScoreOptions { max_length: model.sizes().max_position_embeddings, batch_tokens: BATCH_TOKENS };
        let mut results = BTreeMap::new();
        for (name, task, questions) in questions {
            let started = Instant::now();
            let requests: usize = questions.iter().map(|question| question.choices.len()).sum();
            let bar = indicatif::ProgressBar::new(requests as u64).with_prefix(name.to_owned());
            let encoder = Encoder::new(&tokenizer, model.sizes().vocab_size);
            let (result, scores) =
                score(task, &questions, &encoder, &mut model, options, &mut |done| bar.set_position(done as u64))?;
            bar.finish_and_clear();
            let seconds = started.elapsed().as_secs_f64();
            let rate = |count: usize| count as f64 / seconds.max(1e-9);
            output::log(&format!(
                "{}: {} questions in {seconds:.1} s ({:.1} a second), {} tokens ({:.0} a second)",
                name,
                result.n,
                rate(result.n),
                result.tokens,
                rate(result.tokens)
            ));
            if let Some((path, file)) = &mut samples {
                for line in &scores {
                    let line = serde_json::to_string(line)?;
                    writeln!(file, "{line}").with_context(|| format!("{}: cannot be written", path.display()))?;
                }
            }
            if !json {
                let error = |e: Option<f64>| e.map_or(String::new(), |e| format!(" ± {:.2}", 100.0 * e));
                output::print(&format!(
                    "{name:<14} acc {:6.2}{}   acc_norm {:6.2}{}   n {}",
                    100.0 * result.acc,
                    error(result.acc_stderr),
                    100.0 * result.acc_norm,
                    error(result.acc_norm_stderr),
                    result.n
                ));
            }
            results.insert(name, Scored { score: result, seconds, questions_per_second: rate(result.n) });
        }
        if let Some((path, mut file)) = samples {
            file.flush().with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        if json { output::print_json(&json!({ "tasks": results })) } else { Ok(()) }
    }
}
