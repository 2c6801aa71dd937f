//! Rows of preferences as samples: which of them belong into one micro-batch.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::config::Config;
use crate::data::batch::grouped;
use crate::data::preference::{Preference, mismatched};
use crate::data::{Batch, Loader, LoaderOptions, Tokenized};

/// Samples, and which of them are in one micro-batch.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Of pairs the chosen and the rejected answer, pair by pair; of judged answers all of these, and then as many prompts with
    /// another one's answer.
    samples: Vec<Tokenized>,
    /// The samples of each row.
    rows: Vec<Vec<usize>>,
    /// Of judged answers whether each is desirable.
    pub(crate) desirable: Vec<bool>,
    /// Rows of a micro-batch.
    micro_batch_size: usize,
}

impl Rows {
    /// In their order, or with a seed in one drawn by it; the order matters where the answers of a micro-batch are mixed.
    #[must_use]
    pub fn of(preferences: Vec<Preference>, config: &Config, seed: Option<u64>) -> Self {
        let (mut pairs, mut judged) = (Vec::new(), Vec::new());
        for preference in preferences {
            match preference {
                Preference::Pair(pair) => pairs.extend(*pair),
                Preference::Judged(answer, desirable) => judged.push((answer, desirable)),
            }
        }
        if judged.is_empty() {
            let rows = (0..pairs.len() / 2).map(|pair| vec![2 * pair, 2 * pair + 1]).collect();
            return Self { samples: pairs, rows, desirable: Vec::new(), micro_batch_size: config.micro_batch_size };
        }
        if let Some(seed) = seed.filter(|_| config.shuffle_merged_datasets) {
            judged.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        let (mut samples, desirable): (Vec<Tokenized>, Vec<bool>) = judged.into_iter().unzip();
        let count = samples.len();
        let mut rows = Vec::new();
        for first in (0..count).step_by(config.micro_batch_size.max(1)) {
            let of_row = first..(first + config.micro_batch_size.max(1)).min(count);
            for sample in of_row.clone() {
                // The answer of the sample before it, of the first one that of the last.
                let before = if sample == of_row.start { of_row.end - 1 } else { sample - 1 };
                samples.push(mismatched(&samples[sample], &samples[before], config.sequence_len));
            }
            rows.push(of_row.clone().chain(of_row.map(|sample| count + sample)).collect());
        }
        Self { samples, rows, desirable, micro_batch_size: 1 }
    }

    /// As batches in their order, for validation.
    #[must_use]
    pub fn in_order(&self) -> Vec<Batch> {
        grouped(&self.samples, &self.rows, self.micro_batch_size)
    }

    /// As a loader.
    #[must_use]
    pub fn loader(self, options: LoaderOptions) -> Loader {
        Loader::grouped(self.samples, self.rows, LoaderOptions { micro_batch_size: self.micro_batch_size, ..options })
    }
}
