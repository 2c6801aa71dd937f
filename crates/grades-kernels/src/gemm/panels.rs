//! How a product is cut into tasks, and what each thread has packed for its own.

use std::ops::Range;

use crate::threads::{ends_a_part, threads};
use crate::workspaces::{InUse, Workspace};

/// A cache line, which aligns a buffer.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>([T; 16]);

/// Room for packed panels of numbers or pairs of 32 bits. What it holds is not initialised until a packing function has
/// written it.
pub(crate) struct Buffer<T> {
    lines: Vec<Line<T>>,
    _counted: InUse,
}

impl<T> Buffer<T> {
    pub(crate) fn new(len: usize) -> Self {
        let lines = len.div_ceil(16);
        let _counted = InUse::new(Workspace::Panels, lines * size_of::<Line<T>>());
        Self { lines: Vec::with_capacity(lines), _counted }
    }

    /// The start, at a multiple of 64 bytes; valid for as many elements as the buffer was made for.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.lines.as_mut_ptr().cast()
    }

    /// As [`Buffer::as_mut_ptr`], for reading.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn as_ptr(&self) -> *const T {
        self.lines.as_ptr().cast()
    }
}

/// What a thread has packed last.
pub(super) struct Packed<T> {
    buffer: Option<Buffer<T>>,
    holds: Option<usize>,
    scratch: Vec<f32>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self { buffer: None, holds: None, scratch: Vec::new() }
    }
}

impl<T> Packed<T> {
    /// The panels of task group `group`, for which `len` elements of room are enough, as they are for every other group of this
    /// product; packed by `pack` unless they are there already.
    pub(super) fn panels(&mut self, len: usize, group: usize, pack: impl FnOnce(&mut Vec<f32>, *mut T)) -> *const T {
        let start = self.buffer.get_or_insert_with(|| Buffer::new(len)).as_mut_ptr();
        if self.holds.replace(group) != Some(group) {
            pack(&mut self.scratch, start);
        }
        start
    }
}

/// Tasks that the last of a thread's part are split into.
pub(super) const LAST: usize = 4;
/// Rows whose product takes about as long as packing their panels.
const PACKING: usize = 32;

/// Group of panels and rows of each task, in whole tiles of `tile_rows`. Every task packs its panels, unless its thread has just
/// done so; rows are therefore split only where groups do not suffice, and at the end of each thread's part, so that threads end
/// together, and into no fewer than `least`.
pub(super) fn tasks(rows: usize, groups: usize, tile_rows: usize, least: usize) -> Vec<(usize, Range<usize>)> {
    let threads = threads();
    let most = rows.div_ceil(least).max(1);
    let chunk = |pieces: usize| rows.div_ceil(pieces).next_multiple_of(tile_rows).max(tile_rows);
    // Tasks that no number of threads divides leave threads idle at the end: as many pieces as end first.
    let time = |pieces: &usize| {
        let rounds = (groups * rows.div_ceil(chunk(*pieces))).div_ceil(threads);
        rounds * (chunk(*pieces) + PACKING)
    };
    let few = if groups < threads { (1..=most).min_by_key(time).unwrap_or(1) } else { 1 };
    let pieces = |group| match groups >= threads {
        true if !ends_a_part(group, groups) => 1,
        true => LAST.min(most),
        false => few,
    };
    let mut tasks = Vec::new();
    for group in 0..groups {
        let chunk = chunk(pieces(group));
        tasks.extend((0..rows).step_by(chunk).map(|start| (group, start..rows.min(start + chunk))));
    }
    tasks
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::tasks;
    use crate::threads::Pool;

    /// The share of all threads' time that rows of equal cost fill, in whole rounds of tasks.
    fn filled(threads: usize, rows: usize, groups: usize) -> f64 {
        let tasks =
            Pool::new(1).install(|| crate::threads::simulated::simulate(threads, || tasks(rows, groups, 8, 64)).0);
        let mut covered = vec![0; groups];
        for (group, rows) in &tasks {
            assert_eq!(covered[*group], rows.start, "tasks of a group follow each other");
            covered[*group] = rows.end;
        }
        assert!(covered.iter().all(|&end| end == rows));
        let longest = tasks.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
        (rows * groups) as f64 / (threads * tasks.len().div_ceil(threads) * longest) as f64
    }

    #[test]
    fn fewer_groups_than_threads_are_cut_so_that_threads_end_together() {
        // A thirty-second of six groups would be 36 pieces, for which 32 threads take two rounds.
        for (threads, groups) in [(32, 6), (64, 6), (64, 16), (8, 3), (2, 1), (5, 4)] {
            let filled = filled(threads, 1024, groups);
            assert!(filled > 0.85, "{threads} threads, {groups} groups: {filled}");
        }
        // Rows that are too few to be packed for again stay together.
        assert_eq!(Pool::new(1).install(|| tasks(64, 1, 8, 64)), [(0, 0..64)]);
    }
}
