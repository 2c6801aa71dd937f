//! CIDEr-D (Vedantam et al. 2015), which pycocoevalcap calls CIDEr: n-grams weighed by how few images have them.

use std::collections::{HashMap, HashSet};

use super::Item;
use super::bleu::grams;

/// How fast a difference in length counts against a caption, in words.
const SIGMA: f64 = 6.0;

/// The score of each caption.
pub(super) fn scores(items: &[Item]) -> Vec<f64> {
    // in how many images' references an n-gram occurs
    let mut frequencies: HashMap<&[String], f64> = HashMap::new();
    for item in items {
        let of_references = item.references.iter().flat_map(|words| (1..=4).flat_map(|n| words.windows(n)));
        of_references.collect::<HashSet<_>>().into_iter().for_each(|gram| *frequencies.entry(gram).or_default() += 1.0);
    }
    let images = (items.len() as f64).ln();
    let vector = |words| Vector::new(words, |gram| images - frequencies.get(gram).map_or(0.0, |f| f.max(1.0).ln()));
    items
        .iter()
        .map(|item| {
            let said = vector(&item.said);
            let sum: f64 = item.references.iter().map(|words| said.similarity(&vector(words))).sum();
            10.0 * sum / item.references.len().max(1) as f64
        })
        .collect()
}

/// A text as weights of its n-grams, for n = 1 … 4.
struct Vector<'a> {
    weights: [HashMap<&'a [String], f64>; 4],
    norms: [f64; 4],
    /// Pairs of words, by which lengths are compared.
    pairs: f64,
}

impl<'a> Vector<'a> {
    fn new(words: &'a [String], rarity: impl Fn(&[String]) -> f64) -> Self {
        let weights = std::array::from_fn(|n| {
            grams(words, n + 1).into_iter().map(|(gram, count)| (gram, count as f64 * rarity(gram))).collect()
        });
        // sums in the order of the words, so that they are the same every time
        let norm = |n: usize| {
            let mut seen = HashSet::new();
            let of: &HashMap<&[String], f64> = &weights[n];
            let squares = words.windows(n + 1).filter(|gram| seen.insert(*gram)).map(|gram| of[gram].powi(2));
            squares.sum::<f64>().sqrt()
        };
        let norms = std::array::from_fn(norm);
        Self { weights, norms, pairs: words.len().saturating_sub(1) as f64 }
    }

    /// The mean cosine over n, with weights no larger than the reference's, less for another length.
    fn similarity(&self, reference: &Self) -> f64 {
        let cosine = |n: usize| {
            let mut shared: Vec<f64> = self.weights[n]
                .iter()
                .filter_map(|(gram, weight)| reference.weights[n].get(gram).map(|other| weight.min(*other) * other))
                .collect();
            // the map has no order, and a sum depends on it
            shared.sort_by(f64::total_cmp);
            let norms = self.norms[n] * reference.norms[n];
            shared.iter().sum::<f64>() / if norms == 0.0 { 1.0 } else { norms }
        };
        let length = (-(self.pairs - reference.pairs).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
        length * (0..4).map(cosine).sum::<f64>() / 4.0
    }
}
