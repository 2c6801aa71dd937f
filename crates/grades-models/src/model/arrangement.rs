//! How the patches of pictures lie in a vision tower: in which order, which see one another, and which leave it together.

use std::ops::Range;
use std::sync::Arc;

use grades_tensor::Layout;

use crate::nn::Grid;

/// How a tower takes the patches of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Row by row, all of a picture seeing one another; `merge · merge` neighbours leave together, row by row too.
    Rows {
        /// Along each side.
        merge: usize,
    },
    /// In blocks of `merge · merge` neighbours, which leave together. Inside they are ordered by windows of `window · window`
    /// blocks, at the right and bottom of a picture smaller ones; layers see a window, or a frame of a picture.
    Windows {
        /// Along each side of a block.
        merge: usize,
        /// Along each side of a window.
        window: usize,
    },
}

/// The patches of some pictures in a tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arranged {
    /// Which patch each row is of; left out, every patch in order, behind class tokens where there are some.
    pub(crate) order: Option<Vec<u32>>,
    /// What sees what, with places and windows where the tower has them.
    pub(crate) layout: Arc<Layout>,
    /// The rows that leave, those of one output behind one another.
    pub(crate) leaving: Arc<Vec<u32>>,
    /// The rows of each picture.
    pub(crate) pictures: Vec<Range<usize>>,
}

impl Arrangement {
    /// Patches along each side of what leaves together.
    pub(crate) fn merge(self) -> usize {
        match self {
            Self::Rows { merge } | Self::Windows { merge, .. } => merge,
        }
    }

    /// Pictures one behind another, their sides multiples of what leaves together; each with a class token first if `class`.
    pub(crate) fn of(self, grids: &[Grid], class: bool) -> Arranged {
        match self {
            Self::Rows { merge } => rows(grids, merge, class),
            Self::Windows { merge, window } => windows(grids, merge, window),
        }
    }
}

fn rows(grids: &[Grid], merge: usize, class: bool) -> Arranged {
    let (mut pictures, mut leaving, mut start) = (Vec::new(), Vec::new(), 0);
    for grid in grids {
        let first = start + usize::from(class);
        let end = first + grid.patches();
        for block_row in (0..grid.frames * grid.rows).step_by(merge) {
            for block_column in (0..grid.columns).step_by(merge) {
                for row in block_row..block_row + merge {
                    let of_row = first + row * grid.columns + block_column;
                    leaving.extend((of_row..of_row + merge).map(|row| row as u32));
                }
            }
        }
        pictures.push(start..end);
        start = end;
    }
    Arranged { order: None, layout: Arc::new(Layout::packed(&pictures)), leaving: Arc::new(leaving), pictures }
}

fn windows(grids: &[Grid], merge: usize, window: usize) -> Arranged {
    let block = merge * merge;
    let (mut order, mut places, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    let (mut frames, mut seen, mut pictures) = (Vec::new(), Vec::new(), Vec::new());
    for grid in grids {
        let (rows, columns, start) = (grid.rows / merge, grid.columns / merge, order.len());
        // Where the rows of each block of this picture begin.
        let mut begins = vec![0; grid.frames * rows * columns];
        for frame in 0..grid.frames {
            let of_frame = order.len();
            for window_row in (0..rows).step_by(window) {
                for window_column in (0..columns).step_by(window) {
                    let of_window = order.len();
                    for row in window_row..rows.min(window_row + window) {
                        for column in window_column..columns.min(window_column + window) {
                            let at = (frame * rows + row) * columns + column;
                            begins[at] = order.len();
                            let patch = start + at * block;
                            order.extend((patch..patch + block).map(|patch| patch as u32));
                            let inside = (0..merge).flat_map(|down| (0..merge).map(move |across| (down, across)));
                            places.extend(inside.map(|(down, across)| {
                                [0, (row * merge + down) as u32, (column * merge + across) as u32]
                            }));
                        }
                    }
                    seen.push(of_window..order.len());
                }
            }
            frames.push(of_frame..order.len());
        }
        leaving.extend(begins.into_iter().flat_map(|begin| (begin..begin + block).map(|row| row as u32)));
        pictures.push(start..order.len());
    }
    let (positions, places): (Vec<u32>, _) = ((0..order.len() as u32).collect(), Some(Arc::new(places)));
    let layout = |segments: &[Range<usize>]| Layout {
        positions: positions.clone(),
        places: places.clone(),
        ..Layout::packed(segments)
    };
    let layout = Layout { windows: Some(Arc::new(layout(&seen))), ..layout(&frames) };
    Arranged { order: Some(order), layout: Arc::new(layout), leaving: Arc::new(leaving), pictures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_leave_together() {
        let arranged = Arrangement::Rows { merge: 2 }.of(&[Grid::still(2, 4), Grid::still(2, 2)], true);
        // A class token, then
        //   1 2 3 4
        //   5 6 7 8
        // and behind another one 10 11, 12 13.
        assert_eq!(*arranged.leaving, [1, 2, 5, 6, 3, 4, 7, 8, 10, 11, 12, 13]);
        assert_eq!(arranged.pictures, [0..9, 9..14]);
        assert_eq!(*arranged.layout, Layout::packed(&[0..9, 9..14]));
    }

    #[test]
    fn windows_are_smaller_at_the_right_and_at_the_bottom() {
        // Blocks of one patch: three rows of four, in windows of two by three, and a picture of one window.
        let arranged = Arrangement::Windows { merge: 1, window: 2 }
            .of(&[Grid::still(3, 3), Grid { frames: 2, rows: 1, columns: 2 }], false);
        let order = arranged.order.unwrap();
        assert_eq!(order, [0, 1, 3, 4, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
        let of = |layout: &Layout| layout.segments.iter().map(|segment| segment.query.clone()).collect::<Vec<_>>();
        assert_eq!(of(&arranged.layout), [0..9, 9..11, 11..13]);
        let windows = arranged.layout.windows.as_ref().unwrap();
        assert_eq!(of(windows), [0..4, 4..6, 6..8, 8..9, 9..11, 11..13]);
        let places = windows.places.as_ref().unwrap();
        assert_eq!(places[..9].iter().map(|place| place[1] * 3 + place[2]).collect::<Vec<_>>(), order[..9]);
        // What leaves is in the order of the patches again.
        let left: Vec<u32> = arranged.leaving.iter().map(|&row| order[row as usize]).collect();
        assert_eq!(left, (0..13).collect::<Vec<_>>());
    }
}
