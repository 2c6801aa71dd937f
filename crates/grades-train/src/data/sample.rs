//! A row as a sample: one text, or a conversation that the model's chat template will write.

use std::ops::Range;

use super::conversation::Conversation;

/// A row as text, with what is to be learnt marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A text, which is followed by the end-of-text token.
    Text(Written),
    /// A conversation, to be rendered by the model's chat template.
    Conversation(Conversation),
    /// Nothing: the row's own ratings leave it out.
    LeftOut,
}

/// A text, and the bytes of it that are to be learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// What of it counts in the loss, in order.
    pub learnt: Vec<Range<usize>>,
    /// Ends of turns whose last token counts otherwise, if it is one that ends a turn: where they are, and whether it is learnt.
    pub ends: Vec<(usize, bool)>,
}

impl Written {
    /// A text that is learnt as a whole.
    pub fn whole(text: String) -> Self {
        let all = 0..text.len();
        Self { text, learnt: vec![all], ends: Vec::new() }
    }

    /// A prompt and the answer to it, which is learnt.
    pub fn answered(prompt: &str, answer: &str) -> Self {
        let text = format!("{prompt}{answer}");
        let answer = prompt.len()..text.len();
        Self { text, learnt: vec![answer], ends: Vec::new() }
    }
}
