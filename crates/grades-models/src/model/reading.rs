//! Texts with pictures as a model reads them.

use std::ops::Range;
use std::sync::Arc;

use grades::Tower;
use grades_tensor::{Layout, Tape, Tensor};

use super::decoder::Decoder;
use super::inputs::{Inputs, Replaced, Rows};
use super::places::places;
use super::stack::Prefix;
use super::vision::{Pictures, Vision};
use crate::Error;
use crate::nn::Grid;
use crate::parameters::{Parameter, Place};

impl Decoder {
    /// What of it reads pictures; `None` of a model that reads texts alone.
    #[must_use]
    pub fn vision(&self) -> Option<&Vision> {
        self.vision.as_ref()
    }

    /// Samples `segments` of a flat batch, with the rows of `pictures`, in their order, where the texts have the token that a
    /// picture leaves.
    ///
    /// # Errors
    /// If the model reads no pictures, or their rows are more or fewer than the tokens for them.
    pub fn read(
        &self,
        ids: Vec<u32>,
        segments: &[Range<usize>],
        pictures: Option<Arc<Pictures>>,
    ) -> Result<Inputs, Error> {
        let token = self.vision.as_ref().and_then(|vision| vision.token);
        let of_token = |(row, &id): (u32, &u32)| (Some(id) == token).then_some(row);
        let rows = if token.is_some() { (0..).zip(&ids).filter_map(of_token).collect() } else { Vec::new() };
        self.read_at(ids, segments, pictures, rows)
    }

    /// The same with the rows of the pictures given, for models that have no token for them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_at(
        &self,
        ids: Vec<u32>,
        segments: &[Range<usize>],
        pictures: Option<Arc<Pictures>>,
        rows: Vec<u32>,
    ) -> Result<Inputs, Error> {
        let grids = pictures.as_ref().map_or(&[][..], |pictures| pictures.grids());
        let (layout, ids) = (Layout::packed(segments), Arc::new(ids));
        let vision = match &self.vision {
            None if pictures.is_none() => return Ok(Inputs::tokens(ids, Arc::new(layout))),
            None => {
                return Err(Error::Input("the model reads no pictures; take one that does, or leave them out".into()));
            }
            Some(vision) => vision,
        };
        let wanted: usize = grids.iter().map(|&grid| vision.rows_of(grid)).sum();
        if rows.len() != wanted || rows.iter().any(|&row| row as usize >= ids.len()) {
            let (found, pictures) = (rows.len(), grids.len());
            return Err(Error::Input(format!(
                "a batch has {found} tokens for pictures, but its {pictures} pictures become {wanted} rows; give each as many as it becomes"
            )));
        }
        let Some(pictures) = pictures.as_ref().filter(|_| wanted > 0) else {
            return Ok(Inputs::tokens(ids, Arc::new(layout)));
        };
        let layout = match vision.token.filter(|_| vision.has_places) {
            None => layout,
            Some(token) => {
                let merge = vision.arrangement.merge();
                let merged = |grid: &Grid| Grid { rows: grid.rows / merge, columns: grid.columns / merge, ..*grid };
                let merged: Vec<Grid> = grids.iter().map(merged).collect();
                let places = Some(Arc::new(places(&ids, segments, token, &merged)?));
                Layout { positions: (0..ids.len() as u32).collect(), places, ..layout }
            }
        };
        let replaced = Some(Replaced { rows: Arc::new(rows), by: Rows::Of(pictures.clone()) });
        Ok(Inputs { ids, layout: Arc::new(layout), replaced })
    }

    /// The rows of the language model that pictures become, f32 `[rows, hidden]`, without a record; `None` if the model reads no
    /// pictures.
    #[must_use]
    pub fn picture_rows(&self, pictures: &Pictures) -> Option<Tensor> {
        let tape = Tape::off();
        Some(self.vision.as_ref()?.rows(self.run(&tape, None), pictures).value)
    }

    /// How much of what becomes of pictures stays what it is: so many layers of the tower, what comes before them included, and one
    /// more than there are where the rows of the language model stay, too. None where a pass drops some of what goes into adapters
    /// on it, anew each time.
    #[must_use]
    pub fn frozen_vision_layers(&self) -> usize {
        let Some(vision) = &self.vision else { return 0 };
        let drops = self.adapter().is_some_and(|config| config.lora_dropout > 0.0);
        if drops && vision.projections().any(|projection| !projection.pairs.is_empty()) {
            return 0;
        }
        let count = vision.stack.layers.len();
        match self.pictures_train() {
            false => count + 1,
            true => vision.stack.lowest_trainable(&self.parameters, true).saturating_sub(1).min(count),
        }
    }

    /// The values that the output of the tower's first layers follows from; of one layer more than there are, those of the
    /// projector, too.
    pub fn vision_values(&self, layers: usize) -> impl Iterator<Item = &Parameter> {
        let count = self.vision.as_ref().map_or(0, Vision::layers);
        // Architectures ask for the tensors of the language model by these names.
        let of_language =
            |parameter: &Parameter| ["model.", "lm_head."].iter().any(|of| parameter.name.starts_with(of));
        let is_below = move |parameter: &Parameter, place: Place| match (place, place.height()) {
            (Place::Base, _) => !of_language(parameter),
            (Place::Projector, _) => layers > count,
            (_, Some((tower, height))) => tower == Tower::Vision && height <= layers,
            (_, None) => false,
        };
        let all = self.parameters.iter();
        all.filter(move |parameter| parameter.pieces().iter().all(|piece| is_below(parameter, piece.place)))
    }

    /// The output of the tower's first layers, f32 `[rows, hidden]`, from that of fewer where pictures begin there; of one layer
    /// more than there are, [the rows of the language model](Self::picture_rows). Nothing is recorded for gradients. `None` if the
    /// model reads no pictures.
    #[must_use]
    pub fn vision_prefix(&self, pictures: &Pictures, layers: usize) -> Option<Prefix> {
        let (vision, tape) = (self.vision.as_ref()?, Tape::off());
        if layers > vision.layers() {
            return Some(Prefix { output: self.picture_rows(pictures)?, layers });
        }
        let run = self.run(&tape, None);
        let (x, first) = vision.start(run, pictures);
        let output = vision.stack.run(run, x, first..layers, &pictures.arranged.layout, None).value;
        Some(Prefix { output, layers: layers.max(first) })
    }
}
