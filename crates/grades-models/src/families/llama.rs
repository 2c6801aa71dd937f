//! Llama 1–3, SmolLM, SmolLM2 and their kin (transformers `LlamaForCausalLM`).

use grades::{Role, Tower};
use grades_tensor::Activation;

use super::wiring::{LoadLayer, heads, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Attention, FeedForward, Heads, Layer, Mlp, Part, Projection};
use crate::source::Builder;

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    let (heads, activation) = (heads(config, sizes, Rotated::Whole)?, config::activation(config)?);
    let (bias, mlp_bias) = (config.flag("attention_bias")?, config.flag("mlp_bias")?);
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, &sizes, index, prefix, [bias, bias], heads.clone())?,
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, &sizes, index, prefix, mlp_bias, activation)?,
            out: None,
        })
    }))
}

/// Attention of separate q, k, v and o, without norms; the first three may have biases, and the last.
pub(super) fn attention(
    builder: &mut Builder<'_>,
    sizes: &Sizes,
    index: usize,
    prefix: &str,
    [qkv_bias, o_bias]: [bool; 2],
    heads: Heads,
) -> Result<Attention, Error> {
    let (query, key, at) = (sizes.query_width(), sizes.key_width(), (Tower::Language, index));
    let qkv = [
        Part::new("self_attn.q_proj", Role::Q, query),
        Part::new("self_attn.k_proj", Role::K, key),
        Part::new("self_attn.v_proj", Role::V, key),
    ];
    let o = [Part::new("self_attn.o_proj", Role::O, sizes.hidden_size)];
    Ok(Attention {
        qkv: Projection::load(builder, prefix, at, sizes.hidden_size, qkv_bias, &qkv)?,
        o: Projection::load(builder, prefix, at, query, o_bias, &o)?,
        head_norms: None,
        heads,
    })
}

/// An MLP of separate gate, up and down.
pub(super) fn mlp(
    builder: &mut Builder<'_>,
    sizes: &Sizes,
    index: usize,
    prefix: &str,
    bias: bool,
    activation: Activation,
) -> Result<FeedForward, Error> {
    let (inner, at) = (sizes.intermediate_size, (Tower::Language, index));
    let gate_up = [Part::new("mlp.gate_proj", Role::Gate, inner), Part::new("mlp.up_proj", Role::Up, inner)];
    let down = [Part::new("mlp.down_proj", Role::Down, sizes.hidden_size)];
    Ok(FeedForward::Dense(Mlp {
        up: Projection::load(builder, prefix, at, sizes.hidden_size, bias, &gate_up)?,
        down: Projection::load(builder, prefix, at, inner, bias, &down)?,
        activation,
        gated: true,
    }))
}
