//! The model card of a run, `README.md` beside its model or adapter: what it comes from, how to load it, how it was trained. Its head is
//! the metadata that the Hugging Face Hub reads.
//!
//! It says nothing of this machine: paths are left out, and data that lie here are told by their files' names.

use std::fs;
use std::path::Path;

use grades_report::record::{self, Environment, Summary};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::{Config, Rl, without_nulls};
use crate::hub::{self, Hub};
use crate::train::TrainError;

/// The card's name.
pub const FILE: &str = "README.md";

/// Options that name something on this machine, or say nothing of the result.
const NOT_SHOWN: [&str; 29] = [
    "model",
    "output_dir",
    "datasets",
    "test_datasets",
    "contamination",
    "dataset_prepared_path",
    "chat_template_jinja",
    "vision_cache_dir",
    "resume_from_checkpoint",
    "threads",
    "logging_steps",
    "generate_samples",
    "generation_max_new_tokens",
    "eval_tasks",
    "eval_tasks_limit",
    "save_steps",
    "save_total_limit",
    "report_to",
    "run_name",
    "wandb_project",
    "wandb_entity",
    "wandb_name",
    "mlflow_tracking_uri",
    "mlflow_experiment_name",
    "trackio_project_name",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_revision",
];

/// What lies in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A language model, as transformers loads it.
    Language,
    /// One that reads pictures, as transformers loads it.
    Pictures,
    /// One of nanoVLM's.
    NanoVlm,
    /// An adapter, as PEFT loads it.
    Adapter,
}

/// Writes the card of the model or adapter in `folder`, which the run in `run` has made, unless there is one; whether it did.
///
/// # Errors
/// If it cannot be written.
pub fn write(run: &Path, folder: &Path) -> Result<bool, TrainError> {
    let path = folder.join(FILE);
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let Some(text) = of(run, folder) else { return Ok(false) };
    grades_fs::create(&path, text)?;
    Ok(true)
}

/// The card; none where the folder has no model, or the run has not ended.
fn of(run: &Path, folder: &Path) -> Option<String> {
    let summary: Summary = read(&run.join(record::SUMMARY))?;
    let environment: Environment = read(&run.join(record::ENVIRONMENT)).unwrap_or_default();
    let config = Config::parse(&fs::read_to_string(run.join(record::CONFIG)).ok()?, &[]).ok()?;
    let kind = Kind::of(folder)?;
    let name = config.hub_model_id.as_deref().and_then(|id| id.split('/').next_back()).map(str::to_owned);
    let name = name.or_else(|| Some(config.output_dir.file_name()?.to_string_lossy().into_owned()))?;
    let head = serde_saphyr::to_string(&head(&config, &summary, kind, &name)).ok()?;
    let title = format!("# {name}\n\n{}", origin(&config, &summary, kind));
    let figures = figures(&summary, &environment);
    let settings = serde_saphyr::to_string(&settings(&config)).ok()?;
    Some(format!(
        "---\n{}\n---\n\n{title}\n\n## Use\n\n{}\n\n## Training\n\n{figures}\n\nOptions that are not the defaults (paths left out):\n\n\
         ```yaml\n{}\n```\n\nMade with GradES {}.\n",
        head.trim_end(),
        usage(kind),
        settings.trim_end(),
        environment.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION")),
    ))
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl Kind {
    fn of(folder: &Path) -> Option<Self> {
        if folder.join("adapter_config.json").is_file() {
            return Some(Self::Adapter);
        }
        let config: Value = read(&folder.join("config.json"))?;
        Some(match config["model_type"].as_str() {
            None => Self::NanoVlm,
            Some(_) if config.get("vision_config").is_some() => Self::Pictures,
            Some(_) => Self::Language,
        })
    }
}

/// The base, where it is one of the Hub and not a folder here.
fn base(config: &Config) -> Option<String> {
    let path = config.model.checkpoint().filter(|path| !Path::new(path).exists())?;
    let id = path.trim_start_matches("hf.co/").trim_start_matches("huggingface.co/").split(':').next()?;
    hub::is_id(id).then(|| id.to_owned())
}

/// Data sets of the Hub.
fn datasets(config: &Config) -> Vec<&str> {
    let of_hub = |path: &&str| hub::is_id(path) && !Path::new(path).exists();
    config.datasets.iter().map(|data| data.path.as_str()).filter(of_hub).collect()
}

/// What the card of the base says of its license.
fn license(config: &Config) -> Map<String, Value> {
    let Some(path) = config.model.checkpoint() else { return Map::new() };
    // What was fetched for the run is in the cache.
    let folder = Hub::from_env().offline().description(Path::new(path)).unwrap_or_else(|_| path.into());
    let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let head = text.strip_prefix("---").and_then(|text| text.split("\n---").next()).unwrap_or_default();
    let head: Map<String, Value> = serde_saphyr::from_str(head).unwrap_or_default();
    let keys = ["license", "license_name", "license_link"];
    keys.iter().filter_map(|key| Some(((*key).to_owned(), head.get(*key)?.clone()))).collect()
}

/// The metadata.
fn head(config: &Config, summary: &Summary, kind: Kind, name: &str) -> Map<String, Value> {
    let mut head = Map::new();
    let mut put = |key: &str, value: Value| drop(head.insert(key.to_owned(), value));
    if let Some(base) = base(config) {
        put("base_model", base.into());
        put("base_model_relation", if kind == Kind::Adapter { "adapter" } else { "finetune" }.into());
    }
    put("library_name", kind.library().into());
    put("pipeline_tag", kind.task().into());
    let datasets = datasets(config);
    if !datasets.is_empty() {
        put("datasets", json!(datasets));
    }
    license(config).into_iter().for_each(|(key, value)| put(&key, value));
    let mut tags = vec!["grades", config.rl.map_or("sft", Rl::name)];
    tags.extend((kind == Kind::Adapter).then_some("lora"));
    put("tags", json!(tags));
    if let Some(loss) = summary.val_loss.filter(|loss| loss.is_finite()) {
        let set = datasets.first().copied().unwrap_or("held-out samples of the training data");
        put(
            "model-index",
            json!([{ "name": name, "results": [{
                "task": { "type": kind.task() },
                "dataset": { "name": set, "type": datasets.first().copied().unwrap_or("other") },
                "metrics": [{ "type": "loss", "name": "Validation loss", "value": rounded(loss) }],
            }] }]),
        );
    }
    head
}

impl Kind {
    fn library(self) -> &'static str {
        match self {
            Self::Language | Self::Pictures => "transformers",
            Self::NanoVlm => "nanovlm",
            Self::Adapter => "peft",
        }
    }

    fn task(self) -> &'static str {
        match self {
            Self::Language | Self::Adapter => "text-generation",
            Self::Pictures | Self::NanoVlm => "image-text-to-text",
        }
    }
}

/// One sentence on what it is.
fn origin(config: &Config, summary: &Summary, kind: Kind) -> String {
    let what = if kind == Kind::Adapter { "Low-rank adapters (LoRA)" } else { "A model" };
    let base = match base(config) {
        Some(base) if kind == Kind::Adapter => format!(" for [{base}](https://huggingface.co/{base})"),
        Some(base) => format!(", fine-tuned from [{base}](https://huggingface.co/{base})"),
        None => String::new(),
    };
    let data: Vec<String> = config
        .datasets
        .iter()
        .map(|data| match datasets(config).contains(&data.path.as_str()) {
            true => format!("[{0}](https://huggingface.co/datasets/{0})", data.path),
            false => {
                let name = Path::new(&data.path).file_name().unwrap_or_default().to_string_lossy();
                format!("`{name}`")
            }
        })
        .collect();
    let method = config.early_stopping.name();
    let stopped = match method {
        "none" => "Training went to its planned end.".to_owned(),
        "grades" => format!(
            "Each weight matrix stops on its own, once its gradient has stopped changing \
             ([GradES](https://arxiv.org/abs/2509.01842)); {} of {} had at the end.",
            summary.frozen_units, summary.units
        ),
        other => format!("What ended or thinned out the training was `{other}`."),
    };
    format!("{what}{base}, trained on {}. {stopped}", data.join(", "))
}

/// How it is loaded.
fn usage(kind: Kind) -> String {
    let (imports, loads) = match kind {
        Kind::Language => (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "model = AutoModelForCausalLM.from_pretrained(name)\ntokenizer = AutoTokenizer.from_pretrained(name)",
        ),
        Kind::Pictures => (
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            "model = AutoModelForImageTextToText.from_pretrained(name)\nprocessor = AutoProcessor.from_pretrained(name)",
        ),
        Kind::NanoVlm => (
            "from models.vision_language_model import VisionLanguageModel  # in nanoVLM's repository",
            "model = VisionLanguageModel.from_pretrained(name)",
        ),
        Kind::Adapter => (
            "from peft import AutoPeftModelForCausalLM",
            "model = AutoPeftModelForCausalLM.from_pretrained(name)  # with its base",
        ),
    };
    format!("```python\n{imports}\n\nname = \".\"  # this folder, or what it is called on the Hub\n{loads}\n```")
}

/// What the run measured, as a table.
fn figures(summary: &Summary, environment: &Environment) -> String {
    let stopped = summary.stopped_by.as_ref().map_or(String::new(), |reason| format!(", ended by {reason}"));
    let mut rows = vec![
        ("steps", format!("{} of {} planned{stopped}", summary.steps, summary.planned_steps)),
        ("frozen at the end", format!("{} of {} matrices", summary.frozen_units, summary.units)),
        ("training loss, mean over the steps", rounded(summary.train_loss).to_string()),
    ];
    rows.extend(summary.val_loss.map(|loss| ("validation loss at the end", rounded(loss).to_string())));
    rows.extend(summary.learning_rate.map(|rate| ("learning rate that was found", format!("{rate:e}"))));
    rows.push(("tokens", summary.tokens.to_string()));
    rows.push(("time", format!("{:.1} s", summary.seconds)));
    rows.push(("arithmetic", format!("{:.3e} FLOP", summary.flops.total() as f64)));
    rows.extend(summary.peak_memory_bytes.map(|bytes| ("most memory", format!("{:.2} GB", bytes as f64 / 1e9))));
    rows.extend(environment.precision.clone().map(|precision| ("products in", precision)));
    let rows: Vec<String> = rows.iter().map(|(what, value)| format!("| {what} | {value} |\n")).collect();
    format!("| | |\n| --- | --- |\n{}", rows.concat()).trim_end().to_owned()
}

/// The options that are not the defaults, but for what names something on this machine.
fn settings(config: &Config) -> Map<String, Value> {
    let object = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(options)) => options,
        _ => Map::new(),
    };
    let plain = object(&Config::default());
    let shown = |key: &str, value: &Value| {
        let kept = key == "early_stopping" || plain.get(key) != Some(value);
        kept && !value.is_null() && !NOT_SHOWN.contains(&key)
    };
    object(config)
        .into_iter()
        .filter(|(key, value)| shown(key, value))
        .map(|(key, value)| (key, without_nulls(value)))
        .collect()
}

/// To four places, as a card shows it.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run's directory with the files that a card follows from, and a folder `model` or `adapter`.
    fn run(config: &str, adapter: bool) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("model");
        fs::create_dir(&folder).unwrap();
        let summary = json!({
            "run_dir": "run", "model_dir": "run/model", "steps": 7, "planned_steps": 10, "stopped_by": "all_frozen",
            "seconds": 12.3, "validation_seconds": null, "monitor_seconds": 0.1, "tokens": 1234, "units": 14,
            "frozen_units": 13, "train_loss": 2.00004, "val_loss": 1.5, "flops": { "forward": 1000, "input_gradient": 500,
            "weight_gradient": 500 }, "validation_flops": 0, "monitor_flops": 0, "monitor_bytes": 0,
            "checks": grades::Cost::default(), "peak_memory_bytes": 2_000_000_000u64,
        });
        let written = [
            (record::CONFIG, config.to_owned()),
            (record::SUMMARY, summary.to_string()),
            (
                if adapter { "model/adapter_config.json" } else { "model/config.json" },
                "{\"model_type\": \"llama\"}".to_owned(),
            ),
        ];
        written.iter().for_each(|(name, text)| grades_fs::write(&run.path().join(name), text).unwrap());
        run
    }

    fn card(run: &tempfile::TempDir) -> (String, Value) {
        assert!(write(run.path(), &run.path().join("model")).unwrap());
        let text = fs::read_to_string(run.path().join("model/README.md")).unwrap();
        let head = text.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap().to_owned();
        (text, serde_saphyr::from_str(&head).unwrap())
    }

    #[test]
    fn a_card_says_what_the_hub_reads_and_what_was_measured() {
        let config = "model: owner/base:Q4_K_M\nhub_model_id: me/tiny-tuned\noutput_dir: /home/somebody/runs/first\nadapter: lora\n\
                      lora_r: 8\ndatasets: [{path: owner/set, type: completion}, {path: /home/somebody/own.jsonl, type: completion}]\n\
                      val_set_size: 2\n";
        let (text, head) = card(&run(config, true));
        assert_eq!(head["base_model"], "owner/base");
        assert_eq!((&head["base_model_relation"], &head["library_name"]), (&"adapter".into(), &"peft".into()));
        assert_eq!((&head["datasets"], &head["pipeline_tag"]), (&json!(["owner/set"]), &"text-generation".into()));
        assert_eq!(head["tags"], json!(["grades", "sft", "lora"]));
        let result = &head["model-index"][0]["results"][0];
        assert_eq!(
            (&head["model-index"][0]["name"], &result["metrics"][0]["value"]),
            (&"tiny-tuned".into(), &1.5.into())
        );
        assert_eq!(
            (&result["dataset"]["type"], &result["task"]["type"]),
            (&"owner/set".into(), &"text-generation".into())
        );
        for part in [
            "# tiny-tuned\n",
            "| steps | 7 of 10 planned, ended by all_frozen |",
            "| frozen at the end | 13 of 14 matrices |",
            "| training loss, mean over the steps | 2 |",
            "| arithmetic | 2.000e3 FLOP |",
            "AutoPeftModelForCausalLM",
            "[owner/set](https://huggingface.co/datasets/owner/set), `own.jsonl`",
            "\nlora_r: 8\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("somebody"), "{text}");
    }

    /// Whatever option it is written in.
    #[test]
    fn a_card_names_no_path_of_this_machine() {
        let config = "model: owner/base\noutput_dir: /home/somebody/runs/first\ndatasets: [{path: own.jsonl, type: chat_template}]\n\
                      test_datasets: [{path: /home/somebody/test.jsonl, type: chat_template}]\n\
                      contamination: [/home/somebody/questions.jsonl]\ndataset_prepared_path: /home/somebody/prepared\n\
                      chat_template: jinja\nchat_template_jinja: /home/somebody/chat.jinja\nsequence_len: 512\n";
        let (text, _) = card(&run(config, false));
        assert!(!text.contains("somebody") && text.contains("\nsequence_len: 512\n"), "{text}");
    }

    #[test]
    fn a_card_has_the_tag_of_what_was_learnt_from() {
        for rl in ["dpo", "ipo", "orpo", "simpo", "kto"] {
            let kind = if rl == "kto" { "unpaired_preference" } else { "preference" };
            let config = format!("model: owner/base\nrl: {rl}\ndatasets: [{{path: owner/set, type: {kind}}}]\n");
            assert_eq!(card(&run(&config, false)).1["tags"], json!(["grades", rl]));
        }
    }

    #[test]
    fn the_license_is_that_of_the_base_and_an_own_card_stays() {
        let base = tempfile::tempdir().unwrap();
        let head = "---\nlicense: other\nlicense_name: some\ntags: [x]\n---\n# Base\n";
        grades_fs::write(&base.path().join(FILE), head).unwrap();
        let config = format!(
            "model: {}\noutput_dir: runs/first\ndatasets: [{{path: own.jsonl, type: completion}}]\nearly_stopping: none\n",
            base.path().display()
        );
        let run = run(&config, false);
        let (text, head) = card(&run);
        assert_eq!((&head["license"], &head["license_name"]), (&"other".into(), &"some".into()));
        assert!(head.get("base_model").is_none() && head.get("datasets").is_none());
        assert!(
            text.contains("# first\n") && text.contains("AutoModelForCausalLM") && text.contains("planned end"),
            "{text}"
        );
        assert!(!text.contains(base.path().to_str().unwrap()), "{text}");
        let path = run.path().join("model/README.md");
        grades_fs::write(&path, "mine").unwrap();
        assert!(!write(run.path(), &run.path().join("model")).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        // Of what is no model there is no card.
        assert!(!write(run.path(), run.path()).unwrap());
    }
}
