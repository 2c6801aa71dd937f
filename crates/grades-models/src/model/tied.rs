//! An embedding that is the head too, and how the two part.

use super::decoder::Decoder;
use crate::parameters::{Parameter, Place};

/// The name of an untied head in a Hugging Face checkpoint.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The two matrices that a tied embedding has become, by their slot in the parameter table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untied {
    /// The input embedding, in its old place.
    pub input: usize,
    /// The head, at the end of the table.
    pub head: usize,
}

impl Decoder {
    /// Lets a tied embedding train as input or not, so that the backward pass need not reach it; as head it trains on.
    pub fn set_tied_input_trainable(&mut self, trainable: bool) {
        self.input_trains = trainable;
    }

    /// Whether its embedding is the head, too.
    #[must_use]
    pub fn is_tied(&self) -> bool {
        self.head.is_none()
    }

    /// The name of the embedding's matrix.
    #[must_use]
    pub fn embedding_name(&self) -> &str {
        &self.parameters.get(self.embedding).name
    }

    /// Whether it came with a tied embedding whose head has a matrix of its own by now.
    #[must_use]
    pub fn is_untied(&self) -> bool {
        self.untied
    }

    /// Gives the head of a tied embedding a matrix of its own, which begins as a copy. From here on the input stays what
    /// it is while the head trains; the model is one with `tie_word_embeddings: false`. `None` where nothing is tied.
    pub fn untie(&mut self) -> Option<Untied> {
        if self.head.is_some() {
            return None;
        }
        let (id, input_trains) = (self.embedding, self.input_trains);
        let embedding = self.parameters.get_mut(id);
        let (trains, base) = (embedding.is_trainable(), embedding.is_base());
        let place = if base { Place::Base } else { Place::Always };
        let value = embedding.value.device().copy(&embedding.value);
        let mut head = Parameter::new(&(self.names.file)(HEAD), &embedding.shape, value, &[(embedding.rows(), place)]);
        head.set_trainable(trains);
        let places = embedding.pieces().iter().map(|piece| match piece.place {
            Place::Tied(companion) => Place::Companion(companion),
            place => place,
        });
        let places: Vec<Place> = places.collect();
        embedding.set_places(places);
        embedding.set_trainable(trains && input_trains);
        let head = self.parameters.push(head);
        self.head = Some(head);
        self.untied = true;
        let slot = |id| self.parameters.get(id).pieces().first().map_or(0, |piece| piece.slot());
        Some(Untied { input: slot(id), head: slot(head) })
    }
}
