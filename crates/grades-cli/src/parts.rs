//! What a path on the command line stands for: a run, a model, or an adapter with its base.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// The files of a model that is used.
#[derive(Debug)]
pub(crate) struct Parts {
    /// A model folder, a GGUF file, or a model of the Hub.
    pub(crate) model: PathBuf,
    /// An adapter for it.
    pub(crate) adapter: Option<PathBuf>,
}

impl Parts {
    /// Those of `--model` and `--adapter`: without the latter, of whatever the former is.
    pub(crate) fn given(model: &Path, adapter: Option<&Path>) -> anyhow::Result<Self> {
        match adapter {
            Some(adapter) => Ok(Self { model: model.to_owned(), adapter: Some(adapter.to_owned()) }),
            None => Self::of(model, None),
        }
    }

    /// Those of a run's directory, a model or an adapter; `base` is the adapter's, if not the one that it names.
    pub(crate) fn of(source: &Path, base: Option<&Path>) -> anyhow::Result<Self> {
        let has_adapter = |folder: &Path| folder.join("adapter_config.json").is_file();
        let (run_model, run_adapter) = (source.join("model"), source.join("adapter"));
        let adapter = [source, &run_adapter].into_iter().find(|folder| has_adapter(folder)).map(Path::to_owned);
        let model = match (&adapter, base) {
            (Some(_), Some(base)) => base.to_owned(),
            (Some(adapter), None) => base_of(adapter)?,
            (None, _) if run_model.join("config.json").is_file() => run_model,
            (None, _) => source.to_owned(),
        };
        Ok(Self { model, adapter })
    }
}

/// The base that an adapter names.
fn base_of(adapter: &Path) -> anyhow::Result<PathBuf> {
    let path = adapter.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let config: Value = serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    let base = config["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    let unnamed = || {
        format!(
            "{} does not name the adapter's base; give it with --base, or as --model beside --adapter",
            path.display()
        )
    };
    Ok(base.with_context(unnamed)?.into())
}
