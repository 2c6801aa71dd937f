//! Batches as a model reads them: with their pictures, as pixels or as what was kept of the tower's frozen layers.

use std::sync::Arc;

use grades_models::{Decoder, Inputs};

use super::error::TrainError;
use super::vision_cache::{VisionCache, of_pixels};
use crate::data::{Batch, Placed, Vision};

/// Makes inputs of batches.
#[derive(Debug)]
pub struct Reader {
    /// How the model sees pictures; `None` of one that reads texts alone.
    vision: Option<Arc<Vision>>,
    cache: VisionCache,
}

impl Reader {
    /// For a model that sees pictures so.
    #[must_use]
    pub fn new(vision: Option<Arc<Vision>>, cache: VisionCache) -> Self {
        Self { vision, cache }
    }

    /// What is kept of pictures.
    pub fn cache(&mut self) -> &mut VisionCache {
        &mut self.cache
    }

    /// A batch as the model reads it.
    ///
    /// # Errors
    /// A picture cannot be decoded; its row is named. The model does not read pictures of such a size.
    pub fn read(&mut self, model: &Decoder, batch: &Batch) -> Result<Inputs, TrainError> {
        let (Some(vision), Some(tower), false) = (&self.vision, model.vision(), batch.pictures.is_empty()) else {
            return Ok(batch.inputs());
        };
        let pixels = |pictures: &[&Placed]| Ok(vision.pixels_of(pictures)?);
        let layers = model.frozen_vision_layers();
        let pictures = match self.cache.is_on() && layers > 0 {
            false => of_pixels((model, tower), &pixels(&batch.pictures.iter().collect::<Vec<_>>())?)?,
            true => self.cache.pictures((model, tower), layers, &batch.pictures, pixels)?,
        };
        let segments: Vec<_> = batch.segments.iter().map(|&(start, end)| start..end).collect();
        let rows = batch.pictures.iter().flat_map(|placed| placed.tokens.iter().cloned().flatten());
        let rows = rows.map(|row| row as u32).collect();
        Ok(model.read_at(batch.ids.clone(), &segments, Some(Arc::new(pictures)), rows)?)
    }
}
