//! Batches as a model reads them: with their pictures, as pixels or as what was kept of the tower's frozen layers.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use grades_models::{Decoder, Inputs};

use super::ahead::Ahead;
use super::error::TrainError;
use super::vision_cache::{VisionCache, of_pixels};
use crate::data::{Batch, Placed, Vision};

/// Makes inputs of batches.
#[derive(Debug)]
pub struct Reader {
    /// How the model sees pictures, and what decodes them; `None` of one that reads texts alone.
    vision: Option<(Arc<Vision>, Ahead)>,
    cache: VisionCache,
    waited: Waited,
}

/// What reading has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Waited {
    /// Pictures that were read.
    pub(super) pictures: u64,
    /// Those of them that anything of the tower was computed for below what trains, or all of it where everything does.
    pub(super) computed: u64,
    /// Seconds until pixels were there.
    pub(super) seconds: f64,
}

impl Reader {
    /// For a model that sees pictures so.
    #[must_use]
    pub fn new(vision: Option<Arc<Vision>>, cache: VisionCache) -> Self {
        let vision = vision.map(|vision| (vision.clone(), Ahead::new(vision)));
        Self { vision, cache, waited: Waited::default() }
    }

    /// What is kept of pictures.
    pub fn cache(&mut self) -> &mut VisionCache {
        &mut self.cache
    }

    /// Whether the model reads pictures.
    pub(super) fn sees(&self) -> bool {
        self.vision.is_some()
    }

    /// What was read since this was asked last.
    pub(super) fn take_waited(&mut self) -> Waited {
        mem::take(&mut self.waited)
    }

    /// Tells what will be read next, in its order, with the model as it is, so that pictures are decoded meanwhile. To be told
    /// before every step.
    pub(super) fn begin<'a>(&mut self, model: &Decoder, batches: impl Iterator<Item = &'a Batch>) {
        self.cache.up_to(model.frozen_vision_layers());
        if let Some((_, ahead)) = &self.vision {
            let all = batches.flat_map(|batch| &batch.pictures);
            ahead.want(all.filter(|placed| !self.cache.knows(&placed.picture)).cloned().collect());
        }
    }

    /// A batch as the model reads it.
    ///
    /// # Errors
    /// A picture cannot be decoded; its row is named. The model does not read pictures of such a size.
    pub fn read(&mut self, model: &Decoder, batch: &Batch) -> Result<Inputs, TrainError> {
        let (Some((vision, ahead)), Some(tower), false) = (&self.vision, model.vision(), batch.pictures.is_empty())
        else {
            return Ok(batch.inputs());
        };
        let waited = &mut self.waited;
        let mut pixels = |pictures: &[&Placed]| {
            let clock = Instant::now();
            let pixels = ahead.take(pictures)?;
            waited.seconds += clock.elapsed().as_secs_f64();
            waited.computed += pictures.len() as u64;
            Ok(pixels)
        };
        let placed: Vec<&Placed> = batch.pictures.iter().collect();
        let layers = model.frozen_vision_layers();
        let pictures = match self.cache.is_on() && layers > 0 {
            false => of_pixels((model, tower), &pixels(&placed)?)?,
            true => {
                self.cache.up_to(layers);
                self.cache.pictures((model, tower, vision), layers, &placed, &mut pixels)?
            }
        };
        self.waited.pictures += placed.len() as u64;
        let segments: Vec<_> = batch.segments.iter().map(|&(start, end)| start..end).collect();
        let rows = placed.iter().flat_map(|placed| placed.tokens.iter().cloned().flatten());
        let rows = rows.map(|row| row as u32).collect();
        Ok(model.read_at(batch.ids.clone(), &segments, Some(Arc::new(pictures)), rows)?)
    }
}
