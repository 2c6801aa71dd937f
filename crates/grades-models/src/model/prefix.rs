//! The output of a model's first layers, which stays what it is while they are frozen.

use grades_tensor::{Tape, Var};

use super::decoder::Decoder;
use super::inputs::Inputs;
use super::stack::Prefix;

impl Decoder {
    /// How many layers from the input on hold nothing that trains, the embedding as input included. None where the loss balances
    /// experts: it counts how the tokens are spread in every layer.
    #[must_use]
    pub fn frozen_layers(&self) -> usize {
        if self.balances() {
            return 0;
        }
        self.lowest_trainable(true).saturating_sub(1).min(self.stack.layers.len())
    }

    /// Whether the output of the [`frozen_layers`](Self::frozen_layers) stays what it is while the rest trains. A tied
    /// embedding that trains on as head moves it.
    #[must_use]
    pub fn is_prefix_constant(&self) -> bool {
        self.frozen_layers() > 0 && !(self.head.is_none() && self.parameters.get(self.embedding).is_trainable())
    }

    /// The output of the first `layers` layers, from that of fewer where there is one. Nothing is recorded for gradients.
    #[must_use]
    pub fn prefix(&self, inputs: &Inputs, from: Option<Prefix>, layers: usize) -> Prefix {
        let Prefix { output, layers: first } = from.unwrap_or_else(|| self.embedded(inputs));
        let tape = Tape::off();
        let output = self.stack.run(self.run(&tape, None), Var::constant(output), first..layers, &inputs.layout, None);
        Prefix { output: output.value, layers: layers.max(first) }
    }

    /// The embeddings, without a record.
    pub(super) fn embedded(&self, inputs: &Inputs) -> Prefix {
        let tape = Tape::off();
        let rows = self.replaced(self.run(&tape, None), inputs);
        Prefix { output: self.embed(&tape, inputs, rows.as_ref()).value, layers: 0 }
    }
}
