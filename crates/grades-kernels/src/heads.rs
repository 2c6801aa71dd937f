//! Between the joined rows of one product for queries, keys and values and the heads that attention takes, rotated on
//! the way.

use std::mem::MaybeUninit;

use crate::element::{convert, convert_into};
use crate::rope::{RotaryTable, Rotation};
use crate::threads::each;
use crate::unwritten::{to_write, written, written_each};
use crate::{Element, OutOfRange};

/// How a row `[(heads + 2 · kv_heads) · head_dim]` holds queries, then keys, then values.
#[derive(Clone, Copy, Debug)]
pub struct JoinedHeads<'a> {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys, and of the values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The rotation of queries and keys, and every row's position.
    pub rotary: Option<(RotaryTable<'a>, &'a [u32])>,
}

/// Rows of a block of work.
const BLOCK_ROWS: usize = 16;

impl JoinedHeads<'_> {
    /// Splits `joined [rows, (heads + 2 · kv_heads) · head_dim]` into `q [rows, heads, head_dim]` and `k` and
    /// `v [rows, kv_heads, head_dim]`, and rotates `q` and `k`.
    ///
    /// # Errors
    /// If a position lies outside the table; nothing is then written.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn split<E: Element>(&self, joined: &[E], q: &mut [E], k: &mut [E], v: &mut [E]) -> Result<(), OutOfRange> {
        self.check(joined.len(), [q.len(), k.len(), v.len()])?;
        // SAFETY: values are all that is written.
        let heads = [q, k, v].map(|heads| unsafe { to_write(heads) });
        self.split_into(joined, heads);
        Ok(())
    }

    /// [`split`](Self::split) into new memory: q, k and v.
    ///
    /// # Errors
    /// If a position lies outside the table.
    ///
    /// # Panics
    /// If the length is no whole number of rows.
    pub fn split_new<E: Element>(&self, joined: &[E]) -> Result<[Vec<E>; 3], OutOfRange> {
        let (query, key) = self.widths();
        let rows = joined.len() / (query + 2 * key);
        let lens = [rows * query, rows * key, rows * key];
        self.check(joined.len(), lens)?;
        // SAFETY: `split_into` writes every row of all three.
        Ok(unsafe { written_each(lens, |heads| self.split_into(joined, heads)) })
    }

    /// The gradient of [`JoinedHeads::split`]: rotates `dq` and `dk` back and joins them with `dv`, of the same shapes.
    ///
    /// # Errors
    /// If a position lies outside the table; nothing is then written.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn join<E: Element>(&self, dq: &[E], dk: &[E], dv: &[E], joined: &mut [E]) -> Result<(), OutOfRange> {
        self.check(joined.len(), [dq.len(), dk.len(), dv.len()])?;
        // SAFETY: values are all that is written.
        self.join_into([dq, dk, dv], unsafe { to_write(joined) });
        Ok(())
    }

    /// [`join`](Self::join) into new memory.
    ///
    /// # Errors
    /// If a position lies outside the table.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn join_new<E: Element>(&self, dq: &[E], dk: &[E], dv: &[E]) -> Result<Vec<E>, OutOfRange> {
        let len = dq.len() + dk.len() + dv.len();
        self.check(len, [dq.len(), dk.len(), dv.len()])?;
        // SAFETY: `join_into` writes every row.
        Ok(unsafe { written(len, |joined| self.join_into([dq, dk, dv], joined)) })
    }

    /// Writes all of `q`, `k` and `v`; lengths and positions have been checked.
    fn split_into<E: Element>(&self, joined: &[E], [q, k, v]: [&mut [MaybeUninit<E>]; 3]) {
        let (query, key) = self.widths();
        let blocks = joined
            .chunks(BLOCK_ROWS * (query + 2 * key))
            .zip(q.chunks_mut(BLOCK_ROWS * query))
            .zip(k.chunks_mut(BLOCK_ROWS * key).zip(v.chunks_mut(BLOCK_ROWS * key)))
            .enumerate();
        each(blocks, |(block, ((joined, q), (k, v)))| {
            let mut scratch = vec![0.0; query + key];
            let rows = q.chunks_exact_mut(query).zip(k.chunks_exact_mut(key)).zip(v.chunks_exact_mut(key));
            for (row, (joined, ((q, k), v))) in joined.chunks_exact(query + 2 * key).zip(rows).enumerate() {
                convert(&joined[..query + key], &mut scratch);
                self.rotate(block * BLOCK_ROWS + row, &mut scratch, Rotation::Forward);
                convert_into(&scratch[..query], q);
                convert_into(&scratch[query..], k);
                v.write_copy_of_slice(&joined[query + key..]);
            }
        });
    }

    /// Writes all of `joined`; lengths and positions have been checked.
    fn join_into<E: Element>(&self, [dq, dk, dv]: [&[E]; 3], joined: &mut [MaybeUninit<E>]) {
        let (query, key) = self.widths();
        let blocks = joined
            .chunks_mut(BLOCK_ROWS * (query + 2 * key))
            .zip(dq.chunks(BLOCK_ROWS * query))
            .zip(dk.chunks(BLOCK_ROWS * key).zip(dv.chunks(BLOCK_ROWS * key)))
            .enumerate();
        each(blocks, |(block, ((joined, dq), (dk, dv)))| {
            let mut scratch = vec![0.0; query + key];
            let rows = dq.chunks_exact(query).zip(dk.chunks_exact(key)).zip(dv.chunks_exact(key));
            for (row, (joined, ((dq, dk), dv))) in joined.chunks_exact_mut(query + 2 * key).zip(rows).enumerate() {
                convert(dq, &mut scratch[..query]);
                convert(dk, &mut scratch[query..]);
                self.rotate(block * BLOCK_ROWS + row, &mut scratch, Rotation::Inverse);
                convert_into(&scratch, &mut joined[..query + key]);
                joined[query + key..].write_copy_of_slice(dv);
            }
        });
    }

    /// Elements of a row's queries, and of its keys.
    fn widths(&self) -> (usize, usize) {
        let (query, key) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        assert!(query > 0 && key > 0, "attention without heads");
        (query, key)
    }

    /// Checks the lengths of joined rows and of q, k and v, and the positions.
    fn check(&self, joined: usize, heads: [usize; 3]) -> Result<(), OutOfRange> {
        let (query, key) = self.widths();
        let rows = heads[0] / query;
        assert_eq!(joined, rows * (query + 2 * key));
        assert_eq!(heads, [rows * query, rows * key, rows * key]);
        if let Some((table, positions)) = self.rotary {
            assert_eq!(positions.len(), rows);
            table.check(self.head_dim, positions)?;
        }
        Ok(())
    }

    /// Rotates the heads of one row's queries and keys.
    fn rotate(&self, row: usize, heads: &mut [f32], rotation: Rotation) {
        if let Some((table, positions)) = self.rotary {
            table.rotate(heads, self.head_dim, positions[row], rotation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::JoinedHeads;
    use crate::rope::tests::rotated;
    use crate::rope::{RotaryTable, Rotation};
    use crate::testing::{numbers, on_any_threads};

    #[test]
    fn splitting_and_joining_equal_the_separate_steps() {
        let (cos, sin) = (numbers(1, 50 * 3), numbers(2, 50 * 3));
        let table = RotaryTable { cos: &cos, sin: &sin, rotary_dim: 6 };
        for (heads, kv_heads, head_dim, rows) in [(4, 2, 8, 37), (1, 1, 6, 1), (3, 1, 8, 0)] {
            let positions: Vec<u32> = (0..rows).map(|row| row * 3 % 50).collect();
            let (query, key) = (heads * head_dim, kv_heads * head_dim);
            let (width, rows) = (query + 2 * key, rows as usize);
            let joined = numbers(3, rows * width);
            for rotary in [None, Some((table, &positions[..]))] {
                let form = JoinedHeads { heads, kv_heads, head_dim, rotary };
                let results = on_any_threads(|| {
                    let [mut q, mut k, mut v] = [query, key, key].map(|width| vec![f32::NAN; rows * width]);
                    form.split(&joined, &mut q, &mut k, &mut v).unwrap();
                    assert_eq!(form.split_new(&joined).unwrap(), [q.clone(), k.clone(), v.clone()]);
                    let mut again = vec![f32::NAN; joined.len()];
                    form.join(&q, &k, &v, &mut again).unwrap();
                    assert_eq!(form.join_new(&q, &k, &v).unwrap(), again);
                    vec![q, k, v, again]
                });
                let columns = |from: usize, count: usize| -> Vec<f32> {
                    joined.chunks(width).flat_map(|row| &row[from..from + count]).copied().collect()
                };
                let [mut q, mut k, v] = [columns(0, query), columns(query, key), columns(query + key, key)];
                let rotate = |x: &[f32], heads, rotation| match rotary {
                    Some(_) => rotated(x, heads, head_dim, table, &positions, rotation),
                    None => x.to_vec(),
                };
                (q, k) = (rotate(&q, heads, Rotation::Forward), rotate(&k, kv_heads, Rotation::Forward));
                let back = [rotate(&q, heads, Rotation::Inverse), rotate(&k, kv_heads, Rotation::Inverse)];
                assert_eq!(results[..3], [q, k, v.clone()]);
                for row in 0..rows {
                    let parts =
                        [&back[0][row * query..][..query], &back[1][row * key..][..key], &v[row * key..][..key]];
                    assert_eq!(results[3][row * width..][..width], parts.concat());
                }
            }
        }
    }

    #[test]
    fn a_position_outside_the_table_is_an_error() {
        let table = RotaryTable { cos: &[1.0], sin: &[0.0], rotary_dim: 2 };
        let form = JoinedHeads { heads: 1, kv_heads: 1, head_dim: 2, rotary: Some((table, &[1])) };
        let (mut q, mut k, mut v) = ([0.0; 2], [0.0; 2], [0.0; 2]);
        assert!(form.split(&[0.0; 6], &mut q, &mut k, &mut v).is_err());
        assert!(form.join(&q, &k, &v, &mut [0.0; 6]).is_err());
        assert!(form.split_new(&[0.0; 6]).is_err() && form.join_new(&q, &k, &v).is_err());
    }
}
