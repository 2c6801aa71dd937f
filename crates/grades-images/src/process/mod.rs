//! From a picture to what a tower reads, by the rule of the model's processor.

mod config;
mod error;
mod pixels;
mod sizes;
mod values;

pub use config::ConfigError;
pub use error::ProcessError;
pub use pixels::{Patches, Pixels, Tiles};
pub use sizes::{dynamic_resize, smart_resize};
pub use values::Values;

use crate::{Alpha, Backend, Filter, Picture, resize, resize_values};
use values::Window;

/// How a processor resizes and cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One size for all, whatever their shape: SigLIP.
    Fixed {
        /// Rows.
        height: usize,
        /// Pixels of a row.
        width: usize,
    },
    /// The shorter side to one length, then the middle: DINOv2.
    ShortestEdge {
        /// That length.
        edge: usize,
        /// Height and width of the middle.
        crop: Option<(usize, usize)>,
    },
    /// The picture as it is: `do_resize: false`. With a crop, its middle.
    Unchanged {
        /// Height and width of the middle.
        crop: Option<(usize, usize)>,
    },
    /// Any size that patches divide: Qwen2-VL.
    Patches {
        /// Side of a patch in pixels.
        patch: usize,
        /// Patches along a side that are merged to one token.
        merge: usize,
        /// Frames of a patch; a still picture is repeated.
        frames: usize,
        /// The fewest pixels of a resized picture.
        min_pixels: usize,
        /// The most.
        max_pixels: usize,
    },
    /// Tiles: nanoVLM.
    Tiles(TilesOptions),
}

/// How nanoVLM cuts a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilesOptions {
    /// Side of a tile in pixels: `vit_img_size`.
    pub side: usize,
    /// The longest side of a resized picture: `max_img_size`.
    pub max_side: usize,
    /// Whether smaller pictures grow to it: `resize_to_max_side_len`.
    pub to_max_side: bool,
    /// Whether the whole picture, as small as a tile, comes before the tiles where there are several.
    pub global: bool,
}

/// How many of what a picture will be, by its size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One picture of that height and width.
    Whole {
        /// Rows.
        height: usize,
        /// Pixels of a row.
        width: usize,
    },
    /// Tiles row by row.
    Tiles {
        /// Rows of tiles.
        rows: usize,
        /// Tiles of a row.
        columns: usize,
        /// Whether the whole picture stands before them.
        global: bool,
    },
    /// Patches: `image_grid_thw`.
    Patches {
        /// Frames, rows and columns.
        grid: [usize; 3],
        /// Patches along a side that are merged to one token.
        merge: usize,
    },
}

impl Layout {
    /// Pictures or tiles.
    pub fn tiles(&self) -> usize {
        match *self {
            Self::Whole { .. } => 1,
            Self::Tiles { rows, columns, global } => rows * columns + usize::from(global),
            Self::Patches { .. } => 0,
        }
    }
}

/// Makes what a tower reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    /// How it resizes and cuts.
    pub rule: Rule,
    /// The filter of the resize.
    pub filter: Filter,
    /// Whose resize.
    pub backend: Backend,
    /// What becomes of transparency.
    pub alpha: Alpha,
    /// What bytes become.
    pub values: Values,
}

/// The most pixels that a rule may make of a picture.
const MOST_PIXELS: usize = 1 << 26;

impl Processor {
    /// nanoVLM's processor since its tiles.
    pub fn nanovlm(options: TilesOptions) -> Self {
        Self {
            rule: Rule::Tiles(options),
            filter: Filter::Bicubic,
            backend: Backend::Pillow,
            alpha: Alpha::Dropped,
            values: Values::unit(),
        }
    }

    /// nanoVLM's processor of its first two generations: every picture `side` × `side`, bilinear.
    pub fn nanovlm_fixed(side: usize) -> Self {
        let rule = Rule::Fixed { height: side, width: side };
        let options = TilesOptions { side, max_side: side, to_max_side: true, global: false };
        Self { rule, filter: Filter::Bilinear, ..Self::nanovlm(options) }
    }

    /// The same with another backend's resize and roundings.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, values: self.values.with_backend(backend), ..self }
    }

    /// The side of its tiles in pixels, where it makes some.
    pub fn tile(&self) -> Option<usize> {
        match self.rule {
            Rule::Tiles(TilesOptions { side, .. }) => Some(side),
            _ => None,
        }
    }

    /// How many tiles or patches a picture of that size will be.
    pub fn layout(&self, width: usize, height: usize) -> Result<Layout, ProcessError> {
        let (new_height, new_width) = self.resized(width, height)?;
        Ok(match self.rule {
            Rule::Fixed { .. } => Layout::Whole { height: new_height, width: new_width },
            Rule::ShortestEdge { crop, .. } | Rule::Unchanged { crop } => {
                let (height, width) = crop.unwrap_or((new_height, new_width));
                Layout::Whole { height, width }
            }
            Rule::Patches { patch, merge, .. } => {
                Layout::Patches { grid: [1, new_height / patch, new_width / patch], merge }
            }
            Rule::Tiles(TilesOptions { side, global, .. }) => {
                let (rows, columns) = (new_height / side, new_width / side);
                Layout::Tiles { rows, columns, global: global && rows * columns > 1 }
            }
        })
    }

    /// Height and width after resizing.
    fn resized(&self, width: usize, height: usize) -> Result<(usize, usize), ProcessError> {
        let (new_height, new_width) = match self.rule {
            Rule::Fixed { height, width } => (height, width),
            Rule::ShortestEdge { edge, .. } => sizes::shortest_edge(height, width, edge),
            Rule::Unchanged { .. } => (height, width),
            Rule::Patches { patch, merge, min_pixels, max_pixels, .. } => {
                smart_resize(height, width, patch * merge, min_pixels, max_pixels)?
            }
            Rule::Tiles(tiles) => dynamic_resize(height, width, tiles.side, tiles.max_side, tiles.to_max_side),
        };
        if new_height.saturating_mul(new_width) > MOST_PIXELS {
            return Err(ProcessError::TooLarge { width, height, new_width, new_height, limit: MOST_PIXELS });
        }
        Ok((new_height, new_width))
    }

    /// Resizes, cuts and normalises.
    pub fn process(&self, picture: &Picture) -> Result<Pixels, ProcessError> {
        let (height, width) = self.resized(picture.width(), picture.height())?;
        let resized = resize(picture, width, height, self.filter, self.backend);
        Ok(match self.rule {
            Rule::Fixed { .. } => self.whole(&resized, None),
            Rule::ShortestEdge { crop, .. } | Rule::Unchanged { crop } => self.whole(&resized, crop),
            Rule::Patches { patch, merge, frames, .. } => self.patches(&resized, patch, merge, frames),
            Rule::Tiles(TilesOptions { side, global, .. }) => self.tiles(&resized, side, global),
        })
    }

    fn whole(&self, picture: &Picture, crop: Option<(usize, usize)>) -> Pixels {
        let cut = crop.map(|(height, width)| self.middle(picture, height, width));
        let picture = cut.as_ref().unwrap_or(picture);
        let (width, height) = (picture.width(), picture.height());
        let mut values = Vec::with_capacity(3 * width * height);
        self.values.append(picture, Window { left: 0, top: 0, width, height }, &mut values);
        Pixels::Tiles(Tiles { count: 1, height, width, values })
    }

    /// The middle of a picture; where it is smaller, black around it.
    fn middle(&self, picture: &Picture, height: usize, width: usize) -> Picture {
        // what is over goes half before and half after; the backends differ in where an odd pixel of black goes
        let split = |from: usize, to: usize| match (from >= to, self.backend) {
            (true, _) => ((from - to) / 2, 0),
            (false, Backend::Torchvision) => (0, (to - from) / 2),
            (false, Backend::Pillow) => (0, (to - from).div_ceil(2)),
        };
        let ((top, above), (left, before)) = (split(picture.height(), height), split(picture.width(), width));
        let run = 3 * picture.width().min(width);
        let mut rgb = vec![0; 3 * width * height];
        for row in 0..picture.height().min(height) {
            let from = &picture.rgb()[3 * ((top + row) * picture.width() + left)..][..run];
            rgb[3 * ((above + row) * width + before)..][..run].copy_from_slice(from);
        }
        Picture::of(width, height, rgb)
    }

    fn patches(&self, picture: &Picture, patch: usize, merge: usize, frames: usize) -> Pixels {
        let (rows, columns) = (picture.height() / patch, picture.width() / patch);
        let width = 3 * frames * patch * patch;
        let mut values = Vec::with_capacity(rows * columns * width);
        let blocks = |n: usize| (0..n / merge).map(move |block| block * merge);
        for (top, left) in blocks(rows).flat_map(|top| blocks(columns).map(move |left| (top, left))) {
            for (row, column) in (0..merge * merge).map(|i| (top + i / merge, left + i % merge)) {
                let mut one = Vec::with_capacity(3 * patch * patch);
                let window = Window { left: column * patch, top: row * patch, width: patch, height: patch };
                self.values.append(picture, window, &mut one);
                for channel in one.chunks_exact(patch * patch) {
                    (0..frames).for_each(|_| values.extend_from_slice(channel));
                }
            }
        }
        Pixels::Patches(Patches { grid: [1, rows, columns], width, values })
    }

    fn tiles(&self, picture: &Picture, side: usize, global: bool) -> Pixels {
        let (rows, columns) = (picture.height() / side, picture.width() / side);
        let global = global && rows * columns > 1;
        let count = rows * columns + usize::from(global);
        let mut values = Vec::with_capacity(count * 3 * side * side);
        if global {
            // as nanoVLM does it: from the numbers, not from the bytes, and bilinear
            let numbers: Vec<f32> =
                picture.rgb().iter().enumerate().map(|(i, &byte)| self.values.of(i % 3, byte)).collect();
            let small = resize_values(&numbers, (picture.width(), picture.height()), (side, side), Filter::Bilinear);
            (0..3).for_each(|channel| values.extend(small.iter().skip(channel).step_by(3)));
        }
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let window = Window { left: column * side, top: row * side, width: side, height: side };
            self.values.append(picture, window, &mut values);
        }
        Pixels::Tiles(Tiles { count, height: side, width: side, values })
    }
}
