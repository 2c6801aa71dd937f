//! nanoVLM's three generations of texts. Source: nanoVLM at its tags v0.1 and v0.2 and at 4e0c096 (`data/datasets.py`,
//! `data/collators.py`, `data/processors.py`).

use std::collections::BTreeMap;

use grades_images::Layout;
use grades_models::fields::warn_once;

use super::super::conversation::{ASSISTANT, Conversation};
use super::super::encode::Encode;
use super::super::sample::Written;
use super::super::template::{self, Aim};
use super::super::turns::Ends;
use super::content;

const USER: &str = "user";

/// The tokens of tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileTokens {
    /// Stands for a feature.
    pub image: String,
    /// Stands before the features of the whole picture.
    pub global: Option<String>,
    /// Stand before those of a tile: by row and column, from 1.
    pub places: BTreeMap<(usize, usize), String>,
    /// Features of a tile.
    pub tokens: usize,
}

impl TileTokens {
    /// The conversation by the chat template, all pictures before the first question. What is learnt of an answer goes to the end
    /// of its turn, white space and all.
    pub(super) fn write(
        &self,
        conversation: &Conversation,
        layouts: &[Layout],
        encoder: &dyn Encode,
        aim: Aim,
    ) -> Result<Written, String> {
        let mut shown = self.pictures(layouts)?;
        let mut said = conversation.clone();
        for message in &mut said.messages {
            let text = content::text(message);
            let text = if message.role() == USER { std::mem::take(&mut shown) + &text } else { text };
            *message = content::with_text(message, &text);
        }
        if !shown.is_empty() {
            return Err("the conversation has pictures but no question; remove the row".to_owned());
        }
        template::one(&said, encoder, aim, Ends::Whole)
    }

    /// What stands for the pictures.
    fn pictures(&self, layouts: &[Layout]) -> Result<String, String> {
        let mut text = String::new();
        for (number, layout) in layouts.iter().enumerate() {
            if layouts.len() > 1 {
                text += &format!("<image: {number}>");
            }
            let (rows, columns) = match *layout {
                Layout::Tiles { rows, columns, .. } => (rows, columns),
                _ => (1, 1),
            };
            if let Some(global) = &self.global {
                text += global;
                text += &self.image.repeat(self.tokens);
                if (rows, columns) == (1, 1) {
                    continue;
                }
            }
            for place in (1..=rows).flat_map(|row| (1..=columns).map(move |column| (row, column))) {
                let token = self.places.get(&place).ok_or_else(|| {
                    format!(
                        "a picture has {rows}×{columns} tiles, but the model has no token for row {}, column {}; lower \
                         max_img_size, or use a model with that token",
                        place.0, place.1
                    )
                })?;
                text += token;
                text += &self.image.repeat(self.tokens);
            }
        }
        Ok(text)
    }
}

/// What the first two generations are not made for.
const ONE_TURN: &str = "this generation of nanoVLM reads a question and its answer, and nothing before them; give it one \
    question, or a row with one";

/// Nor for this.
pub(super) const ONE_PICTURE: &str = "this generation of nanoVLM reads one picture; give it one";

/// Leaves the first question, its answer and the first picture: the first two generations read no more.
pub(super) fn first_turn(conversation: &mut Conversation) {
    let answers = conversation.messages.iter().filter(|message| message.role() == ASSISTANT).count();
    if answers > 1 || conversation.pictures.len() > 1 {
        warn_once(
            "of each row only the first question and the first picture are learnt, as this generation of nanoVLM reads no more"
                .to_owned(),
        );
    }
    let answer = conversation.messages.iter().position(|message| message.role() == ASSISTANT);
    let end = answer.map_or(conversation.messages.len(), |at| at + 1);
    conversation.messages.truncate(end);
    conversation.learnt.truncate(end);
    conversation.pictures.truncate(1);
}

/// `Question: … Answer:` and the answer, if there is one, behind what stands for the picture.
pub(super) fn question(conversation: &Conversation, before: &str) -> Result<Written, String> {
    match conversation.messages.as_slice() {
        [user, assistant] if user.role() == USER && assistant.role() == ASSISTANT => {
            let prompt = format!("{before}Question: {} Answer:", content::text(user));
            Ok(Written::answered(&prompt, &content::text(assistant)))
        }
        [user] if user.role() == USER => {
            let prompt = format!("{before}Question: {} Answer:", content::text(user));
            Ok(Written { text: prompt, ..Written::default() })
        }
        _ => Err(ONE_TURN.to_owned()),
    }
}
