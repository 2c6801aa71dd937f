//! Conversations as text: which stretches of a rendered chat template are the assistant's own words.

use std::ops::Range;

use grades_models::fields::{named, warn_once};
use grades_models::template::{Message, Unread};

use super::conversation::{ASSISTANT, Conversation, is_empty};
use super::encode::{Encode, EncodeError};
use super::sample::Written;

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

/// How far a turn goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// To its end mark.
    Trimmed,
    /// To the end of the white space behind it, which nanoVLM learns too.
    Whole,
}

/// A conversation by the chat template, for some aim.
///
/// # Errors
/// A sentence: the template refuses the conversation or leaves out what it says, or turns cannot be told apart.
pub(super) fn write(
    conversation: &Conversation,
    encoder: &dyn Encode,
    aim: Aim,
    ends: Ends,
) -> Result<Written, String> {
    check_read(conversation, encoder)?;
    match aim {
        Aim::LearnAnswers => turns(conversation, encoder, ends),
        Aim::LearnAll => whole(conversation, encoder),
        Aim::BeAnswered => {
            let text = render(encoder, conversation, &conversation.messages, true)?;
            Ok(Written { text, learnt: Vec::new() })
        }
    }
}

/// Renders a conversation up to the end of its last answer, with the assistant's turns as what is learnt, apart from those
/// that are marked otherwise.
///
/// A turn is what the template adds between the prompt for it (the messages before, with the generation prompt) and the
/// conversation up to its end; [`Ends::Trimmed`], without the white space that follows the turn's end mark, it is exactly what
/// the model has to write when it is used.
///
/// # Errors
/// A sentence: the template refuses the conversation or leaves out what it says, or writes the earlier messages differently
/// once more follow (as templates that strip earlier reasoning do), so that turns cannot be told apart.
fn turns(conversation: &Conversation, encoder: &dyn Encode, ends: Ends) -> Result<Written, String> {
    let (text, turns) = find_turns(conversation, encoder, ends)?;
    let learnt = turns.into_iter().filter(|(index, _)| conversation.learnt[*index]).map(|(_, turn)| turn).collect();
    Ok(Written { text, learnt })
}

/// The whole conversation as one text, all of it learnt apart from turns that are marked otherwise.
///
/// # Errors
/// As of [`turns`].
fn whole(conversation: &Conversation, encoder: &dyn Encode) -> Result<Written, String> {
    let written = Written::whole(render(encoder, conversation, &conversation.messages, false)?);
    let marked = |(message, learnt): (&Message, &bool)| message.role() == ASSISTANT && !learnt;
    if !conversation.messages.iter().zip(&conversation.learnt).any(marked) {
        return Ok(written);
    }
    let (beginning, turns) = find_turns(conversation, encoder, Ends::Trimmed)?;
    if !written.text.starts_with(&beginning) {
        return Err(
            "the chat template writes the whole conversation differently than its beginnings, so the message that is \
                    not to be learnt cannot be told apart; remove the row"
                .to_owned(),
        );
    }
    let mut learnt = Vec::new();
    let mut begin = 0;
    for (_, turn) in turns.into_iter().filter(|(index, _)| !conversation.learnt[*index]) {
        learnt.push(begin..turn.start);
        begin = turn.end;
    }
    learnt.push(begin..written.text.len());
    Ok(Written { learnt, ..written })
}

/// The index of an answer's message, and its bytes in the rendered text.
type Turn = (usize, Range<usize>);

/// The text up to the end of the last answer, and the answers in it.
fn find_turns(conversation: &Conversation, encoder: &dyn Encode, ends: Ends) -> Result<(String, Vec<Turn>), String> {
    let messages = &conversation.messages;
    let mut turns = Vec::new();
    let mut done = String::new();
    for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role() == ASSISTANT) {
        let so_far = render(encoder, conversation, &messages[..=index], false)?;
        let prompt = prompt(conversation, index, &so_far, encoder)?;
        let turn = so_far.strip_prefix(&prompt).filter(|_| prompt.starts_with(&done)).ok_or_else(|| {
            format!(
                "the chat template does not write message {} ({}) as a continuation of the messages before it, so the \
                 assistant's words cannot be told apart; split the conversation so that it ends with its first answer, \
                 or set train_on_inputs: true",
                index + 1,
                message.role()
            )
        })?;
        let turn = if ends == Ends::Trimmed { turn.trim_end() } else { turn };
        let end = prompt.len() + turn.len();
        turns.push((index, prompt.len()..end));
        done = so_far[..end].to_owned();
    }
    Ok((done, turns))
}

/// What stands before the answer `index`, with which `so_far` ends.
fn prompt(conversation: &Conversation, index: usize, so_far: &str, encoder: &dyn Encode) -> Result<String, String> {
    let before = render(encoder, conversation, &conversation.messages[..index], true);
    match before {
        Ok(prompt) if index > 0 || so_far.starts_with(&prompt) => Ok(prompt),
        // Many templates refuse an empty conversation, or write something else for it, and some one without a question. The
        // turn is then what is written for the same answer behind a question.
        before => {
            let question = [Message::new("user", "Hello"), conversation.messages[index].clone()];
            let prompt = render(encoder, conversation, &question[..1], true)?;
            let answered = render(encoder, conversation, &question, false)?;
            match answered.strip_prefix(&prompt).and_then(|turn| so_far.strip_suffix(turn)) {
                Some(prompt) => Ok(prompt.to_owned()),
                None => before,
            }
        }
    }
}

/// Refuses a conversation of which the template leaves something out that is said, and names what else it does not read.
fn check_read(conversation: &Conversation, encoder: &dyn Encode) -> Result<(), String> {
    let rendered = encoder.render(&conversation.messages, &conversation.given, false).map_err(refused)?;
    let mut others = Vec::new();
    for Unread { message, key } in rendered.unread {
        let of = match message {
            Some(index) => format!("message {} ({})", index + 1, conversation.messages[index].role()),
            None => "the row".to_owned(),
        };
        let value = match message {
            Some(index) => conversation.messages[index].fields().get(&key),
            None => conversation.given.tools.as_ref().filter(|_| key == "tools"),
        };
        let says_nothing = value.is_some_and(is_empty);
        match key.as_str() {
            _ if says_nothing => {}
            said if SAID.contains(&said) => {
                return Err(format!(
                    "the chat template does not read `{said}` of {of}, so it would be left out; give the model folder a \
                     template that does, or remove it from the data"
                ));
            }
            link if message.is_some() && LINKS.contains(&link) => {}
            _ if !others.contains(&key) => others.push(key),
            _ => {}
        }
    }
    if !others.is_empty() {
        others.sort_unstable();
        warn_once(format!("of the conversations {} not read by the chat template", named(&others)));
    }
    Ok(())
}

fn render(
    encoder: &dyn Encode,
    conversation: &Conversation,
    messages: &[Message],
    generation_prompt: bool,
) -> Result<String, String> {
    let rendered = encoder.render(messages, &conversation.given, generation_prompt).map_err(refused)?;
    Ok(rendered.text)
}

fn refused(error: EncodeError) -> String {
    format!("the chat template does not accept the conversation ({error})")
}
