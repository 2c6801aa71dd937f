//! What makes the input of a vision tower of the patches of pictures.

use std::sync::Arc;

use grades_tensor::{Dtype, Tensor, Var, ops};

use super::projection::Projection;
use super::run::Run;
use crate::parameters::ParameterId;

/// How many patches a picture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grid {
    /// Frames: 1 for a picture that stands still.
    pub frames: usize,
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
}

impl Grid {
    /// Of a picture that stands still.
    #[must_use]
    pub fn still(rows: usize, columns: usize) -> Self {
        Self { frames: 1, rows, columns }
    }

    /// All patches.
    #[must_use]
    pub fn patches(self) -> usize {
        self.frames * self.rows * self.columns
    }
}

/// A linear map of each patch, plus what is learnt for where it lies. Behind a class token, where there is one, come the
/// patches of its picture.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    /// `[hidden, width of a patch]`.
    pub(crate) projection: Projection,
    pub(crate) positions: Option<Positions>,
    /// `[hidden]`.
    pub(crate) class: Option<ParameterId>,
}

/// What is learnt for each place of a square of patches.
#[derive(Debug)]
pub(crate) struct Positions {
    /// `[side · side, hidden]`; with a class token one row more, its own, first.
    pub(crate) table: ParameterId,
    pub(crate) side: usize,
    /// Whether pictures may have other grids, for which it is resampled.
    pub(crate) resampled: bool,
}

impl PatchEmbedding {
    /// The input of the layers, f32 `[rows, hidden]`, of patches `[patches, width]` of pictures that stand still, or of any
    /// where nothing is learnt for their places.
    pub(crate) fn forward(&self, run: Run<'_>, patches: &Tensor, grids: &[Grid]) -> Var {
        let (device, count) = (patches.device(), patches.rows());
        let hidden = run.parameters.get(self.projection.weights[0]).rows();
        let zeros = |rows| Var::constant(device.zeros([rows, hidden], Dtype::F32));
        let x = Var::constant(patches.cast(run.dtype));
        let positions = self.positions.as_ref().map(|positions| positions.forward(run, grids, self.class.is_some()));
        let Some(class) = self.class else {
            let residual = positions.unwrap_or_else(|| zeros(count));
            return self.projection.forward(run, &x, Some(&residual));
        };
        let x = self.projection.forward(run, &x, Some(&zeros(count)));
        let (mut of_class, mut of_patches, mut rows) = (Vec::new(), Vec::new(), 0);
        for grid in grids {
            of_class.push(rows);
            of_patches.extend(rows + 1..=rows + grid.patches() as u32);
            rows += 1 + grid.patches() as u32;
        }
        let class = ops::embed(run.tape, &run.leaf(class), Arc::new(vec![0; grids.len()]));
        let all = ops::replace_rows(run.tape, zeros(rows as usize), Arc::new(of_patches), &x);
        let all = ops::replace_rows(run.tape, all, Arc::new(of_class), &class);
        match positions {
            None => all,
            Some(positions) => ops::add(run.tape, all, &positions),
        }
    }
}

impl Positions {
    /// What is learnt for each row of the pictures, `[rows, hidden]`.
    fn forward(&self, run: Run<'_>, grids: &[Grid], class: bool) -> Var {
        let (table, own) = (run.leaf(self.table), usize::from(class));
        let square = |grid: &Grid| (grid.rows, grid.columns) == (self.side, self.side);
        // Where the tables of the grids begin: that which is learnt, or behind it those that are made of it.
        let (mut others, mut first): (Vec<Grid>, _) = (Vec::new(), self.side * self.side + own);
        let mut firsts = Vec::new();
        for grid in grids.iter().filter(|grid| !square(grid)) {
            if !others.contains(grid) {
                others.push(*grid);
                firsts.push(first);
                first += grid.patches();
            }
        }
        let ids = grids.iter().flat_map(|grid| {
            let other = others.iter().position(|other| other == grid);
            let start = other.map_or(own, |other| firsts[other]);
            (0..own).chain(start..start + grid.patches()).map(|row| row as u32)
        });
        let ids = Arc::new(ids.collect());
        if others.is_empty() {
            return ops::embed(run.tape, &table, ids);
        }
        let device = table.value.device();
        let learnt = self.side * self.side + own;
        let mut weights = vec![0.0; first * learnt];
        let (kept, made) = weights.split_at_mut(learnt * learnt);
        kept.iter_mut().step_by(learnt + 1).for_each(|weight| *weight = 1.0);
        let mut rows = made.chunks_exact_mut(learnt);
        for grid in &others {
            let (down, across) = (taps(grid.rows, self.side), taps(grid.columns, self.side));
            for vertical in &down {
                for (horizontal, row) in across.iter().zip(&mut rows) {
                    for (y, by_y) in vertical {
                        for (x, by_x) in horizontal {
                            row[own + y * self.side + x] += by_y * by_x;
                        }
                    }
                }
            }
        }
        let all = ops::mix_rows(run.tape, device.from_host(weights, [first, learnt]), &table);
        ops::take_rows(run.tape, &all, &ids)
    }
}

/// Of which of `from` places, and how much of each, each of `to` places along a side is made: bicubic resampling between the
/// middles of places (Keys 1981 with a = −0.75, the ends repeated), as `torch.nn.functional.interpolate` has it.
fn taps(to: usize, from: usize) -> Vec<[(usize, f32); 4]> {
    const A: f32 = -0.75;
    let weight = |distance: f32| match distance {
        near if near <= 1.0 => ((A + 2.0) * near - (A + 3.0)) * near * near + 1.0,
        far => ((A * far - 5.0 * A) * far + 8.0 * A) * far - 4.0 * A,
    };
    let scale = from as f32 / to as f32;
    let of_place = |place: usize| {
        let at = (place as f32 + 0.5) * scale - 0.5;
        [-1.0, 0.0, 1.0, 2.0].map(|offset| {
            let tap = at.floor() + offset;
            (tap.clamp(0.0, from as f32 - 1.0) as usize, weight((at - tap).abs()))
        })
    };
    (0..to).map(of_place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_made_of_their_neighbours() {
        // What is resampled to the same size stays what it is.
        for (place, taps) in taps(5, 5).iter().enumerate() {
            assert_eq!(taps[1], (place, 1.0));
            assert!([0, 2, 3].iter().all(|&tap| taps[tap].1 == 0.0));
        }
        // Half as many: each lies in the middle of two, which count 0.59375 each, and their neighbours −0.09375.
        assert_eq!(taps(2, 4)[0], [(0, -0.09375), (0, 0.59375), (1, 0.59375), (2, -0.09375)]);
        assert_eq!(taps(2, 4)[1], [(1, -0.09375), (2, 0.59375), (3, 0.59375), (3, -0.09375)]);
        // Whatever the sizes, the weights of a place add up to 1.
        for (to, from) in [(1, 7), (3, 7), (13, 7), (7, 1)] {
            let sums = taps(to, from).into_iter().map(|taps| taps.iter().map(|(_, weight)| weight).sum::<f32>());
            assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{from} to {to}");
        }
    }
}
