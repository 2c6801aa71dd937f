//! A text that shows pictures, and where they are among its tokens.

use std::ops::Range;

use grades_images::Layout;
use grades_tensor::IGNORE_INDEX;

use super::super::encode::{Around, Encode, Tokenized};
use super::super::picture::Picture;
use super::super::placed::Placed;
use super::super::record::Place;
use super::super::sample::Written;

/// A text that shows pictures.
pub(in super::super) struct Shown {
    pub(super) written: Written,
    pub(super) around: Around,
    /// What stands for a feature; none where features come before the text.
    pub(super) token: Option<String>,
    /// Each picture, what its processor makes of it, and how many features.
    pub(super) pictures: Vec<(Picture, Layout, usize)>,
}

impl Shown {
    /// The text, and what belongs around it.
    pub(in super::super) fn text(&self) -> (&Written, Around) {
        (&self.written, self.around)
    }

    /// Finds the pictures among the tokens of the text. Their tokens are never learnt: nothing writes them.
    ///
    /// # Errors
    /// A sentence: the model has no such token, or the text has others of it.
    pub(in super::super) fn place(
        self,
        mut sample: Tokenized,
        encoder: &dyn Encode,
        place: &Place,
    ) -> Result<Tokenized, String> {
        let wanted: usize = self.pictures.iter().map(|(.., tokens)| tokens).sum();
        let places: Vec<usize> = match &self.token {
            None => {
                // a token of any kind: its row is the picture's
                let filler = encoder.eos_id().or(sample.ids.first().copied()).unwrap_or_default();
                sample.ids.splice(0..0, std::iter::repeat_n(filler, wanted));
                sample.labels.splice(0..0, std::iter::repeat_n(IGNORE_INDEX, wanted));
                (0..wanted).collect()
            }
            Some(token) => {
                let id = id_of(token, encoder)?;
                let found: Vec<usize> =
                    sample.ids.iter().enumerate().filter(|(_, other)| **other == id).map(|(at, _)| at).collect();
                if found.len() != wanted {
                    return Err(format!(
                        "the text has {} tokens `{token}`, but its pictures take {wanted}; take such tokens out of the text",
                        found.len()
                    ));
                }
                found.iter().for_each(|&at| sample.labels[at] = IGNORE_INDEX);
                found
            }
        };
        let mut places = places.into_iter();
        for (picture, layout, tokens) in self.pictures {
            let mut runs: Vec<Range<usize>> = Vec::new();
            for at in places.by_ref().take(tokens) {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end = at + 1,
                    _ => runs.push(at..at + 1),
                }
            }
            sample.pictures.push(Placed { picture, layout, tokens: runs, place: place.clone() });
        }
        Ok(sample)
    }
}

fn id_of(token: &str, encoder: &dyn Encode) -> Result<u32, String> {
    let encoded = encoder.encode(token, Around::Template).map_err(|error| error.to_string())?;
    match encoded.ids.as_slice() {
        [id] => Ok(*id),
        ids => Err(format!(
            "the tokenizer makes {} tokens of `{token}`, which stands for pictures; use the tokenizer that belongs to the model",
            ids.len()
        )),
    }
}
