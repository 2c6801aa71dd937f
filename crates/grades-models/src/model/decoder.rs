//! A decoder-only language model.

use grades_tensor::{DeviceRef, Dtype, Label, Leaf, Tape, Tensor, Var, ops};

use super::inputs::{Inputs, Rows};
use super::stack::{Prefix, Stack};
use super::vision::Vision;
use crate::adapter::LoraConfig;
use crate::config::Sizes;
use crate::names::Names;
use crate::nn::{Adapting, DropoutKey, KeysAndValues, Layer, Projection, Run};
use crate::parameters::{Group, Parameter, ParameterId, Parameters, Place};

/// What a family puts together.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) embedding: ParameterId,
    pub(crate) stack: Stack,
    /// The head, where it is not the embedding.
    pub(crate) head: Option<ParameterId>,
    /// What reads pictures.
    pub(crate) vision: Option<Vision>,
    /// What the checkpoint calls its tensors.
    pub(crate) names: Names,
}

/// A decoder-only language model.
#[derive(Debug)]
pub struct Decoder {
    sizes: Sizes,
    pub(super) parameters: Parameters,
    pub(super) embedding: ParameterId,
    pub(super) stack: Stack,
    /// The untied head.
    pub(super) head: Option<ParameterId>,
    /// Whether a tied embedding trains as input too; as head it does where it is trainable.
    pub(super) input_trains: bool,
    /// Whether a tied embedding has parted.
    pub(super) untied: bool,
    pub(super) vision: Option<Vision>,
    pub(super) names: Names,
    dtype: Dtype,
    adapter: Option<LoraConfig>,
    /// The places of the parameters under the adapter, as they were without it.
    places: Vec<Vec<Place>>,
}

impl Decoder {
    /// The model that a family has put together.
    pub(crate) fn new(sizes: Sizes, wiring: Wiring, parameters: Parameters) -> Self {
        let Wiring { embedding, stack, head, vision, names } = wiring;
        Self {
            sizes,
            parameters,
            embedding,
            stack,
            head,
            input_trains: true,
            untied: false,
            vision,
            names,
            dtype: Dtype::F32,
            adapter: None,
            places: Vec::new(),
        }
    }

    /// The sizes.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All parameters.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Where its tensors are.
    #[must_use]
    pub fn device(&self) -> DeviceRef {
        self.parameters.get(self.embedding).value.device()
    }

    /// The dtype of its products and of the activations between them: f32 unless set.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sets the dtype of its products and of the activations between them; the weights stay as they are.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.dtype = dtype;
    }

    /// The options of its adapters.
    #[must_use]
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref()
    }

    /// What its checkpoint calls its tensors.
    pub(crate) fn names(&self) -> Names {
        self.names
    }

    /// The rotary frequencies of the first layer that rotates, as the config says them.
    pub(crate) fn rotary_frequencies(&self) -> Option<Vec<f32>> {
        self.stack.layers.iter().find_map(|layer| layer.attention.heads.rope.as_ref()).map(|rope| rope.frequencies())
    }

    /// Every linear layer, in the order of the data.
    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        let of_vision = self.vision.iter().flat_map(Vision::projections);
        of_vision.chain(self.stack.layers.iter().flat_map(Layer::projections))
    }

    /// The same, to be changed.
    fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_vision = self.vision.iter_mut().flat_map(Vision::projections_mut);
        of_vision.chain(self.stack.layers.iter_mut().flat_map(|layer| layer.projections_mut()))
    }

    /// Keeps some of its groups as they are: nothing of them trains, freezes or gets an adapter.
    pub fn hold(&mut self, groups: &[Group]) {
        let held = |place: Place| if groups.contains(&place.group()) { Place::Base } else { place };
        for parameter in self.parameters.iter_mut() {
            let places: Vec<Place> = parameter.pieces().iter().map(|piece| held(piece.place)).collect();
            parameter.set_places(places);
        }
        for projection in self.projections_mut() {
            projection.places.iter_mut().for_each(|place| *place = held(*place));
        }
    }

    /// Puts adapters beside its linear layers: `attach` adds their parameters to the table and their pairs to the layers.
    /// From here on only they train.
    pub(crate) fn adapt<E>(
        &mut self,
        config: LoraConfig,
        attach: impl FnOnce(&LoraConfig, Parameters, Vec<&mut Projection>) -> Result<Parameters, E>,
    ) -> Result<(), E> {
        self.places = self.parameters.iter().map(places_of).collect();
        for parameter in self.parameters.iter_mut() {
            parameter.set_trainable(false);
            let all = vec![Place::Base; parameter.pieces().len()];
            parameter.set_places(all);
        }
        let parameters = std::mem::take(&mut self.parameters);
        self.parameters = attach(&config, parameters, self.projections_mut().collect())?;
        self.adapter = Some(config);
        Ok(())
    }

    /// The places of all parameters but its adapters', as they are without these.
    pub(super) fn places_without_adapters(&self) -> Vec<Vec<Place>> {
        match self.adapter {
            Some(_) => self.places.clone(),
            None => self.parameters.iter().map(places_of).collect(),
        }
    }

    /// The same model without adapters, all of it dense: each weight becomes what it is with its own.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.parameters.iter_mut().for_each(Parameter::unpack);
        let scaling = self.adapter.take().as_ref().map_or(0.0, LoraConfig::scaling);
        let mut parameters = std::mem::take(&mut self.parameters);
        for projection in self.projections_mut() {
            for (&weight, pair) in projection.weights.iter().zip(std::mem::take(&mut projection.pairs)) {
                if let Some(pair) = pair.filter(|pair| !pair.folded) {
                    pair.fold(&mut parameters, weight, scaling);
                }
            }
        }
        let places = std::mem::take(&mut self.places);
        if !places.is_empty() {
            parameters.truncate(places.len());
        }
        for (parameter, places) in parameters.iter_mut().zip(places) {
            parameter.set_places(places);
        }
        self.parameters = parameters;
        self
    }

    /// Adds every adapter of which nothing trains any more to its weight, so that its products vanish; a packed weight stays
    /// as it is. The adapter's values stay in the table, and are saved as before.
    pub fn fold_frozen(&mut self) {
        let scaling = self.adapter.as_ref().map_or(0.0, LoraConfig::scaling);
        let mut parameters = std::mem::take(&mut self.parameters);
        for projection in self.projections_mut() {
            for (&weight, pair) in projection.weights.iter().zip(&mut projection.pairs) {
                let Some(pair) = pair.as_mut().filter(|pair| !pair.folded) else { continue };
                let trains = pair.parameters().any(|id| parameters.get(id).is_trainable());
                if !trains && !parameters.get(weight).is_packed() {
                    pair.fold(&mut parameters, weight, scaling);
                    pair.folded = true;
                }
            }
        }
        self.parameters = parameters;
    }

    /// `log p(token)` of each label after the token of its row, `[1, labels]`; they are in the order of their rows. Nothing
    /// is recorded for gradients.
    #[must_use]
    pub fn log_likelihoods(&self, inputs: &Inputs, labels: &[Label]) -> Tensor {
        self.log_likelihoods_from(self.embedded(inputs), inputs, labels)
    }

    /// [`log_likelihoods`](Self::log_likelihoods) from a prefix. Above the last layer's attention there are only the rows
    /// that have a label.
    #[must_use]
    pub fn log_likelihoods_from(&self, prefix: Prefix, inputs: &Inputs, labels: &[Label]) -> Tensor {
        let of_rows = labels.chunk_by(|one, other| one.row == other.row);
        let rows: Vec<u32> = of_rows.clone().map(|labels| labels[0].row).collect();
        let labels: Vec<Label> =
            (0..).zip(of_rows).flat_map(|(row, labels)| labels.iter().map(move |l| Label { row, ..*l })).collect();
        let last = self.stack.layers.len().saturating_sub(1);
        let Prefix { output, layers } = self.prefix(inputs, Some(prefix), last);
        let (tape, output) = (Tape::off(), Var::constant(output));
        let run = self.run(&tape, None);
        let x = match self.stack.layers.get(layers) {
            None => ops::gather_rows(&output, &rows),
            Some(layer) => {
                let seen = layer.see(run, &output, &inputs.layout, None);
                layer.beyond_attention(run, &ops::gather_rows(&seen, &rows), &ops::gather_rows(&output, &rows))
            }
        };
        let hidden = self.stack.norm.forward(run, &x);
        ops::log_likelihoods(&hidden, &self.head_weight(&tape).value, &labels)
    }

    /// Logits of every token, `[tokens, vocabulary]`. Nothing is recorded for gradients.
    #[must_use]
    pub fn logits(&self, inputs: &Inputs) -> Tensor {
        self.logits_of(&self.hidden(inputs, None))
    }

    /// Whether the tokens of a text of `from` tokens turn otherwise in one of `to`, as embeddings of long texts do.
    #[must_use]
    pub fn turns_anew(&self, from: usize, to: usize) -> bool {
        let ropes = self.stack.layers.iter().filter_map(|layer| layer.attention.heads.rope.as_ref());
        ropes.into_iter().any(|rope| rope.changes(from, to))
    }

    /// Logits behind some rows of the normed output of the last layer, `[rows, vocabulary]`.
    pub(super) fn logits_of_rows(&self, hidden: &Var, rows: &[u32]) -> Tensor {
        self.logits_of(&ops::gather_rows(hidden, rows))
    }

    fn logits_of(&self, hidden: &Var) -> Tensor {
        let (tape, hidden) = (Tape::off(), Var::constant(hidden.value.cast(Dtype::F32)));
        ops::project(&tape, &hidden, &[self.head_weight(&tape)], &[], None).value
    }

    /// The normed output of the last layer, `[tokens, hidden]`, without a record.
    pub(super) fn hidden(&self, inputs: &Inputs, cache: Option<&mut Vec<Option<KeysAndValues>>>) -> Var {
        let tape = Tape::off();
        let run = self.run(&tape, None);
        let rows = self.replaced(run, inputs);
        let (x, all) = (self.embed(&tape, inputs, rows.as_ref()), 0..self.stack.layers.len());
        let x = self.stack.run(run, x, all, &inputs.layout, cache);
        self.stack.norm.forward(run, &x)
    }

    /// What its blocks are run with.
    pub(super) fn run<'a>(&'a self, tape: &'a Tape, dropout: Option<DropoutKey>) -> Run<'a> {
        let adapting = |config: &LoraConfig| Adapting { scaling: config.scaling(), dropout: config.lora_dropout };
        let adapting = self.adapter.as_ref().map(adapting);
        Run { tape, parameters: &self.parameters, adapting, dropout, balance: None, dtype: self.dtype }
    }

    /// What takes the place of embeddings, `[replaced, hidden]`.
    pub(super) fn replaced(&self, run: Run<'_>, inputs: &Inputs) -> Option<Var> {
        match (&inputs.replaced.as_ref()?.by, &self.vision) {
            (Rows::Known(rows), _) => Some(Var::constant(rows.clone())),
            (Rows::Of(pictures), Some(vision)) => Some(vision.rows(run, pictures)),
            (Rows::Of(_), None) => None,
        }
    }

    /// The input of the first layer, `[tokens, hidden]`, with `rows` in the place of those that are replaced.
    pub(super) fn embed(&self, tape: &Tape, inputs: &Inputs, rows: Option<&Var>) -> Var {
        let track = tape.is_recording() && (self.head.is_some() || self.input_trains);
        let x = ops::embed(tape, &self.parameters.leaf(self.embedding, track), inputs.ids.clone());
        let x = match self.sizes.embedding_scale {
            1.0 => x,
            factor => ops::scale(tape, x, factor),
        };
        match (&inputs.replaced, rows) {
            (Some(replaced), Some(rows)) => ops::replace_rows(tape, x, replaced.rows.clone(), rows),
            _ => x,
        }
    }

    /// The head on a tape.
    pub(super) fn head_weight(&self, tape: &Tape) -> Leaf {
        self.parameters.leaf(self.head.unwrap_or(self.embedding), tape.is_recording())
    }

    /// Where its lowest trainable parameter stands for a batch, as [`Stack::lowest_trainable`]: what makes rows of pictures
    /// stands below all layers.
    pub(super) fn lowest_trainable(&self, pictures: bool) -> usize {
        match pictures && self.pictures_train() {
            true => 0,
            false => self.stack.lowest_trainable(&self.parameters, self.input_trains || self.head.is_some()),
        }
    }

    /// Whether anything trains of what makes rows of pictures.
    pub(super) fn pictures_train(&self) -> bool {
        self.vision.is_some()
            && self.parameters.pieces().any(|(_, piece)| piece.is_trainable() && piece.place.group() != Group::Language)
    }
}

fn places_of(parameter: &Parameter) -> Vec<Place> {
    parameter.pieces().iter().map(|piece| piece.place).collect()
}
