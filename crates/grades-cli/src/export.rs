//! `grades export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use grades_models::export::{FileType, Model, save_adapter};
use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::Checkpoint;
use grades_models::{peft, registry};
use grades_tensor::device;
use grades_train::hub::Hub;
use serde_json::{Value, json};

use crate::output;
use crate::parts::Parts;

/// Write a model as GGUF files, for llama.cpp, Ollama and LM Studio.
///
/// Each type is a file of its own: `NAME-Q4_K_M.gguf`. Types are mixed by tensor as llama.cpp's quantiser mixes them; rows that
/// are no multiple of 256 get types of smaller blocks, as there. Tokenizer and chat template are in the file, and a Modelfile
/// for `ollama create` lies beside it. A run with an adapter is merged into its base first; with --lora the adapter alone is
/// written, which llama.cpp adds to its base while it loads. Of a Qwen2.5-VL what reads pictures is a file of its own,
/// mmproj-NAME-F16.gguf, which llama.cpp takes with --mmproj.
///
/// Example: grades export runs/first --quantize Q4_K_M,Q8_0
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run, a model folder in the Hugging Face layout, a GGUF file, a model of the Hugging Face Hub
    /// (owner/name), or the folder of an adapter.
    source: PathBuf,
    /// Write a file whose matrices are not quantised: f32, f16 or bf16; without --quantize it is f16.
    #[arg(long, value_parser = ["f32", "f16", "bf16"])]
    outtype: Option<String>,
    /// Write a quantised file of each of these types: Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    quantize: Vec<FileType>,
    /// Write the adapter alone.
    #[arg(long, conflicts_with = "quantize")]
    lora: bool,
    /// The base of the adapter; left out, that which the adapter names.
    #[arg(long)]
    base: Option<PathBuf>,
    /// The folder to write to; files in it are never overwritten. Left out, `gguf` in the source's folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// The name of the files before their type; left out, that of the source.
    #[arg(long)]
    name: Option<String>,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let types = self.types()?;
        let parts = Parts::of(&self.source, self.base.as_deref())?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_of(&self.source),
        };
        let out = self.output_dir.clone().unwrap_or_else(|| folder_of(&self.source).join("gguf"));
        let model = Hub::from_env().model(&parts.model)?;
        let checkpoint = Checkpoint::open(&model)?;
        let files = match (&parts.adapter, self.lora) {
            (Some(adapter), true) => {
                let save = |kind: &FileType| save_adapter(adapter, checkpoint.config()?, *kind, (&out, &name));
                types.iter().map(save).collect::<Result<Vec<_>, _>>()?
            }
            (None, true) => bail!("{}: there is no adapter; leave --lora out", self.source.display()),
            (Some(adapter), false) => {
                let tokenizer = Tokenizer::from_checkpoint(&model)?.with_template_in(adapter)?;
                let base = registry::open(&checkpoint, LoadOptions::stored(device("auto")?))?;
                let beside = peft::attach(base, adapter)?;
                let model = Model::of_decoder(&name, checkpoint.config()?, &beside, &tokenizer)?;
                save(&model, &checkpoint, &out, &types)?
            }
            (None, false) => {
                let tokenizer = Tokenizer::from_checkpoint(&model)?;
                save(&Model::of_checkpoint(&name, &checkpoint, &tokenizer)?, &checkpoint, &out, &types)?
            }
        };
        if json {
            let listed = types.iter().zip(&files).map(|(kind, file)| json!({ "type": kind.to_string(), "path": file }));
            let mmproj = files.get(types.len());
            return output::print_json(&json!({ "files": listed.collect::<Vec<_>>(), "mmproj": mmproj }));
        }
        for file in &files {
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            output::print(&format!("{}  {}B", file.display(), output::short(bytes)));
        }
        Ok(())
    }

    fn types(&self) -> anyhow::Result<Vec<FileType>> {
        let mut types = self.quantize.clone();
        let plain = self.outtype.as_deref().or(types.is_empty().then_some("f16"));
        if let Some(plain) = plain {
            types.insert(0, plain.parse().map_err(anyhow::Error::msg)?);
        }
        if let Some((_, twice)) = types.iter().enumerate().find(|(at, kind)| types[..*at].contains(kind)) {
            bail!("--quantize: {twice} is named twice; each type is one file");
        }
        Ok(types)
    }
}

/// Writes a file of each type, and of a model that reads pictures the file of what reads them behind these.
fn save(model: &Model<'_>, checkpoint: &Checkpoint, out: &Path, types: &[FileType]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = model.save(out, types)?;
    if model.sees() {
        let path = checkpoint.path().join("preprocessor_config.json");
        let read: Option<Value> = match std::fs::read(&path) {
            Ok(text) => {
                Some(serde_json::from_slice(&text).with_context(|| format!("{} is not valid JSON", path.display()))?)
            }
            Err(_) => checkpoint.processor().cloned(),
        };
        files.push(model.save_mmproj(out, types[0], read.as_ref())?);
    }
    Ok(files)
}

/// The folder of a source on disk, or the current one for a model of the Hub.
fn folder_of(source: &Path) -> PathBuf {
    match source {
        source if source.is_dir() => source.to_owned(),
        source if source.is_file() => source.parent().unwrap_or(Path::new("")).to_owned(),
        _ => PathBuf::new(),
    }
}

/// What files are called after a source: the last part of its path, without what tells a GGUF file's type.
fn name_of(source: &Path) -> String {
    let whole = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split(':').next().unwrap_or(&name);
    let Some(stem) = name.strip_suffix(".gguf") else { return name.to_owned() };
    let is_type = |end: &str| {
        end.len() > 1
            && end.starts_with(['Q', 'F', 'B', 'I', 'q', 'f', 'b'])
            && end.contains(|c: char| c.is_ascii_digit())
    };
    match stem.rsplit_once(['.', '-']) {
        Some((before, end)) if is_type(end) => before.to_owned(),
        _ => stem.to_owned(),
    }
}
