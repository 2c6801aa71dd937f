//! BLEU (Papineni et al. 2002) with the small numbers that keep pycocoevalcap from dividing by zero.

use std::collections::HashMap;

use super::Item;

/// Counted n-grams of a caption, or of a whole set, for n = 1 … 4.
#[derive(Clone, Copy, Default)]
struct Counts {
    right: [f64; 4],
    said: [f64; 4],
    length: f64,
    reference: f64,
}

/// BLEU-1 to BLEU-4 of the set and of each caption.
pub(super) fn score(items: &[Item]) -> ([f64; 4], Vec<[f64; 4]>) {
    let counts: Vec<Counts> = items.iter().map(Counts::of).collect();
    let add = |mut sum: Counts, one: &Counts| {
        (0..4).for_each(|n| {
            sum.right[n] += one.right[n];
            sum.said[n] += one.said[n];
        });
        sum.length += one.length;
        sum.reference += one.reference;
        sum
    };
    let all = counts.iter().fold(Counts::default(), add);
    (all.bleu(), counts.iter().map(Counts::bleu).collect())
}

impl Counts {
    fn of(item: &Item) -> Self {
        let length = item.said.len();
        let closest = item.references.iter().map(Vec::len).min_by_key(|other| (other.abs_diff(length), *other));
        let mut counts = Self { length: length as f64, reference: closest.unwrap_or(0) as f64, ..Self::default() };
        for n in 1..=4 {
            let references: Vec<_> = item.references.iter().map(|words| grams(words, n)).collect();
            let most = |gram: &[String]| references.iter().filter_map(|all| all.get(gram)).max().copied().unwrap_or(0);
            let right: usize = grams(&item.said, n).into_iter().map(|(gram, count)| count.min(most(gram))).sum();
            counts.right[n - 1] = right as f64;
            counts.said[n - 1] = (length + 1).saturating_sub(n) as f64;
        }
        counts
    }

    fn bleu(&self) -> [f64; 4] {
        const TINY: f64 = 1e-15;
        const SMALL: f64 = 1e-9;
        let ratio = (self.length + TINY) / (self.reference + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        std::array::from_fn(|n| {
            product *= (self.right[n] + TINY) / (self.said[n] + SMALL);
            product.powf(1.0 / (n + 1) as f64) * brevity
        })
    }
}

/// How often each run of `n` words occurs.
pub(super) fn grams(words: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}
