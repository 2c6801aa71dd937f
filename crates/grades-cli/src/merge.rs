//! `grades merge`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use grades_models::export::{FileType, Model};
use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions};
use grades_models::{Decoder, peft, registry, saving};
use grades_tensor::device;
use grades_train::config::ByteSize;
use grades_train::hub::Hub;
use serde_json::{Value, json};

use crate::output;

/// Fold an adapter into its base and write the model that comes of it.
///
/// The result is a model folder in the Hugging Face layout whose weights are dense: a quantised base is decoded first. With
/// --quantize its matrices are quantised again: nf4 writes them as bitsandbytes does, the other types a GGUF file. An adapter
/// that was trained with load_in_4bit on a dense base was trained beside rounded weights: with --load-in-4bit it is folded into
/// these.
///
/// Example: grades merge --model SmolLM2-135M --adapter runs/lora/adapter --output-dir merged
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The base: a model folder in the Hugging Face layout, a GGUF file, or a model of the Hugging Face Hub (owner/name).
    #[arg(long)]
    model: PathBuf,
    /// The folder of the adapter, as PEFT stores them.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Round a dense base to 4 bits first, as training with load_in_4bit does.
    #[arg(long)]
    load_in_4bit: bool,
    /// The folder to write; weights in it are never overwritten.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Numbers of the written weights; with --quantize nf4 of those that are not matrices of layers.
    #[arg(long, value_parser = ["f32", "bf16", "f16"], default_value = "bf16")]
    dtype: String,
    /// Quantise the merged matrices: nf4, or a type of GGUF files (Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0).
    #[arg(long, value_name = "TYPE")]
    quantize: Option<Quantize>,
    /// Size of weights above which another file begins, such as 5GB or 512MiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard_size: ByteSize,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let model = Hub::from_env().model(&self.model)?;
        let checkpoint = Checkpoint::open(&model)?;
        let tokenizer = Tokenizer::from_checkpoint(&model)?.with_template_in(&self.adapter)?;
        let stored = LoadOptions::stored(device("auto")?);
        let stored = if self.load_in_4bit { stored.in_4bit(true) } else { stored };
        // Folded into its base a matrix at a time, as they are written.
        let model = peft::attach(registry::open(&checkpoint, stored)?, &self.adapter)?;
        let options = SaveOptions {
            dtype: match self.dtype.as_str() {
                "f32" => SaveDtype::F32,
                "f16" => SaveDtype::F16,
                _ => SaveDtype::BF16,
            },
            max_shard_size: self.max_shard_size.0,
            generation_config: checkpoint.generation_config(),
            ..SaveOptions::default()
        };
        let config = checkpoint.config()?;
        match &self.quantize {
            Some(Quantize::Gguf(kind)) => return self.write_gguf(*kind, &model, config, &tokenizer, json),
            Some(Quantize::Nf4) => saving::save_in_nf4(&self.output_dir, &model, config, &options)?,
            None => saving::save(&self.output_dir, &model, config, &options)?,
        }
        tokenizer.save(&self.output_dir)?;
        let quantize = self.quantize.as_ref().map(|_| "nf4");
        if json {
            let written = json!({ "model_dir": self.output_dir, "dtype": self.dtype, "quantize": quantize });
            return output::print_json(&written);
        }
        let types: Vec<String> = checkpoint.quantized_types().iter().map(ToString::to_string).collect();
        let decoded = if types.is_empty() { String::new() } else { format!(" decoded from {}", types.join(" and ")) };
        let matrices = if quantize.is_some() { "matrices in NF4, the rest" } else { "dense weights" };
        let folder = self.output_dir.display();
        output::print(&format!("model         {folder}, {matrices} in {}{decoded}", self.dtype));
        Ok(())
    }

    fn write_gguf(
        &self,
        kind: FileType,
        model: &Decoder,
        config: &Value,
        tokenizer: &Tokenizer,
        json: bool,
    ) -> anyhow::Result<()> {
        let Some(name) = self.output_dir.file_name() else {
            bail!("--output-dir {} has no name; give that of a folder to write", self.output_dir.display());
        };
        let name = name.to_string_lossy();
        let files = Model::of_decoder(&name, config, model, tokenizer)?.save(&self.output_dir, &[kind])?;
        if json {
            return output::print_json(
                &json!({ "model_dir": self.output_dir, "quantize": kind.to_string(), "files": files }),
            );
        }
        for file in &files {
            output::print(&format!("model         {}", file.display()));
        }
        Ok(())
    }
}

/// What merged matrices are stored in.
#[derive(Clone, Copy, Debug)]
enum Quantize {
    Nf4,
    Gguf(FileType),
}

impl FromStr for Quantize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "nf4" => Ok(Self::Nf4),
            _ => text.parse().map(Self::Gguf).map_err(|known: String| format!("{known}, and nf4")),
        }
    }
}
