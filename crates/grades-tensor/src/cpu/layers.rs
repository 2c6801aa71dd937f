//! Norms, attention, gates and dropout.

use grades_kernels::attention::{Attention, Saved, Segment, attention_backward_new, attention_new};
use grades_kernels::heads::JoinedHeads;
use grades_kernels::norms::HeadNorms;
use grades_kernels::rope::RotaryTable;
use grades_kernels::{activations, norms};
use half::bf16;

use super::processor::Cpu;
use super::values::{Number, slice, tensor, vector, with_numbers, zeros};
use crate::attention::AttentionSpec;
use crate::device::{Layers, SavedAttention};
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::spec::Activation;
use crate::tensor::Tensor;

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
    let segment = |s: &crate::attention::Segment| Segment { queries: s.query.clone(), keys: s.key.clone() };
    spec.layout.segments.iter().map(segment).collect()
}

/// The heads of a spec, with the rotation of queries and keys.
fn heads(spec: &AttentionSpec) -> JoinedHeads<'_> {
    let rotary = spec.rope.as_ref().map(|table| {
        let table = RotaryTable { cos: &table.cos, sin: &table.sin, rotary_dim: table.rotary_dim };
        (table, spec.layout.positions.as_slice())
    });
    JoinedHeads { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, rotary }
}

fn rms_norm<E: Number>(x: &Tensor, scale: &Tensor, eps: f32) -> (Tensor, Tensor) {
    let (y, inverse) = norms::rms_norm_new::<E>(slice(x), slice(scale), eps);
    (tensor(y, x.shape()), tensor(inverse, [x.rows(), 1]))
}

fn layer_norm<E: Number>(x: &Tensor, scale: &Tensor, bias: &Tensor, eps: f32) -> (Tensor, Tensor) {
    let (y, moments) = norms::layer_norm_new::<E>(slice(x), slice(scale), slice(bias), eps);
    (tensor(y, x.shape()), tensor(moments, [x.rows(), 2]))
}

/// The norms of a spec's heads. Their backward pass does not need `eps`.
fn head_norms<'a>(scales: [&'a Tensor; 2], epsilon: f32, spec: &AttentionSpec) -> HeadNorms<'a> {
    HeadNorms { heads: spec.heads, kv_heads: spec.kv_heads, scales: scales.map(slice), epsilon }
}

impl Layers for Cpu {
    fn activate(&self, x: &Tensor, activation: Activation) -> Tensor {
        with_numbers!(x, E => tensor(activations::activated_new::<E>(activation, slice(x)), x.shape()))
    }

    fn activate_backward(&self, dy: &Tensor, x: &Tensor, activation: Activation) -> Tensor {
        with_numbers!(x, E => {
            tensor(activations::activated_backward_new::<E>(activation, slice(x), slice(dy)), x.shape())
        })
    }

    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Tensor {
        let width = gate_up.columns() / 2;
        with_numbers!(gate_up, E => {
            tensor(activations::gated_joined_new::<E>(activation, slice(gate_up), width), [gate_up.rows(), width])
        })
    }

    fn gated_activation_backward(&self, dy: &Tensor, gate_up: &Tensor, activation: Activation) -> Tensor {
        let width = gate_up.columns() / 2;
        with_numbers!(gate_up, E => {
            let (gate_up, dy, shape) = (slice::<E>(gate_up), slice(dy), gate_up.shape());
            tensor(activations::gated_joined_backward_new(activation, gate_up, dy, width), shape)
        })
    }

    fn rms_norm(&self, x: &Tensor, scale: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor) {
        match dtype {
            Dtype::Bf16 => rms_norm::<bf16>(x, scale, eps),
            Dtype::F32 | Dtype::U8 | Dtype::Packed => rms_norm::<f32>(x, scale, eps),
        }
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        inverse_rms: &Tensor,
        want_scale: bool,
    ) -> (Tensor, Option<Tensor>) {
        let mut dscale = want_scale.then(|| zeros::<f32>(x.columns()));
        let (values, factors, inverse) = (slice(x), slice(scale), slice(inverse_rms));
        let dx = with_numbers!(dy, E => {
            norms::rms_norm_backward_new(values, factors, inverse, slice::<E>(dy), dscale.as_deref_mut())
        });
        (tensor(dx, x.shape()), dscale.map(|dscale| tensor(dscale, scale.shape())))
    }

    fn layer_norm(&self, x: &Tensor, scale: &Tensor, bias: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor) {
        match dtype {
            Dtype::Bf16 => layer_norm::<bf16>(x, scale, bias, eps),
            Dtype::F32 | Dtype::U8 | Dtype::Packed => layer_norm::<f32>(x, scale, bias, eps),
        }
    }

    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        moments: &Tensor,
        want_parameters: bool,
    ) -> (Tensor, Option<[Tensor; 2]>) {
        let mut parameters = want_parameters.then(|| [(); 2].map(|()| zeros::<f32>(x.columns())));
        let gradients = parameters.as_mut().map(|both| both.each_mut().map(Vec::as_mut_slice));
        let (values, factors, moments) = (slice(x), slice(scale), slice(moments));
        let dx = with_numbers!(dy, E => {
            norms::layer_norm_backward_new(values, factors, moments, slice::<E>(dy), gradients)
        });
        (tensor(dx, x.shape()), parameters.map(|both| both.map(|gradient| tensor(gradient, scale.shape()))))
    }

    fn norm_heads(&self, qkv: &Tensor, scales: [&Tensor; 2], eps: f32, spec: &AttentionSpec) -> (Tensor, Tensor) {
        with_numbers!(qkv, E => {
            let (y, inverse) = head_norms(scales, eps, spec).norm_new::<E>(slice(qkv));
            (tensor(y, qkv.shape()), tensor(inverse, [qkv.rows(), spec.heads + spec.kv_heads]))
        })
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
        let mut dscales = want_scales.map(|wanted| wanted.then(|| zeros::<f32>(spec.head_dim)));
        let [dq_scale, dk_scale] = dscales.each_mut().map(Option::as_deref_mut);
        let (norms, inverse) = (head_norms(scales, 0.0, spec), slice(inverse_rms));
        let dx = with_numbers!(qkv, E => {
            let dx = norms.backward_new::<E>(slice(qkv), inverse, slice(dy), [dq_scale, dk_scale]);
            tensor(dx, qkv.shape())
        });
        (dx, dscales.map(|dscale| Some(tensor(dscale?, [1, spec.head_dim]))))
    }

    #[expect(clippy::expect_used, reason = "the model makes its rope table as long as the batch's positions need")]
    fn split_heads(&self, qkv: &Tensor, spec: &AttentionSpec) -> [Tensor; 3] {
        let (tokens, query, key) = (qkv.rows(), spec.query_width(), spec.key_width());
        with_numbers!(qkv, E => {
            let [q, k, v] = heads(spec).split_new(slice::<E>(qkv)).expect("positions within the table");
            [tensor(q, [tokens, query]), tensor(k, [tokens, key]), tensor(v, [tokens, key])]
        })
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn join_heads(&self, dq: &Tensor, dk: &Tensor, dv: &Tensor, spec: &AttentionSpec) -> Tensor {
        let shape = [dq.rows(), spec.query_width() + 2 * spec.key_width()];
        with_numbers!(dq, E => {
            let joined = heads(spec).join_new::<E>(slice(dq), slice(dk), slice(dv));
            tensor(joined.expect("positions within the table"), shape)
        })
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> (Tensor, Tensor) {
        with_numbers!(q, E => {
            let (out, lse) = attention_new::<E>(&form(spec), &segments(spec), slice(q), slice(k), slice(v));
            (tensor(out, q.shape()), tensor(lse, [q.rows(), spec.heads]))
        })
    }

    fn attend_backward(&self, dout: &Tensor, saved: &SavedAttention, spec: &AttentionSpec) -> [Tensor; 3] {
        let SavedAttention { q, k, v, out, log_sum_exp } = saved;
        with_numbers!(q, E => {
            let saved: Saved<'_, E> = Saved {
                q: slice(q),
                k: slice(k),
                v: slice(v),
                out: slice(out),
                log_sum_exp: slice(log_sum_exp),
            };
            let [dq, dk, dv] = attention_backward_new(&form(spec), &segments(spec), saved, slice(dout));
            [tensor(dq, q.shape()), tensor(dk, k.shape()), tensor(dv, v.shape())]
        })
    }

    fn dropout(&self, x: &Tensor, dropout: Dropout) -> Tensor {
        let mut x = x.clone();
        with_numbers!(x, E => dropout.apply(vector::<E>(&mut x, None)));
        x
    }
}
