//! What a run trains on, to be looked at: samples with what has a loss, lengths, and what was left out.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grades_images::thumbnail;
use grades_models::tokenizer::Tokenizer;
use grades_report::record::{Piece, ShownSample};
use grades_tensor::IGNORE_INDEX;
use serde::Serialize;

use super::contamination::Contamination;
use super::error::TrainError;
use super::prepared::Prepared;
use crate::config::Config;
use crate::data::{DataError, Feed, Held, Loader, Placed, Tokenized, Vision};

/// How many samples a run keeps for its report.
pub(super) const SHOWN: usize = 6;

/// How many samples of a stream are read for it.
const OF_STREAM: usize = 1000;

/// Pixels of a side of the small copies of pictures.
const SIDE: usize = 96;

/// What a run trains on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preview {
    /// Training samples; of a stream the first.
    pub samples: usize,
    /// Whether there may be more of them.
    pub streaming: bool,
    /// Their tokens.
    pub tokens: usize,
    /// How many of these have a loss.
    pub learnt: usize,
    /// Samples kept back for validation.
    pub validation_samples: usize,
    /// Samples that were left out as too long.
    pub dropped_samples: usize,
    /// Samples that were cut.
    pub truncated_samples: usize,
    /// Samples that equal an earlier one; left out with `dataset_exact_deduplication`.
    pub duplicates: usize,
    /// Whether they are left out.
    pub deduplicated: bool,
    /// What `contamination` has found.
    pub contamination: Option<Contamination>,
    /// How many rows were left out because they cannot be used (`on_bad_row: skip`).
    pub bad_rows: usize,
    /// The most tokens of a sample.
    pub sequence_len: usize,
    /// The tokens of each training sample.
    pub lengths: Vec<usize>,
    /// With sample packing: rows of `sequence_len` tokens, and the share of them that samples fill.
    pub packing: Option<PackedRows>,
    /// The first samples.
    pub shown: Vec<ShownSample>,
}

/// How samples fill rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PackedRows {
    /// Rows.
    pub rows: usize,
    /// The share of their tokens that are samples'.
    pub efficiency: f64,
}

impl Preview {
    /// What a run trains on, with its first `count` samples. No weights are read, nor fetched.
    ///
    /// # Errors
    /// If the model's description or the data cannot be read.
    pub fn of(config: &Config, count: usize) -> Result<Self, TrainError> {
        let prepared = Prepared::without_weights(config)?;
        let loader = match &prepared.feed {
            Feed::Whole(loader) => Cow::Borrowed(loader),
            Feed::Stream(_) => {
                Cow::Owned(Loader::new(prepared.first(count.max(OF_STREAM))?, prepared.config.loader_options()))
            }
        };
        let samples = prepared.objective.own(loader.samples());
        let lengths: Vec<usize> = samples.iter().map(Held::len).collect();
        let sequence_len = prepared.config.sequence_len;
        let packing = prepared.config.packing().map(|room| PackedRows {
            rows: loader.rows(),
            efficiency: loader.tokens() as f64 / (loader.rows() * room.tokens).max(1) as f64,
        });
        Ok(Self {
            samples: samples.len(),
            streaming: prepared.config.streaming,
            tokens: lengths.iter().sum(),
            learnt: samples.iter().map(Held::label_count).sum(),
            validation_samples: prepared.validation.samples,
            dropped_samples: prepared.dropped_samples,
            truncated_samples: prepared.truncated_samples,
            duplicates: prepared.duplicates,
            deduplicated: prepared.config.dataset_exact_deduplication,
            contamination: prepared.contamination.clone(),
            bad_rows: prepared.bad_rows,
            sequence_len,
            lengths,
            packing,
            shown: show(&samples[..count.min(samples.len())], &prepared.tokenizer, prepared.vision.as_deref())?,
        })
    }

    /// How many samples have so many tokens, in up to `bins` ranges of equal width.
    #[must_use]
    pub fn histogram(&self, bins: usize) -> Vec<(Range<usize>, usize)> {
        let (Some(&least), Some(&most)) = (self.lengths.iter().min(), self.lengths.iter().max()) else {
            return Vec::new();
        };
        let width = (most - least + 1).div_ceil(bins.max(1)).max(1);
        let count = |range: &Range<usize>| self.lengths.iter().filter(|length| range.contains(length)).count();
        let ranges = (least..=most).step_by(width).map(|from| from..from + width);
        ranges.map(|range| (range.clone(), count(&range))).collect()
    }
}

/// Samples as a reader sees them.
///
/// # Errors
/// They lie in a file that cannot be read.
pub(super) fn show(
    samples: &[Held],
    tokenizer: &Tokenizer,
    vision: Option<&Vision>,
) -> Result<Vec<ShownSample>, DataError> {
    let of = |sample: &Held| {
        Ok(ShownSample {
            tokens: sample.len(),
            learnt: sample.label_count(),
            pieces: pieces(&*sample.tokens()?, tokenizer),
            pictures: sample.pictures().iter().map(|placed| small(placed, vision)).collect(),
        })
    };
    samples.iter().map(of).collect()
}

/// A small copy of a picture in base64; nothing where it cannot be made, which training will say.
fn small(placed: &Placed, vision: Option<&Vision>) -> String {
    let limits = vision.map(|vision| vision.limits).unwrap_or_default();
    let bytes = placed.picture.bytes().ok();
    bytes.and_then(|bytes| thumbnail(&bytes, SIDE, limits).ok()).map_or(String::new(), |png| STANDARD.encode(png))
}

/// What a token belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Read,
    Learnt,
    Picture(usize),
}

/// A sample's text in order, with what is learnt and where pictures stand apart.
pub(super) fn pieces(sample: &Tokenized, tokenizer: &Tokenizer) -> Vec<Piece> {
    // The first token is never learnt: nothing comes before it.
    let learnt = |at: usize| at > 0 && sample.labels[at] != IGNORE_INDEX;
    let mut of: Vec<Of> = (0..sample.ids.len()).map(|at| if learnt(at) { Of::Learnt } else { Of::Read }).collect();
    for (number, placed) in sample.pictures.iter().enumerate() {
        placed.tokens.iter().cloned().flatten().for_each(|at| of[at] = Of::Picture(number));
    }
    let (mut pieces, mut start) = (Vec::new(), 0);
    for run in of.chunk_by(|one, other| one == other) {
        let end = start + run.len();
        pieces.push(match run[0] {
            Of::Picture(number) => Piece::Picture { number, tokens: run.len() },
            kind => {
                // A token may decode otherwise than alone behind others, as with the space that begins a word.
                let before = tokenizer.decode(&sample.ids[..start], false);
                let all = tokenizer.decode(&sample.ids[..end], false);
                let text = all.strip_prefix(&before).map(str::to_owned);
                let text = text.unwrap_or_else(|| tokenizer.decode(&sample.ids[start..end], false));
                if kind == Of::Learnt { Piece::Learnt(text) } else { Piece::Read(text) }
            }
        });
        start = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_length_once() {
        let of = |lengths: &[usize], bins| {
            let preview = Preview {
                samples: lengths.len(),
                streaming: false,
                tokens: 0,
                learnt: 0,
                validation_samples: 0,
                dropped_samples: 0,
                truncated_samples: 0,
                duplicates: 0,
                deduplicated: false,
                contamination: None,
                bad_rows: 0,
                sequence_len: 0,
                lengths: lengths.to_vec(),
                packing: None,
                shown: Vec::new(),
            };
            preview.histogram(bins)
        };
        assert_eq!(of(&[3, 9, 4, 12, 3], 3), [(3..7, 3), (7..11, 1), (11..15, 1)]);
        assert_eq!(of(&[5, 5], 4), [(5..6, 2)]);
        assert_eq!(of(&[], 4), []);
        let lengths: Vec<usize> = (0..100).map(|at| 10 + at * at % 37).collect();
        assert_eq!(of(&lengths, 12).iter().map(|(_, count)| count).sum::<usize>(), 100);
        assert!(of(&lengths, 12).len() <= 12);
    }

    /// Pieces are the text from end to end, with what is learnt and where pictures stand apart.
    #[test]
    fn pieces_are_the_whole_text() {
        let texts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts/metaspace");
        let tokenizer = Tokenizer::from_checkpoint(texts).unwrap();
        let text = "the red fox likes the old boat";
        let ids = tokenizer.encode_text(text, crate::data::Around::Beginning).unwrap().ids;
        let (count, learnt) = (ids.len(), ids.len() / 2);
        let labels = ids.iter().enumerate().map(|(at, id)| if at < learnt { IGNORE_INDEX } else { i64::from(*id) });
        let sample = Tokenized { labels: labels.collect(), ids, pictures: Vec::new() };
        let found = show(&[sample.clone().into()], &tokenizer, None).unwrap().remove(0);
        let [Piece::Read(read), Piece::Learnt(rest)] = found.pieces.as_slice() else { panic!("{found:?}") };
        assert_eq!(format!("{read}{rest}"), tokenizer.decode(&sample.ids, false));
        assert_eq!((found.tokens, found.learnt), (count, count - learnt));
        let all = Tokenized { labels: sample.ids.iter().map(|&id| id.into()).collect(), ..sample };
        // The first token has nothing before it.
        assert!(matches!(&show(&[all.into()], &tokenizer, None).unwrap()[0].pieces[0], Piece::Read(_)));
    }
}
