//! Qwen 2.5 VL (transformers `Qwen2_5_VLForConditionalGeneration`): a tower that sees windows of pictures of any size in most of
//! its layers, neighbouring patches side by side through two linear maps, and a Qwen 2 whose tokens turn by their place in
//! time, height and width.

use std::sync::Arc;

use grades::{Role, Tower};
use grades_tensor::Activation;
use serde_json::{Map, Value};

use super::qwen2;
use super::vit::{EMBEDDING, norms};
use super::wiring::{Description, heads_of};
use crate::Error;
use crate::config::{self, FEW, HfConfig, MOST, Rotated, WIDEST};
use crate::fields::Fields;
use crate::model::{Arrangement, Stack, Vision};
use crate::names::Names;
use crate::nn::{
    Attention, FeedForward, Heads, Layer, Mlp, Part, PatchEmbedding, Projection, Projector, Rope, RopeScaling,
};
use crate::parameters::Place;
use crate::source::Builder;

pub(crate) const NAMES: Names =
    Names { other: |name| Some(module(name)).filter(|other| other != name), module, of_module, ..Names::PLAIN };

/// The name of a tensor or module in memory, of that in a file as the Hub has them; files of some trainers have the former.
fn module(name: &str) -> String {
    match (name.strip_prefix("visual."), name.strip_prefix("model.")) {
        (Some(_), _) => format!("model.{name}"),
        (_, Some(rest)) if !rest.starts_with("visual.") => format!("model.language_model.{rest}"),
        _ => name.to_owned(),
    }
}

fn of_module(name: &str) -> String {
    let visual = name.strip_prefix("model.").filter(|rest| rest.starts_with("visual."));
    visual.map_or_else(|| name.replace("model.language_model.", "model."), str::to_owned)
}

/// What transformers takes where a config leaves it out: the base of the rotary frequencies, and what is added to the mean
/// square in the norms of the tower, which no config says.
const THETA: f64 = 10_000.0;
const EPS: f32 = 1e-6;

/// Keys of the whole model, and of videos.
const WHOLE: &[&str] = &[
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
];

/// What a config describes: that of transformers 5, whose parts have a section each, or an older one, in which that of the
/// language model is at the top.
pub(crate) fn describe(config: &HfConfig) -> Result<Description, Error> {
    let (token, tied) = config.read(|config| {
        config.harmless(&["vision_config", "text_config"]);
        config.harmless(WHOLE);
        let token: u32 = config.optional("image_token_id")?.unwrap_or(151_655);
        let tied: Option<bool> = config.optional("tie_word_embeddings")?;
        // An older one is read below.
        if config.get("text_config").is_none() {
            config.left().iter().for_each(|key| config.harmless(&[key.as_str()]));
        }
        Ok((token, tied))
    })?;
    let (language, sections) = language(config.value(), tied)?;
    let (sizes, layer) = language.read(|config| {
        let sizes = config::sizes(config)?;
        qwen2::full_attention(config)?;
        let rope = config::rope(config, &sizes, Rotated::Whole, THETA)?;
        if matches!(rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. }) {
            return Err(Error::config("has a rope type that depends on the length of a text beside `mrope_section`"));
        }
        let pairs: usize = sections.iter().sum();
        if 2 * pairs != sizes.head_dim {
            let head_dim = sizes.head_dim;
            return Err(Error::config(format!(
                "has `mrope_section: {sections:?}`, which are {pairs} pairs; a head of {head_dim} has {}",
                head_dim / 2
            )));
        }
        let turned = Some(Arc::new(Rope::new(&rope).with_sections(sections)));
        let heads = Heads { rope: turned, ..heads_of(&sizes, &rope) };
        let layer = qwen2::layer(&sizes, heads, config::activation(config)?);
        Ok((sizes, layer))
    })?;
    let part = |key: &str| config.value().get(key).cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let tower = HfConfig::new(part("vision_config"))?.read(|config| Sizes::read(config, sizes.hidden_size))?;
    let vision = Box::new(move |builder: &mut Builder<'_>| tower.load(builder, token));
    Ok(Description { sizes, layer, names: NAMES, vision: Some(vision) })
}

/// The config of the language model as that of a Qwen 2, and how many pairs turn by time, height and width.
pub(crate) fn language(config: &Value, tied: Option<bool>) -> Result<(HfConfig, [usize; 3]), Error> {
    const SECTIONS: &str = "mrope_section";
    let part = config.get("text_config").unwrap_or(config);
    let mut language = part.as_object().cloned().unwrap_or_default();
    WHOLE.iter().for_each(|key| drop(language.remove(*key)));
    language.insert("model_type".into(), "qwen2".into());
    if let Some(tied) = tied {
        language.insert("tie_word_embeddings".into(), tied.into());
    }
    let mut sections = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(rope)) = language.get_mut(key) else { continue };
        sections = rope.remove(SECTIONS).or(sections);
        if rope.get("type").is_some_and(|kind| kind == "mrope") {
            rope.remove("type");
        }
    }
    let found = sections.as_ref().map_or_else(|| Ok([16, 24, 24]), |value| serde_json::from_value(value.clone()));
    let sections: [u16; 3] = found.map_err(|_| {
        let value = sections.unwrap_or_default();
        Error::config(format!("has `{SECTIONS}: {value}`; it must be three counts of pairs"))
    })?;
    Ok((HfConfig::from(language), sections.map(usize::from)))
}

/// Sizes of the tower.
struct Sizes {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    channels: usize,
    patch: usize,
    frames: usize,
    merge: usize,
    /// Along a side of a window, in what leaves the tower together.
    window: usize,
    /// The layers that see all of a picture.
    whole: Vec<usize>,
    out: usize,
    theta: f64,
    activation: Activation,
}

impl Sizes {
    /// Of a `vision_config`; most of those on the Hub leave nearly everything out.
    fn read(config: &Fields<'_>, language: usize) -> Result<Self, Error> {
        let size = |key: &str, plain: usize, most: usize| {
            config::within(&format!("vision_config.{key}"), config.optional(key)?.unwrap_or(plain), most)
        };
        config.harmless(&["tokens_per_second"]);
        let theta = config.section("rope_parameters", |rope| {
            rope.only("rope_type", &["axial".into()])?;
            Ok::<_, Error>(rope.optional("rope_theta")?.unwrap_or(THETA))
        })?;
        let patch = size("patch_size", size("spatial_patch_size", 14, MOST)?, MOST)?;
        let (merge, window) = (size("spatial_merge_size", 2, FEW)?, size("window_size", 112, MOST)?);
        let sizes = Self {
            hidden: size("hidden_size", 3584, WIDEST)?,
            inner: size("intermediate_size", 3420, WIDEST)?,
            layers: size("depth", 32, MOST)?,
            heads: size("num_heads", 16, MOST)?,
            channels: size("in_channels", size("in_chans", 3, FEW)?, FEW)?,
            patch,
            frames: size("temporal_patch_size", 2, FEW)?,
            merge,
            window: window / merge / patch,
            whole: config.optional("fullatt_block_indexes")?.unwrap_or_else(|| vec![7, 15, 23, 31]),
            out: size("out_hidden_size", language, WIDEST)?,
            theta,
            activation: config::activation(config)?,
        };
        let Self { hidden, heads, out, .. } = sizes;
        if hidden % (4 * heads) != 0 {
            return Err(Error::config(format!(
                "has `hidden_size: {hidden}` and `num_heads: {heads}` in `vision_config`; a head must be a multiple of 4"
            )));
        }
        if out != language {
            return Err(Error::config(format!(
                "has `out_hidden_size: {out}` in `vision_config`, where the language model has `hidden_size: {language}`"
            )));
        }
        if sizes.window == 0 {
            return Err(Error::config(format!(
                "has `window_size: {window}`, which is smaller than what leaves the tower as one"
            )));
        }
        Ok(sizes)
    }

    fn load(&self, builder: &mut Builder<'_>, token: u32) -> Result<Vision, Error> {
        let Self { hidden, channels, frames, patch, merge, window, .. } = *self;
        let shape = [hidden, channels, frames, patch, patch];
        let projection = Projection::apart(builder, "visual.patch_embed.proj", &shape, false, EMBEDDING)?;
        let rope = Arc::new(Rope::of_grid(hidden / self.heads, self.theta));
        let layers = (0..self.layers).map(|index| self.layer(builder, index, &rope)).collect::<Result<_, _>>()?;
        let norm = norms(self.layers.saturating_sub(1));
        let norm = builder.norm("visual.merger.ln_q.weight", hidden, norm, (EPS, 0.0))?;
        let wide = hidden * merge * merge;
        let mut linear = |number, out| {
            Projection::apart(builder, &format!("visual.merger.mlp.{number}"), &[out, wide], true, Place::Projector)
        };
        let (first, second) = (linear(0, wide)?, linear(2, self.out)?);
        Ok(Vision {
            embedding: PatchEmbedding { projection, positions: None, class: None },
            stack: Stack { tower: Tower::Vision, layers, norm },
            projector: Some(Projector { first, second: Some((Activation::Gelu, second)) }),
            arrangement: Arrangement::Windows { merge, window },
            patch: channels * frames * patch * patch,
            token: Some(token),
            has_places: true,
        })
    }

    fn layer(&self, builder: &mut Builder<'_>, index: usize, rope: &Arc<Rope>) -> Result<Layer, Error> {
        let Self { hidden, inner, heads, .. } = *self;
        let (prefix, at, head_dim) = (format!("visual.blocks.{index}."), (Tower::Vision, index), hidden / heads);
        let qkv = Part {
            name: "attn.qkv",
            role: Role::Qkv,
            rows: [Role::Q, Role::K, Role::V].map(|role| (role, hidden)).into(),
        };
        let gate_up = [Part::new("mlp.gate_proj", Role::Gate, inner), Part::new("mlp.up_proj", Role::Up, inner)];
        let (proj, down) =
            ([Part::new("attn.proj", Role::Proj, hidden)], [Part::new("mlp.down_proj", Role::Down, hidden)]);
        let norm = |builder: &mut Builder<'_>, number| {
            builder.norm(&format!("{prefix}norm{number}.weight"), hidden, norms(index), (EPS, 0.0))
        };
        let attention_norm = norm(builder, 1)?;
        let attention = Attention {
            qkv: Projection::load(builder, &prefix, at, hidden, true, std::slice::from_ref(&qkv))?,
            head_norms: None,
            o: Projection::load(builder, &prefix, at, hidden, true, &proj)?,
            heads: Heads {
                heads,
                kv_heads: heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal: false,
                window: None,
                in_windows: !self.whole.contains(&index),
                rope: Some(rope.clone()),
            },
        };
        let mlp_norm = norm(builder, 2)?;
        let mlp = FeedForward::Dense(Mlp {
            up: Projection::load(builder, &prefix, at, hidden, true, &gate_up)?,
            down: Projection::load(builder, &prefix, at, inner, true, &down)?,
            activation: self.activation,
            gated: true,
        });
        Ok(Layer { attention_norm, attention, mlp_norm, mlp, out: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The `config.json` of the Hub's 7B, whose `vision_config` says little.
    fn hub() -> Value {
        json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
            "vision_start_token_id": 151652, "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
            "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
            "max_position_embeddings": 128000, "max_window_layers": 28, "model_type": "qwen2_5_vl", "num_attention_heads": 28,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": true,
            "use_sliding_window": false, "vocab_size": 152064,
            "vision_config": { "hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "spatial_patch_size": 14, "tokens_per_second": 2 },
            "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] },
        })
    }

    fn tower(config: &Value, language: usize) -> Result<Sizes, String> {
        let read = |config: &Fields<'_>| Sizes::read(config, language);
        HfConfig::new(config.clone()).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_hub_leaves_out_is_known() {
        let description = describe(&HfConfig::new(hub()).unwrap()).unwrap();
        let sizes = &description.sizes;
        assert_eq!((sizes.hidden_size, sizes.num_hidden_layers, sizes.vocab_size), (3584, 28, 152_064));
        assert!(!sizes.tie_word_embeddings && description.vision.is_some());
        let found = tower(&hub()["vision_config"], 3584).unwrap();
        assert_eq!((found.hidden, found.inner, found.layers, found.heads), (1280, 3420, 32, 16));
        assert_eq!((found.channels, found.patch, found.frames, found.merge, found.window), (3, 14, 2, 2, 4));
        assert_eq!((found.whole.as_slice(), found.out, found.theta), ([7, 15, 23, 31].as_slice(), 3584, THETA));
    }

    #[test]
    fn a_head_is_tied_where_either_part_says_so() {
        let mut old = hub();
        old["tie_word_embeddings"] = true.into();
        let mut parts =
            json!({ "model_type": "qwen2_5_vl", "vision_config": old["vision_config"], "text_config": old });
        let tied =
            |config: &Value| describe(&HfConfig::new(config.clone()).unwrap()).unwrap().sizes.tie_word_embeddings;
        assert!(tied(&old) && tied(&parts));
        parts["tie_word_embeddings"] = false.into();
        assert!(!tied(&parts));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (key, value, part) in [
            ("hidden_size", json!(1282), "`hidden_size: 1282`"),
            ("out_hidden_size", json!(2048), "`out_hidden_size: 2048`"),
            ("window_size", json!(14), "`window_size: 14`"),
            ("depth", json!(0), "`vision_config.depth: 0`"),
            ("depth", json!(1_000_000), "`vision_config.depth: 1000000`"),
            ("hidden_act", json!("relu"), "`hidden_act: relu`"),
            ("rope_parameters", json!({ "rope_type": "yarn" }), "rope_type"),
        ] {
            let mut config = hub()["vision_config"].clone();
            config[key] = value;
            let error = tower(&config, 3584).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
        for (key, value, part) in [
            ("rope_scaling", json!({ "type": "mrope", "mrope_section": [16, 24, 23] }), "63 pairs"),
            ("rope_scaling", json!({ "type": "mrope", "mrope_section": 3 }), "three counts of pairs"),
            ("rope_scaling", json!({ "type": "mrope", "mrope_section": [u64::MAX, 1, 64] }), "three counts of pairs"),
            ("use_sliding_window", json!(true), "use_sliding_window"),
        ] {
            let mut config = hub();
            config[key] = value;
            let error = describe(&HfConfig::new(config).unwrap()).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (file, in_memory) in [
            ("visual.blocks.3.attn.qkv", "model.visual.blocks.3.attn.qkv"),
            ("model.layers.3.mlp.up_proj", "model.language_model.layers.3.mlp.up_proj"),
            ("lm_head", "lm_head"),
        ] {
            assert_eq!((module(file).as_str(), of_module(in_memory).as_str()), (in_memory, file));
        }
    }
}
