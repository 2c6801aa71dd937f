//! Looking up rows of an embedding, and adding their gradients back.

use std::mem::MaybeUninit;

use crate::threads::each;
use crate::unwritten::written;
use crate::{Element, OutOfRange};

/// Rows of a block of work.
const BLOCK_ROWS: usize = 64;

/// Rows `ids` of `weight [vocab, width]`, `[ids, width]`.
///
/// # Errors
/// If an id lies outside the vocabulary.
///
/// # Panics
/// If the width is zero.
pub fn gather<E: Element>(weight: &[E], width: usize, ids: &[i64]) -> Result<Vec<E>, OutOfRange> {
    check(ids, weight.len(), width)?;
    let copy = |rows: &mut [MaybeUninit<E>]| {
        each(rows.chunks_mut(BLOCK_ROWS * width).zip(ids.chunks(BLOCK_ROWS)), |(rows, ids)| {
            for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
                row.write_copy_of_slice(&weight[id as usize * width..][..width]);
            }
        });
    };
    // SAFETY: there is a row for each id, and all of it is copied.
    Ok(unsafe { written(ids.len() * width, copy) })
}

/// Adds row `i` of `dout [ids, width]` to row `ids[i]` of `dweight [vocab, width]`, in the order of the ids.
///
/// # Errors
/// If an id lies outside the vocabulary; nothing is then written.
///
/// # Panics
/// If a length does not fit.
pub fn scatter_add(dout: &[f32], width: usize, ids: &[i64], dweight: &mut [f32]) -> Result<(), OutOfRange> {
    assert_eq!(dout.len(), ids.len() * width);
    check(ids, dweight.len(), width)?;
    if dout.is_empty() {
        return Ok(());
    }
    // Sorted by id, the work falls into ranges of the vocabulary that no two threads share.
    let mut rows: Vec<usize> = (0..ids.len()).collect();
    rows.sort_by_key(|&row| ids[row]);
    let mut jobs = Vec::new();
    let (mut rest, mut taken) = (dweight, 0);
    for same_id in rows.chunk_by(|&a, &b| ids[a] == ids[b]) {
        let start = ids[same_id[0]] as usize * width;
        let (_, after) = std::mem::take(&mut rest).split_at_mut(start - taken);
        let (target, after) = after.split_at_mut(width);
        rest = after;
        taken = start + width;
        jobs.push((target, same_id));
    }
    each(jobs, |(target, rows)| {
        for &row in rows {
            for (target, gradient) in target.iter_mut().zip(&dout[row * width..]) {
                *target += gradient;
            }
        }
    });
    Ok(())
}

fn check(ids: &[i64], len: usize, width: usize) -> Result<(), OutOfRange> {
    assert!(width > 0);
    let limit = len / width;
    match ids.iter().position(|&id| !usize::try_from(id).is_ok_and(|id| id < limit)) {
        Some(row) => Err(OutOfRange { what: "token id", row, value: ids[row], limit }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{gather, scatter_add};
    use crate::OutOfRange;
    use crate::testing::{numbers, on_any_threads};

    #[test]
    fn rows_are_copied_and_their_gradients_added_in_order() {
        let (vocab, width) = (13, 5);
        for count in [0, 1, 7, 300] {
            let ids: Vec<i64> = (0..count as i64).map(|i| i * i % vocab).collect();
            let (weight, dout) = (numbers(1, 13 * width), numbers(2, count * width));
            let before = numbers(3, 13 * width);
            let results = on_any_threads(|| {
                let out = gather(&weight, width, &ids).unwrap();
                let mut dweight = before.clone();
                scatter_add(&dout, width, &ids, &mut dweight).unwrap();
                vec![out, dweight]
            });
            let mut expected = before.clone();
            for (row, &id) in ids.iter().enumerate() {
                for d in 0..width {
                    assert_eq!(results[0][row * width + d], weight[id as usize * width + d]);
                    expected[id as usize * width + d] += dout[row * width + d];
                }
            }
            assert_eq!(results[1], expected);
        }
    }

    #[test]
    fn ids_outside_the_vocabulary_are_errors() {
        for value in [-1, 3, i64::MAX] {
            let error = OutOfRange { what: "token id", row: 1, value, limit: 3 };
            assert_eq!(gather(&[0.0; 6], 2, &[0, value]), Err(error.clone()));
            assert_eq!(scatter_add(&[0.0; 4], 2, &[0, value], &mut [0.0; 6]), Err(error));
        }
    }
}
