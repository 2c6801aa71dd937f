//! Qwen2-VL's text: the token that the chat template writes for a picture, repeated.

use super::super::conversation::Conversation;
use super::super::encode::Encode;
use super::super::sample::Written;
use super::super::template::{self, Aim};
use super::super::turns::Ends;

/// The conversation by the chat template, in which each picture's token stands `counts` times.
pub(super) fn write(
    conversation: &Conversation,
    token: &str,
    counts: &[usize],
    encoder: &dyn Encode,
    aim: Aim,
) -> Result<Written, String> {
    let written = template::one(conversation, encoder, aim, Ends::Trimmed)?;
    let places = written.text.matches(token).count();
    if places != counts.len() {
        return Err(format!(
            "the chat template writes `{token}` {places} times for {} pictures; take such tokens out of the texts, and give \
             the model folder the template that belongs to it",
            counts.len()
        ));
    }
    Ok(repeated(written, token, counts))
}

/// The text with the n-th occurrence of `token` repeated `counts[n]` times.
fn repeated(written: Written, token: &str, counts: &[usize]) -> Written {
    let mut text = String::with_capacity(written.text.len());
    // where the text of each occurrence ended, before and after
    let mut ends: Vec<(usize, usize)> = vec![(0, 0)];
    let mut done = 0;
    for ((at, found), count) in written.text.match_indices(token).zip(counts) {
        text += &written.text[done..at];
        text += &found.repeat(*count);
        done = at + found.len();
        ends.push((done, text.len()));
    }
    text += &written.text[done..];
    let moved = |at: usize| {
        let (before, after) = ends[ends.partition_point(|(before, _)| *before <= at) - 1];
        after + at - before
    };
    let learnt = written.learnt.into_iter().map(|range| moved(range.start)..moved(range.end)).collect();
    let ends = written.ends.into_iter().map(|(end, learnt)| (moved(end), learnt)).collect();
    Written { text, learnt, ends }
}
