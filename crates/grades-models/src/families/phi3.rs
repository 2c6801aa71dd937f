//! Phi-3, Phi-3.5 and Phi-4 (transformers `Phi3ForCausalLM`): q, k and v are one matrix, and so are gate and up; each role in
//! them is a unit of its own.

use grades::{Role, Tower};

use super::wiring::{LoadLayer, heads, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Attention, FeedForward, Heads, Layer, Mlp, Part, Projection};
use crate::source::Builder;

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    let heads = Heads { window: config::sliding_window(config)?, ..heads(config, sizes, Rotated::Share)? };
    let activation = config::activation(config)?;
    let (query, key, inner, hidden) =
        (sizes.query_width(), sizes.key_width(), sizes.intermediate_size, sizes.hidden_size);
    let qkv = Part {
        name: "self_attn.qkv_proj",
        role: Role::Qkv,
        rows: vec![(Role::Q, query), (Role::K, key), (Role::V, key)],
    };
    let o = Part::new("self_attn.o_proj", Role::O, hidden);
    let gate_up =
        Part { name: "mlp.gate_up_proj", role: Role::GateUp, rows: vec![(Role::Gate, inner), (Role::Up, inner)] };
    let down = Part::new("mlp.down_proj", Role::Down, hidden);
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        let load = |builder: &mut Builder<'_>, part: &Part<'_>, columns| {
            Projection::load(builder, prefix, (Tower::Language, index), columns, false, std::slice::from_ref(part))
        };
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: Attention {
                qkv: load(builder, &qkv, hidden)?,
                o: load(builder, &o, query)?,
                head_norms: None,
                heads: heads.clone(),
            },
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: FeedForward::Dense(Mlp {
                up: load(builder, &gate_up, hidden)?,
                down: load(builder, &down, inner)?,
                activation,
                gated: true,
            }),
            out: None,
        })
    }))
}
