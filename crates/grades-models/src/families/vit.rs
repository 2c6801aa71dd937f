//! Vision transformers whose layers have layer norms and plain MLPs (Dosovitskiy et al. 2020): what they share.

use grades::{Companion, Role, Tower};
use grades_tensor::Activation;

use crate::Error;
use crate::model::Stack;
use crate::nn::{Attention, FeedForward, Heads, Layer, Mlp, Out, Part, Projection};
use crate::parameters::Place;
use crate::source::Builder;

/// Sizes of a tower.
#[derive(Clone, Debug)]
pub(super) struct Vit {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) eps: f32,
    pub(super) activation: Activation,
    /// Whether q, k and v have biases; all other layers have some.
    pub(super) qkv_bias: bool,
}

/// The names of a layer's parts, without `.weight` and `.bias`.
pub(super) struct LayerNames {
    /// Before attention, and before the MLP.
    pub(super) norms: [&'static str; 2],
    pub(super) qkv: QkvNames,
    pub(super) out: &'static str,
    pub(super) mlp: [&'static str; 2],
    /// The whole names of the factors of what is added to the residual.
    pub(super) scales: Option<[&'static str; 2]>,
}

/// The names of the queries', keys' and values' projections.
pub(super) enum QkvNames {
    /// One matrix.
    Fused(&'static str),
    /// A matrix each.
    Apart([&'static str; 3]),
}

/// What comes before the layers of a tower.
pub(super) const EMBEDDING: Place = Place::Companion(Companion::Embedding { tower: Tower::Vision });

/// The norms of a layer of a tower.
pub(super) fn norms(layer: usize) -> Place {
    Place::Companion(Companion::Norms { tower: Tower::Vision, layer })
}

impl Vit {
    /// Sizes that fit one another.
    pub(super) fn checked(self) -> Result<Self, Error> {
        let Self { hidden, heads, .. } = self;
        if !hidden.is_multiple_of(heads) {
            return Err(Error::config(format!(
                "describes a vision tower of width {hidden} with {heads} heads; their number must divide the width"
            )));
        }
        Ok(self)
    }

    /// The layers, each with the tensors below `prefix(layer)`, and the norm above them. It freezes with the last layer's.
    pub(super) fn stack(
        &self,
        builder: &mut Builder<'_>,
        names: &LayerNames,
        prefix: impl Fn(usize) -> String,
        norm: &str,
    ) -> Result<Stack, Error> {
        let layers = (0..self.layers).map(|index| self.layer(builder, names, index, &prefix(index)));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = builder.layer_norm(norm, self.hidden, norms(self.layers.saturating_sub(1)), self.eps)?;
        Ok(Stack { tower: Tower::Vision, layers, norm })
    }

    fn layer(&self, builder: &mut Builder<'_>, names: &LayerNames, index: usize, prefix: &str) -> Result<Layer, Error> {
        let Self { hidden, inner, .. } = *self;
        let at = (Tower::Vision, index);
        let roles = [Role::Q, Role::K, Role::V];
        let qkv = match names.qkv {
            QkvNames::Fused(name) => {
                vec![Part { name, role: Role::Qkv, rows: roles.map(|role| (role, hidden)).into() }]
            }
            QkvNames::Apart(apart) => {
                apart.into_iter().zip(roles).map(|(name, role)| Part::new(name, role, hidden)).collect()
            }
        };
        let [fc1, fc2] = names.mlp;
        let norm = |builder: &mut Builder<'_>, name: &str| {
            builder.layer_norm(&format!("{prefix}{name}"), hidden, norms(index), self.eps)
        };
        let attention_norm = norm(builder, names.norms[0])?;
        let out = [Part::new(names.out, Role::Proj, hidden)];
        let attention = Attention {
            qkv: Projection::load(builder, prefix, at, hidden, self.qkv_bias, &qkv)?,
            head_norms: None,
            o: Projection::load(builder, prefix, at, hidden, true, &out)?,
            heads: self.heads(),
        };
        let mlp_norm = norm(builder, names.norms[1])?;
        let mlp = FeedForward::Dense(Mlp {
            up: Projection::load(builder, prefix, at, hidden, true, &[Part::new(fc1, Role::Fc1, inner)])?,
            down: Projection::load(builder, prefix, at, inner, true, &[Part::new(fc2, Role::Fc2, hidden)])?,
            activation: self.activation,
            gated: false,
        });
        let scale = |builder: &mut Builder<'_>, name: &str| {
            let factors = builder.add(&format!("{prefix}{name}"), &[hidden], norms(index))?;
            Ok::<_, Error>(Out::Scale { factors, ones: builder.constant(1.0, hidden) })
        };
        let out = match names.scales {
            None => None,
            Some([of_attention, of_mlp]) => Some([scale(builder, of_attention)?, scale(builder, of_mlp)?]),
        };
        Ok(Layer { attention_norm, attention, mlp_norm, mlp, out })
    }

    fn heads(&self) -> Heads {
        let head_dim = self.hidden / self.heads;
        Heads {
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            causal: false,
            window: None,
            in_windows: false,
            rope: None,
        }
    }
}
