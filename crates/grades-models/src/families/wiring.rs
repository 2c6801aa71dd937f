//! What architectures share beside their layers: the embedding, the last norm, the head.

use std::sync::Arc;

use grades::{Companion, Tower};

use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::{Fields, warn_once};
use crate::model::{HEAD, Stack, Vision, Wiring};
use crate::names::Names;
use crate::nn::{Heads, Layer, Norm, Rope, RopeConfig};
use crate::parameters::Place;
use crate::source::{Builder, Source};

/// Names of a decoder's parts in transformers' checkpoints.
const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

/// How an architecture loads a layer, given its index and the prefix of its tensors.
pub(crate) type LoadLayer = dyn Fn(&mut Builder<'_>, usize, &str) -> Result<Layer, Error>;

/// How an architecture loads what reads pictures.
pub(crate) type LoadVision = dyn Fn(&mut Builder<'_>) -> Result<Vision, Error>;

/// What a config describes.
pub(crate) struct Description {
    /// Those of the language model.
    pub(crate) sizes: Sizes,
    pub(crate) layer: Box<LoadLayer>,
    pub(crate) names: Names,
    pub(crate) vision: Option<Box<LoadVision>>,
}

/// A decoder of layers that `layer` loads.
pub(crate) fn decoder(builder: &mut Builder<'_>, description: &Description) -> Result<Wiring, Error> {
    let Description { sizes, layer, names, vision } = description;
    let vision = vision.as_ref().map(|load| load(builder)).transpose()?;
    builder.name_as(names.file);
    let (hidden, vocabulary) = (sizes.hidden_size, sizes.vocab_size);
    let input = Companion::Embedding { tower: Tower::Language };
    let place = if sizes.tie_word_embeddings { Place::Tied(input) } else { Place::Companion(input) };
    let embedding = builder.add(EMBEDDING, &[vocabulary, hidden], place)?;
    let layers = (0..sizes.num_hidden_layers).map(|index| layer(builder, index, &format!("model.layers.{index}.")));
    let layers = layers.collect::<Result<_, _>>()?;
    let norm = builder.norm(NORM, hidden, Place::Always, of_norms(sizes))?;
    let head = match sizes.tie_word_embeddings {
        true => None,
        false => Some(builder.add(HEAD, &[vocabulary, hidden], Place::Always)?),
    };
    Ok(Wiring { embedding, stack: Stack { tower: Tower::Language, layers, norm }, head, vision, names: *names })
}

/// Whether a source has a head of its own for an embedding that the config ties to it: one that differs. As in transformers,
/// the two are then no longer tied.
pub(crate) fn has_own_head(source: &dyn Source, names: Names, sizes: &Sizes) -> Result<bool, Error> {
    let shape = [sizes.vocab_size, sizes.hidden_size];
    let (head, embedding) = ((names.file)(HEAD), (names.file)(EMBEDDING));
    let differs = match source.shape(&head) {
        Some(found) if found == shape => source.load(&head, &shape)? != source.load(&embedding, &shape)?,
        other => other.is_some(),
    };
    if differs {
        warn_once(format!(
            "{head} is not the embedding, although config.json says `tie_word_embeddings: true`; it is used as it is (as in \
             transformers), and a model that is saved says false"
        ));
    }
    Ok(differs)
}

/// The norm of a layer.
pub(super) fn norm(builder: &mut Builder<'_>, sizes: &Sizes, index: usize, name: &str) -> Result<Norm, Error> {
    norm_of(builder, sizes, sizes.hidden_size, index, name)
}

/// A norm of a layer over `width` elements.
pub(super) fn norm_of(
    builder: &mut Builder<'_>,
    sizes: &Sizes,
    width: usize,
    index: usize,
    name: &str,
) -> Result<Norm, Error> {
    let place = Place::Companion(Companion::Norms { tower: Tower::Language, layer: index });
    builder.norm(name, width, place, of_norms(sizes))
}

/// What is added to the mean square in all norms, and to their scales.
fn of_norms(sizes: &Sizes) -> (f32, f32) {
    (sizes.rms_norm_eps as f32, sizes.norm_offset)
}

/// The base of the rotary frequencies where a config of most architectures leaves it out.
const THETA: f64 = 10_000.0;

/// Causal heads with the rotary positions of a config.
pub(super) fn heads(config: &Fields<'_>, sizes: &Sizes, rotated: Rotated) -> Result<Heads, Error> {
    Ok(heads_of(sizes, &config::rope(config, sizes, rotated, THETA)?))
}

/// Causal heads with these rotary positions.
pub(super) fn heads_of(sizes: &Sizes, rope: &RopeConfig) -> Heads {
    Heads {
        heads: sizes.num_attention_heads,
        kv_heads: sizes.num_key_value_heads,
        head_dim: sizes.head_dim,
        scale: (sizes.head_dim as f32).powf(-0.5),
        causal: true,
        window: None,
        in_windows: false,
        rope: Some(Arc::new(Rope::new(rope))),
    }
}
