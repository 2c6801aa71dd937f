//! The metadata that a config and a tokenizer stand for, in the keys of llama.cpp's converter.

use std::f64::consts::TAU;

use serde_json::Value as Json;

use super::container::Value;
use super::{FileType, Model, tokens};
use crate::Error;
use crate::config::{self, Rotated};
use crate::fields::{self, Fields, Rest, warn_once};
use crate::nn::{RopeConfig, RopeScaling};

/// Tensors of the rotary positions, with their names.
type Factors = Vec<(String, Vec<f32>)>;

/// Whatever a file of some type of a model says of it, and the tensors that belong to that.
pub(super) fn of_model(model: &Model<'_>, kind: FileType) -> Result<(Vec<(String, Value)>, Factors), Error> {
    let (sizes, name) = (&model.sizes, model.architecture.name);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::Text(name.to_owned())),
        ("general.type".to_owned(), Value::Text("model".to_owned())),
        ("general.name".to_owned(), Value::Text(model.name.to_owned())),
        ("general.file_type".to_owned(), Value::U32(kind.id())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let mut set = |key: &str, value: Value| metadata.push((format!("{name}.{key}"), value));
    let number = |size: usize| Value::U32(size as u32);
    set("block_count", number(sizes.num_hidden_layers));
    set("context_length", number(sizes.max_position_embeddings));
    set("embedding_length", number(sizes.hidden_size));
    set("feed_forward_length", number(sizes.intermediate_size));
    set("attention.head_count", number(sizes.num_attention_heads));
    set("attention.head_count_kv", number(sizes.num_key_value_heads));
    set("attention.key_length", number(sizes.head_dim));
    set("attention.value_length", number(sizes.head_dim));
    set("attention.layer_norm_rms_epsilon", Value::F32(sizes.rms_norm_eps as f32));
    set("vocab_size", number(sizes.vocab_size));
    let Facts { rope, window, experts } = Facts::of(model)?;
    if let Some([experts, used, inner]) = experts {
        set("expert_count", number(experts));
        set("expert_used_count", number(used));
        set("expert_feed_forward_length", number(inner));
    }
    set("rope.dimension_count", number(rope.rotary_dim));
    if let Some(vision) = &model.vision {
        let [time, height, width] = vision.sections.map(|pairs| pairs as i32);
        set("rope.dimension_sections", Value::I32s(vec![time, height, width, 0]));
    }
    set("rope.freq_base", Value::F32(rope.theta as f32));
    match (name, window) {
        // 0 tells a Phi-4 from others.
        ("phi3", window) => set("attention.sliding_window", number(window.unwrap_or(0))),
        ("gemma3", Some(window)) => set("attention.sliding_window", number(window)),
        (_, Some(window)) if window < sizes.max_position_embeddings => warn_once(format!(
            "{}: in llama.cpp its window of {window} tokens does not slide; longer texts come out otherwise there",
            model.name
        )),
        _ => {}
    }
    let mut factors = Vec::new();
    if let RopeScaling::Linear { factor } = &rope.scaling {
        set("rope.scaling.type", Value::Text("linear".to_owned()));
        set("rope.scaling.factor", Value::F32(*factor as f32));
    } else if let &RopeScaling::Yarn {
        factor, original_max_position_embeddings: original, beta_fast, beta_slow, ..
    } = &rope.scaling
    {
        check_yarn(&rope.scaling)?;
        set("rope.scaling.type", Value::Text("yarn".to_owned()));
        set("rope.scaling.factor", Value::F32(factor as f32));
        set("rope.scaling.original_context_length", number(original as usize));
        set("rope.scaling.yarn_beta_fast", Value::F32(beta_fast as f32));
        set("rope.scaling.yarn_beta_slow", Value::F32(beta_slow as f32));
    } else if let RopeScaling::LongRope {
        short_factor,
        long_factor,
        original_max_position_embeddings,
        attention_factor,
    } = &rope.scaling
    {
        set("rope.scaling.original_context_length", number(*original_max_position_embeddings));
        set("rope.scaling.attn_factor", Value::F32(*attention_factor as f32));
        let f32s = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
        factors.push(("rope_factors_long.weight".to_owned(), f32s(long_factor)));
        factors.push(("rope_factors_short.weight".to_owned(), f32s(short_factor)));
    } else if let Some(divisors) = llama3(&rope) {
        factors.push(("rope_freqs.weight".to_owned(), divisors));
    } else if rope.scaling != RopeScaling::None {
        return Err(Error::config("scales its rotary positions in a way that is not written to GGUF files"));
    }
    metadata.extend(tokens::of_tokenizer(model.tokenizer, sizes.vocab_size)?);
    Ok((metadata, factors))
}

/// What a config says beside the sizes.
struct Facts {
    rope: RopeConfig,
    window: Option<usize>,
    /// How many experts a layer has, how many a token, and their width.
    experts: Option<[usize; 3]>,
}

impl Facts {
    fn of(model: &Model<'_>) -> Result<Self, Error> {
        let (sizes, name) = (&model.sizes, model.architecture.name);
        fields::read("config.json of the model", model.config.value(), Rest::Warn, |fields: &Fields<'_>| {
            // The bases are those that transformers takes where a config has none.
            let rope = match name {
                "gemma3" => {
                    let [whole, local] = config::ropes(fields, sizes, [1_000_000.0, 10_000.0])?;
                    check_gemma(model, fields, &local)?;
                    whole
                }
                "phi3" => config::rope(fields, sizes, Rotated::Share, 10_000.0)?,
                "smollm3" => {
                    check_smollm(fields, sizes.num_hidden_layers)?;
                    config::rope(fields, sizes, Rotated::Whole, 2_000_000.0)?
                }
                _ => config::rope(fields, sizes, Rotated::Whole, 10_000.0)?,
            };
            let slides = matches!(name, "llama" | "phi3" | "gemma3");
            let window = fields.optional("sliding_window")?.filter(|_| slides);
            let experts = match model.config.model_type()?.as_str() {
                "mixtral" => Some([8, 2, sizes.intermediate_size]),
                "qwen3_moe" => Some([128, 8, fields.optional("moe_intermediate_size")?.unwrap_or(768)]),
                _ => None,
            };
            let experts = match experts {
                Some([_, used, inner]) => {
                    check_experts(fields, sizes.num_hidden_layers, name)?;
                    Some([
                        super::experts_of(&model.config),
                        fields.optional("num_experts_per_tok")?.unwrap_or(used),
                        inner,
                    ])
                }
                None => None,
            };
            // The family has judged all the keys when the model was described.
            let rest: Vec<String> = fields.left();
            fields.harmless(&rest.iter().map(String::as_str).collect::<Vec<_>>());
            Ok(Self { rope, window, experts })
        })
    }
}

/// llama.cpp lets YaRN's ramp begin and end at whole pairs, and its factor of cosines and sines follow from the divisor.
fn check_yarn(scaling: &RopeScaling) -> Result<(), Error> {
    let &RopeScaling::Yarn { factor, original_max_position_embeddings, truncate, attention_factor, .. } = scaling
    else {
        return Ok(());
    };
    let usual = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
    let key = match () {
        () if !truncate => "truncate",
        () if (attention_factor - usual).abs() > 1e-6 => "attention_factor` or `mscale",
        () if original_max_position_embeddings.fract() != 0.0 => "original_max_position_embeddings",
        () => return Ok(()),
    };
    Err(Error::config(format!(
        "has a `{key}` in its rope scaling that llama.cpp does not read from a GGUF file, which would compute otherwise there"
    )))
}

/// In llama.cpp every layer of a mixture has experts, and the weights of those of a token add up to 1.
fn check_experts(fields: &Fields<'_>, layers: usize, name: &str) -> Result<(), Error> {
    if name != "qwen3moe" {
        return Ok(());
    }
    let sparse = fields.optional::<usize>("decoder_sparse_step")?.unwrap_or(1) == 1;
    let dense: Vec<usize> = fields.optional("mlp_only_layers")?.unwrap_or_default();
    let key = match () {
        () if !sparse => "decoder_sparse_step",
        () if dense.iter().any(|layer| *layer < layers) => "mlp_only_layers",
        () if !fields.flag("norm_topk_prob")? => "norm_topk_prob",
        () => return Ok(()),
    };
    Err(Error::config(format!(
        "has a `{key}` that llama.cpp does not read from a GGUF file of a Qwen 3 with experts, which would compute otherwise there"
    )))
}

/// llama.cpp has some of what a Gemma 3 is in its code, and not in the file.
fn check_gemma(model: &Model<'_>, fields: &Fields<'_>, local: &RopeConfig) -> Result<(), Error> {
    const LARGEST: usize = 62;
    let sizes = &model.sizes;
    let layers = sizes.num_hidden_layers;
    let scalar = fields.optional("query_pre_attn_scalar")?.unwrap_or(256.0);
    let divided = if layers == LARGEST { sizes.hidden_size / sizes.num_attention_heads } else { sizes.head_dim };
    let listed = config::sliding_layers(fields, layers)?;
    let pattern = fields.optional::<usize>("sliding_window_pattern")?.unwrap_or(6);
    let usual = (1..=layers).map(|layer| layer % 6 != 0);
    let every_sixth = listed.map_or(pattern == 6, |listed| listed.into_iter().eq(usual));
    let fixed = [
        (scalar == divided as f64, "query_pre_attn_scalar"),
        (local.theta == 10_000.0 && local.scaling == RopeScaling::None, "rope_local_base_freq"),
        (every_sixth, "layer_types"),
        (sizes.tie_word_embeddings, "tie_word_embeddings"),
    ];
    match fixed.into_iter().find(|(usual, _)| !usual) {
        Some((_, key)) => Err(Error::config(format!(
            "has a `{key}` that llama.cpp does not read from a GGUF file of a Gemma 3, which would compute otherwise there"
        ))),
        None => Ok(()),
    }
}

/// Every fourth layer of a SmolLM3 rotates nothing; llama.cpp has that in its code.
fn check_smollm(fields: &Fields<'_>, layers: usize) -> Result<(), Error> {
    let usual: Vec<u8> = (1..=layers).map(|layer| u8::from(layer % 4 != 0)).collect();
    let listed = fields.optional::<Vec<u8>>("no_rope_layers")?;
    let interval = fields.optional::<usize>("no_rope_layer_interval")?.unwrap_or(4);
    let fits = listed.map_or(interval == 4, |listed| listed.get(..layers) == Some(&usual));
    if !fits || fields.flag("use_sliding_window")? {
        return Err(Error::config(
            "has layers without rotary positions, or windows, as llama.cpp does not read them from a GGUF file of a SmolLM3",
        ));
    }
    Ok(())
}

/// The divisor of each frequency in Llama 3's scaling.
fn llama3(rope: &RopeConfig) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        &rope.scaling
    else {
        return None;
    };
    let divisor = |pair: usize| {
        let wavelength = TAU * rope.theta.powf(2.0 * pair as f64 / rope.rotary_dim as f64);
        let turns = original_max_position_embeddings / wavelength;
        let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    Some((0..rope.rotary_dim / 2).map(divisor).collect())
}

/// The ids under a key of a config: one or several.
pub(super) fn ids(config: &Json, key: &str) -> Vec<u32> {
    let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get(key) {
        Some(Json::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1's, against the rule as its frequencies are told in the paper's code: by wavelengths.
    #[test]
    fn llama3_divides_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let found = llama3(&RopeConfig { rotary_dim: 128, theta: 500_000.0, scaling }).unwrap();
        assert_eq!(found.len(), 64);
        for (pair, divisor) in found.into_iter().enumerate() {
            let frequency = 500_000_f64.powf(-(pair as f64) / 64.0);
            let wavelength = TAU / frequency;
            let scaled = match wavelength {
                short if short < 2048.0 => frequency,
                long if long > 8192.0 => frequency / 8.0,
                between => {
                    let smooth = (8192.0 / between - 1.0) / 3.0;
                    (1.0 - smooth) * frequency / 8.0 + smooth * frequency
                }
            };
            assert!((f64::from(divisor) - frequency / scaled).abs() < 1e-6 * f64::from(divisor), "pair {pair}");
        }
    }
}
