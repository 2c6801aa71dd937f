//! The CPU backend's own implementations, by the kernels of `grades-kernels`.
//!
//! A token or label outside the vocabulary is refused before a batch reaches a model, so here it is a mistake of this
//! crate and panics, as an index into a slice does.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};
use grades_kernels::attention::{Attention, AttentionGradients, Saved, Segment, attention, attention_backward};
use grades_kernels::cross_entropy::{Head, HeadGradients, linear_cross_entropy, log_likelihood};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_kernels::heads::JoinedHeads;
use grades_kernels::rope::RotaryTable;
use grades_kernels::{activations, embedding, norms};

use super::{Activation, AttentionSpec, CrossEntropySpec, Ops, Tensors, Tie};

/// A tensor's values, made contiguous where they are a strided view.
pub(super) struct Values(FlexTensor);

impl Values {
    pub(super) fn of(tensor: FlexTensor) -> Self {
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }

    pub(super) fn slice(&self) -> &[f32] {
        let layout = self.0.layout();
        &self.0.storage::<f32>()[layout.start_offset()..][..layout.num_elements()]
    }

    pub(super) fn dims(&self) -> [usize; 2] {
        self.0.layout().shape().dims::<2>()
    }

    pub(super) fn matrix(&self) -> Matrix<'_> {
        let [rows, columns] = self.dims();
        Matrix::new(self.slice(), rows, columns)
    }

    /// The values in a vector, without a copy where no other tensor shares them.
    pub(super) fn into_vec(self) -> Vec<f32> {
        self.0.into_data().try_into_vec::<f32>().unwrap_or_default()
    }
}

pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Columns `first..` of `[rows, columns]` values as a matrix of `count` columns.
pub(super) fn columns(values: &[f32], [rows, columns]: [usize; 2], first: usize, count: usize) -> Matrix<'_> {
    Matrix::with_stride(&values[first.min(values.len())..], rows, count, columns)
}

fn kernel(activation: Activation) -> activations::Activation {
    match activation {
        Activation::Silu => activations::Activation::Silu,
        Activation::Gelu => activations::Activation::Gelu,
        Activation::GeluTanh => activations::Activation::GeluTanh,
    }
}

fn form(spec: &AttentionSpec) -> Attention {
    Attention {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        scale: spec.scale,
        causal: spec.causal,
        window: spec.window,
    }
}

fn segments(spec: &AttentionSpec) -> Vec<Segment> {
    let segment = |s: &super::Segment| Segment { queries: s.query.clone(), keys: s.key.clone() };
    spec.layout.segments.iter().map(segment).collect()
}

/// The heads of a spec, with the rotation of queries and keys.
fn heads(spec: &AttentionSpec) -> JoinedHeads<'_> {
    let rotary = spec.rope.as_ref().map(|table| {
        let table = RotaryTable { cos: &table.cos, sin: &table.sin, rotary_dim: spec.head_dim };
        (table, spec.layout.positions.as_slice())
    });
    JoinedHeads { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, rotary }
}

fn head<'a>(hidden: &'a Values, weight: &'a Values, labels: &'a [i64]) -> Head<'a> {
    Head { hidden: hidden.slice(), weight: weight.slice(), labels, hidden_size: hidden.dims()[1] }
}

fn ids_of(ids: &[u32]) -> Vec<i64> {
    ids.iter().map(|&id| i64::from(id)).collect()
}

impl Ops for Flex {
    fn project(x: FlexTensor, weights: Tensors<Self>, biases: Tensors<Self>, residual: Tensors<Self>) -> FlexTensor {
        let x = Values::of(x);
        let weights: Vec<_> = weights.0.into_iter().map(Values::of).collect();
        let (rows, total) = (x.dims()[0], weights.iter().map(|w| w.dims()[0]).sum::<usize>());
        let residual = residual.0.into_iter().next();
        let accumulate = residual.is_some() || !biases.0.is_empty();
        let mut y = match residual {
            Some(residual) => Values::of(residual).into_vec(),
            None => vec![0.0; rows * total],
        };
        if !biases.0.is_empty() {
            let biases: Vec<_> = biases.0.into_iter().map(Values::of).collect();
            let bias: Vec<f32> = biases.iter().flat_map(|b| b.slice()).copied().collect();
            for row in y.chunks_exact_mut(total) {
                row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            }
        }
        let mut first = 0;
        for weight in &weights {
            let [out, _] = weight.dims();
            let part = &mut y[if rows == 0 { 0 } else { first }..];
            gemm::nt(x.matrix(), weight.matrix(), MatrixMut::with_stride(part, rows, out, total), accumulate);
            first += out;
        }
        tensor(y, [rows, total])
    }

    fn project_input_gradient(dy: FlexTensor, weights: Tensors<Self>) -> FlexTensor {
        let dy = Values::of(dy);
        let ([rows, total], mut first) = (dy.dims(), 0);
        let weights: Vec<_> = weights.0.into_iter().map(Values::of).collect();
        let width = weights.first().map_or(0, |w| w.dims()[1]);
        let mut dx = vec![0.0; rows * width];
        for weight in &weights {
            let [out, _] = weight.dims();
            let part = columns(dy.slice(), [rows, total], first, out);
            gemm::nn(part, weight.matrix(), MatrixMut::new(&mut dx, rows, width), first > 0);
            first += out;
        }
        tensor(dx, [rows, width])
    }

    fn project_weight_gradient(dy: FlexTensor, x: FlexTensor, first: usize, rows: usize) -> FlexTensor {
        let (dy, x) = (Values::of(dy), Values::of(x));
        let width = x.dims()[1];
        let mut dw = vec![0.0; rows * width];
        let part = columns(dy.slice(), dy.dims(), first, rows);
        gemm::tn(part, x.matrix(), MatrixMut::new(&mut dw, rows, width), false);
        tensor(dw, [rows, width])
    }

    fn rms_norm_forward(x: FlexTensor, scale: FlexTensor, eps: f32) -> (FlexTensor, FlexTensor) {
        let (x, scale) = (Values::of(x), Values::of(scale));
        let [rows, width] = x.dims();
        let (mut y, mut inverse) = (vec![0.0; rows * width], vec![0.0; rows]);
        norms::rms_norm(x.slice(), scale.slice(), eps, &mut y, &mut inverse);
        (tensor(y, [rows, width]), tensor(inverse, [rows, 1]))
    }

    fn rms_norm_backward(
        dy: FlexTensor,
        x: FlexTensor,
        scale: FlexTensor,
        inverse_rms: FlexTensor,
        want_scale: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let (dy, x) = (Values::of(dy), Values::of(x));
        let (scale, inverse) = (Values::of(scale), Values::of(inverse_rms));
        let [rows, width] = x.dims();
        let (mut dx, mut dscale) = (vec![0.0; rows * width], want_scale.then(|| vec![0.0; width]));
        let (x, scale, inverse) = (x.slice(), scale.slice(), inverse.slice());
        norms::rms_norm_backward(x, scale, inverse, dy.slice(), &mut dx, dscale.as_deref_mut());
        (tensor(dx, [rows, width]), dscale.map(|dscale| tensor(dscale, [1, width])))
    }

    #[expect(clippy::expect_used, reason = "the model makes its rope table as long as the batch's positions need")]
    fn split_heads(qkv: FlexTensor, spec: AttentionSpec) -> (FlexTensor, FlexTensor, FlexTensor) {
        let qkv = Values::of(qkv);
        let (tokens, query, key) = (qkv.dims()[0], spec.query_width(), spec.key_width());
        let (mut q, mut k, mut v) = (vec![0.0; tokens * query], vec![0.0; tokens * key], vec![0.0; tokens * key]);
        heads(&spec).split(qkv.slice(), &mut q, &mut k, &mut v).expect("positions within the table");
        (tensor(q, [tokens, query]), tensor(k, [tokens, key]), tensor(v, [tokens, key]))
    }

    #[expect(clippy::expect_used, reason = "the model makes its rope table as long as the batch's positions need")]
    fn join_heads(dq: FlexTensor, dk: FlexTensor, dv: FlexTensor, spec: AttentionSpec) -> FlexTensor {
        let (dq, dk, dv) = (Values::of(dq), Values::of(dk), Values::of(dv));
        let (tokens, width) = (dq.dims()[0], spec.query_width() + 2 * spec.key_width());
        let mut joined = vec![0.0; tokens * width];
        heads(&spec).join(dq.slice(), dk.slice(), dv.slice(), &mut joined).expect("positions within the table");
        tensor(joined, [tokens, width])
    }

    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, spec: AttentionSpec) -> (FlexTensor, FlexTensor) {
        let (q, k, v) = (Values::of(q), Values::of(k), Values::of(v));
        let [tokens, width] = q.dims();
        let (mut out, mut lse) = (vec![0.0; tokens * width], vec![0.0; tokens * spec.heads]);
        attention(&form(&spec), &segments(&spec), q.slice(), k.slice(), v.slice(), &mut out, &mut lse);
        (tensor(out, [tokens, width]), tensor(lse, [tokens, spec.heads]))
    }

    fn attend_backward(
        dout: FlexTensor,
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        out: FlexTensor,
        log_sum_exp: FlexTensor,
        spec: AttentionSpec,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (dout, q, k, v) = (Values::of(dout), Values::of(q), Values::of(k), Values::of(v));
        let (out, lse) = (Values::of(out), Values::of(log_sum_exp));
        let (query, key) = (q.dims(), k.dims());
        let mut dq = vec![0.0; query[0] * query[1]];
        let (mut dk, mut dv) = (vec![0.0; key[0] * key[1]], vec![0.0; key[0] * key[1]]);
        let saved = Saved { q: q.slice(), k: k.slice(), v: v.slice(), out: out.slice(), log_sum_exp: lse.slice() };
        let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention_backward(&form(&spec), &segments(&spec), saved, dout.slice(), gradients);
        (tensor(dq, query), tensor(dk, key), tensor(dv, key))
    }

    fn gated_activation(gate_up: FlexTensor, activation: Activation) -> FlexTensor {
        let gate_up = Values::of(gate_up);
        let [rows, joined] = gate_up.dims();
        let mut y = vec![0.0; rows * joined / 2];
        activations::gated_joined(kernel(activation), gate_up.slice(), joined / 2, &mut y);
        tensor(y, [rows, joined / 2])
    }

    fn gated_activation_backward(dy: FlexTensor, gate_up: FlexTensor, activation: Activation) -> FlexTensor {
        let (dy, gate_up) = (Values::of(dy), Values::of(gate_up));
        let [rows, joined] = gate_up.dims();
        let mut gradient = vec![0.0; rows * joined];
        activations::gated_joined_backward(kernel(activation), gate_up.slice(), dy.slice(), joined / 2, &mut gradient);
        tensor(gradient, [rows, joined])
    }

    #[expect(clippy::expect_used, reason = "the tokens of a batch are checked before it reaches a model")]
    fn embed(weight: FlexTensor, ids: Arc<Vec<u32>>, _: Option<Tie>) -> FlexTensor {
        let weight = Values::of(weight);
        let width = weight.dims()[1];
        let mut rows = vec![0.0; ids.len() * width];
        embedding::gather(weight.slice(), width, &ids_of(&ids), &mut rows).expect("tokens within the vocabulary");
        tensor(rows, [ids.len(), width])
    }

    #[expect(clippy::expect_used, reason = "the tokens of a batch are checked before it reaches a model")]
    fn embed_backward(dy: FlexTensor, onto: Tensors<Self>, ids: Arc<Vec<u32>>, vocabulary: usize) -> FlexTensor {
        let dy = Values::of(dy);
        let width = dy.dims()[1];
        let mut gradient = match onto.0.into_iter().next() {
            Some(onto) => Values::of(onto).into_vec(),
            None => vec![0.0; vocabulary * width],
        };
        embedding::scatter_add(dy.slice(), width, &ids_of(&ids), &mut gradient).expect("tokens within the vocabulary");
        tensor(gradient, [vocabulary, width])
    }

    #[expect(clippy::expect_used, reason = "the targets of a batch are checked before it reaches a model")]
    fn cross_entropy_forward(
        hidden: FlexTensor,
        weight: FlexTensor,
        spec: CrossEntropySpec,
        want_hidden: bool,
        want_weight: bool,
    ) -> (FlexTensor, Option<FlexTensor>, Option<FlexTensor>) {
        let (hidden, weight) = (Values::of(hidden), Values::of(weight));
        let mut dhidden = want_hidden.then(|| vec![0.0; hidden.slice().len()]);
        let mut dweight = want_weight.then(|| vec![0.0; weight.slice().len()]);
        let gradients =
            HeadGradients { scale: spec.scale, dhidden: dhidden.as_deref_mut(), dweight: dweight.as_deref_mut() };
        let loss = linear_cross_entropy(head(&hidden, &weight, &spec.targets), gradients)
            .expect("targets within the vocabulary");
        let total = (loss.sum * f64::from(spec.scale)) as f32;
        let (hidden, weight) = (hidden.dims(), weight.dims());
        (tensor(vec![total], [1]), dhidden.map(|d| tensor(d, hidden)), dweight.map(|d| tensor(d, weight)))
    }

    #[expect(clippy::expect_used, reason = "the targets of a batch are checked before it reaches a model")]
    fn log_likelihoods(hidden: FlexTensor, weight: FlexTensor, targets: Arc<Vec<i64>>) -> FlexTensor {
        let (hidden, weight) = (Values::of(hidden), Values::of(weight));
        let scores = log_likelihood(head(&hidden, &weight, &targets)).expect("targets within the vocabulary");
        let scores: Vec<f32> = scores.iter().map(|score| score.log_probability).collect();
        let count = scores.len();
        tensor(scores, [count])
    }
}
