//! DINOv2 (transformers `Dinov2Model`): a tower with a class token, factors of what each block adds, and positions that are
//! resampled for pictures of any size.

use grades_tensor::Activation;

use super::siglip::side;
use super::vit::{EMBEDDING, LayerNames, QkvNames, Vit};
use crate::Error;
use crate::config::{self, FEW, MOST, WIDEST};
use crate::fields::Fields;
use crate::model::Vision;
use crate::nn::{PatchEmbedding, Positions, Projection};
use crate::source::Builder;

const LAYER: LayerNames = LayerNames {
    norms: ["norm1", "norm2"],
    qkv: QkvNames::Apart(["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
    out: "attention.output.dense",
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
};

/// The tower alone. What the class in transformers takes where a key is left out is taken here, too.
pub(crate) fn load(config: &Fields<'_>, builder: &mut Builder<'_>) -> Result<Vision, Error> {
    let size = |key: &str, plain: usize, most: usize| config::size(config, key, plain, most);
    config.harmless(&[
        "apply_layernorm",
        "drop_path_rate",
        "layerscale_value",
        "out_features",
        "out_indices",
        "reshape_hidden_states",
        "stage_names",
        "use_mask_token",
    ]);
    config.only("use_swiglu_ffn", &[false.into()])?;
    let hidden = size("hidden_size", 768, WIDEST)?;
    let vit = Vit {
        hidden,
        inner: hidden * size("mlp_ratio", 4, FEW)?,
        layers: size("num_hidden_layers", 12, MOST)?,
        heads: size("num_attention_heads", 12, MOST)?,
        eps: config.optional("layer_norm_eps")?.unwrap_or(1e-6),
        activation: config::activation_of(config, "hidden_act", Activation::Gelu)?,
        qkv_bias: config.optional("qkv_bias")?.unwrap_or(true),
    };
    let vit = vit.checked()?;
    let (channels, patch) = (size("num_channels", 3, FEW)?, size("patch_size", 14, MOST)?);
    let side = side(size("image_size", 224, MOST)?, patch)?;
    let class = builder.add("embeddings.cls_token", &[1, 1, hidden], EMBEDDING)?;
    let table = builder.table("embeddings.position_embeddings", &[1, side * side + 1, hidden], EMBEDDING)?;
    let shape = [hidden, channels, patch, patch];
    let projection = Projection::apart(builder, "embeddings.patch_embeddings.projection", &shape, true, EMBEDDING)?;
    let stack = vit.stack(builder, &LAYER, |index| format!("encoder.layer.{index}."), "layernorm")?;
    let positions = Some(Positions { table, side, resampled: true });
    Ok(Vision::tower(PatchEmbedding { projection, positions, class: Some(class) }, stack, channels * patch * patch))
}
