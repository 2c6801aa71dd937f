//! Samples as tokens with labels.

use std::ops::Range;

use grades_tensor::IGNORE_INDEX;

use super::encode::{Around, Encode, Encoded, Tokenized};
use super::record::Place;
use super::sample::{Sample, Written};
use super::template::{self, Ends};
use super::vision::Vision;

/// Encodes a sample as one text, and labels by their bytes the tokens that are to be learnt: those that begin and end within
/// them. So the tokens of a sample are those of its whole text, and a token that lies across the end of the prompt is the
/// prompt's. What belongs around a text is there once, whether the tokenizer puts it there or the row has it written out; the
/// end-of-text token is learnt. Of pictures, which stand for `place`'s row, tokens are never learnt. A rendered conversation carries its special tokens in the text, and gets none.
///
/// # Errors
/// A sentence: the tokenizer or the chat template failed.
pub(super) fn tokenize(
    sample: &Sample,
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    train_on_inputs: bool,
    place: &Place,
) -> Result<Tokenized, String> {
    let (written, around) = match (sample, vision) {
        (Sample::LeftOut, _) => return Ok(Tokenized::default()),
        (Sample::Text(written), _) if train_on_inputs => (Written::whole(written.text.clone()), Around::Sample),
        (Sample::Text(written), _) => (written.clone(), Around::Sample),
        (Sample::Conversation(conversation), Some(vision)) => {
            let shown = vision.show(conversation, encoder, train_on_inputs)?;
            let (written, around) = shown.text();
            let tokens = labelled(written, around, encoder)?;
            return shown.place(tokens, encoder, place);
        }
        (Sample::Conversation(conversation), None) if !conversation.pictures.is_empty() => {
            return Err(
                "the row has pictures, but the model reads none; remove the row, or train a vision-language model"
                    .to_owned(),
            );
        }
        (Sample::Conversation(conversation), None) if train_on_inputs => {
            (template::whole(conversation, encoder)?, Around::Template)
        }
        (Sample::Conversation(conversation), None) => {
            (template::turns(conversation, encoder, Ends::Trimmed)?, Around::Template)
        }
    };
    labelled(&written, around, encoder)
}

/// A text as tokens, those within what is learnt with their labels.
fn labelled(written: &Written, around: Around, encoder: &dyn Encode) -> Result<Tokenized, String> {
    let Encoded { ids, ranges } =
        encoder.encode(&written.text, around).map_err(|error| format!("the text cannot be encoded ({error})"))?;
    let learnt =
        |range: &Range<usize>| written.learnt.iter().any(|all| all.start <= range.start && range.end <= all.end);
    let label = |(id, range): (&u32, &Range<usize>)| if learnt(range) { i64::from(*id) } else { IGNORE_INDEX };
    let labels = ids.iter().zip(&ranges).map(label).collect();
    Ok(Tokenized { ids, labels, pictures: Vec::new() })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
