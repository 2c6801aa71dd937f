//! `grades inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use grades::Tower;
use grades_models::config::HfConfig;
use grades_models::model::{Outline, TowerSize};
use grades_models::parameters::Parameter;
use grades_models::weights::Checkpoint;
use grades_models::{LoraConfig, registry};
use grades_tensor::Dtype;
use grades_train::config::{Config, Precision};
use grades_train::hub::Hub;
use grades_train::train::plan::{MemoryPlan, Workload};
use serde_json::{Value, json};

use crate::output;
use crate::train::print_memory;

/// Show what a checkpoint holds and what fine-tuning it would need.
///
/// Reads headers only, and with --config-only not even those. The memory is what a run holds at its highest: with AdamW and
/// GradES, which keeps the gradients of the step before, one micro-batch a step, of text alone unless --pictures says otherwise, and
/// with adapters on all matrices of the language model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model folder in the Hugging Face layout, a safetensors or GGUF file, or a model of the Hugging Face Hub (owner/name);
    /// with --config-only also a config.json.
    path: PathBuf,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// Read the config alone; of a model of the Hub no weights are fetched.
    #[arg(long)]
    config_only: bool,
    /// Rows of the micro-batch that memory is planned for.
    #[arg(long, default_value_t = 1, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..=1 << 14))]
    micro_batch_size: u64,
    /// Tokens of each row.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..=1 << 22))]
    sequence_len: u64,
    /// Pictures of each row, whose rows are among its tokens.
    #[arg(long, default_value_t = 0, value_name = "PICTURES", value_parser = clap::value_parser!(u64).range(0..=64))]
    pictures: u64,
    /// Pixels along a side of a picture.
    #[arg(long, default_value_t = 448, value_name = "PIXELS", value_parser = clap::value_parser!(u64).range(1..=4096))]
    image_size: u64,
    /// Rank of the adapters, which are on the language model.
    #[arg(long, default_value_t = 16)]
    lora_r: usize,
    /// Numbers of the products: auto (bf16 where the processor has them), f32 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Compute each layer again in the backward pass instead of keeping its activations.
    #[arg(long)]
    gradient_checkpointing: bool,
}

/// What is known of a model.
struct Found {
    config: HfConfig,
    outline: Outline,
    /// Name, shape, type and bytes of every tensor.
    tensors: Vec<Stored>,
}

/// A tensor as it is stored, or of a config alone as it would be.
struct Stored {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    bytes: u64,
}

impl Stored {
    fn values(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let found = if self.config_only { self.described()? } else { self.stored()? };
        let (outline, adapter) = (
            &found.outline,
            LoraConfig { r: self.lora_r, target_modules: vec!["language.*".to_owned()], ..LoraConfig::default() },
        );
        let (full, lora, packed) = (
            self.plan(&found, None, false)?,
            self.plan(&found, Some(&adapter), false)?,
            self.plan(&found, Some(&adapter), true)?,
        );
        let mut types: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for tensor in &found.tensors {
            let entry = types.entry(&tensor.dtype).or_default();
            *entry = (entry.0 + 1, entry.1 + tensor.values());
        }
        let parameters: u64 = found.tensors.iter().map(Stored::values).sum();
        let bytes: u64 = found.tensors.iter().map(|tensor| tensor.bytes).sum();
        let units = outline.units(None);
        let vision_units = units.iter().filter(|unit| unit.tower == Tower::Vision).count();
        let units = units.len();
        let towers = outline.towers();
        let of_vision = towers.iter().find(|size| size.tower == Tower::Vision);
        let vision_parameters = of_vision.map_or(0, |size| size.parameters);
        let hf = &found.config;
        if json {
            let of_types = types
                .iter()
                .map(|(name, (count, values))| ((*name).to_owned(), json!({ "tensors": count, "values": values })));
            let tensor =
                |Stored { name, shape, dtype, .. }: &Stored| json!({ "name": name, "shape": shape, "type": dtype });
            return output::print_json(&json!({
                "path": self.path,
                "model_type": hf.model_type()?,
                "config": hf.value(),
                "parameters": parameters,
                "bytes": bytes,
                "types": of_types.collect::<serde_json::Map<_, _>>(),
                "units": units,
                "vision_units": vision_units,
                "vision_parameters": vision_parameters,
                "towers": towers.iter().map(|size| json!({
                    "tower": size.tower.to_string(), "layers": size.layers, "hidden_size": size.hidden,
                    "parameters": size.parameters,
                })).collect::<Vec<_>>(),
                "pictures": self.pictures,
                "image_size": self.image_size,
                "micro_batch_size": self.micro_batch_size,
                "sequence_len": self.sequence_len,
                "lora_r": self.lora_r,
                "full_memory": full,
                "lora_memory": lora,
                "lora_4bit_memory": packed,
                "tensors": found.tensors.iter().map(tensor).collect::<Vec<_>>(),
            }));
        }
        let (short, config) = (output::short, outline.sizes());
        output::print(&format!("family      {}", hf.model_type()?));
        output::print(&format!("parameters  {} in {}B", short(parameters), short(bytes)));
        output::print(&format!(
            "sizes       {} layers, hidden {}, MLP {}, {} heads of {} ({} for keys and values), vocabulary {}{}",
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.head_dim,
            config.num_key_value_heads,
            config.vocab_size,
            if config.tie_word_embeddings { ", tied embeddings" } else { "" }
        ));
        output::print(&format!("context     {} tokens", config.max_position_embeddings));
        for (name, (count, values)) in &types {
            output::print(&format!("{name:<11} {count} tensors, {} values", short(*values)));
        }
        let of_tower =
            if vision_units > 0 { format!(", {vision_units} of them of the vision tower") } else { String::new() };
        output::print(&format!("units       {units} matrices that freeze one by one{of_tower}"));
        for TowerSize { tower, layers, hidden, parameters } in towers.iter().filter(|_| towers.len() > 1) {
            let bytes = short(4 * *parameters as u64);
            output::print(&format!(
                "tower       {tower}: {layers} layers, hidden {hidden}, {} parameters, {bytes}B as they train",
                short(*parameters as u64)
            ));
        }
        output::print(&format!(
            "for {} rows of {} tokens, products in {}:",
            self.micro_batch_size,
            self.sequence_len,
            self.precision.resolve().name()
        ));
        for (what, plan) in [
            ("full fine-tune".to_owned(), full),
            (format!("LoRA of rank {}", self.lora_r), lora),
            ("LoRA, load_in_4bit".to_owned(), packed),
        ] {
            print_memory(&format!("{what:<19}"), &plan);
        }
        if self.tensors {
            for Stored { name, shape, dtype, .. } in &found.tensors {
                output::print(&format!("{name}  {shape:?}  {dtype}"));
            }
        }
        Ok(())
    }

    /// The headers of a checkpoint.
    fn stored(&self) -> anyhow::Result<Found> {
        let checkpoint = Checkpoint::open(Hub::from_env().model(&self.path)?)?;
        let stored = |name: &str| {
            let info = checkpoint.info(name)?;
            Ok::<_, anyhow::Error>(Stored {
                name: name.to_owned(),
                shape: info.shape.clone(),
                dtype: info.dtype.to_string(),
                bytes: info.bytes,
            })
        };
        let tensors = checkpoint.names().map(stored).collect::<Result<_, _>>()?;
        let config = HfConfig::new(checkpoint.config()?.clone())?;
        Ok(Found { outline: registry::outline_of(&config, &checkpoint, true)?, config, tensors })
    }

    /// The config, and the tensors that it describes, in the type that it names.
    fn described(&self) -> anyhow::Result<Found> {
        let path = Hub::from_env().description(&self.path)?;
        let path = if path.is_dir() { path.join("config.json") } else { path };
        if path.extension().is_some_and(|extension| extension == "gguf") {
            return self.stored();
        }
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let config: Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        let named = ["torch_dtype", "dtype"].into_iter().find_map(|key| config.get(key)?.as_str());
        let (dtype, size) = match named {
            Some("bfloat16") => ("BF16", 2),
            Some("float16") => ("F16", 2),
            _ => ("F32", 4),
        };
        let config = HfConfig::new(config)?;
        let outline = registry::outline(&config, true)?;
        let stored = |parameter: &Parameter| Stored {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            dtype: dtype.to_owned(),
            bytes: size * parameter.len() as u64,
        };
        let tensors = outline.parameters().iter().map(stored).collect();
        Ok(Found { config, outline, tensors })
    }

    fn plan(&self, found: &Found, adapter: Option<&LoraConfig>, load_in_4bit: bool) -> anyhow::Result<MemoryPlan> {
        let precision: Dtype = self.precision.resolve();
        let workload = Workload {
            adapter,
            load_in_4bit,
            fold_frozen: false,
            precision,
            rule: Config::default().rule(),
            tokens: self.micro_batch_size * self.sequence_len,
            patches: found.outline.vision().map_or(0, |vision| {
                let patches = vision.square(self.image_size as usize).patches() as u64;
                self.micro_batch_size * self.pictures * patches
            }),
            features: 0,
            accumulates: false,
            gradient_checkpointing: self.gradient_checkpointing,
            kept_copies: 1,
            weight_average: false,
            written_tokens: 0,
            scored_tokens: 0,
            has_texts: true,
        };
        Ok(MemoryPlan::of(&found.outline, &workload)?)
    }
}
