//! A LoRA adapter as a GGUF file, which llama.cpp adds to its base while it loads (`--lora`).

use std::path::{Path, PathBuf};

use grades_fs::Staging;
use grades_kernels::quant::{GgufType, encode};
use serde_json::Value as Json;

use super::container::{self, Entry, Value};
use super::{FileType, architecture, heads, publish, refuse_existing};
use crate::adapter::peft;
use crate::config::HfConfig;
use crate::weights::WeightsError;
use crate::weights::gguf::{interleave, names};
use crate::{Error, registry};

/// Writes the adapter in the folder `adapter`, as PEFT stores it, to `<name>-lora-<kind>.gguf` in the folder `dir`. `config` is
/// that of its base.
///
/// # Errors
/// If it is no plain LoRA adapter of an architecture that llama.cpp has, a file is in the way, or the disk refuses.
pub fn save_adapter(
    adapter: &Path,
    config: &Json,
    kind: FileType,
    (dir, name): (&Path, &str),
) -> Result<PathBuf, Error> {
    let file = format!("{name}-lora-{kind}.gguf");
    let (element, id) = match kind {
        FileType::F32 => (GgufType::F32, kind.id()),
        FileType::F16 => (GgufType::F16, kind.id()),
        FileType::BF16 => (GgufType::BF16, kind.id()),
        other => return Err(Error::Input(format!("an adapter is written as F32, F16 or BF16, not as {other}"))),
    };
    let config = HfConfig::new(config.clone())?;
    let (sizes, architecture) = (registry::sizes(&config)?, architecture(&config)?);
    let (options, values) = peft::open(adapter)?;
    if options.use_dora {
        let problem =
            "has magnitudes (DoRA), which llama.cpp does not know; leave --lora out to merge it into its base";
        return Err(Error::Input(format!("{}: the adapter {problem}", adapter.display())));
    }
    refuse_existing(dir, [&file])?;
    let text = |value: &str| Value::Text(value.to_owned());
    // llama.cpp divides by the rank.
    let alpha = options.scaling() * options.r as f32;
    let metadata = [
        ("general.architecture", text(architecture.name)),
        ("general.type", text("adapter")),
        ("general.file_type", Value::U32(id)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha)),
    ];
    let metadata: Vec<_> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let (mut entries, mut sources) = (Vec::new(), Vec::new());
    for module in &options.target_modules {
        let weight = format!("{module}.weight");
        let name = names::from_hugging_face(&weight, architecture).ok_or_else(|| {
            Error::Input(format!("the adapter of {module} has no place in a GGUF file of a {}", architecture.name))
        })?;
        for (theirs, ours) in [("lora_A", "lora_a"), ("lora_B", "lora_b")] {
            let tensor = peft::tensor(module, theirs);
            let shape = values.info(&tensor)?.shape.clone();
            // The rows of B are those of the weight.
            let heads = heads(&weight, architecture, &sizes).filter(|_| ours == "lora_b");
            if heads.is_some_and(|heads| shape.len() != 2 || !shape[0].is_multiple_of(2 * heads)) {
                return Err(Error::Input(format!(
                    "tensor {tensor} of shape {shape:?} does not fit the heads of its base"
                )));
            }
            entries.push(Entry { name: format!("{name}.{ours}"), shape, kind: element });
            sources.push((tensor, heads));
        }
    }
    let staging = Staging::beside(dir).map_err(WeightsError::from)?;
    container::write(&staging.path().join(&file), &metadata, &entries, |index| {
        let (tensor, heads) = &sources[index];
        let mut numbers = values.load_f32(tensor)?;
        if let Some(heads) = heads {
            numbers = interleave(&numbers, entries[index].shape[0], *heads);
        }
        encode(element, &numbers).map_err(|error| Error::Input(format!("tensor {tensor}: {error}")))
    })?;
    publish(staging, dir, std::slice::from_ref(&file))?;
    Ok(dir.join(file))
}
