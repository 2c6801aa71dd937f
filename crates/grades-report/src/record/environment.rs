use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `environment.json`: what of the machine, the program and the data may matter for a figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Version of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Commit that it was built from, where that is known.
    pub commit: Option<String>,
    /// The operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operating_system: Option<String>,
    /// The processor's instruction set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The processor's name, where the system says it.
    pub processor: Option<String>,
    /// The best instruction set that the matrix products run on, such as `avx512-bf16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Threads that compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The dtype of the matrix products.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Samples to train on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Samples kept back for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_samples: Option<usize>,
    /// Samples that were left out, as they have nothing to learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_samples: Option<usize>,
    /// Samples that were too long, and lost their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated_samples: Option<usize>,
    /// Numbers of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// Those of them that train.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable_parameters: Option<usize>,
    /// Memory of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<u64>,
    /// What the run was planned to hold at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_memory_bytes: Option<u64>,
    /// Matrices that can freeze.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<usize>,
    /// Steps that the run is to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_steps: Option<usize>,
    /// What another program says beside these.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
