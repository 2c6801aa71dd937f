use serde::{Deserialize, Serialize};

/// A sample of training as a reader sees it: a line of `samples.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownSample {
    /// Its tokens.
    pub tokens: usize,
    /// How many of them have a loss.
    pub learnt: usize,
    /// Its text, in order.
    pub pieces: Vec<Piece>,
    /// Small copies of its pictures: PNG files in base64; empty where one could not be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<String>,
}

/// A run of a sample's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Piece {
    /// A text that is only read.
    Read(String),
    /// A text with a loss.
    Learnt(String),
    /// Tokens that stand for a picture.
    Picture {
        /// Which of the sample's pictures.
        number: usize,
        /// How many tokens.
        tokens: usize,
    },
}
