//! nanoVLM (huggingface/nanoVLM): the image tower of SigLIP, neighbouring patches side by side through one linear map, and a
//! llama. Its generations differ in what pictures leave in a text; their tensors have the same names. A config has no
//! `model_type`; its own keys tell it.

use serde_json::{Map, Value, json};

use grades_tensor::Activation;

use super::llama;
use super::siglip::{Siglip, side};
use super::vit::{EMBEDDING, LayerNames, QkvNames, Vit};
use super::wiring::Description;
use crate::Error;
use crate::config::{self, HfConfig};
use crate::fields::Fields;
use crate::model::{Arrangement, Vision};
use crate::names::Names;
use crate::nn::{PatchEmbedding, Positions, Projection, Projector};
use crate::parameters::Place;
use crate::source::Builder;

const LAYER: LayerNames = LayerNames {
    norms: ["ln1", "ln2"],
    qkv: QkvNames::Fused("attn.qkv_proj"),
    out: "attn.out_proj",
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: None,
};

const NAMES: Names = Names { file, other, module: str::to_owned, of_module: str::to_owned };

/// The name of a llama's tensor in a file.
fn file(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => EMBEDDING_NAME.into(),
        "model.norm.weight" => "decoder.norm.weight".into(),
        "lm_head.weight" => HEAD_NAME.into(),
        _ => match name.strip_prefix("model.layers.") {
            None => name.to_owned(),
            Some(rest) => {
                let rest = rest.replace("self_attn.o_proj", "attn.out_proj").replace("self_attn.", "attn.");
                let rest = rest.replace("input_layernorm", "norm1").replace("post_attention_layernorm", "norm2");
                format!("decoder.blocks.{rest}")
            }
        },
    }
}

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
        config.only("vit_cls_flag", &[false.into()])?;
        config.only("lm_use_tokens", &[false.into()])?;
        config.only("lm_attn_scaling", &[1.into()])?;
        let language = language(config)?;
        let merge = config.optional::<usize>("mp_pixel_shuffle_factor")?.unwrap_or(4);
        let tower = tower(config)?;
        if merge == 0 || tower.side % merge != 0 {
            return Err(Error::config(format!(
                "has `mp_pixel_shuffle_factor: {merge}`, which does not divide the {} patches along a side",
                tower.side
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
    let number = |key: &str, plain: usize| Ok::<_, Error>(config.optional(key)?.unwrap_or(plain));
    let language = json!({
        "model_type": "llama",
        "hidden_size": number("lm_hidden_dim", 960)?,
        "intermediate_size": number("lm_inter_dim", 2560)?,
        "rms_norm_eps": config.optional::<f64>("lm_rms_eps")?.unwrap_or(1e-5),
        "rope_theta": config.optional::<f64>("lm_re_base")?.unwrap_or(100_000.0),
        "max_position_embeddings": number("lm_max_position_embeddings", 8192)?,
        "vocab_size": number("lm_vocab_size", 49_218)?,
        "num_attention_heads": number("lm_n_heads", 15)?,
        "num_key_value_heads": number("lm_n_kv_heads", 5)?,
        "num_hidden_layers": number("lm_n_blocks", 32)?,
        "tie_word_embeddings": config.optional::<bool>("lm_tie_weights")?.unwrap_or(true),
    });
    HfConfig::new(language)
}

fn tower(config: &Fields<'_>) -> Result<Siglip, Error> {
    let number = |key: &str, plain: usize| Ok::<_, Error>(config.optional(key)?.unwrap_or(plain));
    let vit = Vit {
        hidden: number("vit_hidden_dim", 768)?,
        inner: number("vit_inter_dim", 3072)?,
        layers: number("vit_n_blocks", 12)?,
        heads: number("vit_n_heads", 12)?,
        eps: config.optional("vit_ln_eps")?.unwrap_or(1e-6),
        activation: Activation::GeluTanh,
        qkv_bias: true,
    };
    let (image, patch) = (number("vit_img_size", 512)?, number("vit_patch_size", 16)?);
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
        Some(place) => Ok(Some(base + place as u32)),
        None => Err(Error::config(format!("has no `image_token` in `{KEY}`; check config.json"))),
    }
}

fn load(
    builder: &mut Builder<'_>,
    tower: &Siglip,
    (merge, token): (usize, Option<u32>),
    language: usize,
) -> Result<Vision, Error> {
    let Siglip { vit, channels, patch, side } = tower;
    let (hidden, shape) = (vit.hidden, [vit.hidden, *channels, *patch, *patch]);
    let embedding = "vision_encoder.patch_embedding.";
    let projection = Projection::apart(builder, &format!("{embedding}conv"), &shape, true, EMBEDDING)?;
    let table = builder.table(&format!("{embedding}position_embedding"), &[1, side * side, hidden], EMBEDDING)?;
    let of_layer = |index| format!("vision_encoder.blocks.{index}.");
    let stack = vit.stack(builder, &LAYER, of_layer, "vision_encoder.layer_norm")?;
    let shape = [language, hidden * merge * merge];
    let first = Projection::apart(builder, "MP.proj", &shape, false, Place::Projector)?;
    let positions = Some(Positions { table, side: *side, resampled: false });
    Ok(Vision {
        embedding: PatchEmbedding { projection, positions, class: None },
        stack,
        projector: Some(Projector { first, second: None }),
        arrangement: Arrangement::Rows { merge },
        patch: tower.numbers(),
        token,
        has_places: false,
    })
}
