//! `optimizer` and `optim_args`: the rule of the update, and the options that only some have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::rule::AdjustLrFn;

/// The optimizers, under the names of Axolotl and transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    #[serde(alias = "adamw_torch", alias = "adamw_torch_fused")]
    AdamW,
    /// The same with its moments in 8 bits (Dettmers et al. 2022).
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit", alias = "paged_adamw_8bit")]
    AdamW8bit,
    /// Steps of one size along the sign of a momentum (Chen et al. 2023).
    #[serde(alias = "lion_32bit", alias = "lion_pytorch")]
    Lion,
    /// Orthogonalised momentum for the matrices of layers (Jordan et al. 2024), AdamW for the rest.
    Muon,
    /// Stochastic gradient descent, with momentum as in PyTorch.
    Sgd,
}

/// `optim_args`: options that only one optimizer has; with another one they are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimArgs {
    /// `muon`: how the learning rate follows from the shape of a matrix: `match_rms_adamw` (default: elements move about as far
    /// as with AdamW, so that one `learning_rate` and decay serve both), `original` (PyTorch's default, for rates of 0.02 or
    /// so), or `spectral_unclamped`.
    pub adjust_lr_fn: Option<AdjustLrFn>,
    /// `muon`: whether it looks ahead along the momentum. Default: true.
    pub nesterov: Option<bool>,
    /// `muon`: steps of the Newton–Schulz iteration, from 1 to 99. Default: 5.
    pub ns_steps: Option<usize>,
}

impl OptimArgs {
    /// What is wrong with them for this optimizer, if anything.
    #[must_use]
    pub fn problem(&self, optimizer: Optimizer) -> Option<String> {
        let set = [
            ("adjust_lr_fn", self.adjust_lr_fn.is_some()),
            ("nesterov", self.nesterov.is_some()),
            ("ns_steps", self.ns_steps.is_some()),
        ];
        if let Some((key, _)) = set.into_iter().find(|(_, set)| *set && optimizer != Optimizer::Muon) {
            return Some(format!("`optim_args.{key}` is read by `optimizer: muon` alone; remove it, or choose muon"));
        }
        let steps = self.ns_steps.filter(|steps| !(1..100).contains(steps))?;
        Some(format!("`optim_args.ns_steps: {steps}` must be a whole number from 1 to 99"))
    }
}
