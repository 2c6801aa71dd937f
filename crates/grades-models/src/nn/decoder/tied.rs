//! An embedding that is the head too, and how the two part.

use burn::tensor::{Tensor, TensorData};

use super::Decoder;
use crate::parameters::{Parameter, Place};
use crate::{Error, host};

/// The name of an untied head in a Hugging Face checkpoint.
pub(super) const HEAD: &str = "lm_head.weight";

/// The two matrices that a tied embedding has become, by their index in the parameter table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untied {
    /// The input embedding, in its old place.
    pub input: usize,
    /// The head, at the end of the table.
    pub head: usize,
}

impl Decoder {
    /// Tracks or untracks a tied embedding as input, so that the backward pass need not reach it; as head it trains on.
    pub fn set_tied_input_trainable(&mut self, trainable: bool) {
        self.input_trains = trainable;
    }

    /// Whether it came with a tied embedding whose head has a matrix of its own by now.
    #[must_use]
    pub fn is_untied(&self) -> bool {
        self.untied
    }

    /// Gives the head of a tied embedding a matrix of its own, which begins as a copy. From here on the input stays what
    /// it is while the head trains; the model is one with `tie_word_embeddings: false`. `None` where nothing is tied.
    ///
    /// # Errors
    /// When the device fails to hand values over.
    pub fn untie(&mut self) -> Result<Option<Untied>, Error> {
        if self.head.is_some() {
            return Ok(None);
        }
        let embedding = self.parameters.get_mut(self.embedding);
        let (shape, trains, frozen) =
            (embedding.shape.clone(), embedding.is_trainable(), embedding.place == Place::Base);
        let (dims, device) = (embedding.value.dims(), embedding.value.device());
        let values = host::read(&embedding.name, &embedding.value, <[f32]>::to_vec)?;
        if let Place::Tied(companion) = embedding.place {
            embedding.place = Place::Companion(companion);
        }
        embedding.set_trainable(trains && self.input_trains);
        let value = Tensor::from_data(TensorData::new(values, dims), &device);
        let place = if frozen { Place::Base } else { Place::Always };
        let mut head = Parameter { name: HEAD.into(), shape, place, value, packed: None };
        head.set_trainable(trains);
        let head = self.parameters.push(head);
        self.head = Some(head);
        self.config.tie_word_embeddings = false;
        self.untied = true;
        Ok(Some(Untied { input: self.embedding.index(), head: head.index() }))
    }
}
