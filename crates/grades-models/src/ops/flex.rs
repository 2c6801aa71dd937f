//! The CPU backend's own implementations, by the kernels of `grades-kernels`.
//!
//! A token or label outside the vocabulary is refused before a batch reaches a model, so here it is a mistake of this
//! crate and panics, as an index into a slice does.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Element, Shape, TensorData};
use grades_kernels::attention::{Attention, Saved, Segment, attention_backward_new, attention_new};
use grades_kernels::cross_entropy::{Head, HeadElement, Label, linear_cross_entropy_new, log_likelihood};
use grades_kernels::gemm::bf16::{Output, Rows};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_kernels::heads::JoinedHeads;
use grades_kernels::rope::RotaryTable;
use grades_kernels::{activations, embedding, norms};
use half::bf16;

use super::{Activation, AttentionSpec, CrossEntropySpec, Ops, Precision, Tensors, Tie};

/// A number that both Burn and the kernels know.
pub(super) trait Number: Element + bytemuck::Pod + HeadElement {}

impl Number for f32 {}

impl Number for bf16 {}

/// `$body` with `$number` standing for the numbers of `$tensor`.
macro_rules! with_numbers {
    ($tensor:expr, $number:ident => $body:expr) => {
        if $tensor.dtype() == DType::BF16 {
            type $number = bf16;
            $body
        } else {
            type $number = f32;
            $body
        }
    };
}

/// A tensor's values, made contiguous where they are a strided view.
pub(super) struct Values(FlexTensor);

impl Values {
    pub(super) fn of(tensor: FlexTensor) -> Self {
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }

    /// As [`Values::of`], but a view of some columns stays one: only for [`Values::matrix`].
    fn with_rows(tensor: FlexTensor) -> Self {
        match *tensor.layout().strides() {
            [_, 1] => Self(tensor),
            _ => Self::of(tensor),
        }
    }

    pub(super) fn slice<E: Number>(&self) -> &[E] {
        let layout = self.0.layout();
        &self.0.storage::<E>()[layout.start_offset()..][..layout.num_elements()]
    }

    pub(super) fn precision(&self) -> Precision {
        Precision::of(self.0.dtype())
    }

    pub(super) fn dims(&self) -> [usize; 2] {
        self.0.layout().shape().dims::<2>()
    }

    pub(super) fn matrix<E: Number>(&self) -> Matrix<'_, E> {
        let [rows, columns] = self.dims();
        match *self.0.layout().strides() {
            [stride, 1] if rows > 1 && usize::try_from(stride).is_ok_and(|stride| stride > columns) => {
                let data = &self.0.storage::<E>()[self.0.layout().start_offset()..];
                Matrix::with_stride(data, rows, columns, stride.unsigned_abs())
            }
            _ => Matrix::new(self.slice(), rows, columns),
        }
    }

    /// The values in a vector, without a copy where no other tensor shares them.
    pub(super) fn into_vec<E: Number>(self) -> Vec<E> {
        self.0.into_data().try_into_vec::<E>().unwrap_or_default()
    }
}

pub(super) fn tensor<E: Number>(values: Vec<E>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Columns `first..` of `[rows, columns]` values as a matrix of `count` columns.
pub(super) fn columns<E: Number>(
    values: &[E],
    [rows, columns]: [usize; 2],
    first: usize,
    count: usize,
) -> Matrix<'_, E> {
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

fn head<'a, E: Number>(hidden: &'a Values, weight: &'a Values, labels: &'a [i64]) -> Head<'a, E> {
    Head { hidden: hidden.slice(), weight: weight.slice(), labels, hidden_size: hidden.dims()[1] }
}

fn ids_of(ids: &[u32]) -> Vec<i64> {
    ids.iter().map(|&id| i64::from(id)).collect()
}

/// Zeros to write into.
pub(super) fn zeros<E: Number>(count: usize) -> Vec<E> {
    // Not `vec!`, which clears numbers of a foreign type one by one.
    bytemuck::zeroed_vec(count)
}

/// Biases side by side.
pub(super) fn joined(biases: Tensors<Flex>) -> Vec<f32> {
    let biases: Vec<_> = biases.0.into_iter().map(Values::of).collect();
    biases.iter().flat_map(Values::slice::<f32>).copied().collect()
}

/// The residual that a product is added to.
pub(super) fn one(residual: Tensors<Flex>) -> Option<Values> {
    residual.0.into_iter().next().map(Values::of)
}

/// [`Ops::project`] of f32, through weights of `outs` rows: `product` writes that with one of them to its columns of y, or
/// adds it there.
pub(super) fn project_f32(
    rows: usize,
    outs: &[usize],
    bias: &[f32],
    residual: Option<Values>,
    product: impl Fn(usize, MatrixMut<'_>, bool),
) -> FlexTensor {
    let total = outs.iter().sum::<usize>();
    let accumulate = residual.is_some() || !bias.is_empty();
    let mut y = residual.map_or_else(|| zeros(rows * total), Values::into_vec);
    add_bias(&mut y, bias);
    let mut first = 0;
    for (index, &out) in outs.iter().enumerate() {
        let part = &mut y[if rows == 0 { 0 } else { first }..];
        product(index, MatrixMut::with_stride(part, rows, out, total), accumulate);
        first += out;
    }
    tensor(y, [rows, total])
}

fn add_bias(y: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
}

/// Weights as the bf16 products read them.
fn matrices(weights: &[Values]) -> Vec<Matrix<'_>> {
    weights.iter().map(Values::matrix).collect()
}

fn rows<'a>(matrices: &'a [Matrix<'_>]) -> Vec<&'a dyn Rows> {
    matrices.iter().map(|matrix| matrix as &dyn Rows).collect()
}

/// [`Ops::project`] of bf16: bf16, or f32 onto a residual.
pub(super) fn project_bf16(x: &Values, weights: &[&dyn Rows], bias: &[f32], residual: Option<Values>) -> FlexTensor {
    let (tokens, total) = (x.dims()[0], weights.iter().map(|weight| weight.rows()).sum::<usize>());
    match residual {
        Some(y) => tensor(gemm::bf16::nt_onto(x.matrix(), weights, bias, y.slice()), [tokens, total]),
        None => tensor(gemm::bf16::nt_new(x.matrix(), weights, bias), [tokens, total]),
    }
}

/// [`Ops::project_input_gradient`] of f32, through weights of these shapes: `product` adds that of a part of dy with one of
/// them to dx, or writes it there.
pub(super) fn input_gradient_f32(
    dy: &Values,
    shapes: &[[usize; 2]],
    product: impl Fn(usize, Matrix<'_>, MatrixMut<'_>, bool),
) -> FlexTensor {
    let ([rows, total], mut first) = (dy.dims(), 0);
    let width = shapes.first().map_or(0, |[_, width]| *width);
    let mut dx = zeros(rows * width);
    for (index, &[out, _]) in shapes.iter().enumerate() {
        let part = columns(dy.slice(), [rows, total], first, out);
        product(index, part, MatrixMut::new(&mut dx, rows, width), first > 0);
        first += out;
    }
    tensor(dx, [rows, width])
}

/// [`Ops::project_input_gradient`] of bf16.
pub(super) fn input_gradient_bf16(dy: &Values, weights: &[&dyn Rows]) -> FlexTensor {
    let (tokens, width) = (dy.dims()[0], weights.first().map_or(0, |weight| weight.columns()));
    tensor(gemm::bf16::nn_new(dy.matrix(), weights), [tokens, width])
}

/// [`Ops::project_input_gradient_onto`] of bf16.
pub(super) fn input_gradient_onto_bf16(dy: &Values, weights: &[&dyn Rows], onto: FlexTensor) -> FlexTensor {
    let onto = Values::of(onto);
    let dims @ [tokens, width] = onto.dims();
    let mut dx = onto.into_vec::<bf16>();
    gemm::bf16::nn(dy.matrix(), weights, Output::AddBf16(MatrixMut::new(&mut dx, tokens, width)));
    tensor(dx, dims)
}

/// [`Ops::rms_norm_forward`] into either kind of numbers.
fn rms_norm<E: Number>(x: &Values, scale: &Values, eps: f32) -> (FlexTensor, FlexTensor) {
    let [rows, width] = x.dims();
    let (y, inverse) = norms::rms_norm_new::<E>(x.slice(), scale.slice(), eps);
    (tensor(y, [rows, width]), tensor(inverse, [rows, 1]))
}

/// [`Ops::gated_project_forward`]; where the products are not kept, the second is empty.
fn gated_project(
    x: FlexTensor,
    weights: Tensors<Flex>,
    activation: Activation,
    keep: bool,
) -> (FlexTensor, FlexTensor) {
    let short = Precision::of(x.dtype()) == Precision::Bf16;
    let values: Vec<_> = weights.0.iter().cloned().map(Values::of).collect();
    match &matrices(&values)[..] {
        [gate, up] if short => {
            let (x, out) = (Values::of(x), gate.rows());
            let (y, joined) = gemm::bf16::gated_new(x.matrix(), [gate, up], kernel(activation), keep);
            let tokens = x.dims()[0];
            (tensor(y, [tokens, out]), tensor(joined, [if keep { tokens } else { 0 }, 2 * out]))
        }
        _ => {
            let joined = Flex::project(x, weights, Tensors(Vec::new()), Tensors(Vec::new()));
            (Flex::gated_activation(joined.clone(), activation), joined)
        }
    }
}

impl Ops for Flex {
    fn project(x: FlexTensor, weights: Tensors<Self>, biases: Tensors<Self>, residual: Tensors<Self>) -> FlexTensor {
        let (x, bias, residual) = (Values::of(x), joined(biases), one(residual));
        let weights: Vec<_> = weights.0.into_iter().map(Values::of).collect();
        match x.precision() {
            Precision::F32 => {
                let outs: Vec<usize> = weights.iter().map(|weight| weight.dims()[0]).collect();
                project_f32(x.dims()[0], &outs, &bias, residual, |index, y, accumulate| {
                    gemm::nt(x.matrix(), weights[index].matrix(), y, accumulate);
                })
            }
            Precision::Bf16 => project_bf16(&x, &rows(&matrices(&weights)), &bias, residual),
        }
    }

    fn gated_project(x: FlexTensor, weights: Tensors<Self>, activation: Activation) -> FlexTensor {
        gated_project(x, weights, activation, false).0
    }

    fn gated_project_forward(
        x: FlexTensor,
        weights: Tensors<Self>,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor) {
        gated_project(x, weights, activation, true)
    }

    fn project_input_gradient(dy: FlexTensor, weights: Tensors<Self>) -> FlexTensor {
        let dy = Values::of(dy);
        let weights: Vec<_> = weights.0.into_iter().map(Values::of).collect();
        match dy.precision() {
            Precision::F32 => {
                let shapes: Vec<_> = weights.iter().map(Values::dims).collect();
                input_gradient_f32(&dy, &shapes, |index, dy, dx, accumulate| {
                    gemm::nn(dy, weights[index].matrix(), dx, accumulate);
                })
            }
            Precision::Bf16 => input_gradient_bf16(&dy, &rows(&matrices(&weights))),
        }
    }

    fn project_input_gradient_onto(dy: FlexTensor, weights: Tensors<Self>, onto: FlexTensor) -> FlexTensor {
        if Precision::of(dy.dtype()) == Precision::F32 {
            return Self::float_add(onto, Self::project_input_gradient(dy, weights));
        }
        let weights: Vec<_> = weights.0.into_iter().map(Values::of).collect();
        input_gradient_onto_bf16(&Values::of(dy), &rows(&matrices(&weights)), onto)
    }

    fn project_weight_gradients(dy: FlexTensor, x: FlexTensor, ranges: Vec<Range<usize>>) -> Tensors<Self> {
        let (dy, x) = (Values::of(dy), Values::with_rows(x));
        let width = x.dims()[1];
        let gradients = match x.precision() {
            Precision::F32 => {
                let one = |range: &Range<usize>| {
                    let mut dw = zeros(range.len() * width);
                    let c = MatrixMut::new(&mut dw, range.len(), width);
                    gemm::tn(columns(dy.slice(), dy.dims(), range.start, range.len()), x.matrix(), c, false);
                    dw
                };
                ranges.iter().map(one).collect()
            }
            Precision::Bf16 => gemm::bf16::tn_new(dy.matrix(), x.matrix(), &ranges),
        };
        let shaped = |(dw, range): (Vec<f32>, Range<usize>)| tensor(dw, [range.len(), width]);
        Tensors(gradients.into_iter().zip(ranges).map(shaped).collect())
    }

    fn in_precision(x: FlexTensor, precision: Precision) -> FlexTensor {
        if Precision::of(x.dtype()) == precision {
            return x;
        }
        let (shape, x) = (x.layout().shape().clone(), Values::of(x));
        match precision {
            Precision::F32 => tensor(grades_kernels::widen(x.slice()), shape),
            Precision::Bf16 => tensor(grades_kernels::narrow(x.slice()), shape),
        }
    }

    fn rms_norm_forward(x: FlexTensor, scale: FlexTensor, eps: f32, precision: Precision) -> (FlexTensor, FlexTensor) {
        let (x, scale) = (Values::of(x), Values::of(scale));
        match precision {
            Precision::F32 => rms_norm::<f32>(&x, &scale, eps),
            Precision::Bf16 => rms_norm::<bf16>(&x, &scale, eps),
        }
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
        let mut dscale = want_scale.then(|| zeros(width));
        let (x, scale, inverse) = (x.slice(), scale.slice(), inverse.slice());
        let dx = with_numbers!(dy.0, E => {
            norms::rms_norm_backward_new(x, scale, inverse, dy.slice::<E>(), dscale.as_deref_mut())
        });
        (tensor(dx, [rows, width]), dscale.map(|dscale: Vec<f32>| tensor(dscale, [1, width])))
    }

    #[expect(clippy::expect_used, reason = "the model makes its rope table as long as the batch's positions need")]
    fn split_heads(qkv: FlexTensor, spec: AttentionSpec) -> (FlexTensor, FlexTensor, FlexTensor) {
        let qkv = Values::of(qkv);
        let (tokens, query, key) = (qkv.dims()[0], spec.query_width(), spec.key_width());
        with_numbers!(qkv.0, E => {
            let [q, k, v] = heads(&spec).split_new(qkv.slice::<E>()).expect("positions within the table");
            (tensor(q, [tokens, query]), tensor(k, [tokens, key]), tensor(v, [tokens, key]))
        })
    }

    #[expect(clippy::expect_used, reason = "the model makes its rope table as long as the batch's positions need")]
    fn join_heads(dq: FlexTensor, dk: FlexTensor, dv: FlexTensor, spec: AttentionSpec) -> FlexTensor {
        let (dq, dk, dv) = (Values::of(dq), Values::of(dk), Values::of(dv));
        let (tokens, width) = (dq.dims()[0], spec.query_width() + 2 * spec.key_width());
        with_numbers!(dq.0, E => {
            let joined = heads(&spec).join_new::<E>(dq.slice(), dk.slice(), dv.slice());
            tensor(joined.expect("positions within the table"), [tokens, width])
        })
    }

    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, spec: AttentionSpec) -> (FlexTensor, FlexTensor) {
        let (q, k, v) = (Values::of(q), Values::of(k), Values::of(v));
        let [tokens, width] = q.dims();
        with_numbers!(q.0, E => {
            let (out, lse) =
                attention_new::<E>(&form(&spec), &segments(&spec), q.slice(), k.slice(), v.slice());
            (tensor(out, [tokens, width]), tensor(lse, [tokens, spec.heads]))
        })
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
        with_numbers!(q.0, E => {
            let saved: Saved<E> =
                Saved { q: q.slice(), k: k.slice(), v: v.slice(), out: out.slice(), log_sum_exp: lse.slice() };
            let [dq, dk, dv] = attention_backward_new(&form(&spec), &segments(&spec), saved, dout.slice());
            (tensor(dq, query), tensor(dk, key), tensor(dv, key))
        })
    }

    fn gated_activation(gate_up: FlexTensor, activation: Activation) -> FlexTensor {
        let gate_up = Values::of(gate_up);
        let [rows, joined] = gate_up.dims();
        with_numbers!(gate_up.0, E => {
            let y = activations::gated_joined_new::<E>(kernel(activation), gate_up.slice(), joined / 2);
            tensor(y, [rows, joined / 2])
        })
    }

    fn gated_activation_backward(dy: FlexTensor, gate_up: FlexTensor, activation: Activation) -> FlexTensor {
        let (dy, gate_up) = (Values::of(dy), Values::of(gate_up));
        let [rows, joined] = gate_up.dims();
        with_numbers!(gate_up.0, E => {
            let (gate_up, dy) = (gate_up.slice::<E>(), dy.slice());
            let gradient = activations::gated_joined_backward_new(kernel(activation), gate_up, dy, joined / 2);
            tensor(gradient, [rows, joined])
        })
    }

    #[expect(clippy::expect_used, reason = "the tokens of a batch are checked before it reaches a model")]
    fn embed(weight: FlexTensor, ids: Arc<Vec<u32>>, _: Option<Tie>) -> FlexTensor {
        let weight = Values::of(weight);
        let width = weight.dims()[1];
        with_numbers!(weight.0, E => {
            let rows = embedding::gather::<E>(weight.slice(), width, &ids_of(&ids));
            tensor(rows.expect("tokens within the vocabulary"), [ids.len(), width])
        })
    }

    #[expect(clippy::expect_used, reason = "the tokens of a batch are checked before it reaches a model")]
    fn embed_backward(dy: FlexTensor, onto: Tensors<Self>, ids: Arc<Vec<u32>>, vocabulary: usize) -> FlexTensor {
        let dy = Values::of(dy);
        let width = dy.dims()[1];
        let mut gradient = match onto.0.into_iter().next() {
            Some(onto) => Values::of(onto).into_vec(),
            None => zeros(vocabulary * width),
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
        with_numbers!(hidden.0, E => {
            let head = head::<E>(&hidden, &weight, &spec.targets);
            let (loss, dhidden, dweight) = linear_cross_entropy_new(head, spec.scale, want_hidden, want_weight)
                .expect("targets within the vocabulary");
            let total = (loss.sum * f64::from(spec.scale)) as f32;
            let (hidden, weight) = (hidden.dims(), weight.dims());
            (tensor(vec![total], [1]), dhidden.map(|d| tensor(d, hidden)), dweight.map(|d| tensor(d, weight)))
        })
    }

    #[expect(clippy::expect_used, reason = "the labels of a batch are checked before it reaches a model")]
    fn log_likelihoods(hidden: FlexTensor, weight: FlexTensor, labels: Arc<Vec<Label>>) -> FlexTensor {
        let (hidden, weight) = (Values::of(hidden), Values::of(weight));
        let ([rows, size], [vocabulary, _]) = (hidden.dims(), weight.dims());
        let scores = with_numbers!(hidden.0, E => {
            let hidden = Matrix::new(hidden.slice::<E>(), rows, size);
            log_likelihood(hidden, Matrix::new(weight.slice(), vocabulary, size), &labels)
        });
        let scores = scores.expect("labels within the vocabulary");
        let scores: Vec<f32> = scores.iter().map(|score| score.log_probability).collect();
        let count = scores.len();
        tensor(scores, [count])
    }
}
