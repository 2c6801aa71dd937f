//! Counts of arithmetic by kind.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Floating-point operations by kind. Only matrix products count (2·m·n·k each; an attention's two products per visible
/// pair likewise), as in the papers that report training FLOPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flops {
    /// Products of the forward pass.
    pub forward: u64,
    /// Products that carry the gradient to an operation's input.
    pub input_gradient: u64,
    /// Products that give the gradient of a weight.
    pub weight_gradient: u64,
}

impl Flops {
    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.forward + self.input_gradient + self.weight_gradient
    }

    /// What a counter that stood at `earlier` has counted since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            forward: self.forward - earlier.forward,
            input_gradient: self.input_gradient - earlier.input_gradient,
            weight_gradient: self.weight_gradient - earlier.weight_gradient,
        }
    }
}

impl AddAssign for Flops {
    fn add_assign(&mut self, other: Self) {
        self.forward += other.forward;
        self.input_gradient += other.input_gradient;
        self.weight_gradient += other.weight_gradient;
    }
}
