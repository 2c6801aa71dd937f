//! What blocks are run with.

use std::rc::Rc;

use grades_tensor::ops::Balance;
use grades_tensor::{Dtype, Leaf, Tape};

use crate::parameters::{ParameterId, Parameters};

/// What dropout is drawn from: the same pass draws the same masks, also after a resumed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The micro-batch of the step.
    pub micro_batch: u64,
}

impl DropoutKey {
    /// The key of one place in the model.
    pub(crate) fn at(self, site: u64) -> [u64; 4] {
        [self.seed, self.step, self.micro_batch, site]
    }
}

/// How adapters act.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapting {
    /// The scaling factor of `B · A`.
    pub(crate) scaling: f32,
    /// The share of an adapter's input that is dropped in training.
    pub(crate) dropout: f64,
}

/// What blocks are run with.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    /// Records what trains, or nothing.
    pub(crate) tape: &'a Tape,
    /// The values.
    pub(crate) parameters: &'a Parameters,
    /// How adapters act, where there are any.
    pub(crate) adapting: Option<Adapting>,
    /// What dropout is drawn from; nothing is dropped outside training.
    pub(crate) dropout: Option<DropoutKey>,
    /// Where routers add up how their tokens are spread, if the loss counts it.
    pub(crate) balance: Option<&'a Rc<Balance>>,
    /// The dtype of products and of the activations between them.
    pub(crate) dtype: Dtype,
}

impl Run<'_> {
    /// A parameter on the tape.
    pub(crate) fn leaf(&self, id: ParameterId) -> Leaf {
        self.parameters.leaf(id, self.tape.is_recording())
    }

    /// Several parameters on the tape.
    pub(crate) fn leaves(&self, ids: &[ParameterId]) -> Vec<Leaf> {
        ids.iter().map(|&id| self.leaf(id)).collect()
    }
}
