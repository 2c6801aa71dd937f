use serde::{Deserialize, Serialize};

/// What answers are worth to a model that learns from preferences, in means over rows: the names are those of TRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewards {
    /// The reward of chosen, or desirable, answers; `null` where there are none.
    pub chosen: Option<f64>,
    /// That of rejected ones.
    pub rejected: Option<f64>,
    /// The share of pairs whose chosen answer is worth more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracies: Option<f64>,
    /// By how much chosen answers are worth more.
    pub margins: Option<f64>,
}

/// Log-probabilities of answers, in means over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerLogps {
    /// Of chosen, or desirable, ones; `null` where there are none.
    pub chosen: Option<f64>,
    /// Of rejected ones.
    pub rejected: Option<f64>,
}
