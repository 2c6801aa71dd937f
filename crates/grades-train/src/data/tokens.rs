//! Samples as tokens with labels.

use std::ops::Range;

use grades_tensor::IGNORE_INDEX;

use super::conversation::Conversation;
use super::encode::{Around, Encode, Encoded, Tokenized};
use super::record::Place;
use super::sample::{Sample, Written};
use super::template::{self, Aim};
use super::turns::Ends;
use super::vision::Vision;

/// Encodes what a row holds, each sample as one text, and labels by their bytes the tokens that are to be learnt: those that begin and end within
/// them. So the tokens of a sample are those of its whole text, and a token that lies across the end of the prompt is the
/// prompt's. What belongs around a text is there once, whether the tokenizer puts it there or the row has it written out; the
/// end-of-text token is learnt. Of pictures, which stand for `place`'s row, tokens are never learnt. A rendered conversation carries its special tokens
/// in the text, and gets none; it may be several samples.
///
/// # Errors
/// A sentence: the tokenizer or the chat template failed.
pub(super) fn tokenize(
    sample: &Sample,
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    train_on_inputs: bool,
    place: &Place,
) -> Result<Vec<Tokenized>, String> {
    let aim = if train_on_inputs { Aim::LearnAll } else { Aim::LearnAnswers };
    let (written, around) = match (sample, vision) {
        (Sample::LeftOut, _) => return Ok(Vec::new()),
        (Sample::Text(written), _) if train_on_inputs => (vec![Written::whole(written.text.clone())], Around::Sample),
        (Sample::Text(written), _) => (vec![written.clone()], Around::Sample),
        (Sample::Conversation(conversation), Some(vision)) => {
            let shown = |conversation: &Conversation| {
                let shown = vision.show(conversation, encoder, aim)?;
                let (written, around) = shown.text();
                let tokens = labelled(written, around, encoder)?;
                shown.place(tokens, encoder, place)
            };
            return vision.samples(conversation, encoder, aim)?.iter().map(shown).collect();
        }
        (Sample::Conversation(conversation), None) if !conversation.pictures.is_empty() => {
            return Err(format!(
                "the row has pictures, {READS_NONE}; remove the row, or train a vision-language model"
            ));
        }
        (Sample::Conversation(conversation), None) => {
            (template::write(conversation, encoder, aim, Ends::Trimmed)?, Around::Template)
        }
    };
    written.iter().map(|written| labelled(written, around, encoder)).collect()
}

const READS_NONE: &str = "but the model reads none";

/// A conversation that the model is to go on with, as the tokens of its prompt, none of them learnt. `place` is what messages
/// about its pictures name.
///
/// # Errors
/// A sentence: the model reads no pictures, one cannot be read, or the chat template refuses the conversation.
pub fn prompt(
    conversation: &Conversation,
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    place: &Place,
) -> Result<Tokenized, String> {
    match vision {
        Some(vision) => {
            let shown = vision.show(conversation, encoder, Aim::BeAnswered)?;
            let (written, around) = shown.text();
            let tokens = labelled(written, around, encoder)?;
            shown.place(tokens, encoder, place)
        }
        None if !conversation.pictures.is_empty() => {
            Err(format!("there are pictures, {READS_NONE}; use a vision-language model, or leave the pictures out"))
        }
        None => {
            labelled(&template::one(conversation, encoder, Aim::BeAnswered, Ends::Trimmed)?, Around::Template, encoder)
        }
    }
}

/// A text as tokens, those within what is learnt with their labels.
fn labelled(written: &Written, around: Around, encoder: &dyn Encode) -> Result<Tokenized, String> {
    let Encoded { ids, ranges } =
        encoder.encode(&written.text, around).map_err(|error| format!("the text cannot be encoded ({error})"))?;
    let learnt =
        |range: &Range<usize>| written.learnt.iter().any(|all| all.start <= range.start && range.end <= all.end);
    let label = |(id, range): (&u32, &Range<usize>)| if learnt(range) { i64::from(*id) } else { IGNORE_INDEX };
    let mut labels: Vec<i64> = ids.iter().zip(&ranges).map(label).collect();
    // The special token with which a text ends at a byte, as turns do.
    let ending = |end: usize| {
        let at = ranges.iter().rposition(|range| range.end == end && range.start < end)?;
        encoder.is_special(ids[at]).then_some(at)
    };
    let ends_turns = |id: u32| {
        let learnt = written.learnt.iter().map(|range| range.start + written.text[range.clone()].trim_end().len());
        encoder.eos_id() == Some(id) || learnt.filter_map(ending).any(|at| ids[at] == id)
    };
    for &(end, learnt) in &written.ends {
        match ending(end) {
            Some(at) if learnt && ends_turns(ids[at]) => labels[at] = ids[at].into(),
            Some(at) if !learnt => labels[at] = IGNORE_INDEX,
            _ => {}
        }
    }
    Ok(Tokenized { ids, labels, pictures: Vec::new() })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
