//! Samples in tokens, kept where `dataset_prepared_path` says by the name of all that they follow from.

use std::fs;

use grades_models::calendar;
use grades_models::tokenizer::Tokenizer;
use serde_json::Value;
use twox_hash::XxHash3_128;

use super::error::TrainError;
use crate::config::Config;
use crate::data::samples::Keep;
use crate::data::{self, DatasetSpec, Encode, Samples, Vision, kept};
use crate::hub::Hub;

/// Raised when the same options and files are encoded to other tokens.
const VERSION: u32 = 1;

/// Options that change nothing in the tokens of a sample. What is not among them counts, so that a new option at worst encodes once more.
const OTHERS: &[&str] = &[
    "model",
    "init",
    "adapter",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "peft_use_rslora",
    "peft_use_dora",
    "fold_frozen",
    "load_in_4bit",
    "loraplus_lr_ratio",
    "output_dir",
    "datasets",
    "val_set_size",
    "test_datasets",
    "mix_strategy",
    "interleave_probs",
    "shuffle_merged_datasets",
    "dataset_exact_deduplication",
    "contamination",
    "dataset_prepared_path",
    "sample_packing",
    "max_images_per_row",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "num_epochs",
    "max_steps",
    "learning_rate",
    "embedding_lr",
    "embedding_lr_scale",
    "vision_learning_rate",
    "projector_learning_rate",
    "freeze_vision_tower",
    "freeze_multi_modal_projector",
    "freeze_language_model",
    "lr_scheduler",
    "lr_scheduler_kwargs",
    "warmup_ratio",
    "warmup_steps",
    "optimizer",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "momentum",
    "max_grad_norm",
    "neftune_noise_alpha",
    "seed",
    "device",
    "precision",
    "gradient_checkpointing",
    "weight_average",
    "save_both_averages",
    "prefix_cache",
    "prefix_cache_size",
    "prefix_cache_dtype",
    "threads",
    "logging_steps",
    "eval_steps",
    "generate_samples",
    "generation_max_new_tokens",
    "eval_tasks",
    "eval_tasks_limit",
    "save_steps",
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
    "resume_from_checkpoint",
    "early_stopping",
    "save_total_limit",
    "save_strategy",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "save_only_model",
    "on_nonfinite",
    "vision_cache",
    "vision_cache_size",
    "vision_cache_dtype",
    "vision_cache_dir",
    "image_backend",
];

/// What encodes, the tokenizer in it, and how many tokens the model has.
pub(super) type Encoding<'a> = (&'a dyn Encode, &'a Tokenizer, usize);

/// The samples of data sets, read from where they are kept, or encoded and kept there.
///
/// # Errors
/// As of [`data::load`]; or the model reads pictures, whose samples are not kept.
pub(super) fn load(
    config: &Config,
    specs: &[DatasetSpec],
    (encoder, tokenizer, vocab_size): Encoding<'_>,
    vision: Option<&Vision>,
) -> Result<Samples, TrainError> {
    let options = config.token_options();
    let Some(folder) = &config.dataset_prepared_path else {
        return Ok(data::load(specs, encoder, vision, options)?);
    };
    if vision.is_some() {
        let problem = "`dataset_prepared_path` keeps texts, and this model reads pictures; remove it";
        return Err(TrainError::Other(problem.to_owned()));
    }
    let key = key(config, specs, tokenizer, vocab_size)?;
    let make = |keep: &mut Keep<'_>| data::load_into(specs, encoder, vision, options, keep);
    Ok(kept::load_or_make(&folder.join(format!("{key:032x}")), make)?)
}

/// The name of all that makes a token differ: the options, the contents of the files, the tokenizer with its chat template, and the day
/// where the template writes it.
fn key(config: &Config, specs: &[DatasetSpec], tokenizer: &Tokenizer, vocab_size: usize) -> Result<u128, TrainError> {
    let other = |error: &dyn std::fmt::Display| TrainError::Other(error.to_string());
    let mut options = serde_json::to_value(config).map_err(|error| other(&error))?;
    if let Value::Object(options) = &mut options {
        options.retain(|name, _| !OTHERS.contains(&name.as_str()));
    }
    let mut hash = XxHash3_128::new();
    let mut part = |name: &str, bytes: &[u8]| {
        // Lengths, so that no two lists of parts are the same bytes.
        hash.write(format!("{name} {}\n", bytes.len()).as_bytes());
        hash.write(bytes);
    };
    part("version", &VERSION.to_le_bytes());
    part("program", env!("CARGO_PKG_VERSION").as_bytes());
    part("options", options.to_string().as_bytes());
    part("sets", &serde_json::to_vec(specs).map_err(|error| other(&error))?);
    part("vocabulary", &vocab_size.to_le_bytes());
    let saved = tempfile::tempdir().map_err(|error| other(&error))?;
    let folder = saved.path().join("tokenizer");
    fs::create_dir(&folder).map_err(|error| TrainError::io(&folder, error))?;
    tokenizer.save(&folder)?;
    for name in data::files::walk(&folder)? {
        let file = folder.join(&name);
        part(&name, &fs::read(&file).map_err(|error| TrainError::io(&file, error))?);
    }
    for template in [tokenizer.chat_template(), tokenizer.tool_template()].into_iter().flatten() {
        part("template", template.as_bytes());
        if template.contains("strftime_now") {
            part("day", &(calendar::now().as_secs() / 86_400).to_le_bytes());
        }
    }
    let hub = Hub::from_env();
    for spec in specs {
        let mut contents = XxHash3_128::new();
        spec.source().contents(spec.split.as_deref(), &hub, &mut |bytes| contents.write(bytes))?;
        part("contents", &contents.finish_128().to_le_bytes());
    }
    Ok(hash.finish_128())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts/metaspace");
        Tokenizer::from_checkpoint(texts).unwrap()
    }

    fn of(folder: &Path, options: &[&str]) -> Config {
        let yaml = format!("model: m\ndatasets: [{{path: {}/a.jsonl, type: completion}}]\n", folder.display());
        Config::parse(&yaml, &options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    /// Each of what makes a token differ makes another name, and nothing else does.
    #[test]
    fn the_name_follows_from_all_that_makes_a_token_differ() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
        write("b.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
        let key = |options: &[&str], tokenizer: &Tokenizer, vocabulary: usize| {
            let config = of(folder.path(), options);
            key(&config, &config.datasets, tokenizer, vocabulary).unwrap()
        };
        let plain = tokenizer();
        let first = key(&[], &plain, 100);
        assert_eq!(key(&[], &tokenizer(), 100), first);
        for same in [
            &[][..],
            &["learning_rate=0.5", "seed=7", "output_dir=elsewhere", "micro_batch_size=1", "max_steps=3"],
            &["val_set_size=3", "early_stopping=none", "sample_packing=true", "dataset_prepared_path=elsewhere"],
        ] {
            assert_eq!(key(same, &plain, 100), first, "{same:?}");
        }
        let path = format!("datasets.0.path={}/b.jsonl", folder.path().display());
        for other in [
            "sequence_len=64",
            "train_on_inputs=true",
            "excess_length_strategy=drop",
            "max_samples=1",
            "datasets.0.field_prompt=completion",
            "datasets.0.split=train[:1]",
            path.as_str(),
        ] {
            assert_ne!(key(&[other], &plain, 100), first, "{other}");
        }
        assert_ne!(key(&[], &plain, 101), first);
        let template = |text: &str| tokenizer().with_chat_template(text.to_owned());
        let with = key(&[], &template("{{ messages }}"), 100);
        assert!(with != first && key(&[], &template("{{ messages[0] }}"), 100) != with);
        assert_ne!(key(&[], &tokenizer().with_special_tokens(&["<new>".to_owned()]).unwrap(), 100), first);
        write("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"c\"}\n");
        assert_ne!(key(&[], &plain, 100), first);
    }

    /// No name is listed that is none, so that a renamed option counts again.
    #[test]
    fn what_does_not_count_is_an_option() {
        let options = serde_json::to_value(Config::default()).unwrap();
        let unknown: Vec<&&str> = OTHERS.iter().filter(|name| options.get(**name).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
