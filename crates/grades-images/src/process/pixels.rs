//! What a processor makes of a picture.

/// Whole pictures or tiles of one size, `[count, 3, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiles {
    /// How many.
    pub count: usize,
    /// Rows of each.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// The numbers.
    pub values: Vec<f32>,
}

/// A picture as rows of patches, in the order in which the tower merges them: `[frames · rows · columns, 3 · frames · side · side]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// Frames, rows and columns: `image_grid_thw`.
    pub grid: [usize; 3],
    /// Numbers of a patch.
    pub width: usize,
    /// The numbers.
    pub values: Vec<f32>,
}

/// What a tower reads of a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// Of DINOv2, SigLIP and nanoVLM.
    Tiles(Tiles),
    /// Of Qwen2-VL and its heirs.
    Patches(Patches),
}

impl Tiles {
    /// The tiles as rows of patches of `side` × `side`: `[count · rows · columns, 3 · side · side]`, each patch channel by
    /// channel and row by row, as the kernel of a patch embedding is stored. What is over at the right and bottom is left out,
    /// as a convolution with that stride does.
    pub fn patches(&self, side: usize) -> Vec<f32> {
        let (rows, columns) = match side {
            0 => (0, 0),
            side => (self.height / side, self.width / side),
        };
        let mut out = Vec::with_capacity(self.count * rows * columns * 3 * side * side);
        for tile in self.values.chunks_exact((3 * self.height * self.width).max(1)) {
            for patch in 0..rows * columns {
                let (top, left) = (patch / columns * side, patch % columns * side);
                for channel in tile.chunks_exact(self.height * self.width) {
                    for y in top..top + side {
                        out.extend_from_slice(&channel[y * self.width + left..][..side]);
                    }
                }
            }
        }
        out
    }
}
