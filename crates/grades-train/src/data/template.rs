//! Conversations as text: which stretches of a rendered chat template are the assistant's own words.

use super::format::{Message, Part};
use super::tokens::Encode;

/// Renders a conversation and marks the assistant's turns as trained.
///
/// A turn is what the template adds between the prompt for it (the messages before, with the generation prompt) and the
/// conversation up to its end, without the white space that follows the turn's end mark: exactly what the model has to
/// write when it is used. Each part is encoded by itself, as the prompt is when the model is used.
///
/// # Errors
/// A sentence: the template refuses the conversation, or writes the earlier messages differently once more follow (as
/// templates that strip earlier reasoning do), so that turns cannot be told apart.
pub(super) fn parts(messages: &[Message], encoder: &dyn Encode) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut done = String::new();
    for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
        let prompt = render(encoder, &messages[..index], true)?;
        let so_far = render(encoder, &messages[..=index], false)?;
        let (Some(between), Some(turn)) = (prompt.strip_prefix(&done), so_far.strip_prefix(&prompt)) else {
            return Err(format!(
                "the chat template does not write message {} ({}) as a continuation of the messages before it, so the \
                 assistant's words cannot be told apart; split the conversation so that it ends with its first answer, \
                 or set train_on_inputs: true",
                index + 1,
                message.role
            ));
        };
        let turn = turn.trim_end();
        parts.push(Part { text: between.to_owned(), trained: false });
        parts.push(Part { text: turn.to_owned(), trained: true });
        done = format!("{prompt}{turn}");
    }
    Ok(parts)
}

/// The whole conversation as one text, all of it trained.
pub(super) fn whole(messages: &[Message], encoder: &dyn Encode) -> Result<Vec<Part>, String> {
    Ok(vec![Part { text: render(encoder, messages, false)?, trained: true }])
}

fn render(encoder: &dyn Encode, messages: &[Message], generation_prompt: bool) -> Result<String, String> {
    encoder
        .render(messages, generation_prompt)
        .map_err(|error| format!("the chat template does not accept the conversation ({error})"))
}
