//! `grades eval`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use grades_train::config::{ImageBackend, Precision};
use grades_train::eval::open::{
    AskOptions, OpenQuestion, OpenScore, OpenTask, Where, ask, prompts, score as score_open,
};
use grades_train::eval::score::{ScoreOptions, TaskScore, score};
use grades_train::eval::{Asked, BATCH_PROMPTS, BATCH_TOKENS, Question, Task};
use grades_train::loaded::{Loaded, Loading};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use crate::output;
use crate::parts::Parts;

/// Score a model on benchmarks, or on questions of your own.
///
/// Choices are scored by log-likelihood; prompts, choices and accuracies follow lm-evaluation-harness 0.4: acc takes the
/// likeliest choice, acc_norm the likeliest by character. The tasks vqav2, gqa, coco_cap and mmstar, whose answers about
/// pictures a model writes out, follow lmms-eval 0.7; beside their score stands that of always giving the commonest
/// answer. Questions come from the set on the Hugging Face Hub that these programs read, fetched once into its cache
/// (HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they always do), or from DATA_DIR/<task>/<split>.jsonl (or
/// json, csv, parquet) with the same columns. With --limit only as many files are fetched as have that many questions.
///
/// Example: grades eval --model model-out/model --tasks piqa,arc_easy
///
/// Example: grades eval --model runs/vqa/model --tasks my-questions.jsonl --image-folder pictures
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run, a model folder in the Hugging Face layout, a GGUF file, a model of the Hugging Face Hub
    /// (owner/name), or the folder of an adapter that names its base.
    #[arg(long)]
    model: PathBuf,
    /// The folder of an adapter for it, as PEFT stores them.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Hold the model's matrices in 4 bits, as training with load_in_4bit does: quantised ones as they are, others in NF4.
    #[arg(long)]
    load_in_4bit: bool,
    /// Benchmarks, separated by commas, or files of questions of your own (jsonl, json, csv, parquet): with question, choices
    /// and answer (the right choice, or its place from 0); or without choices, where the model writes the answer: image (or
    /// images), question, and answer (or answers, of which one must be met), or conversations that end with the answer.
    #[arg(long, value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// The folder that holds a folder for each benchmark; left out, data/<task> where there is one, and else the Hub.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The folder of pictures that rows give by path; left out, that of their file.
    #[arg(long, value_name = "DIR")]
    image_folder: Option<PathBuf>,
    /// Whose resize pictures go through: auto (what the model's processor says), pillow or torchvision. Give what it was trained with.
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    image_backend: ImageBackend,
    /// The split; left out, the one that the benchmark is scored on. Of a file of your own test[:100] takes the first 100.
    #[arg(long)]
    split: Option<String>,
    /// Score only the first so many questions of each benchmark.
    #[arg(long)]
    limit: Option<usize>,
    /// Most tokens of a written answer; left out, as lmms-eval has it: 16, of captions 64.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Numbers of the matrix products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Write one JSON line a question to this file: task, index, loglikelihoods, target, acc, acc_norm; of written answers
    /// task, index, question, answer, answers, score.
    #[arg(long)]
    samples: Option<PathBuf>,
}

/// A task's result as `--json` has it.
#[derive(Serialize)]
struct Scored {
    #[serde(flatten)]
    score: Score,
    seconds: f64,
    questions_per_second: f64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Score {
    Choices(TaskScore),
    Open(OpenScore),
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let at = Where {
            data_dir: self.data_dir.as_deref(),
            image_folder: self.image_folder.as_deref(),
            split: self.split.as_deref(),
            limit: self.limit,
        };
        let mut tasks = Vec::new();
        for name in &self.tasks {
            tasks.push((name.as_str(), Asked::find(name, &at)?));
        }
        let parts = Parts::given(&self.model, self.adapter.as_deref())?;
        let options = Loading {
            adapter: parts.adapter.as_deref(),
            fold_adapter: false,
            load_in_4bit: self.load_in_4bit,
            image_backend: self.image_backend,
            precision: self.precision,
        };
        let mut loaded = Loaded::open(&parts.model, options)?;
        // Only now, so that a mistake in the data or the model leaves no empty file behind.
        let mut samples = self.samples.as_deref().map(Samples::create).transpose()?;
        let mut results = BTreeMap::new();
        for (name, asked) in tasks {
            let started = Instant::now();
            let score = match &asked {
                Asked::Choices(task, questions) => {
                    Score::Choices(choices(name, task, questions, &mut loaded, samples.as_mut())?)
                }
                Asked::Open(task, questions) => {
                    Score::Open(self.open(name, task, questions, &mut loaded, samples.as_mut())?)
                }
            };
            let seconds = started.elapsed().as_secs_f64();
            let rate = |count: usize| count as f64 / seconds.max(1e-9);
            let n = match &score {
                Score::Choices(score) => score.n,
                Score::Open(score) => score.n,
            };
            output::log(&format!(
                "{name}: {n} questions in {seconds:.1} s ({:.1} a second), {}",
                rate(n),
                match &score {
                    Score::Choices(score) => format!("{} tokens ({:.0} a second)", score.tokens, rate(score.tokens)),
                    Score::Open(score) => {
                        format!("{} tokens read and {} written", score.prompt_tokens, score.written_tokens)
                    }
                }
            ));
            if !json {
                tell(name, &score);
            }
            results.insert(name, Scored { score, seconds, questions_per_second: rate(n) });
        }
        samples.map(Samples::finish).transpose()?;
        if json { output::print_json(&json!({ "tasks": results })) } else { Ok(()) }
    }

    /// Lets the model write its answers.
    fn open(
        &self,
        name: &str,
        task: &'static OpenTask,
        questions: &[OpenQuestion],
        loaded: &mut Loaded,
        samples: Option<&mut Samples>,
    ) -> anyhow::Result<OpenScore> {
        let options = AskOptions {
            max_new_tokens: self.max_new_tokens.unwrap_or(task.max_new_tokens),
            batch_tokens: BATCH_TOKENS,
            batch_prompts: BATCH_PROMPTS,
        };
        let bar = ProgressBar::new(questions.len() as u64).with_prefix(name.to_owned());
        let prompts = prompts(task.name, questions, &loaded.encoder(), loaded.vision.as_deref())?;
        let said = ask(task.name, &prompts, loaded, options, &mut |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let results = score_open(task, questions, said);
        if let Some(samples) = samples {
            samples.write(&results.answers)?;
        }
        Ok(results.score)
    }
}

/// Scores choices by their log-likelihood.
fn choices(
    name: &str,
    task: &Task,
    questions: &[Question],
    loaded: &mut Loaded,
    samples: Option<&mut Samples>,
) -> anyhow::Result<TaskScore> {
    let requests: usize = questions.iter().map(|question| question.choices.len()).sum();
    let bar = ProgressBar::new(requests as u64).with_prefix(name.to_owned());
    let Loaded { model, tokenizer, .. } = loaded;
    let options = ScoreOptions { max_length: model.sizes().max_position_embeddings, batch_tokens: BATCH_TOKENS };
    let encoder = grades_train::encoder::Encoder::new(tokenizer, model.sizes().vocab_size);
    let (result, answers) =
        score(task, questions, &encoder, model, options, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if let Some(samples) = samples {
        samples.write(&answers)?;
    }
    Ok(result)
}

/// Prints a task's result.
fn tell(name: &str, score: &Score) {
    let error = |e: Option<f64>| e.map_or(String::new(), |e| format!(" ± {:.2}", 100.0 * e));
    match score {
        Score::Choices(score) => output::print(&format!(
            "{name:<14} acc {:6.2}{}   acc_norm {:6.2}{}   n {}",
            100.0 * score.acc,
            error(score.acc_stderr),
            100.0 * score.acc_norm,
            error(score.acc_norm_stderr),
            score.n
        )),
        Score::Open(score) => {
            let metrics = score.metrics.iter();
            let metrics: Vec<String> = metrics
                .map(|metric| format!("{} {:6.2}{}", metric.name, 100.0 * metric.value, error(metric.stderr)))
                .collect();
            let always = score.commonest.as_ref().map_or(String::new(), |commonest| {
                format!("   always \"{}\" {:.2}", commonest.answer, 100.0 * commonest.value)
            });
            output::print(&format!("{name:<14} {}{always}   n {}", metrics.join("   "), score.n));
        }
    }
}

/// The file of how each question was answered.
struct Samples<'a> {
    path: &'a Path,
    file: BufWriter<File>,
}

impl<'a> Samples<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        let file = File::create_new(path);
        let file = file.with_context(|| format!("{}: the samples cannot be written there", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn write(&mut self, answers: &[impl Serialize]) -> anyhow::Result<()> {
        for answer in answers {
            let line = serde_json::to_string(answer)?;
            writeln!(self.file, "{line}").with_context(|| format!("{}: cannot be written", self.path.display()))?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}
