//! The image tower of SigLIP and of SigLIP 2 with pictures of one size (transformers `SiglipVisionModel`), alone or in a
//! checkpoint with its text tower, which is left out.

use grades_tensor::Activation;

use super::vit::{EMBEDDING, LayerNames, QkvNames, Vit};
use crate::Error;
use crate::config::{self, FEW, MOST, WIDEST};
use crate::fields::Fields;
use crate::model::Vision;
use crate::nn::{PatchEmbedding, Positions, Projection};
use crate::source::Builder;

const LAYER: LayerNames = LayerNames {
    norms: ["layer_norm1", "layer_norm2"],
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: None,
};

/// Sizes of a tower for pictures of one size.
#[derive(Clone, Debug)]
pub(super) struct Siglip {
    pub(super) vit: Vit,
    pub(super) channels: usize,
    /// Pixels along a side of a patch.
    pub(super) patch: usize,
    /// Patches along a side of a picture.
    pub(super) side: usize,
}

impl Siglip {
    /// Of the config of a tower; what the class in transformers takes where a key is left out is taken here, too.
    pub(super) fn read(config: &Fields<'_>) -> Result<Self, Error> {
        let size = |key: &str, plain: usize, most: usize| config::size(config, key, plain, most);
        config.harmless(&["vision_use_head", "projection_size"]);
        let vit = Vit {
            hidden: size("hidden_size", 768, WIDEST)?,
            inner: size("intermediate_size", 3072, WIDEST)?,
            layers: size("num_hidden_layers", 12, MOST)?,
            heads: size("num_attention_heads", 12, MOST)?,
            eps: config.optional("layer_norm_eps")?.unwrap_or(1e-6),
            activation: config::activation_of(config, "hidden_act", Activation::GeluTanh)?,
            qkv_bias: true,
        };
        let (image, patch) = (size("image_size", 224, MOST)?, size("patch_size", 16, MOST)?);
        Ok(Self { vit: vit.checked()?, channels: size("num_channels", 3, FEW)?, patch, side: side(image, patch)? })
    }

    /// The numbers of a patch.
    pub(super) fn numbers(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

/// Patches along a side of a picture of `image` pixels.
pub(super) fn side(image: usize, patch: usize) -> Result<usize, Error> {
    match image.checked_div(patch) {
        Some(side) if side > 0 => Ok(side),
        _ => Err(Error::config(format!("describes pictures of {image} pixels in patches of {patch}; none fits"))),
    }
}

/// The tower alone.
pub(crate) fn load(config: &Fields<'_>, builder: &mut Builder<'_>) -> Result<Vision, Error> {
    let sizes = Siglip::read(config)?;
    let (hidden, patch) = (sizes.vit.hidden, sizes.patch);
    let whole = "vision_model.";
    let prefix = if builder.has(&format!("{whole}embeddings.patch_embedding.weight")) { whole } else { "" };
    let shape = [hidden, sizes.channels, patch, patch];
    let embeddings = format!("{prefix}embeddings.");
    let name = format!("{embeddings}patch_embedding");
    let projection = Projection::apart(builder, &name, &shape, true, EMBEDDING)?;
    let name = format!("{embeddings}position_embedding.weight");
    let table = builder.add(&name, &[sizes.side * sizes.side, hidden], EMBEDDING)?;
    let of_layer = |index| format!("{prefix}encoder.layers.{index}.");
    let stack = sizes.vit.stack(builder, &LAYER, of_layer, &format!("{prefix}post_layernorm"))?;
    let positions = Some(Positions { table, side: sizes.side, resampled: false });
    Ok(Vision::tower(PatchEmbedding { projection, positions, class: None }, stack, sizes.numbers()))
}
