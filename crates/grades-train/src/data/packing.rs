//! Several samples in one row of `sequence_len` tokens.

/// What a row holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Tokens.
    pub tokens: usize,
    /// Pictures; as many as there are with `usize::MAX`.
    pub pictures: usize,
}

/// As [`first_fit`], of items with so many tokens and pictures. An item that is more than a row holds has a row of its own.
pub fn first_fit_of_pictures(sizes: &[(usize, usize)], Packing { tokens, pictures }: Packing) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut free: Vec<(usize, usize)> = Vec::new();
    // Rows before this one are full.
    let mut first = 0;
    for (item, size) in sizes.iter().enumerate() {
        let size = (size.0.min(tokens), size.1.min(pictures));
        let fits = |room: &(usize, usize)| size.0 <= room.0 && size.1 <= room.1;
        let row = first + free[first..].iter().position(fits).unwrap_or(free.len() - first);
        if row == free.len() {
            free.push((tokens, pictures));
            rows.push(Vec::new());
        }
        rows[row].push(item);
        free[row] = (free[row].0 - size.0, free[row].1 - size.1);
        while free.get(first).is_some_and(|room| room.0 == 0) {
            first += 1;
        }
    }
    rows
}

/// Puts items of the given lengths into rows of at most `capacity`, each into the first row that has room, in the order
/// given. Returns the items of each row, in that order. An item longer than `capacity` gets a row of its own.
///
/// O(n log n): a tournament tree over the rows' free space finds the first that fits.
pub fn first_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let leaves = lengths.len().next_power_of_two();
    // Node i has children 2i and 2i + 1 and holds the larger free space of the two; the rows are the leaves.
    let mut free = vec![capacity; 2 * leaves];
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for (item, length) in lengths.iter().map(|length| (*length).min(capacity)).enumerate() {
        let mut node = 1;
        while node < leaves {
            node *= 2;
            if free[node] < length {
                node += 1;
            }
        }
        let row = node - leaves;
        if row >= rows.len() {
            rows.resize_with(row + 1, Vec::new);
        }
        rows[row].push(item);
        free[node] -= length;
        while node > 1 {
            node /= 2;
            free[node] = free[2 * node].max(free[2 * node + 1]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_are_bounded_in_tokens_and_pictures() {
        let packing = Packing { tokens: 10, pictures: 2 };
        // Row 0 has no room for a third picture, row 1 none for more tokens.
        let sizes = [(2, 1), (3, 1), (4, 1), (6, 0), (1, 0), (1, 5), (2, 0)];
        assert_eq!(first_fit_of_pictures(&sizes, packing), vec![vec![0, 1, 4, 6], vec![2, 3], vec![5]]);
        assert_eq!(first_fit_of_pictures(&[], packing), Vec::<Vec<usize>>::new());
        let lengths = [6, 5, 3, 9, 4, 1];
        let alone = lengths.map(|length| (length, 1));
        let unbounded = Packing { tokens: 10, pictures: 100 };
        assert_eq!(first_fit_of_pictures(&alone, unbounded), first_fit(&lengths, 10));
    }

    #[test]
    fn items_go_into_the_first_row_with_room() {
        // Row 0: 6 + 3 + 1, row 1: 5 + 4, row 2: 9.
        assert_eq!(first_fit(&[6, 5, 3, 9, 4, 1], 10), vec![vec![0, 2, 5], vec![1, 4], vec![3]]);
        assert_eq!(first_fit(&[12, 1], 10), vec![vec![0], vec![1]]);
        assert_eq!(first_fit(&[], 10), Vec::<Vec<usize>>::new());
    }

    /// First fit as it is told, in O(n²).
    fn plain_first_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for (item, length) in lengths.iter().enumerate() {
            match rows.iter_mut().find(|(used, _)| used + length <= capacity) {
                Some((used, items)) => {
                    *used += length;
                    items.push(item);
                }
                None => rows.push((*length, vec![item])),
            }
        }
        rows.into_iter().map(|(_, items)| items).collect()
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_plain_search(lengths in prop::collection::vec(1_usize..=50, 0..200), capacity in 50_usize..200) {
            prop_assert_eq!(first_fit(&lengths, capacity), plain_first_fit(&lengths, capacity));
        }
    }
}
