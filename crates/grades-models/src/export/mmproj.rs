//! What of a model reads pictures, as the file that llama.cpp has beside that of the language model (`mmproj`).

use std::path::{Path, PathBuf};

use grades_fs::Staging;
use grades_kernels::quant::{GgufType, encode};
use serde_json::Value as Json;

use super::container::{self, Entry, Value};
use super::{FileType, Model, publish, refuse_existing};
use crate::Error;
use crate::fields::warn_once;
use crate::weights::WeightsError;
use crate::weights::gguf::mmproj::{
    ARCHITECTURE, EPS, KIND, PATCHES, PATCHES_JOINED, PROJECTOR, QKV, QKV_JOINED, WINDOW, from_hugging_face,
};

/// CLIP's, with which Qwen2.5-VL was trained.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// What llama.cpp's converter writes for the size of a picture, which is not fixed.
const IMAGE_SIZE: u32 = 560;

/// A tensor of the file: that of the model, and which part of it.
struct Piece {
    name: String,
    part: Part,
}

enum Part {
    Whole,
    /// One of so many equal runs of rows.
    Rows(usize, usize),
    /// One of so many frames of a patch.
    Frame(usize, usize),
}

impl Model<'_> {
    /// Whether it reads pictures, so that it has such a file.
    #[must_use]
    pub fn sees(&self) -> bool {
        self.vision.is_some()
    }

    /// Writes what reads pictures to `mmproj-<name>-<kind>.gguf` in the folder `dir`. `processor` is what the file of the model's
    /// processor says.
    ///
    /// # Errors
    /// If it reads no pictures, is no model that llama.cpp knows, a file is in the way, or the disk refuses.
    pub fn save_mmproj(&self, dir: &Path, kind: FileType, processor: Option<&Json>) -> Result<PathBuf, Error> {
        let element = match kind {
            FileType::F32 => GgufType::F32,
            FileType::BF16 => GgufType::BF16,
            _ => GgufType::F16,
        };
        let written = if element == GgufType::F16 { FileType::F16 } else { kind };
        let file = format!("mmproj-{}-{written}.gguf", self.name);
        let Some(vision) = &self.vision else {
            return Err(Error::Input(format!("{}: it reads no pictures, so it has no mmproj file", self.name)));
        };
        refuse_existing(dir, [&file])?;
        let metadata = self.metadata_of_pictures(&vision.config, written, processor)?;
        let (mut entries, mut pieces) = (Vec::new(), Vec::new());
        for (name, shape) in &vision.tensors {
            for (gguf, shape, part) in parts(name, shape)? {
                let is_matrix = shape.len() > 1;
                // llama.cpp convolves with F16 or F32 alone.
                let patches = shape.len() > 2 && element != GgufType::F16;
                let kind = if is_matrix && !patches { element } else { GgufType::F32 };
                let kind = if shape.len() > 2 && element == GgufType::F16 { GgufType::F16 } else { kind };
                entries.push(Entry { name: gguf, shape, kind });
                pieces.push(Piece { name: name.clone(), part });
            }
        }
        let staging = Staging::beside(dir).map_err(WeightsError::from)?;
        container::write(&staging.path().join(&file), &metadata, &entries, |index| {
            let (Piece { name, part }, entry) = (&pieces[index], &entries[index]);
            let values = taken((self.values)(name)?, part, &entry.shape);
            encode(entry.kind, &values).map_err(|error| Error::Input(format!("tensor {name}: {error}")))
        })?;
        publish(staging, dir, std::slice::from_ref(&file))?;
        Ok(dir.join(file))
    }

    fn metadata_of_pictures(
        &self,
        config: &Json,
        kind: FileType,
        processor: Option<&Json>,
    ) -> Result<Vec<(String, Value)>, Error> {
        let size = |keys: &[&str], plain: usize| {
            let found = keys.iter().find_map(|key| config.get(*key)?.as_u64());
            found.map_or(plain, |size| size as usize)
        };
        let depth = size(&["depth"], 32);
        let window = size(&["window_size"], WINDOW);
        let whole = config.get("fullatt_block_indexes").cloned().unwrap_or_else(|| serde_json::json!([7, 15, 23, 31]));
        let whole: Vec<usize> = serde_json::from_value(whole).unwrap_or_default();
        let pattern = whole.first().map_or(0, |first| first + 1);
        let every = |pattern: usize| (0..depth).filter(move |layer| (layer + 1).is_multiple_of(pattern));
        if pattern == 0 || !every(pattern).eq(whole.iter().copied()) {
            return Err(Error::config(format!(
                "has `fullatt_block_indexes: {whole:?}`, where a GGUF file says every which layer sees all of a picture"
            )));
        }
        let processor = processor.map(|file| file.get("image_processor").unwrap_or(file));
        let channels = |key: &str, plain: [f64; 3]| {
            let found = processor.and_then(|file| serde_json::from_value(file.get(key)?.clone()).ok()).unwrap_or(plain);
            Value::F32s(found.map(|value| value as f32).into())
        };
        let number = |size: usize| Value::U32(size as u32);
        let text = |text: &str| Value::Text(text.to_owned());
        let mut metadata = vec![
            ("general.architecture", text(ARCHITECTURE)),
            ("general.type", text(KIND)),
            ("general.name", text(self.name)),
            ("general.file_type", Value::U32(kind.id())),
            ("clip.has_vision_encoder", Value::Bool(true)),
            ("clip.projector_type", text(PROJECTOR)),
            ("clip.use_silu", Value::Bool(true)),
            ("clip.vision.projection_dim", number(self.sizes.hidden_size)),
            ("clip.vision.image_size", Value::U32(IMAGE_SIZE)),
            ("clip.vision.patch_size", number(size(&["spatial_patch_size", "patch_size"], 14))),
            ("clip.vision.embedding_length", number(size(&["hidden_size"], 3584))),
            ("clip.vision.feed_forward_length", number(size(&["intermediate_size"], 3420))),
            ("clip.vision.block_count", number(depth)),
            ("clip.vision.attention.head_count", number(size(&["num_heads"], 16))),
            ("clip.vision.attention.layer_norm_epsilon", Value::F32(EPS)),
            ("clip.vision.image_mean", channels("image_mean", MEAN)),
            ("clip.vision.image_std", channels("image_std", STD)),
            ("clip.vision.spatial_merge_size", number(size(&["spatial_merge_size"], 2))),
            ("clip.vision.n_wa_pattern", number(pattern)),
        ];
        let size_of = |key: &str| processor.and_then(|file| file.get("size")?.get(key));
        for (key, name, edge) in [
            ("clip.vision.image_min_pixels", "min_pixels", "shortest_edge"),
            ("clip.vision.image_max_pixels", "max_pixels", "longest_edge"),
        ] {
            let found = processor.and_then(|file| file.get(name)).or_else(|| size_of(edge)).and_then(Json::as_u64);
            metadata
                .extend(found.and_then(|pixels| u32::try_from(pixels).ok()).map(|pixels| (key, Value::U32(pixels))));
        }
        if window != WINDOW {
            metadata.push(("clip.vision.window_size", number(window)));
            warn_once(format!(
                "{}: its windows are {window} pixels wide, and llama.cpp may take {WINDOW} for a Qwen2.5-VL whatever its file says",
                self.name
            ));
        }
        Ok(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// The tensors of the file that a tensor of the model becomes.
fn parts(name: &str, shape: &[usize]) -> Result<Vec<(String, Vec<usize>, Part)>, Error> {
    let refuse = || Error::Input(format!("the tensor {name} of shape {shape:?} has no place in an mmproj file"));
    if name == PATCHES_JOINED {
        let &[out, channels, frames, height, width] = shape else { return Err(refuse()) };
        if frames != PATCHES.len() {
            return Err(refuse());
        }
        let frame = |(at, gguf): (usize, &&str)| {
            ((*gguf).to_owned(), vec![out, channels, height, width], Part::Frame(at, frames))
        };
        return Ok(PATCHES.iter().enumerate().map(frame).collect());
    }
    let layer = name.strip_prefix("visual.blocks.").and_then(|rest| rest.split_once('.'));
    if let Some((layer, rest)) = layer
        && let Some(suffix) = rest.strip_prefix(QKV_JOINED).and_then(|rest| rest.strip_prefix('.'))
    {
        let Some((&rows, columns)) = shape.split_first() else { return Err(refuse()) };
        let shape = [&[rows / QKV.len()], columns].concat();
        let row = |(at, part): (usize, &&str)| {
            (format!("v.blk.{layer}.{part}.{suffix}"), shape.clone(), Part::Rows(at, QKV.len()))
        };
        return Ok(QKV.iter().enumerate().map(row).collect());
    }
    let gguf = from_hugging_face(name).ok_or_else(refuse)?;
    Ok(vec![(gguf, shape.to_vec(), Part::Whole)])
}

/// A part of the values of a tensor, of which `shape` is that of the part.
fn taken(values: Vec<f32>, part: &Part, shape: &[usize]) -> Vec<f32> {
    match *part {
        Part::Whole => values,
        Part::Rows(at, of) => {
            let run = values.len() / of;
            values[at * run..(at + 1) * run].to_vec()
        }
        Part::Frame(at, of) => {
            let pixels: usize = shape.iter().skip(2).product();
            values
                .chunks_exact((of * pixels).max(1))
                .flat_map(|channel| &channel[at * pixels..][..pixels])
                .copied()
                .collect()
        }
    }
}
