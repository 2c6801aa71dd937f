//! What reads pictures, in a file of its own beside that of the language model (`mmproj`), as llama.cpp has it: the tower and the
//! merger of Qwen2.5-VL. Names and keys are those of gguf-py 0.19 and of llama.cpp's converter.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};

use super::{Metadata, MetadataValue, Tensor, parse, place};
use crate::fields::{Taken, named, warn_once};
use crate::weights::error::{Result, WeightsError};
use crate::weights::file::TensorFile;
use crate::weights::{Joined, TensorInfo};

/// `general.architecture`, which also begins the names of its keys.
pub(crate) const ARCHITECTURE: &str = "clip";
/// `general.type`.
pub(crate) const KIND: &str = "mmproj";
/// `clip.projector_type`.
pub(crate) const PROJECTOR: &str = "qwen2.5vl_merger";
/// The pixels along a side of a window that llama.cpp takes where a file does not say.
pub(crate) const WINDOW: usize = 112;
/// The fewest and the most pixels of a picture where a file does not say: those of the Hub's models.
const PIXELS: [u32; 2] = [3136, 12_845_056];
/// What is added to the mean square in the norms.
pub(crate) const EPS: f32 = 1e-6;

/// The matrix over patches, of the first and of the second frame of each.
pub(crate) const PATCHES: [&str; 2] = ["v.patch_embd.weight", "v.patch_embd.weight.1"];
/// That matrix in a checkpoint.
pub(crate) const PATCHES_JOINED: &str = "visual.patch_embed.proj.weight";
/// The parts of a projection that is one in a checkpoint.
pub(crate) const QKV: [&str; 3] = ["attn_q", "attn_k", "attn_v"];
/// That one.
pub(crate) const QKV_JOINED: &str = "attn.qkv";
/// What the names of tensors in layers begin with: in a file, and in a checkpoint. The same of the tables below.
const LAYERS: [&str; 2] = ["v.blk.", "visual.blocks."];
/// Outside layers.
const OUTSIDE: [[&str; 2]; 3] =
    [["v.post_ln", "visual.merger.ln_q"], ["mm.0", "visual.merger.mlp.0"], ["mm.2", "visual.merger.mlp.2"]];
/// In a layer.
const INSIDE: [[&str; 2]; 6] = [
    ["ln1", "norm1"],
    ["ln2", "norm2"],
    ["attn_out", "attn.proj"],
    ["ffn_gate", "mlp.gate_proj"],
    ["ffn_up", "mlp.up_proj"],
    ["ffn_down", "mlp.down_proj"],
];

/// The name in a file of a tensor of a checkpoint that is one in both.
pub(crate) fn from_hugging_face(name: &str) -> Option<String> {
    renamed(name, 1, 0)
}

fn to_hugging_face(name: &str) -> Option<String> {
    renamed(name, 0, 1)
}

/// A name of the side `from` of the tables as the side `to` has it.
fn renamed(name: &str, from: usize, to: usize) -> Option<String> {
    let other =
        |table: &[[&'static str; 2]], part: &str| table.iter().find(|pair| pair[from] == part).map(|pair| pair[to]);
    let (stem, suffix) = name.rsplit_once('.')?;
    if let Some(other) = other(&OUTSIDE, stem) {
        return Some(format!("{other}.{suffix}"));
    }
    let (layer, part) = stem.strip_prefix(LAYERS[from])?.split_once('.')?;
    Some(format!("{}{layer}.{}.{suffix}", LAYERS[to], other(&INSIDE, part)?))
}

/// What a file holds.
pub(in crate::weights) struct Contents {
    /// The `vision_config` that its metadata stands for.
    pub(in crate::weights) config: Value,
    /// The processor's file that it stands for.
    pub(in crate::weights) processor: Value,
    /// Tensors that are one in a checkpoint, by its names, and parts of others, by those of the file.
    pub(in crate::weights) tensors: Vec<Tensor>,
    /// Tensors of a checkpoint that several are in the file.
    pub(in crate::weights) joined: Vec<(String, TensorInfo, Joined)>,
    pub(in crate::weights) file: TensorFile,
}

/// Reads the header of a file; every tensor lies within it. `number` is the place of its file.
pub(in crate::weights) fn read(path: &Path, number: usize) -> Result<Contents> {
    let file = TensorFile::open(path)?;
    let header = parse::read_header(&file)?;
    let metadata = Metadata { path: file.path.clone(), values: header.metadata, taken: Taken::default() };
    let (config, processor) = (check(&metadata).and_then(|()| config(&metadata))?, processor(&metadata)?);
    let (mut seen, mut tensors) = (HashSet::new(), Vec::new());
    let mut parts: Vec<(String, TensorInfo)> = Vec::new();
    for raw in &header.tensors {
        if !seen.insert(raw.name.as_str()) {
            return Err(WeightsError::malformed(path, format!("tensor {} occurs twice", raw.name)));
        }
        let (info, offset) = place(&file, raw, header.data)?;
        let name = to_hugging_face(&raw.name).unwrap_or_else(|| {
            parts.push((raw.name.clone(), info.clone()));
            raw.name.clone()
        });
        tensors.push(Tensor { name, info, file: number, offset, interleaved_heads: None, shift: 0.0 });
    }
    let part = |name: &str| parts.iter().find(|(part, _)| part == name).map(|(_, info)| info);
    let absent = |name: &str| WeightsError::malformed(path, format!("it has no tensor {name}"));
    let mut joined = Vec::new();
    let [first, second] = PATCHES.map(|name| part(name).ok_or_else(|| absent(name)));
    let (first, second) = (first?, second?);
    let &[out, channels, height, width] = first.shape.as_slice() else {
        return Err(WeightsError::malformed(path, format!("tensor {} is no convolution over patches", PATCHES[0])));
    };
    if second.shape != first.shape {
        return Err(WeightsError::malformed(path, "its two frames of a patch have matrices of different shapes"));
    }
    let shape = vec![out, channels, PATCHES.len(), height, width];
    let info = TensorInfo { shape, dtype: first.dtype, bytes: first.bytes + second.bytes };
    joined.push((PATCHES_JOINED.to_owned(), info, Joined::Frames(PATCHES.map(str::to_owned).into())));
    let depth = config["depth"].as_u64().unwrap_or(0);
    for (layer, suffix) in (0..depth).flat_map(|layer| ["weight", "bias"].map(|suffix| (layer, suffix))) {
        let names = QKV.map(|part| format!("v.blk.{layer}.{part}.{suffix}"));
        let infos = names.each_ref().map(|name| part(name).ok_or_else(|| absent(name)));
        let infos: Vec<&TensorInfo> = infos.into_iter().collect::<Result<_>>()?;
        let mut shape = infos[0].shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = infos.iter().map(|info| info.shape.first().copied().unwrap_or(0)).sum();
        }
        let bytes = infos.iter().map(|info| info.bytes).sum();
        let info = TensorInfo { shape, dtype: infos[0].dtype, bytes };
        joined.push((format!("visual.blocks.{layer}.{QKV_JOINED}.{suffix}"), info, Joined::Rows(names.into())));
    }
    let used = |name: &str| joined.iter().any(|(.., of)| of.parts().iter().any(|part| part == name));
    if let Some((name, _)) = parts.iter().find(|(name, _)| !used(name)) {
        let problem = format!("no tower of Qwen2.5-VL has a tensor {name}; use the safetensors weights");
        return Err(WeightsError::unsupported(path, problem));
    }
    let left = metadata.left("clip.");
    if !left.is_empty() {
        warn_once(format!("{}: of its metadata {} not used", path.display(), named(&left)));
    }
    Ok(Contents { config, processor, tensors, joined, file })
}

fn check(metadata: &Metadata) -> Result<()> {
    let path = metadata.path();
    if metadata.string("general.architecture") != Some(ARCHITECTURE) {
        let problem = "it holds nothing that reads pictures; `mmproj` is the file whose `general.architecture` is clip";
        return Err(WeightsError::unsupported(path, problem));
    }
    let kind = metadata.string("clip.projector_type").or_else(|| metadata.string("clip.vision.projector_type"));
    match kind {
        Some(PROJECTOR) => {}
        other => {
            let other = other.unwrap_or("missing");
            let problem = format!("its projector is {other}, and files of {PROJECTOR} can be read");
            return Err(WeightsError::unsupported(path, problem));
        }
    }
    for key in ["clip.has_vision_encoder", "clip.use_silu"] {
        if metadata.bool(key) == Some(false) {
            return Err(WeightsError::unsupported(path, format!("its `{key}` is false, where a Qwen2.5-VL has true")));
        }
    }
    if metadata.bool("clip.has_audio_encoder") == Some(true) {
        return Err(WeightsError::unsupported(path, "it has an audio encoder, which a Qwen2.5-VL has not"));
    }
    Ok(())
}

/// The `vision_config` that the metadata stands for.
fn config(metadata: &Metadata) -> Result<Value> {
    let size = |key: &str| metadata.size(&format!("vision.{key}"));
    let eps = metadata.optional_float("vision.attention.layer_norm_epsilon")?.unwrap_or(f64::from(EPS));
    if (eps - f64::from(EPS)).abs() > 1e-9 {
        let problem = format!("its `clip.vision.attention.layer_norm_epsilon` is {eps}, where a Qwen2.5-VL has {EPS}");
        return Err(WeightsError::unsupported(metadata.path(), problem));
    }
    // Says what a picture is resized to where that is fixed, which it is not here.
    metadata.get("clip.vision.image_size");
    let (depth, pattern) = (size("block_count")?, size("n_wa_pattern")?);
    let whole: Vec<usize> = (0..depth).filter(|layer| (layer + 1).is_multiple_of(pattern)).collect();
    let optional = |key: &str| metadata.optional_size(&format!("vision.{key}"));
    Ok(json!({
        "model_type": "qwen2_5_vl",
        "depth": depth,
        "hidden_size": size("embedding_length")?,
        "intermediate_size": size("feed_forward_length")?,
        "num_heads": size("attention.head_count")?,
        "out_hidden_size": size("projection_dim")?,
        "patch_size": size("patch_size")?,
        "spatial_patch_size": size("patch_size")?,
        "in_channels": 3,
        "hidden_act": "silu",
        "temporal_patch_size": PATCHES.len(),
        "spatial_merge_size": optional("spatial_merge_size")?.unwrap_or(2),
        "window_size": optional("window_size")?.unwrap_or(WINDOW),
        "fullatt_block_indexes": whole,
    }))
}

/// The processor's file that it stands for.
fn processor(metadata: &Metadata) -> Result<Value> {
    let channels = |key: &str| {
        let key = format!("clip.vision.{key}");
        // As decimal as the numbers were before they were rounded to f32.
        let decimal = |value: &f32| value.to_string().parse::<f64>().ok();
        let found = metadata.floats(&key).filter(|values| values.len() == 3);
        let found = found.and_then(|values| values.iter().map(decimal).collect::<Option<Vec<f64>>>());
        found.ok_or_else(|| metadata.missing(&key))
    };
    let pixels = |key: &str, plain: u32| match metadata.get(&format!("clip.vision.{key}")) {
        Some(MetadataValue::Integer(value)) => json!(value),
        _ => json!(plain),
    };
    Ok(json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_mean": channels("image_mean")?,
        "image_std": channels("image_std")?,
        "min_pixels": pixels("image_min_pixels", PIXELS[0]),
        "max_pixels": pixels("image_max_pixels", PIXELS[1]),
        "patch_size": metadata.size("vision.patch_size")?,
        "merge_size": metadata.optional_size("vision.spatial_merge_size")?.unwrap_or(2),
        "temporal_patch_size": PATCHES.len(),
    }))
}
