//! The default bodies: every operation composed of stock Burn operations, for any backend.
//!
//! They are also the references that the kernels are tested against, so they follow the formulas, not the speed.

use std::ops::Range;

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, IntDType, Shape, Slice, TensorData};

use super::{Activation, AttentionSpec, CrossEntropySpec, Dropout, IGNORE, Label, LowRank, Precision, Tensors};

/// Scores of pairs that do not see each other. Finite, so that no backend makes `∞ − ∞` of it.
const MASKED: f32 = -1e30;

fn size<B: Backend>(tensor: &FloatTensor<B>) -> [usize; 2] {
    tensor.shape().dims::<2>()
}

pub(super) fn columns<B: Backend>(tensor: FloatTensor<B>, first: usize, count: usize) -> FloatTensor<B> {
    let [rows, _] = size::<B>(&tensor);
    B::float_slice(tensor, &[Slice::from(0..rows), Slice::from(first..first + count)])
}

pub(super) fn floats<B: Backend>(values: Vec<f32>, shape: impl Into<Shape>, device: &Device<B>) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(values, shape.into()), device)
}

fn integers<B: Backend>(values: impl Iterator<Item = i64>, device: &Device<B>) -> IntTensor<B> {
    let values: Vec<i64> = values.collect();
    let length = values.len();
    let tensor = B::int_from_data(TensorData::new(values, [length]), device);
    B::int_cast(tensor, IntDType::I32)
}

/// In f32, and what it was in.
fn wide<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, Precision) {
    let precision = Precision::of(x.dtype());
    (B::float_cast(x, FloatDType::F32), precision)
}

fn narrow<B: Backend>(x: FloatTensor<B>, precision: Precision) -> FloatTensor<B> {
    B::float_cast(x, precision.dtype())
}

pub(super) fn project<B: Backend>(
    x: FloatTensor<B>,
    weights: Tensors<B>,
    biases: Tensors<B>,
    residual: Tensors<B>,
) -> FloatTensor<B> {
    let (x, precision) = wide::<B>(x);
    let precision = if residual.0.is_empty() { precision } else { Precision::F32 };
    let mut biases = biases.0.into_iter();
    let part = |weight| {
        let y = B::float_matmul(x.clone(), B::float_transpose(weight));
        match biases.next() {
            Some(bias) => B::float_add(y, bias),
            None => y,
        }
    };
    let parts: Vec<_> = weights.0.into_iter().map(part).collect();
    let y = B::float_cat(parts, 1);
    narrow::<B>(residual.0.into_iter().fold(y, B::float_add), precision)
}

pub(super) fn project_input_gradient<B: Backend>(dy: FloatTensor<B>, weights: Tensors<B>) -> FloatTensor<B> {
    let mut first = 0;
    let (dy, precision) = wide::<B>(dy);
    let parts: Vec<_> = weights
        .0
        .into_iter()
        .map(|weight| {
            let [rows, _] = size::<B>(&weight);
            first += rows;
            B::float_matmul(columns::<B>(dy.clone(), first - rows, rows), weight)
        })
        .collect();
    narrow::<B>(sum_all::<B>(parts), precision)
}

fn sum_all<B: Backend>(parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    let mut parts = parts.into_iter();
    #[expect(clippy::expect_used, reason = "a projection has at least one weight")]
    let first = parts.next().expect("at least one part");
    parts.fold(first, B::float_add)
}

pub(super) fn project_weight_gradient<B: Backend>(
    dy: FloatTensor<B>,
    x: FloatTensor<B>,
    of: Range<usize>,
) -> FloatTensor<B> {
    let dy = wide::<B>(columns::<B>(dy, of.start, of.len())).0;
    B::float_matmul(B::float_transpose(dy), wide::<B>(x).0)
}

/// Rows `first..first + count`.
pub(super) fn rows<B: Backend>(x: FloatTensor<B>, first: usize, count: usize) -> FloatTensor<B> {
    B::float_slice(x, &[(first..first + count).into()])
}

/// The sum over rows of columns `first..first + count`, `[1, count]`: the gradient of a bias.
pub(super) fn column_sums<B: Backend>(dy: FloatTensor<B>, first: usize, count: usize) -> FloatTensor<B> {
    B::float_sum_dim(wide::<B>(columns::<B>(dy, first, count)).0, 0)
}

pub(super) fn add_expanded<B: Backend>(
    y: FloatTensor<B>,
    u: FloatTensor<B>,
    b: Tensors<B>,
    spec: &LowRank,
) -> FloatTensor<B> {
    let ((mut y, precision), u) = (wide::<B>(y), wide::<B>(u).0);
    let mut rank = 0;
    for (b, &first) in b.0.into_iter().zip(&spec.firsts) {
        let ([out, r], [rows, _]) = (size::<B>(&b), size::<B>(&y));
        let product = B::float_matmul(columns::<B>(u.clone(), rank, r), B::float_transpose(b));
        let sum = B::float_add(columns::<B>(y.clone(), first, out), product);
        y = B::float_slice_assign(y, &[Slice::from(0..rows), Slice::from(first..first + out)], sum);
        rank += r;
    }
    narrow::<B>(y, precision)
}

pub(super) fn expanded_gradient<B: Backend>(dy: FloatTensor<B>, b: Tensors<B>, spec: &LowRank) -> FloatTensor<B> {
    let (dy, precision) = wide::<B>(dy);
    let parts = b.0.into_iter().zip(&spec.firsts).map(|(b, &first)| {
        let [out, _] = size::<B>(&b);
        B::float_matmul(columns::<B>(dy.clone(), first, out), b)
    });
    let du = B::float_cat(parts.collect(), 1);
    narrow::<B>(B::float_mul_scalar(du, spec.scale.into()), precision)
}

pub(super) fn dropout<B: Backend>(x: FloatTensor<B>, dropout: Dropout) -> FloatTensor<B> {
    let [rows, columns] = size::<B>(&x);
    let mut mask = vec![1.0_f32; rows * columns];
    dropout.apply(&mut mask);
    let device = x.device();
    let (x, precision) = wide::<B>(x);
    narrow::<B>(B::float_mul(x, floats::<B>(mask, [rows, columns], &device)), precision)
}

pub(super) fn rms_norm_forward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    eps: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())));
    (B::float_mul(B::float_mul(x, inverse.clone()), scale), inverse)
}

pub(super) fn rms_norm_backward<B: Backend>(
    dy: FloatTensor<B>,
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    inverse: FloatTensor<B>,
    want_scale: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let dy = wide::<B>(dy).0;
    // With n = x · r: dx = r · (g − n · mean(g · n)) where g = dy · scale.
    let normalised = B::float_mul(x, inverse.clone());
    let dscale = want_scale.then(|| B::float_sum_dim(B::float_mul(dy.clone(), normalised.clone()), 0));
    let g = B::float_mul(dy, scale);
    let projection = B::float_mean_dim(B::float_mul(g.clone(), normalised.clone()), 1);
    let dx = B::float_mul(B::float_sub(g, B::float_mul(normalised, projection)), inverse);
    (dx, dscale)
}

/// Rotates each head of `x` `[tokens, heads · head_dim]` by its token's angle; backwards where `sign` is −1.
fn rotate<B: Backend>(x: FloatTensor<B>, heads: usize, spec: &AttentionSpec, sign: f32) -> FloatTensor<B> {
    let Some(rope) = &spec.rope else { return x };
    let device = x.device();
    let [tokens, width] = size::<B>(&x);
    let half = spec.head_dim / 2;
    let rows = |table: &[f32], factor: f32| {
        let values = spec.layout.positions.iter().flat_map(|&p| &table[p as usize * half..][..half]);
        floats::<B>(values.map(|v| v * factor).collect(), [tokens, 1, half], &device)
    };
    let (cos, sin) = (rows(&rope.cos, 1.0), rows(&rope.sin, sign));
    let x = B::float_reshape(x, Shape::from([tokens, heads, spec.head_dim]));
    let part = |range: Range<usize>| {
        B::float_slice(x.clone(), &[Slice::from(0..tokens), Slice::from(0..heads), Slice::from(range)])
    };
    let (low, high) = (part(0..half), part(half..spec.head_dim));
    let new_low = B::float_sub(B::float_mul(low.clone(), cos.clone()), B::float_mul(high.clone(), sin.clone()));
    let new_high = B::float_add(B::float_mul(high, cos), B::float_mul(low, sin));
    B::float_reshape(B::float_cat(vec![new_low, new_high], 2), Shape::from([tokens, width]))
}

pub(super) fn split_heads<B: Backend>(
    qkv: FloatTensor<B>,
    spec: &AttentionSpec,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (query, key) = (spec.query_width(), spec.key_width());
    let (qkv, precision) = wide::<B>(qkv);
    let q = rotate::<B>(columns::<B>(qkv.clone(), 0, query), spec.heads, spec, 1.0);
    let k = rotate::<B>(columns::<B>(qkv.clone(), query, key), spec.kv_heads, spec, 1.0);
    let v = columns::<B>(qkv, query + key, key);
    (narrow::<B>(q, precision), narrow::<B>(k, precision), narrow::<B>(v, precision))
}

pub(super) fn join_heads<B: Backend>(
    dq: FloatTensor<B>,
    dk: FloatTensor<B>,
    dv: FloatTensor<B>,
    spec: &AttentionSpec,
) -> FloatTensor<B> {
    let (dq, precision) = wide::<B>(dq);
    let dq = rotate::<B>(dq, spec.heads, spec, -1.0);
    let dk = rotate::<B>(wide::<B>(dk).0, spec.kv_heads, spec, -1.0);
    narrow::<B>(B::float_cat(vec![dq, dk, wide::<B>(dv).0], 1), precision)
}

/// 0 where query i sees key j, [`MASKED`] elsewhere, `[1, queries, keys]`.
fn mask<B: Backend>(spec: &AttentionSpec, queries: usize, keys: usize, device: &Device<B>) -> FloatTensor<B> {
    let mut mask = vec![MASKED; queries * keys];
    for segment in &spec.layout.segments {
        let past = segment.key.len() - segment.query.len();
        for i in 0..segment.query.len() {
            let last = if spec.causal { past + i } else { segment.key.len() - 1 };
            let first = spec.window.map_or(0, |window| (past + i + 1).saturating_sub(window));
            for j in first..=last {
                mask[(segment.query.start + i) * keys + segment.key.start + j] = 0.0;
            }
        }
    }
    floats::<B>(mask, [1, queries, keys], device)
}

/// `[tokens, heads · d]` to `[all, tokens, d]`, each head repeated for the query heads that it serves.
fn by_head<B: Backend>(x: FloatTensor<B>, heads: usize, all: usize) -> FloatTensor<B> {
    let [tokens, width] = size::<B>(&x);
    let d = width / heads;
    let x = B::float_reshape(x, Shape::from([tokens, heads, 1, d]));
    let x = B::float_repeat_dim(x, 2, all / heads);
    B::float_permute(B::float_reshape(x, Shape::from([tokens, all, d])), &[1, 0, 2])
}

/// The inverse of [`by_head`], repeated heads summed.
fn from_heads<B: Backend>(x: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let [all, tokens, d] = x.shape().dims::<3>();
    let x = B::float_reshape(x, Shape::from([heads, all / heads, tokens, d]));
    let x = B::float_reshape(B::float_sum_dim(x, 1), Shape::from([heads, tokens, d]));
    B::float_reshape(B::float_permute(x, &[1, 0, 2]), Shape::from([tokens, heads * d]))
}

fn scores<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, spec: &AttentionSpec) -> FloatTensor<B> {
    let (device, [queries, _], [keys, _]) = (q.device(), size::<B>(&q), size::<B>(&k));
    let q = by_head::<B>(q, spec.heads, spec.heads);
    let k = by_head::<B>(k, spec.kv_heads, spec.heads);
    let products = B::float_matmul(q, B::float_swap_dims(k, 1, 2));
    let mask = mask::<B>(spec, queries, keys, &device);
    B::float_add(B::float_mul_scalar(products, spec.scale.into()), mask)
}

/// `log Σ exp` over the last dimension, which keeps length 1.
fn log_sum_exp<B: Backend>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    let max = B::float_max_dim(x.clone(), dim);
    let sum = B::float_sum_dim(B::float_exp(B::float_sub(x, max.clone())), dim);
    B::float_add(B::float_log(sum), max)
}

pub(super) fn attend<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    spec: &AttentionSpec,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [tokens, _] = size::<B>(&q);
    let ((q, precision), k, v) = (wide::<B>(q), wide::<B>(k).0, wide::<B>(v).0);
    let scores = scores::<B>(q, k, spec);
    let lse = log_sum_exp::<B>(scores.clone(), 2);
    let weights = B::float_exp(B::float_sub(scores, lse.clone()));
    let out = B::float_matmul(weights, by_head::<B>(v, spec.kv_heads, spec.heads));
    let lse = B::float_reshape(B::float_permute(lse, &[1, 0, 2]), Shape::from([tokens, spec.heads]));
    (narrow::<B>(from_heads::<B>(out, spec.heads), precision), lse)
}

pub(super) fn attend_backward<B: Backend>(
    dout: FloatTensor<B>,
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    spec: &AttentionSpec,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let ((q, precision), k, v) = (wide::<B>(q), wide::<B>(k).0, wide::<B>(v).0);
    let (dout, out) = (wide::<B>(dout).0, wide::<B>(out).0);
    let lse = by_head::<B>(lse, spec.heads, spec.heads);
    let weights = B::float_exp(B::float_sub(scores::<B>(q.clone(), k.clone(), spec), lse));
    let dout = by_head::<B>(dout, spec.heads, spec.heads);
    let out = by_head::<B>(out, spec.heads, spec.heads);
    let dv = B::float_matmul(B::float_swap_dims(weights.clone(), 1, 2), dout.clone());
    let v = by_head::<B>(v, spec.kv_heads, spec.heads);
    let dweights = B::float_matmul(dout.clone(), B::float_swap_dims(v, 1, 2));
    let delta = B::float_sum_dim(B::float_mul(dout, out), 2);
    let dscores = B::float_mul_scalar(B::float_mul(weights, B::float_sub(dweights, delta)), spec.scale.into());
    let dq = B::float_matmul(dscores.clone(), by_head::<B>(k, spec.kv_heads, spec.heads));
    let dk = B::float_matmul(B::float_swap_dims(dscores, 1, 2), by_head::<B>(q, spec.heads, spec.heads));
    let back = |gradient, heads| narrow::<B>(from_heads::<B>(gradient, heads), precision);
    (back(dq, spec.heads), back(dk, spec.kv_heads), back(dv, spec.kv_heads))
}

/// `activation(x)` and its derivative.
fn activate<B: Backend>(x: FloatTensor<B>, activation: Activation) -> (FloatTensor<B>, FloatTensor<B>) {
    use std::f32::consts::{FRAC_1_SQRT_2, PI};
    match activation {
        Activation::Silu => {
            // y = x s, y' = s (1 + x (1 − s)) = s + y (1 − s).
            let s = B::sigmoid(x.clone());
            let y = B::float_mul(x, s.clone());
            let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
            (y.clone(), B::float_add(s, B::float_mul(y, rest)))
        }
        Activation::Gelu => {
            // y = x Φ(x), y' = Φ(x) + x φ(x).
            let erf = B::float_erf(B::float_mul_scalar(x.clone(), FRAC_1_SQRT_2.into()));
            let phi = B::float_mul_scalar(B::float_add_scalar(erf, 1f32.into()), 0.5f32.into());
            let square = B::float_mul(x.clone(), x.clone());
            let density = B::float_exp(B::float_mul_scalar(square, (-0.5f32).into()));
            let density = B::float_mul_scalar(density, (1.0 / (2.0 * PI).sqrt()).into());
            let derivative = B::float_add(phi.clone(), B::float_mul(x.clone(), density));
            (B::float_mul(x, phi), derivative)
        }
        Activation::GeluTanh => {
            // y = x (1 + t) / 2, t = tanh(c (x + a x³)), y' = (1 + t) / 2 + x (1 − t²) c (1 + 3 a x²) / 2.
            let (c, a) = ((2.0 / PI).sqrt(), 0.044_715_f32);
            let square = B::float_mul(x.clone(), x.clone());
            let inner = B::float_add_scalar(B::float_mul_scalar(square.clone(), a.into()), 1f32.into());
            let t = B::float_tanh(B::float_mul_scalar(B::float_mul(inner, x.clone()), c.into()));
            let half = B::float_mul_scalar(B::float_add_scalar(t.clone(), 1f32.into()), 0.5f32.into());
            let slope = B::float_add_scalar(B::float_neg(B::float_mul(t.clone(), t)), 1f32.into());
            let chain = B::float_add_scalar(B::float_mul_scalar(square, (3.0 * a).into()), 1f32.into());
            let tail = B::float_mul(B::float_mul(slope, chain), x.clone());
            let derivative = B::float_add(half.clone(), B::float_mul_scalar(tail, (0.5 * c).into()));
            (B::float_mul(x, half), derivative)
        }
    }
}

pub(super) fn gated_activation<B: Backend>(gate_up: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let width = size::<B>(&gate_up)[1] / 2;
    let (gate_up, precision) = wide::<B>(gate_up);
    let (y, _) = activate::<B>(columns::<B>(gate_up.clone(), 0, width), activation);
    narrow::<B>(B::float_mul(y, columns::<B>(gate_up, width, width)), precision)
}

pub(super) fn gated_activation_backward<B: Backend>(
    dy: FloatTensor<B>,
    gate_up: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let width = size::<B>(&gate_up)[1] / 2;
    let ((gate_up, precision), dy) = (wide::<B>(gate_up), wide::<B>(dy).0);
    let (y, derivative) = activate::<B>(columns::<B>(gate_up.clone(), 0, width), activation);
    let up = columns::<B>(gate_up, width, width);
    let dgate = B::float_mul(B::float_mul(dy.clone(), up), derivative);
    narrow::<B>(B::float_cat(vec![dgate, B::float_mul(dy, y)], 1), precision)
}

pub(super) fn embed<B: Backend>(weight: FloatTensor<B>, ids: &[u32]) -> FloatTensor<B> {
    let indices = integers::<B>(ids.iter().map(|&id| i64::from(id)), &weight.device());
    B::float_select(weight, 0, indices)
}

pub(super) fn embed_backward<B: Backend>(
    dy: FloatTensor<B>,
    onto: Tensors<B>,
    ids: &[u32],
    vocabulary: usize,
) -> FloatTensor<B> {
    let (device, [_, hidden]) = (dy.device(), size::<B>(&dy));
    let onto = onto
        .0
        .into_iter()
        .next()
        .unwrap_or_else(|| B::float_zeros(Shape::from([vocabulary, hidden]), &device, dy.dtype().into()));
    let indices = integers::<B>(ids.iter().map(|&id| i64::from(id)), &device);
    B::float_select_assign(onto, 0, indices, dy, IndexingUpdateOp::Add)
}

/// The rows of `hidden` that have a target, their logits, each row's log-sum-exp `[rows, 1]`, and the index tensors of
/// those rows and of their targets `[rows, 1]`.
struct Labelled<B: Backend> {
    hidden: FloatTensor<B>,
    logits: FloatTensor<B>,
    lse: FloatTensor<B>,
    rows: IntTensor<B>,
    targets: IntTensor<B>,
    count: usize,
}

fn labelled<B: Backend>(hidden: FloatTensor<B>, weight: FloatTensor<B>, targets: &[i64]) -> Labelled<B> {
    let device = hidden.device();
    let rows: Vec<i64> = (0..targets.len()).filter(|&i| targets[i] != IGNORE).map(|i| i as i64).collect();
    let count = rows.len();
    let labels = integers::<B>(rows.iter().map(|&i| targets[i as usize]), &device);
    let rows = integers::<B>(rows.into_iter(), &device);
    let hidden = B::float_select(hidden, 0, rows.clone());
    let logits = B::float_matmul(hidden.clone(), B::float_transpose(weight));
    let lse = log_sum_exp::<B>(logits.clone(), 1);
    Labelled { hidden, logits, lse, rows, targets: B::int_reshape(labels, Shape::from([count, 1])), count }
}

pub(super) fn cross_entropy<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    spec: &CrossEntropySpec,
    want_hidden: bool,
    want_weight: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let (device, all) = (hidden.device(), hidden.shape());
    let (hidden, precision) = wide::<B>(hidden);
    let Labelled { hidden, logits, lse, rows, targets, count } = labelled::<B>(hidden, weight.clone(), &spec.targets);
    let right = B::float_gather(1, logits.clone(), targets.clone());
    let loss = B::float_mul_scalar(B::float_sum(B::float_sub(lse.clone(), right)), spec.scale.into());
    if !want_hidden && !want_weight {
        return (loss, None, None);
    }
    let probabilities = B::float_exp(B::float_sub(logits, lse));
    let minus_one = floats::<B>(vec![-1.0; count], [count, 1], &device);
    let dlogits = B::float_scatter(1, probabilities, targets, minus_one, IndexingUpdateOp::Add);
    let dlogits = B::float_mul_scalar(dlogits, spec.scale.into());
    let dhidden = want_hidden.then(|| {
        let zeros = B::float_zeros(all, &device, weight.dtype().into());
        let found = B::float_matmul(dlogits.clone(), weight);
        narrow::<B>(B::float_select_assign(zeros, 0, rows, found, IndexingUpdateOp::Add), precision)
    });
    let dweight = want_weight.then(|| B::float_matmul(B::float_transpose(dlogits), hidden));
    (loss, dhidden, dweight)
}

pub(super) fn log_likelihoods<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    labels: &[Label],
) -> FloatTensor<B> {
    let device = hidden.device();
    let rows = integers::<B>(labels.iter().map(|label| i64::from(label.row)), &device);
    let tokens = integers::<B>(labels.iter().map(|label| i64::from(label.token)), &device);
    let logits = B::float_matmul(wide::<B>(hidden).0, B::float_transpose(weight));
    let logits = B::float_select(logits, 0, rows);
    let lse = log_sum_exp::<B>(logits.clone(), 1);
    let own = B::float_gather(1, logits, B::int_reshape(tokens, Shape::from([labels.len(), 1])));
    B::float_reshape(B::float_sub(own, lse), Shape::from([labels.len()]))
}
