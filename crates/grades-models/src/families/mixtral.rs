//! Mixtral (transformers `MixtralForCausalLM`): the layers of mistral with experts in the place of the MLP, whose weights add up
//! to 1 for each token.

use super::experts::{Mixture, counts};
use super::llama::attention;
use super::wiring::{LoadLayer, heads_of, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Heads, Layer};

/// What transformers takes where a config leaves it out: the base of the rotary frequencies, what is added to the mean square in
/// norms, how many experts there are and how many a token has.
const THETA: f64 = 1_000_000.0;
const EPSILON: f64 = 1e-5;
const EXPERTS: [usize; 2] = [8, 2];

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    // It is 8 where it is left out, and not the number of heads.
    if config.optional::<usize>("num_key_value_heads")?.is_none() {
        return Err(Error::config("lacks `num_key_value_heads`; check config.json"));
    }
    sizes.rms_norm_eps = config.optional("rms_norm_eps")?.unwrap_or(EPSILON);
    let [experts, top_k] = counts(config, sizes, EXPERTS)?;
    if experts == 0 {
        return Err(Error::config("has no experts (`num_local_experts: 0`); it must be at least 1"));
    }
    // Noise in training.
    config.only("router_jitter_noise", &[0.into()])?;
    let rope = config::rope(config, sizes, Rotated::Whole, THETA)?;
    let heads = Heads { window: config::sliding_window(config)?, ..heads_of(sizes, &rope) };
    let mixture = Mixture {
        names: ("block_sparse_moe", ["w1", "w3", "w2"]),
        experts,
        top_k,
        normalise: true,
        inner: sizes.intermediate_size,
        activation: config::activation(config)?,
    };
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, &sizes, index, prefix, [false, false], heads.clone())?,
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mixture.load(builder, &sizes, index, prefix)?,
            out: None,
        })
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HfConfig;

    fn sizes(more: &Value) -> Result<Sizes, String> {
        let mut config = json!({
            "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let read = |config: &Fields<'_>| {
            let mut sizes = config::sizes(config)?;
            let _layer = read(config, &mut sizes)?;
            Ok(sizes)
        };
        HfConfig::new(config).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn the_loss_that_balances_counts_where_transformers_adds_it() {
        for (config, expected) in [
            (json!({}), 0.0),
            (json!({ "router_aux_loss_coef": 0.02 }), 0.0),
            (json!({ "output_router_logits": true }), 0.001),
            (json!({ "output_router_logits": true, "router_aux_loss_coef": 0.02, "num_experts": 4 }), 0.02),
        ] {
            let found = sizes(&config).unwrap();
            assert_eq!((found.router_aux_loss, found.rms_norm_eps), (expected, 1e-5), "{config}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (config, part) in [
            (json!({ "num_experts_per_tok": 9 }), "`num_experts_per_tok: 9` for 8 experts"),
            (json!({ "num_experts_per_tok": 0 }), "`num_experts_per_tok: 0`"),
            (json!({ "num_local_experts": 0 }), "`num_local_experts: 0`"),
            (json!({ "num_local_experts": 4, "num_experts": 8 }), "`num_experts: 8` and `num_local_experts: 4`"),
            (json!({ "router_jitter_noise": 0.1 }), "`router_jitter_noise: 0.1`"),
            (json!({ "router_aux_loss_coef": -1.0 }), "`router_aux_loss_coef: -1`"),
            (json!({ "num_key_value_heads": null }), "`num_key_value_heads`"),
        ] {
            let error = sizes(&config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
