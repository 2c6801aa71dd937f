//! Norms, attention, gates and dropout.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::ops::Range;

use super::memory::{Reference, build, row, tensor, values};
use super::projections::dot;
use crate::attention::{AttentionSpec, Segment};
use crate::device::{Layers, SavedAttention};
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::spec::Activation;
use crate::tensor::Tensor;

/// `activation(x)` and its derivative.
fn activate(x: f64, activation: Activation) -> (f64, f64) {
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s + x * s * (1.0 - s))
        }
        Activation::Gelu => {
            let (phi, density) = (0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)), (-x * x / 2.0).exp() / (2.0 * PI).sqrt());
            (x * phi, phi + x * density)
        }
        Activation::GeluTanh => {
            let (c, a) = ((2.0 / PI).sqrt(), 0.044_715);
            let t = (c * (x + a * x.powi(3))).tanh();
            let slope = (1.0 - t * t) * c * (1.0 + 3.0 * a * x * x);
            (x * (1.0 + t) / 2.0, (1.0 + t) / 2.0 + x * slope / 2.0)
        }
    }
}

/// The error function: its power series, which 60 terms give to 1e-12 below 4, and beyond that its limit.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        // 1 − erf(4) is 1.5e-8, below the rounding of f32.
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    2.0 / PI.sqrt() * sum
}

/// Rotates the first elements of each head of x by its token's angle; backwards where `sign` is −1. One of them is paired with
/// that half their number further on.
fn rotate(x: &Tensor, spec: &AttentionSpec, sign: f64) -> Tensor {
    let Some(rope) = &spec.rope else { return x.clone() };
    let half = rope.rotary_dim / 2;
    build(x.shape(), x.dtype(), |i, j| {
        let (head, d) = (j / spec.head_dim * spec.head_dim, j % spec.head_dim);
        let own = f64::from(row(x, i)[j]);
        if d >= rope.rotary_dim {
            return own;
        }
        let angle = spec.layout.positions[i] as usize * half + d % half;
        let (cos, sin) = (f64::from(rope.cos[angle]), sign * f64::from(rope.sin[angle]));
        let other = f64::from(row(x, i)[head + (d + half) % rope.rotary_dim]);
        own * cos + if d < half { -other * sin } else { other * sin }
    })
}

fn columns(x: &Tensor, range: Range<usize>) -> Tensor {
    build([x.rows(), range.len()], x.dtype(), |i, j| f64::from(row(x, i)[range.start + j]))
}

/// The queries, keys and values of joined rows.
fn parts(qkv: &Tensor, spec: &AttentionSpec) -> [Tensor; 3] {
    let (query, key) = (spec.query_width(), spec.key_width());
    [0..query, query..query + key, query + key..query + 2 * key].map(|range| columns(qkv, range))
}

/// Tensors of as many rows beside one another.
fn beside(tensors: &[Tensor]) -> Tensor {
    let (rows, dtype) = (tensors[0].rows(), tensors[0].dtype());
    let joined = (0..rows).flat_map(|i| tensors.iter().flat_map(move |tensor| row(tensor, i).to_vec())).collect();
    tensor(joined, [rows, tensors.iter().map(Tensor::columns).sum()], dtype)
}

/// A row for each head of each token.
fn by_head(x: &Tensor, spec: &AttentionSpec, dtype: Dtype) -> Tensor {
    tensor(values(x).to_vec(), [x.len() / spec.head_dim, spec.head_dim], dtype)
}

/// What there is of each head, beside that of the token's other heads again.
fn by_token(x: &Tensor, heads: usize) -> Tensor {
    tensor(values(x).to_vec(), [x.rows() / heads, heads * x.columns()], x.dtype())
}

/// The keys that the `i`-th query of a segment sees.
fn visible(spec: &AttentionSpec, segment: &Segment, i: usize) -> Range<usize> {
    let past = segment.key.len() - segment.query.len();
    let (all, own) = (segment.key.len(), past + i);
    let end = if spec.causal { own + 1 } else { spec.window.map_or(all, |window| all.min(own + window)) };
    let first = spec.window.map_or(0, |window| (own + 1).saturating_sub(window));
    segment.key.start + first..segment.key.start + end
}

/// Calls `f` for every pair of a head and a query: head, query, keys that it sees, the first columns of the head in q and
/// in k.
fn each_row(spec: &AttentionSpec, mut f: impl FnMut(usize, usize, Range<usize>, usize, usize)) {
    for segment in &spec.layout.segments {
        for (i, query) in segment.query.clone().enumerate() {
            for head in 0..spec.heads {
                let of_key = head / (spec.heads / spec.kv_heads);
                f(head, query, visible(spec, segment, i), head * spec.head_dim, of_key * spec.head_dim);
            }
        }
    }
}

/// `(x − mean) / √(var + eps)` of one element, by the moments of its row.
fn normed(x: &Tensor, moments: &Tensor, i: usize, j: usize) -> f64 {
    let of_row = row(moments, i);
    (f64::from(row(x, i)[j]) - f64::from(of_row[0])) * f64::from(of_row[1])
}

impl Layers for Reference {
    fn activate(&self, x: &Tensor, activation: Activation) -> Tensor {
        build(x.shape(), x.dtype(), |i, j| activate(f64::from(row(x, i)[j]), activation).0)
    }

    fn activate_backward(&self, dy: &Tensor, x: &Tensor, activation: Activation) -> Tensor {
        build(x.shape(), x.dtype(), |i, j| f64::from(row(dy, i)[j]) * activate(f64::from(row(x, i)[j]), activation).1)
    }

    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Tensor {
        let width = gate_up.columns() / 2;
        build([gate_up.rows(), width], gate_up.dtype(), |i, j| {
            activate(f64::from(row(gate_up, i)[j]), activation).0 * f64::from(row(gate_up, i)[width + j])
        })
    }

    fn gated_activation_backward(&self, dy: &Tensor, gate_up: &Tensor, activation: Activation) -> Tensor {
        let width = gate_up.columns() / 2;
        build(gate_up.shape(), gate_up.dtype(), |i, j| {
            let of = j % width;
            let (y, slope) = activate(f64::from(row(gate_up, i)[of]), activation);
            let up = f64::from(row(gate_up, i)[width + of]);
            f64::from(row(dy, i)[of]) * if j < width { slope * up } else { y }
        })
    }

    fn rms_norm(&self, x: &Tensor, scale: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor) {
        let inverse = build([x.rows(), 1], Dtype::F32, |i, _| {
            1.0 / (dot(row(x, i), row(x, i)) / x.columns() as f64 + f64::from(eps)).sqrt()
        });
        let y = build(x.shape(), dtype, |i, j| {
            f64::from(row(x, i)[j]) * f64::from(values(&inverse)[i]) * f64::from(values(scale)[j])
        });
        (y, inverse)
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        inverse_rms: &Tensor,
        want_scale: bool,
    ) -> (Tensor, Option<Tensor>) {
        // With n = x · r: dx = r · (g − n · mean(g · n)) where g = dy · scale.
        let inverse = |i: usize| f64::from(values(inverse_rms)[i]);
        let normed = |i: usize, j: usize| f64::from(row(x, i)[j]) * inverse(i);
        let g = |i: usize, j: usize| f64::from(row(dy, i)[j]) * f64::from(values(scale)[j]);
        let width = x.columns();
        let means: Vec<f64> =
            (0..x.rows()).map(|i| (0..width).map(|j| g(i, j) * normed(i, j)).sum::<f64>() / width as f64).collect();
        let dx = build(x.shape(), Dtype::F32, |i, j| inverse(i) * (g(i, j) - normed(i, j) * means[i]));
        let dscale = || {
            build(scale.shape(), Dtype::F32, |_, j| {
                (0..x.rows()).map(|i| f64::from(row(dy, i)[j]) * normed(i, j)).sum()
            })
        };
        (dx, want_scale.then(dscale))
    }

    fn layer_norm(&self, x: &Tensor, scale: &Tensor, bias: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor) {
        let width = x.columns() as f64;
        let mean = |i| row(x, i).iter().map(|x| f64::from(*x)).sum::<f64>() / width;
        let variance =
            |i: usize, mean: f64| row(x, i).iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width;
        let moments = build([x.rows(), 2], Dtype::F32, |i, j| {
            if j == 0 { mean(i) } else { 1.0 / (variance(i, mean(i)) + f64::from(eps)).sqrt() }
        });
        let y = build(x.shape(), dtype, |i, j| {
            normed(x, &moments, i, j) * f64::from(values(scale)[j]) + f64::from(values(bias)[j])
        });
        (y, moments)
    }

    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        moments: &Tensor,
        want_parameters: bool,
    ) -> (Tensor, Option<[Tensor; 2]>) {
        // With n the normed x and s its inverse deviation: dx = s · (g − mean(g) − n · mean(g · n)) where g = dy · scale.
        let (rows, width) = (x.rows(), x.columns());
        let dy = |i: usize, j: usize| f64::from(row(dy, i)[j]);
        let g = |i: usize, j: usize| dy(i, j) * f64::from(values(scale)[j]);
        let mean = |of: &dyn Fn(usize) -> f64| (0..width).map(of).sum::<f64>() / width as f64;
        let means: Vec<[f64; 2]> =
            (0..rows).map(|i| [mean(&|j| g(i, j)), mean(&|j| g(i, j) * normed(x, moments, i, j))]).collect();
        let dx = build(x.shape(), Dtype::F32, |i, j| {
            f64::from(row(moments, i)[1]) * (g(i, j) - means[i][0] - normed(x, moments, i, j) * means[i][1])
        });
        let dscale =
            || build(scale.shape(), Dtype::F32, |_, j| (0..rows).map(|i| dy(i, j) * normed(x, moments, i, j)).sum());
        let dbias = || build(scale.shape(), Dtype::F32, |_, j| (0..rows).map(|i| dy(i, j)).sum());
        (dx, want_parameters.then(|| [dscale(), dbias()]))
    }

    fn norm_heads(&self, qkv: &Tensor, scales: [&Tensor; 2], eps: f32, spec: &AttentionSpec) -> (Tensor, Tensor) {
        let [q, k, v] = parts(qkv, spec);
        let norm = |x: &Tensor, scale, heads| {
            let (y, inverse) = self.rms_norm(&by_head(x, spec, Dtype::F32), scale, eps, qkv.dtype());
            (by_token(&y, heads), by_token(&inverse, heads))
        };
        let ((q, of_q), (k, of_k)) = (norm(&q, scales[0], spec.heads), norm(&k, scales[1], spec.kv_heads));
        (beside(&[q, k, v]), beside(&[of_q, of_k]))
    }

    fn norm_heads_backward(
        &self,
        dy: &Tensor,
        qkv: &Tensor,
        scales: [&Tensor; 2],
        inverse_rms: &Tensor,
        want_scales: [bool; 2],
        spec: &AttentionSpec,
    ) -> (Tensor, [Option<Tensor>; 2]) {
        let ([q, k, _], [dq, dk, dv]) = (parts(qkv, spec), parts(dy, spec));
        let gradients = |of: usize, dy: &Tensor, x: &Tensor, heads: Range<usize>| {
            let (x, dy) = (by_head(x, spec, Dtype::F32), by_head(dy, spec, dy.dtype()));
            let (inverse, count) = (columns(inverse_rms, heads.clone()), heads.len());
            let inverse = tensor(values(&inverse).to_vec(), [x.rows(), 1], Dtype::F32);
            let (dx, dscale) = self.rms_norm_backward(&dy, &x, scales[of], &inverse, want_scales[of]);
            (by_token(&dx, count).cast(qkv.dtype()), dscale)
        };
        let (dq, dq_scale) = gradients(0, &dq, &q, 0..spec.heads);
        let (dk, dk_scale) = gradients(1, &dk, &k, spec.heads..spec.heads + spec.kv_heads);
        (beside(&[dq, dk, dv]), [dq_scale, dk_scale])
    }

    fn split_heads(&self, qkv: &Tensor, spec: &AttentionSpec) -> [Tensor; 3] {
        let [q, k, v] = parts(qkv, spec);
        [rotate(&q, spec, 1.0), rotate(&k, spec, 1.0), v]
    }

    fn join_heads(&self, dq: &Tensor, dk: &Tensor, dv: &Tensor, spec: &AttentionSpec) -> Tensor {
        beside(&[rotate(dq, spec, -1.0), rotate(dk, spec, -1.0), dv.clone()])
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> (Tensor, Tensor) {
        let (mut out, mut log_sums) = (vec![0.0; q.len()], vec![0.0; q.rows() * spec.heads]);
        each_row(spec, |head, query, keys, of_q, of_k| {
            let of = |t, first| &row(t, query)[first..first + spec.head_dim];
            let score = |key: usize| f64::from(spec.scale) * dot(of(q, of_q), &row(k, key)[of_k..]);
            let largest = keys.clone().map(score).fold(f64::NEG_INFINITY, f64::max);
            let log_sum = largest + keys.clone().map(|key| (score(key) - largest).exp()).sum::<f64>().ln();
            log_sums[query * spec.heads + head] = log_sum as f32;
            for d in 0..spec.head_dim {
                let weighted = |key| (score(key) - log_sum).exp() * f64::from(row(v, key)[of_k + d]);
                out[query * q.columns() + of_q + d] = keys.clone().map(weighted).sum::<f64>() as f32;
            }
        });
        (tensor(out, q.shape(), q.dtype()), tensor(log_sums, [q.rows(), spec.heads], Dtype::F32))
    }

    fn attend_backward(&self, dout: &Tensor, saved: &SavedAttention, spec: &AttentionSpec) -> [Tensor; 3] {
        let SavedAttention { q, k, v, out, log_sum_exp } = saved;
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let scale = f64::from(spec.scale);
        each_row(spec, |head, query, keys, of_q, of_k| {
            let all = of_q..of_q + spec.head_dim;
            let (q_row, dout_row) = (&row(q, query)[all.clone()], &row(dout, query)[all.clone()]);
            let delta = dot(dout_row, &row(out, query)[all]);
            for key in keys {
                let of = of_k..of_k + spec.head_dim;
                let (k_row, v_row) = (&row(k, key)[of.clone()], &row(v, key)[of]);
                let score = scale * dot(q_row, k_row);
                let weight = (score - f64::from(log_sum_exp.to_host()[query * spec.heads + head])).exp();
                let dscore = scale * weight * (dot(dout_row, v_row) - delta);
                for d in 0..spec.head_dim {
                    dq[query * q.columns() + of_q + d] += dscore * f64::from(k_row[d]);
                    dk[key * k.columns() + of_k + d] += dscore * f64::from(q_row[d]);
                    dv[key * v.columns() + of_k + d] += weight * f64::from(dout_row[d]);
                }
            }
        });
        let narrow = |sums: Vec<f64>, of: &Tensor| {
            tensor(sums.into_iter().map(|sum| sum as f32).collect(), of.shape(), of.dtype())
        };
        [narrow(dq, q), narrow(dk, k), narrow(dv, v)]
    }

    fn dropout(&self, x: &Tensor, dropout: Dropout) -> Tensor {
        let mut mask = vec![1.0_f32; x.len()];
        dropout.apply(&mut mask);
        tensor(values(x).iter().zip(mask).map(|(x, factor)| x * factor).collect(), x.shape(), x.dtype())
    }
}
