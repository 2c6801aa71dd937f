//! What the frozen first layers of a vision tower make of pictures: kept by picture, so that each is computed once, however many
//! questions, epochs and validations it comes in. Where all that makes rows of the language model of it is frozen, these rows are
//! kept.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grades_images::{Layout, Pixels};
use grades_models::Decoder;
use grades_models::model::{Pictures, Prefix, Vision as Tower};
use grades_models::nn::Grid;
use twox_hash::XxHash3_128;

use super::error::TrainError;
use super::outputs::{Home, Options, Outputs, Place, Source, rows};
use crate::data::{DataError, Picture, Placed, Vision};

/// What the outputs of a file's begin with: a file of another version is not read.
const VERSION: u8 = 1;

/// What is kept of pictures, up to a size.
#[derive(Debug)]
pub struct VisionCache {
    outputs: Outputs,
    /// The keys of files.
    files: HashMap<Arc<Path>, u128>,
}

impl VisionCache {
    /// None yet, but those that another run has left in `file`. `context` is all that they follow from but the values of the tower:
    /// the model's config, its processor, the dtype of its products.
    #[must_use]
    pub fn new(options: Options, file: PathBuf, context: &[u8]) -> Self {
        let place = if options.size == 0 { Place::Off } else { options.place };
        let context = [&[VERSION, options.dtype as u8], context].concat();
        let home = Home::Named { path: file, context: XxHash3_128::oneshot(&context) };
        Self { outputs: Outputs::new(Options { place, ..options }, home), files: HashMap::new() }
    }

    /// One that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Options::default(), PathBuf::new(), &[])
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.outputs.is_on()
    }

    /// What it holds, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.outputs.bytes()
    }

    /// Forgets everything: of a tower that is not what it was.
    pub fn clear(&mut self) {
        self.outputs.clear();
    }

    /// Why it has turned itself off, once.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.outputs.take_failure()
    }

    /// From now on the tower's first `layers` layers are frozen. To be told before every step.
    pub(super) fn up_to(&mut self, layers: usize) {
        self.outputs.up_to(layers);
    }

    /// Whether nothing of the frozen layers has to be computed for a picture.
    pub(super) fn knows(&self, picture: &Picture) -> bool {
        let key = match picture {
            Picture::File(file) => self.files.get(file).copied(),
            Picture::Bytes(bytes) => Some(XxHash3_128::oneshot(bytes)),
        };
        self.is_on() && key.is_some_and(|key| self.outputs.knows(key))
    }

    /// Pictures above the tower's first `layers` layers, of which nothing trains; `pixels` decodes those that are not known.
    ///
    /// # Errors
    /// Those of `pixels`, if a picture cannot be read, and if the model does not read pictures of such a size.
    pub(super) fn pictures(
        &mut self,
        (model, tower, vision): (&Decoder, &Tower, &Vision),
        layers: usize,
        pictures: &[&Placed],
        pixels: &mut Decode<'_>,
    ) -> Result<Pictures, TrainError> {
        let (mut keys, mut placed) = (Vec::new(), Vec::new());
        let mut places = Vec::with_capacity(pictures.len());
        for &picture in pictures {
            let key = self.key(picture)?;
            let at = keys.iter().position(|other| *other == key).unwrap_or_else(|| {
                keys.push(key);
                placed.push(picture);
                keys.len() - 1
            });
            places.push(at);
        }
        let grids: Vec<Vec<Grid>> = placed.iter().map(|placed| grids(placed.layout, vision, tower)).collect();
        let mut source = Below { model, tower, placed: &placed, grids: &grids, pixels };
        let outputs = self.outputs.of(&keys, true, &mut source)?;
        let width = source.width(layers);
        let all: Vec<f32> = places.iter().flat_map(|&at| &outputs[at]).copied().collect();
        let output = rows(model, all, width);
        let grids = places.iter().flat_map(|&at| &grids[at]).copied().collect();
        Ok(tower.pictures_above(Prefix { output, layers }, grids)?)
    }

    /// A hash of the bytes of a picture.
    fn key(&mut self, placed: &Placed) -> Result<u128, TrainError> {
        Ok(match &placed.picture {
            Picture::Bytes(bytes) => XxHash3_128::oneshot(bytes),
            Picture::File(file) => match self.files.get(file) {
                Some(&key) => key,
                None => {
                    let bytes = placed.picture.bytes().map_err(|source| DataError::Row {
                        place: placed.place.to_string(),
                        message: format!("{}: the picture cannot be read ({source})", placed.picture),
                    })?;
                    *self.files.entry(file.clone()).or_insert(XxHash3_128::oneshot(&bytes))
                }
            },
        })
    }
}

/// What decodes pictures.
type Decode<'a> = dyn FnMut(&[&Placed]) -> Result<Vec<Pixels>, TrainError> + 'a;

/// The frozen layers of a tower, with pictures that are put to them.
struct Below<'a, 'b> {
    model: &'a Decoder,
    tower: &'a Tower,
    placed: &'a [&'a Placed],
    grids: &'a [Vec<Grid>],
    pixels: &'b mut Decode<'b>,
}

impl Below<'_, '_> {
    /// The width of the rows of what so many layers give.
    fn width(&self, layers: usize) -> usize {
        match layers > self.tower.layers() {
            true => self.model.sizes().hidden_size,
            false => self.tower.width(self.model.parameters()),
        }
    }
}

impl Source for Below<'_, '_> {
    type Error = TrainError;

    fn count(&self, picture: usize, layers: usize) -> usize {
        let rows = |&grid: &Grid| match layers > self.tower.layers() {
            true => self.tower.rows_of(grid),
            false => self.tower.rows_within(grid),
        };
        self.width(layers) * self.grids[picture].iter().map(rows).sum::<usize>()
    }

    fn fingerprint(&self, layers: usize) -> u128 {
        let mut hash = XxHash3_128::new();
        for parameter in self.model.vision_values(layers) {
            hash.write(parameter.name.as_bytes());
            for values in parameter.to_host().chunks(1 << 12) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.write(&bytes);
            }
        }
        hash.finish_128()
    }

    fn run(&mut self, items: &[usize], known: usize, values: Vec<f32>, layers: usize) -> Result<Vec<f32>, TrainError> {
        let pictures = match known {
            0 => {
                let placed: Vec<&Placed> = items.iter().map(|&item| self.placed[item]).collect();
                of_pixels((self.model, self.tower), &(self.pixels)(&placed)?)?
            }
            _ => {
                let (width, grids) = (self.width(known), items.iter().flat_map(|&item| &self.grids[item]));
                let output = rows(self.model, values, width);
                self.tower.pictures_above(Prefix { output, layers: known }, grids.copied().collect())?
            }
        };
        let output = self.model.vision_prefix(&pictures, layers).map(|prefix| prefix.output);
        Ok(output.map_or_else(Vec::new, |output| output.to_host().into_owned()))
    }
}

/// The grids of patches that a picture of that layout becomes: one, or one a tile.
fn grids(layout: Layout, vision: &Vision, tower: &Tower) -> Vec<Grid> {
    let side = side(tower);
    let still = |height: usize, width: usize| Grid::still(height / side, width / side);
    match layout {
        Layout::Whole { height, width } => vec![still(height, width)],
        Layout::Tiles { .. } => {
            let of_tile = vision.processor.tile().unwrap_or_default();
            vec![still(of_tile, of_tile); layout.tiles()]
        }
        Layout::Patches { grid: [frames, rows, columns], .. } => vec![Grid { frames, rows, columns }],
    }
}

/// Pixels along a side of a patch of a picture in tiles.
fn side(tower: &Tower) -> usize {
    (tower.patch_numbers() / 3).isqrt().max(1)
}

/// Pictures as a tower reads them.
///
/// # Errors
/// If it does not read pictures of such a size.
pub(super) fn of_pixels((model, tower): (&Decoder, &Tower), pixels: &[Pixels]) -> Result<Pictures, TrainError> {
    let (width, side) = (tower.patch_numbers(), side(tower));
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
    Ok(tower.pictures(rows(model, values, width), grids)?)
}
