//! The language models of Gemma 3 (transformers `Gemma3ForCausalLM`): norms before and after each block, whose scales are offsets
//! from 1, norms of the heads, scaled embeddings, and layers with a sliding window between those that see all, each kind with a
//! rotary base of its own.

use grades_tensor::Activation;

use super::llama::{attention, mlp};
use super::wiring::{LoadLayer, heads_of, norm, norm_of};
use crate::Error;
use crate::config::{self, Sizes};
use crate::fields::Fields;
use crate::nn::{Attention, Heads, Layer, Out};

/// What transformers takes where a config leaves it out: the rotary bases of layers that see all and of the others, the window,
/// of how many layers one sees all, and what scores are divided by the root of.
const THETA: [f64; 2] = [1_000_000.0, 10_000.0];
const WINDOW: usize = 4096;
const PATTERN: usize = 6;
const SCALAR: f64 = 256.0;

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    // It is 256 where it is left out, and not the hidden size divided by the heads.
    if config.optional::<usize>("head_dim")?.is_none() {
        return Err(Error::config("lacks `head_dim`; check config.json"));
    }
    config.only("use_bidirectional_attention", &[false.into()])?;
    config.harmless(&["_sliding_window_pattern", "hidden_act"]);
    sizes.tie_word_embeddings = config.optional("tie_word_embeddings")?.unwrap_or(true);
    sizes.embedding_scale = (sizes.hidden_size as f64).sqrt() as f32;
    sizes.norm_offset = 1.0;
    let heads = heads(config, sizes)?;
    let bias = config.flag("attention_bias")?;
    let activation = config::activation_of(config, "hidden_activation", Activation::GeluTanh)?;
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        let attention_norm = norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?;
        let attention = attention(builder, &sizes, index, prefix, [bias, bias], heads[index].clone())?;
        let mut of_heads =
            |name| norm_of(builder, &sizes, sizes.head_dim, index, &format!("{prefix}self_attn.{name}.weight"));
        let head_norms = Some([of_heads("q_norm")?, of_heads("k_norm")?]);
        let mut of_layer = |name| norm(builder, &sizes, index, &format!("{prefix}{name}_layernorm.weight"));
        let (of_attention, mlp_norm, of_mlp) =
            (of_layer("post_attention")?, of_layer("pre_feedforward")?, of_layer("post_feedforward")?);
        Ok(Layer {
            attention_norm,
            attention: Attention { head_norms, ..attention },
            mlp_norm,
            mlp: mlp(builder, &sizes, index, prefix, false, activation)?,
            out: Some([Out::Norm(of_attention), Out::Norm(of_mlp)]),
        })
    }))
}

/// The heads of each layer.
fn heads(config: &Fields<'_>, sizes: &Sizes) -> Result<Vec<Heads>, Error> {
    let scalar = config.optional("query_pre_attn_scalar")?.unwrap_or(SCALAR);
    if scalar <= 0.0 {
        return Err(Error::config(format!("has `query_pre_attn_scalar: {scalar}`; it must be above 0")));
    }
    let scale = scalar.powf(-0.5) as f32;
    let [whole, sliding] = config::ropes(config, sizes, THETA)?.map(|rope| Heads { scale, ..heads_of(sizes, &rope) });
    let window = config.optional("sliding_window")?.unwrap_or(WINDOW);
    let sliding = Heads { window: Some(window), ..sliding };
    let pattern = config.optional("sliding_window_pattern")?.unwrap_or(PATTERN);
    let layers = sizes.num_hidden_layers;
    let slides = match (config::sliding_layers(config, layers)?, pattern) {
        (Some(listed), _) => listed,
        (None, 0) => return Err(Error::config("has `sliding_window_pattern: 0`; it must be at least 1")),
        (None, pattern) => (1..=layers).map(|layer| layer % pattern != 0).collect(),
    };
    Ok(slides.into_iter().map(|slides| if slides { sliding.clone() } else { whole.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HfConfig;

    /// The window of each of four layers, or why the config is refused.
    fn windows(more: &Value) -> Result<Vec<Option<usize>>, String> {
        let mut config = json!({
            "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 4,
            "head_dim": 8,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let read = |config: &Fields<'_>| {
            let mut sizes = config::sizes(config)?;
            let _layer = read(config, &mut sizes)?;
            assert!(sizes.tie_word_embeddings && sizes.norm_offset == 1.0 && sizes.embedding_scale == 32_f32.sqrt());
            Ok(heads(config, &sizes)?.iter().map(|heads| heads.window).collect())
        };
        HfConfig::new(config).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn windows_slide_as_the_config_says() {
        let types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
        for (config, expected) in [
            (json!({}), [Some(4096); 4]),
            (json!({ "sliding_window": 9, "sliding_window_pattern": 2 }), [Some(9), None, Some(9), None]),
            (
                json!({ "sliding_window": 9, "sliding_window_pattern": 2, "layer_types": types }),
                [None, Some(9), Some(9), None],
            ),
        ] {
            assert_eq!(windows(&config).as_deref(), Ok(expected.as_slice()), "{config}");
        }
    }

    #[test]
    fn what_there_is_not_is_refused_by_name() {
        for (key, value) in [
            ("attn_logit_softcapping", json!(50.0)),
            ("final_logit_softcapping", json!(30.0)),
            ("use_bidirectional_attention", json!(true)),
            ("query_pre_attn_scalar", json!(0)),
            ("sliding_window_pattern", json!(0)),
            ("hidden_activation", json!("relu")),
        ] {
            let error = windows(&json!({ key: value })).unwrap_err();
            assert!(error.contains(&format!("`{key}: ")), "{error}");
        }
        assert!(windows(&json!({ "head_dim": null })).unwrap_err().contains("`head_dim`"));
    }
}
