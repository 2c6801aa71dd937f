//! Conversations as text: which stretches of a rendered chat template are learnt, in one sample or several.

use std::ops::Range;

use grades_models::fields::{named, warn_once};
use grades_models::template::{Rendered, Unread};

use super::conversation::{ASSISTANT, Conversation, is_empty};
use super::encode::Encode;
use super::eos::TrainOnEos;
use super::sample::Written;
use super::tool_calls;
use super::turns::{self, Ends, Turn};

/// What a template may read past without a word of the conversation missing: what links messages to one another.
const LINKS: [&str; 3] = ["id", "tool_call_id", "index"];

/// What is said in a conversation. A template that does not read it leaves it out.
const SAID: [&str; 9] = [
    "content",
    "tools",
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "documents",
    "refusal",
];

/// What a conversation is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To learn what the assistant says.
    LearnAnswers,
    /// To learn all of it.
    LearnAll,
    /// To be gone on with by the assistant.
    BeAnswered,
}

/// A conversation by the chat template, for some aim: as one sample, or as several where the template writes earlier turns
/// differently once others follow, as those that leave out earlier thoughts do. Then every learnt turn is written as it was while it
/// was the last, and a sample has as many of them as agree.
///
/// # Errors
/// A sentence: the template refuses the conversation or leaves out what it says.
pub(super) fn write(
    conversation: &Conversation,
    encoder: &dyn Encode,
    aim: Aim,
    ends: Ends,
) -> Result<Vec<Written>, String> {
    let conversation = &*tool_calls::as_read(conversation, encoder);
    let rendered = check_read(conversation, encoder, aim)?;
    match aim {
        Aim::LearnAnswers => {
            let parts = parts(conversation, &rendered, encoder, ends)?;
            parts.into_iter().map(|part| part.written(conversation, encoder)).collect()
        }
        Aim::LearnAll => Ok(vec![whole(conversation, rendered.text, encoder)?]),
        Aim::BeAnswered => {
            let text = turns::render(encoder, conversation, &conversation.messages, true)?;
            Ok(vec![Written { text, ..Written::default() }])
        }
    }
}

/// A conversation that is one sample, by the chat template.
///
/// # Errors
/// As of [`write`].
pub(super) fn one(conversation: &Conversation, encoder: &dyn Encode, aim: Aim, ends: Ends) -> Result<Written, String> {
    let mut written = write(conversation, encoder, aim, ends)?;
    Ok(written.pop().unwrap_or_default())
}

/// The samples that a conversation is, each as which of its first messages it learns; see [`write`].
///
/// # Errors
/// As there.
pub(super) fn samples(conversation: &Conversation, encoder: &dyn Encode, ends: Ends) -> Result<Vec<Vec<bool>>, String> {
    let rendered = encoder.render(&conversation.messages, &conversation.given, false).map_err(turns::refused)?;
    let parts = parts(conversation, &rendered, encoder, ends)?;
    let learns = |part: Part| (0..=part.last).map(|at| part.turns.iter().any(|(turn, _)| *turn == at)).collect();
    Ok(parts.into_iter().map(learns).collect())
}

/// What one sample has of a conversation.
struct Part {
    text: String,
    /// The last message in it.
    last: usize,
    /// The learnt turns: index of the message, and bytes of the text. In order.
    turns: Vec<(usize, Range<usize>)>,
}

impl Part {
    fn written(self, conversation: &Conversation, encoder: &dyn Encode) -> Result<Written, String> {
        let Self { text, last, turns } = self;
        let mut ends: Vec<(usize, bool)> = Vec::new();
        let end_of = |turn: &Range<usize>| turn.start + text[turn.clone()].trim_end().len();
        let without = match conversation.train_on_eos {
            TrainOnEos::Turn | TrainOnEos::All => 0,
            TrainOnEos::Last => turns.len().saturating_sub(1),
            TrainOnEos::None => turns.len(),
        };
        ends.extend(turns.iter().take(without).map(|(_, turn)| (end_of(turn), false)));
        if conversation.train_on_eos == TrainOnEos::All {
            for index in (0..=last).filter(|index| turns.iter().all(|(turn, _)| turn != index)) {
                let so_far = turns::render(encoder, conversation, &conversation.messages[..=index], false)?;
                let so_far = so_far.trim_end();
                if text.starts_with(so_far) {
                    ends.push((so_far.len(), true));
                }
            }
        }
        let learnt = turns.into_iter().map(|(_, turn)| turn).collect();
        Ok(Written { text, learnt, ends })
    }
}

/// The samples of a conversation; `rendered` is the whole of it.
fn parts(
    conversation: &Conversation,
    rendered: &Rendered,
    encoder: &dyn Encode,
    ends: Ends,
) -> Result<Vec<Part>, String> {
    let Conversation { messages, learnt, .. } = conversation;
    let answers = || messages.iter().enumerate().filter(|(_, message)| message.role() == ASSISTANT).map(|(at, _)| at);
    let wanted: Vec<usize> = (0..messages.len()).filter(|index| learnt[*index]).collect();
    let Some(last) = wanted.last().copied().max(answers().next_back()) else {
        return Ok(vec![Part { text: rendered.text.clone(), last: messages.len() - 1, turns: Vec::new() }]);
    };
    if let Some(part) = tagged(conversation, rendered, (last, &wanted), encoder)? {
        return Ok(vec![part]);
    }
    let mut parts: Vec<Part> = Vec::new();
    // The last answer is in the text, learnt or not.
    let found = (0..=last).rev().filter(|index| *index == last || learnt[*index]);
    for index in found {
        let Turn { index, text, said } = turns::turn(conversation, index, encoder, ends)?;
        let end = match parts.last() {
            Some(later) if later.text.starts_with(&text) => Some(said.end),
            Some(later) => turns::shared_end(conversation, index, (&text, &later.text), encoder)?,
            None => None,
        };
        let turn = |said| Some((index, said)).filter(|_| learnt[index]);
        match (parts.last_mut(), end) {
            (Some(part), Some(end)) => part.turns.extend(turn(said.start..end)),
            _ => parts.push(Part { text, last: index, turns: turn(said).into_iter().collect() }),
        }
    }
    parts.iter_mut().for_each(|part| part.turns.reverse());
    if parts.len() > 1 {
        parts.retain(|part| !part.turns.is_empty());
    }
    parts.reverse();
    Ok(parts)
}

/// The one sample of a template that tags what the assistant writes, up to the message `last`; `None` if it has no tags, or they do
/// not say which turn is which and not all of them are `wanted`.
fn tagged(
    conversation: &Conversation,
    rendered: &Rendered,
    (last, wanted): (usize, &[usize]),
    encoder: &dyn Encode,
) -> Result<Option<Part>, String> {
    if rendered.generated.is_none() {
        return Ok(None);
    }
    let messages = &conversation.messages[..=last];
    let again;
    let rendered = match messages.len() == conversation.messages.len() {
        true => rendered,
        false => {
            again = encoder.render(messages, &conversation.given, false).map_err(turns::refused)?;
            &again
        }
    };
    let spans = rendered.generated.as_deref().unwrap_or_default();
    let answers: Vec<usize> = (0..=last).filter(|index| messages[*index].role() == ASSISTANT).collect();
    let turns = if spans.len() == answers.len() && wanted.iter().all(|index| answers.contains(index)) {
        answers.into_iter().zip(spans.iter().cloned()).filter(|(index, _)| wanted.contains(index)).collect()
    } else if !spans.is_empty() && answers == wanted {
        spans.iter().map(|span| (last, span.clone())).collect()
    } else {
        return Ok(None);
    };
    Ok(Some(Part { text: rendered.text.clone(), last, turns }))
}

/// The whole conversation as one text, all of it learnt apart from turns that are marked otherwise.
///
/// # Errors
/// A sentence: the template refuses the conversation, or a turn that is not to be learnt cannot be told apart.
fn whole(conversation: &Conversation, text: String, encoder: &dyn Encode) -> Result<Written, String> {
    let mut learnt = Vec::new();
    let mut begin = 0;
    for (index, message) in conversation.messages.iter().enumerate() {
        if message.role() != ASSISTANT || conversation.learnt[index] {
            continue;
        }
        let Turn { text: so_far, said, .. } = turns::turn(conversation, index, encoder, Ends::Trimmed)?;
        let said = match text.starts_with(&so_far) {
            true => said,
            // Written otherwise by now: its content is all that can be told apart.
            false => turns::content(conversation, &conversation.messages, index, &text, encoder)?.ok_or_else(|| {
                format!(
                    "the chat template does not write message {} (assistant) as it is, so it cannot be kept from being learnt; \
                     set train_on_inputs: false, or remove the row",
                    index + 1
                )
            })?,
        };
        learnt.push(begin..said.start.max(begin));
        begin = said.end.max(begin);
    }
    learnt.push(begin..text.len());
    Ok(Written { text, learnt, ends: Vec::new() })
}

/// Whether the template reads `key` of a message when nothing follows it yet.
fn is_read_at_first(conversation: &Conversation, index: usize, key: &str, encoder: &dyn Encode) -> bool {
    let rendered = encoder.render(&conversation.messages[..=index], &conversation.given, false);
    rendered
        .is_ok_and(|rendered| rendered.unread.iter().all(|unread| unread.message != Some(index) || unread.key != key))
}

/// Refuses a conversation of which the template leaves something out that is said, and names what else it does not read.
fn check_read(conversation: &Conversation, encoder: &dyn Encode, aim: Aim) -> Result<Rendered, String> {
    let rendered = encoder.render(&conversation.messages, &conversation.given, false).map_err(turns::refused)?;
    let mut others = Vec::new();
    for Unread { message, key } in &rendered.unread {
        let of = match message {
            Some(index) => format!("message {} ({})", index + 1, conversation.messages[*index].role()),
            None if aim == Aim::BeAnswered => "the conversation".to_owned(),
            None => "the row".to_owned(),
        };
        let value = match message {
            Some(index) => conversation.messages[*index].fields().get(key),
            None => conversation.given.tools.as_ref().filter(|_| key == "tools"),
        };
        let says_nothing = value.is_some_and(is_empty);
        match key.as_str() {
            _ if says_nothing => {}
            // Read while it was the last message, as thoughts may be.
            said if SAID.contains(&said)
                && message.is_some_and(|at| is_read_at_first(conversation, at, said, encoder)) => {}
            said if SAID.contains(&said) => {
                let way_out = match aim {
                    Aim::BeAnswered => "take a model whose template does, or leave it out",
                    Aim::LearnAnswers | Aim::LearnAll => {
                        "give the model folder a template that does, or remove it from the data"
                    }
                };
                return Err(format!(
                    "the chat template does not read `{said}` of {of}, so it would be left out; {way_out}"
                ));
            }
            link if message.is_some() && LINKS.contains(&link) => {}
            _ if !others.contains(key) => others.push(key.clone()),
            _ => {}
        }
    }
    if !others.is_empty() {
        others.sort_unstable();
        warn_once(format!("of the conversations {} not read by the chat template", named(&others)));
    }
    Ok(rendered)
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
