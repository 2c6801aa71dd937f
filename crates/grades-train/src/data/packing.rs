//! Several samples in one row of `sequence_len` tokens.

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
