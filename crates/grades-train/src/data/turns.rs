//! Where the text of a conversation has a turn: which of its bytes somebody has to write there.

use std::ops::Range;

use grades_models::template::Message;

use super::conversation::{ASSISTANT, Conversation};
use super::encode::{Encode, EncodeError};

/// How far a turn goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// To its end mark.
    Trimmed,
    /// To the end of the white space behind it, which nanoVLM learns too.
    Whole,
}

/// A turn as it is written while it is the last one.
#[derive(Debug)]
pub(super) struct Turn {
    /// The index of its message.
    pub(super) index: usize,
    /// The conversation up to its end.
    pub(super) text: String,
    /// What of it is to be learnt.
    pub(super) said: Range<usize>,
}

/// Contents that stand for another one; the first letter of one of them differs.
const PLACEHOLDERS: [&str; 2] = ["\u{e000}", "\u{e001}"];

/// How far before what is said a prompt's end is looked for, in bytes.
const HEADER: usize = 512;

/// As many bytes in common are no chance.
const ALIKE: usize = 16;

/// The turn of a message.
///
/// It is what the template adds between the prompt for it (the messages before, with the generation prompt) and the conversation
/// up to its end: exactly what the model has to write when it is used. Where the template writes the messages before otherwise
/// once the turn is there (Mistral's puts the system's message into a question only while that is the last message), it is the
/// prompt and behind it what follows the same prompt's end; where there is none of that, or the turn is not the assistant's, it
/// is found by its content, up to the end of the turn.
///
/// # Errors
/// A sentence: the template refuses the conversation, or does not write the turn's content.
pub(super) fn turn(
    conversation: &Conversation,
    index: usize,
    encoder: &dyn Encode,
    ends: Ends,
) -> Result<Turn, String> {
    let messages = &conversation.messages[..=index];
    let so_far = render(encoder, conversation, messages, false)?;
    let end_of = |text: &str| if ends == Ends::Trimmed { text.trim_end().len() } else { text.len() };
    let upto = |text: String, start: usize| {
        let end = end_of(&text).max(start);
        Turn { index, said: start..end, text: text[..end].to_owned() }
    };
    let content = || content_start(conversation, index, &so_far, encoder);
    if messages[index].role() != ASSISTANT {
        let start = content()?.ok_or_else(|| {
            format!(
                "the chat template does not write the text of message {} ({}) as it is, so it cannot be learnt; take its role \
                 out of roles_to_train",
                index + 1,
                messages[index].role()
            )
        })?;
        return Ok(upto(so_far, start));
    }
    let prompt = match prompt(conversation, index, &so_far, encoder) {
        Ok(prompt) if so_far.starts_with(&prompt) => return Ok(upto(so_far, prompt.len())),
        Ok(prompt) => prompt,
        Err(refused) => {
            return match content()? {
                Some(start) => Ok(upto(so_far, start)),
                None => Err(refused),
            };
        }
    };
    // The generation prompt holds more than the template then writes, such as the beginning of a thought.
    let before = render(encoder, conversation, &messages[..index], false).unwrap_or_default();
    let common = common_prefix(&prompt, &so_far);
    if !before.is_empty() && so_far.starts_with(&before) {
        return Ok(upto(so_far, common));
    }
    let Some(start) = content()? else { return Ok(upto(so_far, common)) };
    let last_said = index.checked_sub(1).map_or("", |before| messages[before].content().trim());
    match end_of_prompt(&prompt, &so_far, start, last_said) {
        Some(end) => {
            let turn = &so_far[end..end_of(&so_far).max(end)];
            let said = prompt.len()..prompt.len() + turn.len();
            Ok(Turn { index, text: prompt + turn, said })
        }
        None => Ok(upto(so_far, start)),
    }
}

/// Where before `start` the text ends as the prompt does: with what was said last, or with enough else.
fn end_of_prompt(prompt: &str, text: &str, start: usize, last_said: &str) -> Option<usize> {
    let ends = (start.saturating_sub(HEADER)..=start).rev().filter(|end| text.is_char_boundary(*end));
    let (end, common) =
        ends.map(|end| (end, common_suffix(prompt, &text[..end]))).rev().max_by_key(|(_, common)| *common)?;
    let shared = &text[end - common..end];
    let found = common >= ALIKE || (!last_said.is_empty() && shared.contains(last_said));
    found.then_some(end)
}

/// Where in the text of a conversation that ends with a message that message's content begins; `None` if the template does not
/// write it. Found by writing another content in its place.
///
/// # Errors
/// A sentence: the template refuses the conversation.
pub(super) fn content_start(
    conversation: &Conversation,
    index: usize,
    text: &str,
    encoder: &dyn Encode,
) -> Result<Option<usize>, String> {
    Ok(content(conversation, &conversation.messages[..=index], index, text, encoder)?.map(|range| range.start))
}

/// Where a turn ends in a `later` text that parts from its own (`text`) only behind its content and an end mark, as where a template puts
/// the end-of-text token behind the last turn alone. `None` if they part before.
///
/// # Errors
/// A sentence: the template refuses the conversation.
pub(super) fn shared_end(
    conversation: &Conversation,
    index: usize,
    (text, later): (&str, &str),
    encoder: &dyn Encode,
) -> Result<Option<usize>, String> {
    let common = common_prefix(text, later);
    let said = conversation.messages[index].content().trim();
    // Most part long before, which needs no search.
    if common < said.len() || !text[..common].contains(said) {
        return Ok(None);
    }
    let Some(start) = content_start(conversation, index, text, encoder)? else { return Ok(None) };
    let behind = start + text[start..].len() - text[start..].trim_start().len() + said.len();
    if behind >= common || !text[..behind].ends_with(said) {
        return Ok(None);
    }
    // Two marks may begin alike.
    let mark = text[behind..common].rfind(['>', ']', ' ', '\n']).map(|at| text[behind..=behind + at].trim_end().len());
    Ok(mark.filter(|mark| *mark > 0).map(|mark| behind + mark))
}

/// The bytes of a message's content in `text`, which is that of `messages`.
///
/// # Errors
/// As of [`content_start`].
pub(super) fn content(
    conversation: &Conversation,
    messages: &[Message],
    index: usize,
    text: &str,
    encoder: &dyn Encode,
) -> Result<Option<Range<usize>>, String> {
    let message = &messages[index];
    let said = message.content();
    let placeholder = PLACEHOLDERS[usize::from(said.trim_start().starts_with(PLACEHOLDERS[0]))];
    if !message.fields().get("content").is_some_and(serde_json::Value::is_string) {
        return Ok(None);
    }
    let fields = message.fields().iter().map(|(key, value)| match key.as_str() {
        "content" => (key.clone(), placeholder.into()),
        _ => (key.clone(), value.clone()),
    });
    let mut other = messages.to_vec();
    other[index] = Message::from_fields(fields.collect::<Vec<_>>());
    let other = render(encoder, conversation, &other, false)?;
    let start = common_prefix(text, &other);
    if !other[start..].starts_with(placeholder) {
        return Ok(None);
    }
    let rest = &other[start + placeholder.len()..];
    let end = text.len() - common_suffix(rest, &text[start..]);
    Ok(Some(start..end))
}

/// How many bytes two texts have in common at their beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=common).rev().find(|at| a.is_char_boundary(*at) && b.is_char_boundary(*at)).unwrap_or(0)
}

/// The same at their end.
fn common_suffix(a: &str, b: &str) -> usize {
    let common = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    let whole = |len: &usize| a.is_char_boundary(a.len() - len) && b.is_char_boundary(b.len() - len);
    (0..=common).rev().find(whole).unwrap_or(0)
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

/// Messages of a conversation as the template writes them.
///
/// # Errors
/// A sentence: the template refuses them.
pub(super) fn render(
    encoder: &dyn Encode,
    conversation: &Conversation,
    messages: &[Message],
    generation_prompt: bool,
) -> Result<String, String> {
    let rendered = encoder.render(messages, &conversation.given, generation_prompt).map_err(refused)?;
    Ok(rendered.text)
}

/// What it means that a template fails.
pub(super) fn refused(error: EncodeError) -> String {
    format!("the chat template does not accept the conversation ({error})")
}
