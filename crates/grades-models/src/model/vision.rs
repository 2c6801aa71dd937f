//! What of a model reads pictures: a tower of layers over their patches, and what makes rows of the language model of it.

use std::sync::Arc;

use grades::Flops;
use grades_tensor::{Dtype, Tensor, Var};

use super::arrangement::{Arranged, Arrangement};
use super::stack::{Prefix, Stack};
use crate::Error;
use crate::nn::{Grid, Layer, PatchEmbedding, Projection, Projector, Run};
use crate::parameters::Parameters;

/// What of a model reads pictures.
#[derive(Debug)]
pub struct Vision {
    pub(crate) embedding: PatchEmbedding,
    /// The layers, and the norm above them.
    pub(crate) stack: Stack,
    /// There is none of a tower alone.
    pub(crate) projector: Option<Projector>,
    pub(crate) arrangement: Arrangement,
    /// Numbers of a patch: channels, frames, rows and columns of pixels.
    pub(crate) patch: usize,
    /// What a picture leaves in a text, a token for each row that it becomes; without one they are put where they belong
    /// otherwise.
    pub(crate) token: Option<u32>,
    /// Whether the language model turns tokens by their place in a picture.
    pub(crate) has_places: bool,
}

/// Pictures as a tower reads them.
#[derive(Clone, Debug)]
pub struct Pictures {
    pub(super) start: Start,
    grids: Vec<Grid>,
    pub(super) arranged: Arc<Arranged>,
}

/// Where a tower begins.
#[derive(Clone, Debug)]
pub(super) enum Start {
    /// At the patches, f32 `[patches, channels · frames · height · width]`.
    Patches(Tensor),
    /// Above layers that were run before.
    Above(Prefix),
}

impl Pictures {
    /// How many patches each picture has.
    #[must_use]
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// The rows that each picture has in the tower, by which outputs of its layers can be kept apart.
    #[must_use]
    pub fn rows(&self) -> &[std::ops::Range<usize>] {
        &self.arranged.pictures
    }
}

impl Vision {
    /// A tower without a projector, whose rows are those of its patches; `patch` is the numbers of one.
    pub(crate) fn tower(embedding: PatchEmbedding, stack: Stack, patch: usize) -> Self {
        let arrangement = Arrangement::Rows { merge: 1 };
        Self { embedding, stack, projector: None, arrangement, patch, token: None, has_places: false }
    }

    /// The token that a picture leaves in a text, as often as it becomes rows; `None` if the model has none for it.
    #[must_use]
    pub fn token(&self) -> Option<u32> {
        self.token
    }

    /// Numbers of a patch: channels, frames, rows and columns of pixels.
    #[must_use]
    pub fn patch_numbers(&self) -> usize {
        self.patch
    }

    /// The patches of a square picture of so many pixels along a side, as near as the tower reads one.
    #[must_use]
    pub fn square(&self, pixels: usize) -> Grid {
        let fixed = self.embedding.positions.as_ref().filter(|positions| !positions.resampled);
        let merge = self.arrangement.merge();
        // A patch is a square of three colours in as few frames as fit.
        let sides = (1..=self.patch).filter_map(|frames| {
            let side = (self.patch / (3 * frames)).isqrt();
            (3 * frames * side * side == self.patch).then_some(side)
        });
        let of_block = sides.into_iter().next().unwrap_or(1).max(1) * merge;
        let blocks = (pixels as f64 / of_block as f64).round_ties_even().max(1.0) as usize;
        let side = fixed.map_or(blocks * merge, |positions| positions.side);
        Grid::still(side, side)
    }

    /// How many rows of the language model a picture becomes.
    #[must_use]
    pub fn rows_of(&self, grid: Grid) -> usize {
        grid.patches() / self.arrangement.merge().pow(2)
    }

    /// How many patches become so many rows of the language model.
    #[must_use]
    pub fn patches_of(&self, rows: usize) -> usize {
        rows * self.arrangement.merge().pow(2)
    }

    /// The pictures of a batch: f32 `patches` `[patches, channels · frames · height · width]` in the order that the model's
    /// processor gives them, those of each grid behind one another.
    ///
    /// # Errors
    /// If the patches are not those of the grids, or the model cannot read pictures of such a grid.
    pub fn pictures(&self, patches: Tensor, grids: Vec<Grid>) -> Result<Pictures, Error> {
        let count: usize = grids.iter().map(|grid| grid.patches()).sum();
        if patches.shape() != [count, self.patch] {
            let ([rows, columns], patch) = (patches.shape(), self.patch);
            return Err(Error::Input(format!(
                "pictures of {rows} patches of {columns} numbers do not fit their grids, which have {count}, of {patch} numbers each"
            )));
        }
        Ok(Pictures { start: Start::Patches(patches), arranged: self.arranged(&grids)?, grids })
    }

    /// How many layers it has.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.stack.layers.len()
    }

    /// The same from the output of the tower's first layers; that of one layer more than there are is the rows of the language
    /// model.
    ///
    /// # Errors
    /// As [`pictures`](Self::pictures).
    pub fn pictures_above(&self, prefix: Prefix, grids: Vec<Grid>) -> Result<Pictures, Error> {
        let arranged = self.arranged(&grids)?;
        let rows = match prefix.layers > self.layers() {
            true => grids.iter().map(|&grid| self.rows_of(grid)).sum(),
            false => arranged.pictures.last().map_or(0, |last| last.end),
        };
        if prefix.output.rows() != rows {
            let found = prefix.output.rows();
            return Err(Error::Input(format!("an output of {found} rows is not that of pictures with {rows}")));
        }
        Ok(Pictures { start: Start::Above(prefix), arranged, grids })
    }

    fn arranged(&self, grids: &[Grid]) -> Result<Arc<Arranged>, Error> {
        let (merge, side) = (self.arrangement.merge(), self.embedding.positions.as_ref());
        let fixed = side.filter(|positions| !positions.resampled).map(|positions| positions.side);
        for Grid { frames, rows, columns } in grids {
            let problem = match fixed {
                _ if [*frames, *rows, *columns].contains(&0) => "it has no patch".to_owned(),
                _ if rows % merge != 0 || columns % merge != 0 => {
                    format!("{merge}·{merge} of them become one row, so each side must be a multiple of {merge}")
                }
                Some(side) if [*frames, *rows, *columns] != [1, side, side] => {
                    format!("the model reads {side}·{side}, and no others")
                }
                None if *frames > 1 && side.is_some() => "the model reads pictures of one frame".to_owned(),
                _ => continue,
            };
            return Err(Error::Input(format!("a picture has {rows}·{columns} patches in {frames} frames: {problem}")));
        }
        Ok(Arc::new(self.arrangement.of(grids, self.embedding.class.is_some())))
    }

    /// How many rows a picture has in it.
    #[must_use]
    pub fn rows_within(&self, grid: Grid) -> usize {
        grid.patches() + usize::from(self.embedding.class.is_some())
    }

    /// The width of its rows.
    #[must_use]
    pub fn width(&self, parameters: &Parameters) -> usize {
        self.embedding.projection.weights.first().map_or(0, |&weight| parameters.get(weight).rows())
    }

    /// Its linear layers, in the order of the data.
    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        let of_layers = self.stack.layers.iter().flat_map(Layer::projections);
        let of_projector = self.projector.iter().flat_map(Projector::projections);
        std::iter::once(&self.embedding.projection).chain(of_layers).chain(of_projector)
    }

    /// The same, to be changed.
    pub(super) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_layers = self.stack.layers.iter_mut().flat_map(|layer| layer.projections_mut());
        let of_projector = self.projector.iter_mut().flat_map(Projector::projections_mut);
        std::iter::once(&mut self.embedding.projection).chain(of_layers).chain(of_projector)
    }

    /// The input of the layers, f32 `[rows, hidden]`.
    pub(super) fn embed(&self, run: Run<'_>, patches: &Tensor, pictures: &Pictures) -> Var {
        let Pictures { grids, arranged, .. } = pictures;
        match &arranged.order {
            None => self.embedding.forward(run, patches, grids),
            Some(order) => self.embedding.forward(run, &patches.device().gather_rows(patches, order), grids),
        }
    }

    /// What pictures begin with, on a tape, and above how many layers that is.
    pub(super) fn start(&self, run: Run<'_>, pictures: &Pictures) -> (Var, usize) {
        match &pictures.start {
            Start::Patches(patches) => (self.embed(run, patches, pictures), 0),
            Start::Above(Prefix { output, layers }) => (Var::constant(output.clone()), *layers),
        }
    }

    /// The rows of the language model, f32 `[rows, hidden]`, of the output of the layers. Of a tower alone: its normed output.
    pub(super) fn finish(&self, run: Run<'_>, x: &Var, pictures: &Pictures) -> Var {
        let norm = &self.stack.norm;
        match &self.projector {
            None => norm.forward(Run { dtype: Dtype::F32, ..run }, x),
            Some(projector) => {
                let (leaving, together) = (&pictures.arranged.leaving, self.arrangement.merge().pow(2));
                projector.forward(run, &norm.forward(run, x), leaving, together)
            }
        }
    }

    /// What pictures begin with, where that is the rows of the language model.
    pub(super) fn known(&self, pictures: &Pictures) -> Option<Tensor> {
        match &pictures.start {
            Start::Above(Prefix { output, layers }) if *layers > self.layers() => Some(output.clone()),
            _ => None,
        }
    }

    /// [`finish`](Self::finish) of all layers.
    pub(super) fn rows(&self, run: Run<'_>, pictures: &Pictures) -> Var {
        if let Some(rows) = self.known(pictures) {
            return Var::constant(rows);
        }
        let (x, first) = self.start(run, pictures);
        let x = self.stack.run(run, x, first..self.stack.layers.len(), &pictures.arranged.layout, None);
        self.finish(run, &x, pictures)
    }

    /// The operations of a pass in which everything trains, as those of a whole model.
    pub(super) fn whole_pass(&self, parameters: &Parameters, pictures: &Pictures, checkpointing: bool) -> Flops {
        let product = |rows: usize, values: usize| 2 * (rows * values) as u64;
        let Arranged { layout, pictures: rows, leaving, .. } = &*pictures.arranged;
        let (count, rows) = (self.stack.layers.len(), rows.last().map_or(0, |last| last.end));
        let patches: usize = pictures.grids.iter().map(|grid| grid.patches()).sum();
        let embedding = product(patches, self.embedding.projection.values(parameters));
        let layers = product(rows, self.stack.values_per_row(parameters, count));
        let attention = self.stack.attention_operations(layout, count);
        let projector = self.projector.as_ref().map_or(0, |projector| projector.values_per_row(parameters));
        let projector = product(leaving.len() / self.arrangement.merge().pow(2), projector);
        let matrices = layers + projector;
        let again = if checkpointing { embedding + matrices + attention } else { 0 };
        Flops {
            forward: embedding + matrices + attention + again,
            input_gradient: matrices + attention / 2 * 5,
            weight_gradient: embedding + matrices,
        }
    }
}
