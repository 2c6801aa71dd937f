//! What the frozen first layers of a vision tower make of pictures: kept by picture, so that each is computed once, however many
//! questions, epochs and validations it comes in.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use grades_images::Pixels;
use grades_models::Decoder;
use grades_models::model::{Pictures, Prefix, Vision as Tower};
use grades_models::nn::Grid;
use grades_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::data::{Picture, Placed};

/// `vision_cache`: where it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Nowhere.
    Off,
    /// In memory.
    #[default]
    Memory,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Two hashes of its bytes, and how many they are.
    Content([u64; 2], usize),
    File(Arc<Path>),
}

impl Key {
    fn of(picture: &Picture) -> Self {
        match picture {
            Picture::File(file) => Self::File(file.clone()),
            Picture::Bytes(bytes) => {
                let hash = |salt: u8| {
                    let mut hasher = DefaultHasher::new();
                    (salt, &**bytes).hash(&mut hasher);
                    hasher.finish()
                };
                Self::Content([hash(0), hash(1)], bytes.len())
            }
        }
    }
}

/// What is kept of a picture.
#[derive(Clone, Debug)]
struct Kept {
    /// The output of the layers, f32 `[rows, hidden]`.
    output: Tensor,
    grids: Vec<Grid>,
}

/// What is kept of pictures, up to a size.
#[derive(Debug)]
pub struct VisionCache {
    /// Most bytes; 0 keeps nothing.
    size: u64,
    bytes: u64,
    /// How many layers the outputs are of.
    layers: usize,
    kept: HashMap<Key, Kept>,
}

impl VisionCache {
    /// One that holds up to `size` bytes.
    #[must_use]
    pub fn new(place: Place, size: u64) -> Self {
        let size = if place == Place::Off { 0 } else { size };
        Self { size, bytes: 0, layers: 0, kept: HashMap::new() }
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.size > 0
    }

    /// What it holds, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets everything: of a tower that is not what it was.
    pub fn clear(&mut self) {
        (self.bytes, self.kept) = (0, HashMap::new());
    }

    /// Pictures above the tower's first `layers` layers, of which nothing trains; `pixels` decodes those that are not known.
    ///
    /// # Errors
    /// Those of `pixels`, and if the model does not read pictures of such a size.
    pub(super) fn pictures(
        &mut self,
        (model, tower): (&Decoder, &Tower),
        layers: usize,
        pictures: &[Placed],
        pixels: impl FnOnce(&[&Placed]) -> Result<Vec<Pixels>, TrainError>,
    ) -> Result<Pictures, TrainError> {
        if self.layers != layers {
            self.clear();
            self.layers = layers;
        }
        let keys: Vec<Key> = pictures.iter().map(|placed| Key::of(&placed.picture)).collect();
        let mut missing: Vec<(&Key, &Placed)> = Vec::new();
        for (key, placed) in keys.iter().zip(pictures) {
            if !self.kept.contains_key(key) && !missing.iter().any(|(other, _)| *other == key) {
                missing.push((key, placed));
            }
        }
        let placed: Vec<&Placed> = missing.iter().map(|(_, placed)| *placed).collect();
        let fresh = match placed.is_empty() {
            true => Vec::new(),
            false => outputs((model, tower), layers, &pixels(&placed)?)?,
        };
        let fresh: HashMap<&Key, Kept> = missing.iter().map(|(key, _)| *key).zip(fresh).collect();
        let mut all: Option<Tensor> = None;
        let mut grids = Vec::new();
        for key in &keys {
            let Some(kept) = self.kept.get(key).or_else(|| fresh.get(key)) else { continue };
            grids.extend_from_slice(&kept.grids);
            match &mut all {
                None => all = Some(kept.output.clone()),
                Some(all) => all.device().append_rows(all, &kept.output),
            }
        }
        for (key, kept) in fresh {
            let bytes = kept.output.bytes() as u64;
            if self.bytes + bytes <= self.size {
                self.bytes += bytes;
                self.kept.insert(key.clone(), kept);
            }
        }
        match all {
            Some(output) => Ok(tower.pictures_above(Prefix { output, layers }, grids)?),
            None => of_pixels((model, tower), &[]),
        }
    }
}

/// The output of the tower's first layers for each picture.
fn outputs((model, tower): (&Decoder, &Tower), layers: usize, pixels: &[Pixels]) -> Result<Vec<Kept>, TrainError> {
    let pictures = of_pixels((model, tower), pixels)?;
    let Some(Prefix { output, .. }) = model.vision_prefix(&pictures, layers) else { return Ok(Vec::new()) };
    let (mut rows, mut grids) = (pictures.rows().iter(), pictures.grids().iter());
    let of_picture = |pixels: &Pixels| {
        let count = count_of_grids(pixels);
        let rows: Vec<u32> = rows.by_ref().take(count).cloned().flatten().map(|row| row as u32).collect();
        Kept {
            output: output.device().gather_rows(&output, &rows),
            grids: grids.by_ref().take(count).copied().collect(),
        }
    };
    Ok(pixels.iter().map(of_picture).collect())
}

/// How many grids of patches a picture is: one, or one a tile.
fn count_of_grids(pixels: &Pixels) -> usize {
    match pixels {
        Pixels::Tiles(tiles) => tiles.count,
        Pixels::Patches(_) => 1,
    }
}

/// Pictures as a tower reads them.
///
/// # Errors
/// If it does not read pictures of such a size.
pub(super) fn of_pixels((model, tower): (&Decoder, &Tower), pixels: &[Pixels]) -> Result<Pictures, TrainError> {
    let width = tower.patch_numbers();
    let side = (width / 3).isqrt().max(1);
    let (mut values, mut grids) = (Vec::new(), Vec::new());
    for pixels in pixels {
        match pixels {
            Pixels::Tiles(tiles) => {
                values.extend(tiles.patches(side));
                grids.extend(std::iter::repeat_n(Grid::still(tiles.height / side, tiles.width / side), tiles.count));
            }
            Pixels::Patches(patches) => {
                values.extend_from_slice(&patches.values);
                let [frames, rows, columns] = patches.grid;
                grids.push(Grid { frames, rows, columns });
            }
        }
    }
    let rows = values.len() / width.max(1);
    Ok(tower.pictures(model.device().from_host(values, [rows, width]), grids)?)
}
