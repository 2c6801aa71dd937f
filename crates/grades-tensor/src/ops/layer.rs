//! Norms, attention, gates and dropout.

use crate::attention::AttentionSpec;
use crate::device::SavedAttention;
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::flops;
use crate::held::{Made, making};
use crate::spec::Activation;
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

/// `y = x / √(mean(x²) + eps) · scale` by row, in `dtype`: f32 x `[tokens, width]`, scale `[1, width]` (Zhang and Sennrich
/// 2019). This is where a model chooses the dtype of what follows.
#[must_use]
pub fn rms_norm(tape: &Tape, x: &Var, scale: &Leaf, eps: f32, dtype: Dtype) -> Var {
    let _made = making(Made::Norms);
    let device = x.value.device();
    let (y, inverse) = device.rms_norm(&x.value, &scale.value, eps, dtype);
    let tracked = tape.is_recording() && (x.is_tracked() || scale.is_tracked());
    let kept = tracked.then(|| (x.value.clone(), scale.value.clone(), inverse));
    let (node, slot) = (x.node(), scale.slot());
    tape.record(y, tracked, move |dy, backward| {
        let Some((x, scale, inverse)) = kept else { return };
        let (dx, dscale) = device.rms_norm_backward(&dy, &x, &scale, &inverse, slot.is_some());
        if let (Some(slot), Some(dscale)) = (slot, dscale) {
            backward.parameters().add(slot, dscale);
        }
        backward.add(node, dx);
    })
}

/// `y = (x − mean) / √(var + eps) · scale + bias` by row, in `dtype`: f32 x `[tokens, width]`, scale and bias `[1, width]` (Ba
/// et al. 2016). The two train together or not at all.
#[must_use]
pub fn layer_norm(tape: &Tape, x: &Var, [scale, bias]: [&Leaf; 2], eps: f32, dtype: Dtype) -> Var {
    let _made = making(Made::Norms);
    let device = x.value.device();
    let (y, moments) = device.layer_norm(&x.value, &scale.value, &bias.value, eps, dtype);
    let slots = [scale.slot(), bias.slot()];
    let parameters = slots.iter().any(Option::is_some);
    let tracked = tape.is_recording() && (x.is_tracked() || parameters);
    let kept = tracked.then(|| (x.value.clone(), scale.value.clone(), moments));
    let node = x.node();
    tape.record(y, tracked, move |dy, backward| {
        let Some((x, scale, moments)) = kept else { return };
        let (dx, gradients) = device.layer_norm_backward(&dy, &x, &scale, &moments, parameters);
        for (slot, gradient) in slots.into_iter().zip(gradients.into_iter().flatten()) {
            if let Some(slot) = slot {
                backward.parameters().add(slot, gradient);
            }
        }
        backward.add(node, dx);
    })
}

/// `residual + rms_norm(x)` in f32: residual `[tokens, width]` in f32, x of that shape in any dtype, scale `[1, width]`. For
/// layers that norm what they add (as Gemma 2 does).
#[must_use]
pub fn add_normed(tape: &Tape, residual: &Var, x: Var, scale: &Leaf, eps: f32) -> Var {
    let _made = making(Made::Norms);
    let (device, dtype, node, onto) = (x.value.device(), x.value.dtype(), x.node(), residual.node());
    let (mut y, inverse) = device.rms_norm(&x.value.cast(Dtype::F32), &scale.value, eps, Dtype::F32);
    device.add(&mut y, &residual.value);
    let normed = tape.is_recording() && (node.is_tracked() || scale.is_tracked());
    let kept = normed.then(|| (x.value, scale.value.clone(), inverse));
    let slot = scale.slot();
    tape.record(y, normed || onto.is_tracked(), move |dy, backward| {
        if let Some((x, scale, inverse)) = kept {
            let x = x.cast(Dtype::F32);
            let (dx, dscale) = device.rms_norm_backward(&dy, &x, &scale, &inverse, slot.is_some());
            if let (Some(slot), Some(dscale)) = (slot, dscale) {
                backward.parameters().add(slot, dscale);
            }
            backward.add(node, dx.cast(dtype));
        }
        backward.add(onto, dy);
    })
}

/// `[q | k | v]` with each head of q and k normed as by [`rms_norm`], by the scale of all q's heads and that of all k's, `[1,
/// head_dim]` each (as Qwen 3 does; Henry et al. 2020). The dtype stays.
#[must_use]
pub fn norm_heads(tape: &Tape, qkv: Var, scales: [&Leaf; 2], eps: f32, spec: &AttentionSpec) -> Var {
    let _made = making(Made::Norms);
    let (device, [q_scale, k_scale]) = (qkv.value.device(), scales.map(|scale| &scale.value));
    let (y, inverse) = device.norm_heads(&qkv.value, [q_scale, k_scale], eps, spec);
    let (node, slots) = (qkv.node(), scales.map(Leaf::slot));
    let tracked = tape.is_recording() && (node.is_tracked() || slots.iter().any(Option::is_some));
    let kept = tracked.then(|| (qkv.value, q_scale.clone(), k_scale.clone(), inverse, spec.clone()));
    tape.record(y, tracked, move |dy, backward| {
        let Some((qkv, q_scale, k_scale, inverse, spec)) = kept else { return };
        let (scales, wanted) = ([&q_scale, &k_scale], slots.map(|slot| slot.is_some()));
        let (dx, dscales) = device.norm_heads_backward(&dy, &qkv, scales, &inverse, wanted, &spec);
        for (slot, dscale) in slots.into_iter().zip(dscales) {
            if let (Some(slot), Some(dscale)) = (slot, dscale) {
                backward.parameters().add(slot, dscale);
            }
        }
        backward.add(node, dx);
    })
}

/// Softmax attention over the samples of a batch: `[q | k | v]` `[tokens, (heads + 2 kv_heads) · head_dim]` to `[tokens,
/// heads · head_dim]`. Queries and keys are rotated here when the spec holds a rope table.
#[must_use]
pub fn self_attention(tape: &Tape, qkv: Var, spec: AttentionSpec) -> Var {
    let _made = making(Made::Attention);
    let (device, node) = (qkv.value.device(), qkv.node());
    flops::forward(spec.operations());
    let [q, k, v] = device.split_heads(&qkv.value, &spec);
    // The split heads take their place.
    drop(qkv);
    let (out, log_sum_exp) = device.attend(&q, &k, &v, &spec);
    if !node.is_tracked() {
        return Var::constant(out);
    }
    let saved = SavedAttention { q, k, v, out: out.clone(), log_sum_exp };
    tape.record(out, true, move |dout, backward| {
        // The scores are computed again, and each of the two products has two gradients: five in place of two.
        flops::input_gradient(spec.operations() / 2 * 5);
        let [dq, dk, dv] = device.attend_backward(&dout, &saved, &spec);
        drop((saved, dout));
        backward.add(node, device.join_heads(&dq, &dk, &dv, &spec));
    })
}

/// Splits `[q | k | v]` and rotates q and k; without a record, for passes that keep keys and values.
#[must_use]
pub fn split_heads(qkv: &Var, spec: &AttentionSpec) -> [Tensor; 3] {
    let _made = making(Made::Attention);
    qkv.value.device().split_heads(&qkv.value, spec)
}

/// Attention over split, rotated heads, `[tokens, heads · head_dim]`; without a record.
#[must_use]
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Var {
    let _made = making(Made::Attention);
    flops::forward(spec.operations());
    Var::constant(q.device().attend(q, k, v, spec).0)
}

/// `activation(x)`.
#[must_use]
pub fn activate(tape: &Tape, x: Var, activation: Activation) -> Var {
    let _made = making(Made::Activations);
    let (device, node) = (x.value.device(), x.node());
    let y = device.activate(&x.value, activation);
    if !node.is_tracked() {
        return Var::constant(y);
    }
    let (x, again) = (x.value.clone(), x.value);
    let y = tape.record(y, true, move |dy, backward| {
        backward.add(node, device.activate_backward(&dy, &x, activation));
    });
    y.remade(move || device.activate(&again, activation))
}

/// `activation(gate) · up` of `[gate | up]` `[tokens, 2 · width]` (Shazeer 2020).
#[must_use]
pub fn gated_activation(tape: &Tape, gate_up: Var, activation: Activation) -> Var {
    let _made = making(Made::Activations);
    let device = gate_up.value.device();
    let y = device.gated_activation(&gate_up.value, activation);
    let node = gate_up.node();
    if !node.is_tracked() {
        return Var::constant(y);
    }
    let (gate_up, again) = (gate_up.value.clone(), gate_up.value);
    let y = tape.record(y, true, move |dy, backward| {
        backward.add(node, device.gated_activation_backward(&dy, &gate_up, activation));
    });
    y.remade(move || device.gated_activation(&again, activation))
}

/// x times the mask that is drawn from the dropout's key. The mask is kept nowhere: the backward pass draws it again.
#[must_use]
pub fn dropout(tape: &Tape, x: &Var, dropout: Dropout) -> Var {
    let _made = making(Made::Adapters);
    let (device, node) = (x.value.device(), x.node());
    tape.record(device.dropout(&x.value, dropout), node.is_tracked(), move |dy, backward| {
        backward.add(node, device.dropout(&dy, dropout));
    })
}
