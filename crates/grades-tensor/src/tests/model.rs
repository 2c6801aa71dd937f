//! A small decoder, wired from the operations as the models wire theirs.

use std::sync::Arc;

use super::{attention, packed, rope, values};
use crate::attention::AttentionSpec;
use crate::device::DeviceRef;
use crate::dtype::Dtype;
use crate::ops;
use crate::spec::{Activation, CrossEntropySpec, IGNORE_INDEX, LossScale};
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

pub(super) const VOCABULARY: usize = 23;
pub(super) const HIDDEN: usize = 12;
pub(super) const INNER: usize = 10;
pub(super) const LAYERS: usize = 3;
pub(super) const QUERY: usize = 16;
pub(super) const KEY: usize = 8;
/// Values of one layer's matrices.
pub(super) const LAYER: usize = HIDDEN * (QUERY + 2 * KEY) + QUERY * HIDDEN + 3 * INNER * HIDDEN;

const LENGTHS: [usize; 2] = [5, 3];
const TOKENS: usize = 8;
/// Pairs of a query and a key that it sees: 1 + … + 5 and 1 + … + 3.
const PAIRS: usize = 15 + 6;
const LABELS: usize = 5;

/// The operations of a product over all tokens with a matrix of so many values.
pub(super) fn matrix(values: usize) -> u64 {
    (2 * TOKENS * values) as u64
}

pub(super) fn head() -> u64 {
    (2 * LABELS * VOCABULARY * HIDDEN) as u64
}

/// `products` of every visible pair and query column: two forward, five backward.
pub(super) fn of_attention(products: usize) -> u64 {
    (2 * PAIRS * QUERY * products) as u64
}

/// The names of a layer's parameters with their shapes.
const PARAMETERS: [(&str, [usize; 2]); 9] = [
    ("input_norm", [1, HIDDEN]),
    ("q", [QUERY, HIDDEN]),
    ("k", [KEY, HIDDEN]),
    ("v", [KEY, HIDDEN]),
    ("o", [HIDDEN, QUERY]),
    ("inner_norm", [1, HIDDEN]),
    ("gate", [INNER, HIDDEN]),
    ("up", [INNER, HIDDEN]),
    ("down", [HIDDEN, INNER]),
];

/// A parameter by its name; its slot is its place in the model.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) value: Tensor,
    pub(super) trains: bool,
}

pub(super) struct Model {
    pub(super) parameters: Vec<Parameter>,
    dtype: Dtype,
    /// Whether the embedding trains as the input, where it trains.
    pub(super) input_trains: bool,
}

impl Model {
    /// Random weights that depend on the name only; an untied head equals the embedding. All of it trains.
    pub(super) fn new(device: DeviceRef, tied: bool, dtype: Dtype) -> Self {
        let mut shapes = vec![("embedding".to_owned(), [VOCABULARY, HIDDEN])];
        for layer in 0..LAYERS {
            shapes.extend(PARAMETERS.map(|(name, shape)| (format!("layers.{layer}.{name}"), shape)));
        }
        shapes.push(("norm".to_owned(), [1, HIDDEN]));
        if !tied {
            shapes.push(("head".to_owned(), [VOCABULARY, HIDDEN]));
        }
        let parameter = |(name, shape @ [rows, columns]): (String, [usize; 2])| {
            let like = if name == "head" { "embedding" } else { &name };
            let seed = like.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            // Norm scales around 1, projections small enough for a tame loss.
            let scaled = |value: f32| if rows == 1 { 1.0 + 0.2 * value } else { 0.3 * value };
            let value = device.from_host(values(seed, rows * columns).into_iter().map(scaled).collect(), shape);
            Parameter { name, value, trains: true }
        };
        Self { parameters: shapes.into_iter().map(parameter).collect(), dtype, input_trains: true }
    }

    pub(super) fn freeze(&mut self, frozen: impl Fn(&str) -> bool) {
        self.parameters.iter_mut().filter(|parameter| frozen(&parameter.name)).for_each(|p| p.trains = false);
    }

    fn leaf(&self, name: &str) -> Leaf {
        let slot = self.parameters.iter().position(|parameter| parameter.name == name).unwrap();
        let Parameter { value, trains, .. } = &self.parameters[slot];
        if *trains { Leaf::tracked(value.clone(), slot) } else { Leaf::constant(value.clone()) }
    }

    fn head(&self) -> Leaf {
        let untied = self.parameters.iter().any(|parameter| parameter.name == "head");
        self.leaf(if untied { "head" } else { "embedding" })
    }

    pub(super) fn embed(&self, tape: &Tape) -> Var {
        let leaf = self.leaf("embedding");
        let leaf = if self.input_trains { leaf } else { Leaf::constant(leaf.value) };
        ops::embed(tape, &leaf, Arc::new(vec![3, 7, 7, 22, 0, 1, 7, 5]))
    }

    pub(super) fn layer(&self, tape: &Tape, layer: usize, x: &Var) -> Var {
        let leaf = |name: &str| self.leaf(&format!("layers.{layer}.{name}"));
        let spec = AttentionSpec { rope: Some(rope(4)), ..attention(4, 2, 4, packed(&LENGTHS)) };
        let normed = ops::rms_norm(tape, x, &leaf("input_norm"), 1e-5, self.dtype);
        let qkv = ops::project(tape, &normed, &[leaf("q"), leaf("k"), leaf("v")], &[], None);
        let seen = ops::self_attention(tape, qkv, spec);
        let x = ops::project(tape, &seen, &[leaf("o")], &[], Some(x));
        let normed = ops::rms_norm(tape, &x, &leaf("inner_norm"), 1e-5, self.dtype);
        let inner = ops::gated_project(tape, &normed, &[leaf("gate"), leaf("up")], Activation::Silu);
        ops::project(tape, &inner, &[leaf("down")], &[], Some(&x))
    }

    /// Layers `layers` over x.
    pub(super) fn layers(&self, tape: &Tape, layers: std::ops::Range<usize>, x: Var) -> Var {
        layers.fold(x, |x, layer| self.layer(tape, layer, &x))
    }

    fn last_norm(&self, tape: &Tape, x: &Var) -> Var {
        ops::rms_norm(tape, x, &self.leaf("norm"), 1e-5, self.dtype)
    }

    pub(super) fn loss(&self, tape: &Tape, x: &Var) -> Var {
        let spec = CrossEntropySpec { targets: Arc::new(targets()), scale: LossScale::Same(0.2) };
        ops::cross_entropy(tape, &self.last_norm(tape, x), &self.head(), &spec)
    }

    pub(super) fn log_likelihoods(&self, x: &Var) -> Tensor {
        let hidden = self.last_norm(&Tape::off(), x);
        ops::log_likelihoods(&hidden, &self.head().value, &crate::labels_of(&targets()))
    }
}

fn targets() -> Vec<i64> {
    vec![IGNORE_INDEX, 7, 22, 0, 9, IGNORE_INDEX, 5, IGNORE_INDEX]
}
