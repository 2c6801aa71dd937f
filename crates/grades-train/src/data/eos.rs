//! `train_on_eos`: of which turns of a conversation the token that ends them is learnt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of which turns the token that ends them is learnt, as in Axolotl. It is a special token of the tokenizer, the last one of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOnEos {
    /// Of those that are learnt.
    #[default]
    Turn,
    /// Of the last of those in a sample.
    Last,
    /// Of all that a learnt turn ends with as well, whoever speaks.
    All,
    /// Of none.
    None,
}
