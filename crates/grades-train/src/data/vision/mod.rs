//! What a vision-language model makes of pictures before it reads them: what stands in its text for them, and their pixels.

mod content;
mod models;
mod nanovlm;
mod qwen;
mod shown;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use rayon::prelude::*;

use grades_images::{DecodeError, Layout, Limits, Pixels, ProcessError, Processor, decode, dimensions};

use super::conversation::{ASSISTANT, Conversation};
use super::encode::{Around, Encode};
use super::error::DataError;
use super::picture::Picture;
use super::placed::Placed;
use super::record::Place;
use super::sample::Written;
use super::template::{self, Aim};
use super::turns::Ends;

pub(crate) use content::text as text_of;
pub use models::VisionError;
pub use nanovlm::TileTokens;
pub(super) use shown::Shown;

/// How a model sees pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// Makes pixels of them.
    pub processor: Processor,
    /// Makes text of them.
    pub text: PictureText,
    /// What a picture may need.
    pub limits: Limits,
}

/// What stands in a model's text for a picture. The rows of the tokens that repeat take the tower's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PictureText {
    /// nanoVLM since July 2025: tokens of tiles and of their places, before the first question.
    Tiles(TileTokens),
    /// nanoVLM of May 2025: the token repeated, before `Question: … Answer:`.
    Run {
        /// The token.
        token: String,
        /// How often.
        tokens: usize,
    },
    /// The first nanoVLM: rows before `Question: … Answer:` that no token of the text stands for.
    Before {
        /// How many.
        tokens: usize,
    },
    /// Qwen2-VL and its heirs: the token that the chat template writes where a picture stands, repeated.
    Pad {
        /// The token.
        token: String,
    },
}

/// Why a picture cannot be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// Its file cannot be read.
    #[error("{picture}: the picture cannot be read ({source})")]
    Read {
        /// The picture.
        picture: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be decoded.
    #[error("{picture}: {source}")]
    Decode {
        /// The picture.
        picture: String,
        /// Why.
        source: DecodeError,
    },
    /// The model's processor does not take it.
    #[error("{picture}: {source}")]
    Process {
        /// The picture.
        picture: String,
        /// Why.
        source: ProcessError,
    },
}

/// As much of a file as has the size of most pictures.
const HEAD: u64 = 1 << 16;

impl Vision {
    /// The pixels of a picture, as the tower reads them.
    ///
    /// # Errors
    /// The picture cannot be read, is damaged, or is a giant.
    pub fn pixels(&self, picture: &Picture) -> Result<Pixels, PictureError> {
        let bytes = read(picture)?;
        let failed = |source| PictureError::Decode { picture: picture.to_string(), source };
        let decoded = decode(&bytes, self.processor.alpha, self.limits).map_err(failed)?;
        let failed = |source| PictureError::Process { picture: picture.to_string(), source };
        self.processor.process(&decoded).map_err(failed)
    }

    /// The pixels of some pictures, in their order, decoded by several threads.
    ///
    /// # Errors
    /// A picture cannot be decoded; the row that it belongs to is named.
    pub fn pixels_of(&self, pictures: &[&Placed]) -> Result<Vec<Pixels>, DataError> {
        let failed = |place: &Place, error: PictureError| DataError::Row {
            place: place.to_string(),
            message: error.to_string(),
        };
        let pixels = |one: &&Placed| self.pixels(&one.picture).map_err(|error| failed(&one.place, error));
        pictures.par_iter().map(pixels).collect()
    }

    /// How many tiles or patches a picture will be, from its header.
    ///
    /// # Errors
    /// As of [`pixels`](Self::pixels).
    pub fn layout(&self, picture: &Picture) -> Result<Layout, PictureError> {
        let failed = |source| PictureError::Decode { picture: picture.to_string(), source };
        let beginning = match picture {
            Picture::Bytes(_) => None,
            Picture::File(file) => {
                let mut head = Vec::new();
                let begin = File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
                begin.ok().and_then(|_| dimensions(&head).ok())
            }
        };
        let (width, height) = match beginning {
            Some(size) => size,
            None => dimensions(&read(picture)?).map_err(failed)?,
        };
        let failed = |source| PictureError::Process { picture: picture.to_string(), source };
        self.processor.layout(width, height).map_err(failed)
    }

    /// How many rows of the text take the place of a picture.
    fn tokens(&self, layout: Layout) -> usize {
        match (&self.text, layout) {
            (PictureText::Tiles(tiles), layout) => layout.tiles() * tiles.tokens,
            (PictureText::Run { tokens, .. } | PictureText::Before { tokens }, _) => *tokens,
            (PictureText::Pad { .. }, Layout::Patches { grid, merge }) => {
                grid.iter().product::<usize>() / (merge * merge).max(1)
            }
            (PictureText::Pad { .. }, layout) => layout.tiles(),
        }
    }

    /// The conversations of which each is one sample: several only where a chat template writes earlier turns otherwise.
    ///
    /// # Errors
    /// A sentence: the chat template refuses the conversation.
    pub(super) fn samples(
        &self,
        conversation: &Conversation,
        encoder: &dyn Encode,
        aim: Aim,
    ) -> Result<Vec<Conversation>, String> {
        if aim != Aim::LearnAnswers {
            return Ok(vec![conversation.clone()]);
        }
        let samples = match &self.text {
            // Its template reads texts.
            PictureText::Tiles(_) => template::samples(&content::in_texts(conversation), encoder, Ends::Whole)?,
            PictureText::Pad { .. } => template::samples(conversation, encoder, Ends::Trimmed)?,
            PictureText::Run { .. } | PictureText::Before { .. } => return Ok(vec![conversation.clone()]),
        };
        if samples.len() < 2 {
            return Ok(vec![conversation.clone()]);
        }
        let sample = |learnt: Vec<bool>| {
            let mut sample = conversation.clone();
            sample.messages.truncate(learnt.len());
            Conversation { learnt, ..sample }
        };
        Ok(samples.into_iter().map(sample).collect())
    }

    /// A conversation as the model reads it, with the pictures that it shows.
    ///
    /// # Errors
    /// A sentence: a picture cannot be read, or the model's text has no place for the pictures.
    pub(super) fn show(&self, conversation: &Conversation, encoder: &dyn Encode, aim: Aim) -> Result<Shown, String> {
        let (conversation, pictures) = self.up_to_the_end(conversation, aim)?;
        let layouts: Vec<Layout> = pictures.iter().map(|(_, layout)| *layout).collect();
        let (written, around, token) = match &self.text {
            PictureText::Tiles(tiles) => {
                let written = tiles.write(&conversation, &layouts, encoder, aim)?;
                (written, Around::Template, Some(tiles.image.as_str()))
            }
            PictureText::Run { token, tokens } => {
                let run = token.repeat(if pictures.is_empty() { 0 } else { *tokens });
                (nanovlm::question(&conversation, &run)?, Around::Sample, Some(token.as_str()))
            }
            PictureText::Before { .. } => (nanovlm::question(&conversation, "")?, Around::Sample, None),
            PictureText::Pad { token } => {
                let counts: Vec<usize> = layouts.iter().map(|layout| self.tokens(*layout)).collect();
                let written = qwen::write(&conversation, token, &counts, encoder, aim)?;
                (written, Around::Template, Some(token.as_str()))
            }
        };
        let (written, around) = match (aim, around) {
            (Aim::LearnAll, Around::Sample) => (Written::whole(written.text), around),
            (Aim::BeAnswered, Around::Sample) => (written, Around::Beginning),
            _ => (written, around),
        };
        let counted = |(picture, layout)| (picture, layout, self.tokens(layout));
        let token = token.map(str::to_owned);
        Ok(Shown { written, around, token, pictures: pictures.into_iter().map(counted).collect() })
    }

    /// The part of a conversation that is learnt from, and its pictures with their layouts: up to the last answer, unless all of
    /// it is learnt. A model that sees one picture and one question has only those.
    fn up_to_the_end(
        &self,
        conversation: &Conversation,
        aim: Aim,
    ) -> Result<(Conversation, Vec<(Picture, Layout)>), String> {
        let mut kept = conversation.clone();
        if aim == Aim::LearnAnswers
            && let Some(last) =
                (0..kept.messages.len()).rfind(|at| kept.messages[*at].role() == ASSISTANT || kept.learnt[*at])
        {
            kept.messages.truncate(last + 1);
            kept.learnt.truncate(last + 1);
        }
        let shown = kept.messages.iter().map(content::places).sum();
        kept.pictures.truncate(shown);
        if matches!(self.text, PictureText::Run { .. } | PictureText::Before { .. }) {
            match aim {
                Aim::BeAnswered if kept.pictures.len() > 1 => return Err(nanovlm::ONE_PICTURE.to_owned()),
                Aim::BeAnswered => {}
                _ => nanovlm::first_turn(&mut kept),
            }
        }
        let layout = |picture: &Picture| {
            let layout = self.layout(picture).map_err(|error| error.to_string())?;
            Ok::<_, String>((picture.clone(), layout))
        };
        let pictures = kept.pictures.iter().map(layout).collect::<Result<_, _>>()?;
        Ok((kept, pictures))
    }
}

fn read(picture: &Picture) -> Result<Arc<[u8]>, PictureError> {
    picture.bytes().map_err(|source| PictureError::Read { picture: picture.to_string(), source })
}
