//! nanoVLM (huggingface/nanoVLM): the image tower of SigLIP, neighbouring patches side by side through one linear map, and a
//! llama. Its generations differ in what pictures leave in a text; their tensors have the same names. A config has no
//! `model_type`; its own keys tell it.

use serde_json::{Map, Value, json};

use grades_tensor::Activation;

use super::siglip::{Siglip, side};
use super::vit::{EMBEDDING, LayerNames, QkvNames, Vit};
use super::wiring::Description;
use super::{llama, towers};
use crate::Error;
use crate::config::{self, FEW, HfConfig, LARGEST_VOCABULARY, MOST, Rotated, Sizes, WIDEST};
use crate::fields::Fields;
use crate::model::{Arrangement, Vision};
use crate::names::Names;
use crate::nn::{PatchEmbedding, Positions, Projection, Projector, RopeScaling};
use crate::parameters::Place;
use crate::source::Builder;

const LAYER: LayerNames = LayerNames {
    norms: ["ln1", "ln2"],
    qkv: QkvNames::Fused("attn.qkv_proj"),
    out: "attn.out_proj",
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: None,
};

const NAMES: Names =
    Names { file, other, tied: "lm_tie_weights", frequencies: Some("decoder.rotary_embd.inv_freq"), ..Names::PLAIN };

/// Parts of the names of a llama's tensors, and what stands for them here.
const LLAMA: [(&str, &str); 8] = [
    ("model.embed_tokens.", "decoder.token_embedding."),
    ("model.norm.", "decoder.norm."),
    ("lm_head.", "decoder.head."),
    ("model.layers.", "decoder.blocks."),
    (".self_attn.o_proj.", ".attn.out_proj."),
    (".self_attn.", ".attn."),
    (".input_layernorm.", ".norm1."),
    (".post_attention_layernorm.", ".norm2."),
];

/// The same of a SigLIP's, below the name of the tower.
const SIGLIP: [(&str, &str); 6] = [
    ("embeddings.patch_embedding.", "patch_embedding.conv."),
    ("embeddings.position_embedding.weight", "patch_embedding.position_embedding"),
    ("post_layernorm.", "layer_norm."),
    ("encoder.layers.", "blocks."),
    (".layer_norm1.", ".ln1."),
    (".layer_norm2.", ".ln2."),
];

/// The name of a llama's tensor in a file.
fn file(name: &str) -> String {
    LLAMA.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replacen(theirs, ours, 1))
}

/// The name that a llama has for a tensor of the language model; `None` for one of another part.
pub(crate) fn in_language(name: &str) -> Option<String> {
    let back = |name: String, (theirs, ours): &(&str, &str)| name.replacen(ours, theirs, 1);
    // The output of attention before the rest of it.
    name.starts_with("decoder.").then(|| LLAMA.iter().fold(name.to_owned(), back))
}

/// The names that a tower of that kind has for a tensor of it, from the first to the last of their rows; `None` for a tensor of
/// another part. In the checkpoint they stand behind `prefix`.
pub(crate) fn in_tower(name: &str, kind: &str, prefix: &str) -> Option<Vec<String>> {
    let own = name.strip_prefix(TOWER)?;
    if kind != SIGLIP_KIND {
        return Some(vec![own.to_owned()]);
    }
    let back = |name: String, (theirs, ours): &(&str, &str)| name.replacen(ours, theirs, 1);
    let own = SIGLIP.iter().fold(own.to_owned(), back).replacen(".attn.", ".self_attn.", 1);
    let matrices = if own.contains(".qkv_proj.") { vec!["q_proj", "k_proj", "v_proj"] } else { vec!["qkv_proj"] };
    Some(matrices.into_iter().map(|matrix| format!("{prefix}{}", own.replacen("qkv_proj", matrix, 1))).collect())
}

pub(crate) const SIGLIP_KIND: &str = "siglip_vision_model";
/// Scale and bias of the last norm of another tower, by the names of its own.
pub(crate) const LAST_NORM: [&str; 2] = ["layernorm.weight", "layernorm.bias"];
const TOWER: &str = "vision_encoder.";
const EMBEDDING_NAME: &str = "decoder.token_embedding.weight";
const HEAD_NAME: &str = "decoder.head.weight";

/// Where head and embedding are one, a file has either.
fn other(name: &str) -> Option<String> {
    match name {
        EMBEDDING_NAME => Some(HEAD_NAME.into()),
        HEAD_NAME => Some(EMBEDDING_NAME.into()),
        _ => None,
    }
}

/// What a config describes. Keys that are left out are what the code's main branch takes.
pub(crate) fn describe(config: &HfConfig) -> Result<Description, Error> {
    let (language, tower, merge, token) = config.read(|config| {
        config.harmless(HARMLESS);
        config.harmless(&[towers::PART]);
        config.only("vit_cls_flag", &[false.into()])?;
        config.only("lm_use_tokens", &[false.into()])?;
        config.only("lm_attn_scaling", &[1.into()])?;
        let language = language(config)?;
        let merge = config::size(config, "mp_pixel_shuffle_factor", 4, FEW)?;
        let tower = match config.get(towers::PART) {
            None => Tower::Own(tower(config)?),
            Some(other) => Tower::Other(HfConfig::new(other.clone())?),
        };
        if let Tower::Own(Siglip { side, .. }) = tower
            && side % merge != 0
        {
            return Err(Error::config(format!(
                "has `mp_pixel_shuffle_factor: {merge}`, which does not divide the {side} patches along a side"
            )));
        }
        Ok((language, tower, merge, token(config)?))
    })?;
    let (sizes, layer) = language.read(|config| {
        let mut sizes = config::sizes(config)?;
        let layer = llama::read(config, &mut sizes)?;
        Ok((sizes, layer))
    })?;
    let hidden = sizes.hidden_size;
    let vision = Box::new(move |builder: &mut Builder<'_>| load(builder, &tower, (merge, token), hidden));
    Ok(Description { sizes, layer, names: NAMES, vision: Some(vision) })
}

/// What says nothing of the model itself: data, training, and how it is begun.
const HARMLESS: &[&str] = &[
    "extra_token_amount",
    "hf_repo_name",
    "lm_base_vocab_size",
    "lm_chat_template",
    "lm_dropout",
    "lm_eos_token_id",
    "lm_max_length",
    "lm_model_type",
    "lm_tokenizer",
    "max_img_size",
    "mp_image_token_length",
    "resize_to_max_side_len",
    "vit_architecture",
    "vit_dropout",
    "vit_model_type",
    "vlm_checkpoint_path",
    "vlm_load_backbone_weights",
];

/// The config of the language model, as a llama's.
fn language(config: &Fields<'_>) -> Result<HfConfig, Error> {
    let size = |key: &str, plain: usize, most: usize| config::size(config, key, plain, most);
    let language = json!({
        "model_type": "llama",
        "hidden_size": size("lm_hidden_dim", 960, WIDEST)?,
        "intermediate_size": size("lm_inter_dim", 2560, WIDEST)?,
        "rms_norm_eps": config.optional::<f64>("lm_rms_eps")?.unwrap_or(1e-5),
        "rope_theta": config.optional::<f64>("lm_re_base")?.unwrap_or(100_000.0),
        "max_position_embeddings": config.optional::<usize>("lm_max_position_embeddings")?.unwrap_or(8192),
        "vocab_size": size("lm_vocab_size", 49_218, LARGEST_VOCABULARY)?,
        "num_attention_heads": size("lm_n_heads", 15, WIDEST)?,
        "num_key_value_heads": size("lm_n_kv_heads", 5, WIDEST)?,
        "num_hidden_layers": size("lm_n_blocks", 32, MOST)?,
        "tie_word_embeddings": config.optional::<bool>("lm_tie_weights")?.unwrap_or(true),
    });
    HfConfig::new(language)
}

fn tower(config: &Fields<'_>) -> Result<Siglip, Error> {
    let size = |key: &str, plain: usize, most: usize| config::size(config, key, plain, most);
    let vit = Vit {
        hidden: size("vit_hidden_dim", 768, WIDEST)?,
        inner: size("vit_inter_dim", 3072, WIDEST)?,
        layers: size("vit_n_blocks", 12, MOST)?,
        heads: size("vit_n_heads", 12, MOST)?,
        eps: config.optional("vit_ln_eps")?.unwrap_or(1e-6),
        activation: Activation::GeluTanh,
        qkv_bias: true,
    };
    let (image, patch) = (size("vit_img_size", 512, MOST)?, size("vit_patch_size", 16, MOST)?);
    Ok(Siglip { vit: vit.checked()?, channels: 3, patch, side: side(image, patch)? })
}

/// The token that a picture leaves: the first of those added to the vocabulary of the language model. The first generation adds
/// none, and puts pictures before the text.
fn token(config: &Fields<'_>) -> Result<Option<u32>, Error> {
    const KEY: &str = "vlm_extra_tokens";
    let base = config.optional::<u32>("lm_base_vocab_size")?.unwrap_or(49_152);
    let added = config.optional::<Map<String, Value>>(KEY)?;
    let Some(added) = added.filter(|added| !added.is_empty()) else { return Ok(None) };
    match added.keys().position(|name| name == "image_token") {
        Some(place) => match base.checked_add(place as u32) {
            Some(token) => Ok(Some(token)),
            None => Err(Error::config(format!(
                "has `lm_base_vocab_size: {base}`, which no vocabulary has; check config.json"
            ))),
        },
        None => Err(Error::config(format!("has no `image_token` in `{KEY}`; check config.json"))),
    }
}

/// What looks at pictures.
enum Tower {
    /// A SigLIP under nanoVLM's names.
    Own(Siglip),
    /// Another one under its own names, which nanoVLM's own code does not load.
    Other(HfConfig),
}

fn load(
    builder: &mut Builder<'_>,
    tower: &Tower,
    (merge, token): (usize, Option<u32>),
    language: usize,
) -> Result<Vision, Error> {
    let tower = match tower {
        Tower::Own(own) => own_tower(builder, own)?,
        Tower::Other(config) => builder.below(TOWER, |builder| towers::load(config, builder))?,
    };
    let width = tower.width(builder.parameters());
    let shape = [language, width * merge * merge];
    let first = Projection::apart(builder, "MP.proj", &shape, false, Place::Projector)?;
    let projector = Some(Projector { first, second: None });
    Ok(Vision { projector, arrangement: Arrangement::Rows { merge }, token, ..tower })
}

fn own_tower(builder: &mut Builder<'_>, tower: &Siglip) -> Result<Vision, Error> {
    let Siglip { vit, channels, patch, side } = tower;
    let (hidden, shape) = (vit.hidden, [vit.hidden, *channels, *patch, *patch]);
    let embedding = format!("{TOWER}patch_embedding.");
    let projection = Projection::apart(builder, &format!("{embedding}conv"), &shape, true, EMBEDDING)?;
    let table = builder.table(&format!("{embedding}position_embedding"), &[1, side * side, hidden], EMBEDDING)?;
    let of_layer = |index| format!("{TOWER}blocks.{index}.");
    let stack = vit.stack(builder, &LAYER, of_layer, &format!("{TOWER}layer_norm"))?;
    let positions = Some(Positions { table, side: *side, resampled: false });
    Ok(Vision::tower(PatchEmbedding { projection, positions, class: None }, stack, tower.numbers()))
}

/// The config of a tower and a llama of these sizes, but for what belongs to neither. A SigLIP has nanoVLM's keys.
pub(crate) fn config_of(tower: &HfConfig, language: &HfConfig, sizes: &Sizes) -> Result<Map<String, Value>, Error> {
    let mut config = Map::new();
    if tower.model_type()? == SIGLIP_KIND {
        let Siglip { vit, channels, patch, side } = tower.read(Siglip::read)?;
        if vit.activation != Activation::GeluTanh || channels != 3 {
            return Err(Error::config("describes a SigLIP of another non-linearity or other channels than nanoVLM's"));
        }
        config.extend([
            ("vit_hidden_dim".to_owned(), json!(vit.hidden)),
            ("vit_inter_dim".to_owned(), json!(vit.inner)),
            ("vit_patch_size".to_owned(), json!(patch)),
            ("vit_img_size".to_owned(), json!(patch * side)),
            ("vit_n_heads".to_owned(), json!(vit.heads)),
            ("vit_n_blocks".to_owned(), json!(vit.layers)),
            ("vit_ln_eps".to_owned(), json!(f64::from(vit.eps))),
        ]);
    } else {
        config.insert(towers::PART.to_owned(), tower.value().clone());
    }
    let theta = language.read(|config| {
        // What else it says is taken where the whole is read.
        config.left().iter().for_each(|key| config.harmless(&[key.as_str()]));
        let rope = config::rope(config, sizes, Rotated::Whole, 10_000.0)?;
        match rope.scaling {
            RopeScaling::None => Ok(rope.theta),
            _ => Err(Error::config("stretches its rotary embedding, which nanoVLM's language models do not")),
        }
    })?;
    config.extend([
        ("lm_hidden_dim".to_owned(), json!(sizes.hidden_size)),
        ("lm_inter_dim".to_owned(), json!(sizes.intermediate_size)),
        ("lm_rms_eps".to_owned(), json!(sizes.rms_norm_eps)),
        ("lm_re_base".to_owned(), json!(theta)),
        ("lm_max_position_embeddings".to_owned(), json!(sizes.max_position_embeddings)),
        ("lm_base_vocab_size".to_owned(), json!(sizes.vocab_size)),
        ("lm_n_heads".to_owned(), json!(sizes.num_attention_heads)),
        ("lm_n_kv_heads".to_owned(), json!(sizes.num_key_value_heads)),
        ("lm_n_blocks".to_owned(), json!(sizes.num_hidden_layers)),
        ("lm_tie_weights".to_owned(), json!(sizes.tie_word_embeddings)),
    ]);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(config: &Value) -> Result<(Description, Option<u32>), String> {
        let config = HfConfig::new(config.clone()).unwrap();
        assert_eq!(config.model_type().unwrap(), "nanovlm");
        let description = describe(&config).map_err(|error| error.to_string())?;
        Ok((description, config.read(token).unwrap()))
    }

    #[test]
    fn generations_are_told_by_what_a_picture_leaves() {
        // The first puts pictures before the text; the second has one token for them; the third tells tiles apart, too.
        let first = json!({
            "vit_hidden_dim": 768, "vit_img_size": 224, "lm_hidden_dim": 576, "lm_inter_dim": 1536, "lm_n_heads": 9, "lm_n_kv_heads": 3,
            "lm_n_blocks": 30, "lm_vocab_size": 49152, "mp_pixel_shuffle_factor": 2, "lm_eos_token_id": 0,
        });
        let mut second = first.clone();
        let added =
            json!({ "vit_img_size": 256, "lm_vocab_size": 49153, "vlm_extra_tokens": { "image_token": "<|image|>" } });
        second.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
        let third = json!({
            "vit_hidden_dim": 768, "lm_hidden_dim": 960,
            "vlm_extra_tokens": { "global_image_token": "<|global_image|>", "image_token": "<|image|>", "r1c1": "<row_1_col_1>" },
        });
        for (config, token, vocabulary, layers) in
            [(first, None, 49_152, 30), (second, Some(49_152), 49_153, 30), (third, Some(49_153), 49_218, 32)]
        {
            let (description, found) = described(&config).unwrap();
            assert_eq!((found, description.sizes.vocab_size), (token, vocabulary), "{config}");
            assert_eq!((description.sizes.num_hidden_layers, description.sizes.tie_word_embeddings), (layers, true));
            assert!(description.vision.is_some());
        }
    }

    #[test]
    fn what_there_is_not_is_refused_by_name() {
        for (key, value) in [
            ("vit_cls_flag", json!(true)),
            ("lm_use_tokens", json!(true)),
            ("lm_attn_scaling", json!(0.5)),
            ("mp_pixel_shuffle_factor", json!(5)),
            ("mp_pixel_shuffle_factor", json!(0)),
        ] {
            let error = described(&json!({ "vit_hidden_dim": 768, "lm_hidden_dim": 960, key: value })).err().unwrap();
            assert!(error.contains(&format!("`{key}: {value}`")), "{error}");
        }
        for (more, part) in [
            (json!({ "vlm_extra_tokens": { "r1c1": "<row_1_col_1>" } }), "no `image_token`"),
            (json!({ "vit_n_heads": 7 }), "7 heads"),
            (json!({ "vit_img_size": 8 }), "8 pixels"),
            (json!({ "lm_n_kv_heads": 4 }), "num_key_value_heads"),
        ] {
            let mut config = json!({ "vit_hidden_dim": 768, "lm_hidden_dim": 960 });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = described(&config).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (theirs, ours) in [
            ("model.embed_tokens.weight", EMBEDDING_NAME),
            ("lm_head.weight", HEAD_NAME),
            ("model.norm.weight", "decoder.norm.weight"),
            ("model.layers.12.self_attn.o_proj.weight", "decoder.blocks.12.attn.out_proj.weight"),
            ("model.layers.0.self_attn.q_proj.weight", "decoder.blocks.0.attn.q_proj.weight"),
            ("model.layers.0.mlp.down_proj.weight", "decoder.blocks.0.mlp.down_proj.weight"),
            ("model.layers.0.input_layernorm.weight", "decoder.blocks.0.norm1.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "decoder.blocks.0.norm2.weight"),
        ] {
            assert_eq!((file(theirs).as_str(), in_language(ours).as_deref()), (ours, Some(theirs)));
        }
        assert_eq!(in_language("MP.proj.weight"), None);
        let tower = |name: &str| in_tower(&format!("{TOWER}{name}"), SIGLIP_KIND, "vision_model.").unwrap().join(" ");
        for (ours, theirs) in [
            ("patch_embedding.conv.bias", "vision_model.embeddings.patch_embedding.bias"),
            ("patch_embedding.position_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("blocks.3.ln2.weight", "vision_model.encoder.layers.3.layer_norm2.weight"),
            ("blocks.3.attn.out_proj.bias", "vision_model.encoder.layers.3.self_attn.out_proj.bias"),
            ("blocks.3.mlp.fc1.weight", "vision_model.encoder.layers.3.mlp.fc1.weight"),
            ("layer_norm.bias", "vision_model.post_layernorm.bias"),
        ] {
            assert_eq!(tower(ours), theirs);
        }
        let qkv = ["q", "k", "v"].map(|matrix| format!("vision_model.encoder.layers.0.self_attn.{matrix}_proj.weight"));
        assert_eq!(tower("blocks.0.attn.qkv_proj.weight"), qkv.join(" "));
        assert_eq!(in_tower("vision_encoder.layernorm.bias", "dinov2", "").unwrap(), ["layernorm.bias"]);
        assert_eq!(in_tower("MP.proj.weight", "dinov2", ""), None);
    }
}
