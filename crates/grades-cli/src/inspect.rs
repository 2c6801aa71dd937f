//! `grades inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use grades_models::config::HfConfig;
use grades_models::registry;
use grades_models::weights::Checkpoint;
use grades_train::hub::Hub;
use serde_json::json;

use crate::output;

/// Bytes of a full fine-tune for each parameter: weight, gradient, the previous gradient that GradES compares with, and
/// AdamW's two moments, all f32.
const FULL_BYTES: u64 = 20;
/// Rank of the LoRA estimate.
const LORA_RANK: u64 = 16;

/// 64ths of a byte that a value takes in NF4.
const NF4_64THS: u64 = 33;

/// Whether a tensor is the weight of a linear layer within the model.
fn is_projection(name: &str) -> bool {
    name.contains(".layers.") && (name.ends_with("_proj.weight") || name.contains(".experts."))
}

/// How many matrices freeze on their own in a tensor, and the numbers of adapters beside it; experts may lie in one tensor.
fn adaptable(name: &str, shape: &[usize]) -> (usize, u64) {
    let (matrices, rows, columns) = match *shape {
        _ if !is_projection(name) => return (0, 0),
        [rows, columns] => (1, rows, columns),
        [experts, rows, columns] => (experts, rows, columns),
        _ => return (0, 0),
    };
    let roles = if name.contains("qkv_proj") {
        3
    } else if name.contains("gate_up_proj") {
        2
    } else {
        1
    };
    (matrices * roles, LORA_RANK * (matrices * (rows + columns)) as u64)
}

/// Show what a checkpoint holds and what fine-tuning it would need.
///
/// Reads headers only. The memory figures are those of the parameters, gradients and optimizer state; activations come on
/// top, and depend on the tokens of a batch.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model folder in the Hugging Face layout, a safetensors or GGUF file, or a model of the Hugging Face Hub (owner/name).
    path: PathBuf,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let path = Hub::from_env().model(&self.path)?;
        let checkpoint = Checkpoint::open(&path)?;
        let hf = HfConfig::new(checkpoint.config()?.clone())?;
        let config = registry::sizes(&hf)?;
        let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        let (mut parameters, mut bytes, mut packed, mut tensors) = (0, 0, 0, Vec::new());
        let (mut units, mut lora) = (0, 0);
        for name in checkpoint.names() {
            let info = checkpoint.info(name)?;
            let entry = types.entry(info.dtype.to_string()).or_default();
            *entry = (entry.0 + 1, entry.1 + info.values() as u64);
            parameters += info.values() as u64;
            let (of_units, of_adapters) = adaptable(name, &info.shape);
            (units, lora) = (units + of_units, lora + of_adapters);
            bytes += info.bytes;
            packed += match info.values() as u64 {
                _ if info.dtype.is_quantized() && is_projection(name) => info.bytes,
                values if is_projection(name) => values * NF4_64THS / 64,
                values => 4 * values,
            };
            tensors.push(json!({ "name": name, "shape": info.shape, "type": info.dtype.to_string() }));
        }
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (full_memory, lora_memory) = (parameters * FULL_BYTES, 4 * parameters + lora * FULL_BYTES);
        let packed_memory = packed + lora * FULL_BYTES;
        if json {
            return output::print_json(&json!({
                "path": self.path,
                "model_type": hf.model_type()?,
                "config": hf.value(),
                "parameters": parameters,
                "bytes": bytes,
                "types": types.iter().map(|(name, (count, values))| (name.clone(), json!({ "tensors": count, "values": values }))).collect::<serde_json::Map<_, _>>(),
                "units": units,
                "full_memory_bytes": full_memory,
                "lora_memory_bytes": lora_memory,
                "lora_4bit_memory_bytes": packed_memory,
                "lora_r": LORA_RANK,
                "tensors": tensors,
            }));
        }
        let short = output::short;
        output::print(&format!("family      {}", hf.model_type()?));
        output::print(&format!("parameters  {} in {}B", short(parameters), short(bytes)));
        output::print(&format!(
            "sizes       {} layers, hidden {hidden}, MLP {inner}, {} heads of {} ({} for keys and values), vocabulary {}{}",
            config.num_hidden_layers,
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
        output::print(&format!("units       {units} matrices that freeze one by one"));
        output::print(&format!(
            "memory      full fine-tune {}B, LoRA of rank {LORA_RANK} {}B, with load_in_4bit {}B, and the activations",
            short(full_memory),
            short(lora_memory),
            short(packed_memory)
        ));
        if self.tensors {
            for name in checkpoint.names() {
                let info = checkpoint.info(name)?;
                output::print(&format!("{name}  {:?}  {}", info.shape, info.dtype));
            }
        }
        Ok(())
    }
}
