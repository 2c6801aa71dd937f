//! `grades merge`.

use std::path::PathBuf;

use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};
use grades_models::{peft, registry};
use grades_tensor::device;
use grades_train::hub::Hub;
use serde_json::json;

use crate::output;

/// Fold an adapter into its base and write the model that comes of it.
///
/// The result is a model folder in the Hugging Face layout whose weights are dense: a quantised base is decoded first. An
/// adapter that was trained with load_in_4bit on a dense base was trained beside rounded weights: with --load-in-4bit it
/// is folded into these.
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
    /// Numbers of the written weights.
    #[arg(long, value_parser = ["f32", "bf16", "f16"], default_value = "bf16")]
    dtype: String,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let model = Hub::from_env().model(&self.model)?;
        let checkpoint = Checkpoint::open(&model)?;
        let tokenizer = Tokenizer::from_checkpoint(&model)?;
        let base = registry::open(&checkpoint, LoadOptions::new(device("auto")?).in_4bit(self.load_in_4bit))?;
        let model = peft::attach(base, &self.adapter)?.merged();
        let tensors = model.parameters().iter().map(|parameter| {
            TensorToSave::deferred(&parameter.name, &parameter.shape, move || Ok(parameter.to_host()))
        });
        let dtype = match self.dtype.as_str() {
            "f32" => SaveDtype::F32,
            "f16" => SaveDtype::F16,
            _ => SaveDtype::BF16,
        };
        let options =
            SaveOptions { dtype, generation_config: checkpoint.generation_config(), ..SaveOptions::default() };
        let mut config = checkpoint.config()?.clone();
        if !model.is_tied() {
            config["tie_word_embeddings"] = false.into();
        }
        save_checkpoint(&self.output_dir, &config, tensors, &options)?;
        tokenizer.save(&self.output_dir)?;
        if json {
            return output::print_json(&json!({ "model_dir": self.output_dir, "dtype": self.dtype }));
        }
        let types: Vec<String> = checkpoint.quantized_types().iter().map(ToString::to_string).collect();
        let decoded = if types.is_empty() { String::new() } else { format!(" decoded from {}", types.join(" and ")) };
        output::print(&format!(
            "model         {}, dense weights in {}{decoded}",
            self.output_dir.display(),
            self.dtype
        ));
        Ok(())
    }
}
