//! Several samples in one row of `sequence_len` tokens.

/// What a row holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Tokens.
    pub tokens: usize,
    /// Pictures; as many as there are with `usize::MAX`.
    pub pictures: usize,
}

/// Tokens and pictures.
pub type Size = (usize, usize);

/// Puts items of these sizes into rows, each into the first row that has room for its tokens and its pictures, in the order given.
/// Returns the items of each row, in that order. An item that is more than a row holds has a row of its own.
///
/// O(n log n) where tokens alone bound the rows: a tournament tree over what is free in the rows finds the first that fits. Its
/// nodes hold the most tokens and the most pictures that are free below them, which may be of two rows; then both sides are tried.
pub fn first_fit(sizes: &[Size], Packing { tokens, pictures }: Packing) -> Vec<Vec<usize>> {
    let leaves = sizes.len().next_power_of_two();
    // Node i has children 2i and 2i + 1; the rows are the leaves.
    let mut free: Vec<Size> = vec![(tokens, pictures); 2 * leaves];
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for (item, &size) in sizes.iter().enumerate() {
        let size = (size.0.min(tokens), size.1.min(pictures));
        // There are as many rows as items, so that one is empty.
        let Some(mut node) = first_leaf(&free, 1, size) else { continue };
        let row = node - leaves;
        if row >= rows.len() {
            rows.resize_with(row + 1, Vec::new);
        }
        rows[row].push(item);
        free[node] = (free[node].0 - size.0, free[node].1 - size.1);
        while node > 1 {
            node /= 2;
            let [left, right] = [free[2 * node], free[2 * node + 1]];
            free[node] = (left.0.max(right.0), left.1.max(right.1));
        }
    }
    rows
}

/// The first leaf below a node with room for `size`.
fn first_leaf(free: &[Size], node: usize, size: Size) -> Option<usize> {
    if free[node].0 < size.0 || free[node].1 < size.1 {
        return None;
    }
    if 2 * node >= free.len() {
        return Some(node);
    }
    first_leaf(free, 2 * node, size).or_else(|| first_leaf(free, 2 * node + 1, size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Items without pictures in rows of so many tokens.
    fn of_lengths(lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
        let sizes: Vec<Size> = lengths.iter().map(|&length| (length, 0)).collect();
        first_fit(&sizes, Packing { tokens, pictures: usize::MAX })
    }

    #[test]
    fn rows_are_bounded_in_tokens_and_pictures() {
        let packing = Packing { tokens: 10, pictures: 2 };
        // Row 0 has no room for a third picture, row 1 none for more tokens.
        let sizes = [(2, 1), (3, 1), (4, 1), (6, 0), (1, 0), (1, 5), (2, 0)];
        assert_eq!(first_fit(&sizes, packing), vec![vec![0, 1, 4, 6], vec![2, 3], vec![5]]);
        assert_eq!(first_fit(&[], packing), Vec::<Vec<usize>>::new());
        let lengths = [6, 5, 3, 9, 4, 1];
        let alone = lengths.map(|length| (length, 1));
        let unbounded = Packing { tokens: 10, pictures: 100 };
        assert_eq!(first_fit(&alone, unbounded), of_lengths(&lengths, 10));
    }

    #[test]
    fn items_go_into_the_first_row_with_room() {
        // Row 0: 6 + 3 + 1, row 1: 5 + 4, row 2: 9.
        assert_eq!(of_lengths(&[6, 5, 3, 9, 4, 1], 10), vec![vec![0, 2, 5], vec![1, 4], vec![3]]);
        assert_eq!(of_lengths(&[12, 1], 10), vec![vec![0], vec![1]]);
        assert_eq!(of_lengths(&[], 10), Vec::<Vec<usize>>::new());
    }

    /// First fit as it is told, in O(n²).
    fn plain_first_fit(sizes: &[Size], Packing { tokens, pictures }: Packing) -> Vec<Vec<usize>> {
        let mut rows: Vec<(Size, Vec<usize>)> = Vec::new();
        for (item, size) in sizes.iter().enumerate() {
            match rows.iter_mut().find(|(used, _)| used.0 + size.0 <= tokens && used.1 + size.1 <= pictures) {
                Some((used, items)) => {
                    *used = (used.0 + size.0, used.1 + size.1);
                    items.push(item);
                }
                None => rows.push((*size, vec![item])),
            }
        }
        rows.into_iter().map(|(_, items)| items).collect()
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_plain_search(lengths in prop::collection::vec(1_usize..=50, 0..200), capacity in 50_usize..200) {
            let sizes: Vec<Size> = lengths.iter().map(|&length| (length, 0)).collect();
            let packing = Packing { tokens: capacity, pictures: usize::MAX };
            prop_assert_eq!(of_lengths(&lengths, capacity), plain_first_fit(&sizes, packing));
        }

        #[test]
        fn it_agrees_where_pictures_bound_the_rows_too(sizes in prop::collection::vec((0_usize..=50, 0_usize..=4), 0..200), tokens in 50_usize..200, pictures in 4_usize..10) {
            let packing = Packing { tokens, pictures };
            prop_assert_eq!(first_fit(&sizes, packing), plain_first_fit(&sizes, packing));
        }
    }
}
