//! SmolLM3 (transformers `SmolLM3ForCausalLM`): the layers of llama, some of which do not rotate queries and keys (NoPE, Yang
//! et al. 2025). A sliding window, where there is one, slides in those.

use super::llama::{attention, mlp};
use super::wiring::{LoadLayer, heads_of, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Heads, Layer};

/// The base of the rotary frequencies, and of how many layers the last does not rotate, where a config leaves them out, as in
/// transformers.
const THETA: f64 = 2_000_000.0;
const INTERVAL: usize = 4;

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    sizes.tie_word_embeddings = config.optional("tie_word_embeddings")?.unwrap_or(true);
    let rotating = heads_of(sizes, &config::rope(config, sizes, Rotated::Whole, THETA)?);
    let rotates = rotates(config, sizes.num_hidden_layers)?;
    let windows = windows(config, &rotates)?;
    let of_layer = |(rotates, window): (bool, Option<usize>)| {
        let Heads { rope, .. } = &rotating;
        Heads { window, rope: rope.clone().filter(|_| rotates), ..rotating.clone() }
    };
    let heads: Vec<Heads> = rotates.into_iter().zip(windows).map(of_layer).collect();
    let (activation, bias, mlp_bias) =
        (config::activation(config)?, config.flag("attention_bias")?, config.flag("mlp_bias")?);
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, &sizes, index, prefix, [bias, bias], heads[index].clone())?,
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, &sizes, index, prefix, mlp_bias, activation)?,
            out: None,
        })
    }))
}

/// Which layers rotate: those that `no_rope_layers` has a 1 for, or all but every `no_rope_layer_interval`-th.
fn rotates(config: &Fields<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    let interval = config.optional("no_rope_layer_interval")?.unwrap_or(INTERVAL);
    match config.optional::<Vec<u8>>("no_rope_layers")? {
        Some(listed) if listed.len() >= layers => Ok(listed.iter().take(layers).map(|&one| one != 0).collect()),
        Some(listed) => Err(Error::config(format!(
            "has {} entries in `no_rope_layers` for {layers} layers; it needs one for each",
            listed.len()
        ))),
        None if interval == 0 => Err(Error::config("has `no_rope_layer_interval: 0`; it must be at least 1")),
        None => Ok((1..=layers).map(|layer| layer % interval != 0).collect()),
    }
}

/// The window of each layer: with `use_sliding_window` in those that `layer_types` says, or in those that do not rotate.
fn windows(config: &Fields<'_>, rotates: &[bool]) -> Result<Vec<Option<usize>>, Error> {
    let (slides, window) = (config.flag("use_sliding_window")?, config.optional::<usize>("sliding_window")?);
    let window = window.filter(|_| slides);
    let listed = config::sliding_layers(config, rotates.len())?;
    let slides = listed.unwrap_or_else(|| rotates.iter().map(|rotates| window.is_some() && !rotates).collect());
    if window.is_none() && slides.contains(&true) {
        return Err(Error::config(
            "has `sliding_attention` in `layer_types` without `use_sliding_window: true` and a `sliding_window`; make them agree",
        ));
    }
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HfConfig;

    /// Whether each of five layers rotates, with its window.
    fn layers(config: &Value) -> Result<Vec<(bool, Option<usize>)>, String> {
        let read = |config: &Fields<'_>| {
            let rotates = rotates(config, 5)?;
            let windows = windows(config, &rotates)?;
            Ok(rotates.into_iter().zip(windows).collect())
        };
        HfConfig::new(config.clone()).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn layers_rotate_and_see_as_the_config_says() {
        let [turns, rests] = [(true, None), (false, None)];
        let sliding = ["full_attention", "sliding_attention", "full_attention", "full_attention", "full_attention"];
        for (config, expected) in [
            (json!({}), [turns, turns, turns, rests, turns]),
            (json!({ "no_rope_layer_interval": 2 }), [turns, rests, turns, rests, turns]),
            (
                json!({ "no_rope_layers": [0, 1, 1, 0, 0, 1], "no_rope_layer_interval": 2 }),
                [rests, turns, turns, rests, rests],
            ),
            (json!({ "sliding_window": 9 }), [turns, turns, turns, rests, turns]),
            (
                json!({ "sliding_window": 9, "use_sliding_window": true }),
                [turns, turns, turns, (false, Some(9)), turns],
            ),
            (
                json!({ "sliding_window": 9, "use_sliding_window": true, "layer_types": sliding }),
                [turns, (true, Some(9)), turns, rests, turns],
            ),
        ] {
            assert_eq!(layers(&config).as_deref(), Ok(expected.as_slice()), "{config}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (config, part) in [
            (json!({ "no_rope_layers": [1, 0] }), "2 entries in `no_rope_layers` for 5 layers"),
            (json!({ "no_rope_layer_interval": 0 }), "`no_rope_layer_interval: 0`"),
            (json!({ "layer_types": ["full_attention"] }), "1 entries in `layer_types` for 5 layers"),
            (json!({ "layer_types": ["chunked_attention"] }), "`layer_types: [\"chunked_attention\"]`"),
            (
                json!({ "layer_types": vec!["sliding_attention"; 5], "sliding_window": 9 }),
                "without `use_sliding_window: true`",
            ),
        ] {
            let error = layers(&config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
