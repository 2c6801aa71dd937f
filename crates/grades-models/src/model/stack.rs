//! The layers of one tower.

use std::ops::Range;
use std::sync::Arc;

use grades::Tower;
use grades_tensor::{Layout, Tensor, Var};

use crate::nn::{KeysAndValues, Layer, Norm, Run};
use crate::parameters::{Parameters, Place};

/// The output of a stack's first layers.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// `[rows, hidden]`.
    pub output: Tensor,
    /// How many layers it is the output of; 0 for what comes before them.
    pub layers: usize,
}

/// The layers of a tower and the norm above them.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) tower: Tower,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
}

impl Stack {
    /// Layers `range`: `[tokens, hidden]` to `[tokens, hidden]`. With a cache the keys and values of each layer join it.
    pub(crate) fn run(
        &self,
        run: Run<'_>,
        mut x: Var,
        range: Range<usize>,
        layout: &Arc<Layout>,
        mut cache: Option<&mut Vec<Option<KeysAndValues>>>,
    ) -> Var {
        if let Some(cache) = cache.as_deref_mut() {
            cache.resize(self.layers.len(), None);
        }
        for (index, layer) in self.layers.iter().enumerate().take(range.end).skip(range.start) {
            x = layer.forward(run, &x, layout, cache.as_deref_mut().and_then(|cache| cache.get_mut(index)));
        }
        x
    }

    /// How many numbers of its matrices a row of the first `layers` layers is multiplied by.
    pub(crate) fn values_per_row(&self, parameters: &Parameters, layers: usize) -> usize {
        self.layers.iter().take(layers).map(|layer| layer.values_per_token(parameters)).sum()
    }

    /// Operations of the products of attention in the first `layers` layers, forward.
    pub(crate) fn attention_operations(&self, layout: &Arc<Layout>, layers: usize) -> u64 {
        self.layers.iter().take(layers).map(|layer| layer.attention.spec(layout).operations()).sum()
    }

    /// Where its lowest trainable parameter stands: 0 for what comes before the layers, `i + 1` for layer `i`, and above the
    /// layers for what comes after them, or if nothing trains. A tied embedding counts as input only if `input_trains`.
    pub(crate) fn lowest_trainable(&self, parameters: &Parameters, input_trains: bool) -> usize {
        let top = self.layers.len() + 1;
        let of_piece = |place: Place| match place {
            Place::Tied(_) if !input_trains => top,
            place => place.height().filter(|(tower, _)| *tower == self.tower).map_or(top, |(_, height)| height),
        };
        let trainable = parameters.pieces().filter(|(_, piece)| piece.is_trainable());
        trainable.map(|(_, piece)| of_piece(piece.place)).min().unwrap_or(top)
    }
}
