//! ROUGE-L (Lin 2004): the longest common subsequence, recall weighing more than precision.

use super::Item;

const BETA: f64 = 1.2;

/// The score of a caption, of the best precision and the best recall among the references.
pub(super) fn score(item: &Item) -> f64 {
    let share = |common: usize, of: usize| common as f64 / of.max(1) as f64;
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in &item.references {
        let common = common_len(&item.said, reference);
        precision = precision.max(share(common, item.said.len()));
        recall = recall.max(share(common, reference.len()));
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// The length of the longest common subsequence.
fn common_len(a: &[String], b: &[String]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (i, other) in b.iter().enumerate() {
            let longest = if word == other { diagonal + 1 } else { lengths[i].max(lengths[i + 1]) };
            diagonal = lengths[i + 1];
            lengths[i + 1] = longest;
        }
    }
    lengths[b.len()]
}
