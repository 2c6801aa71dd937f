//! What trains beside the matrices: norm scales, embeddings, heads.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::unit::{Tower, UnitId};

/// Trained parameters that are no unit, and never measured. The final norms, the LM head and the modality projector
/// are not listed: they train until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "companion")]
pub enum Companion {
    /// The norm scales (and biases) of one layer, and the router of its experts.
    Norms {
        /// The tower that holds the layer.
        tower: Tower,
        /// The layer's index in its tower, from 0.
        layer: usize,
    },
    /// What comes before layer 0 of a tower: the token embedding of the language tower, the patch and position
    /// embeddings of the vision tower. An embedding tied to the LM head keeps training through the head.
    Embedding {
        /// The tower.
        tower: Tower,
    },
}

/// What happens to companions while units freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Companions {
    /// They train until the end (the paper).
    #[default]
    Train,
    /// A layer's norms (and router) freeze with the last matrix of their layer, the embeddings with their tower's layer 0, so that
    /// a frozen prefix really ends the backward pass.
    Follow,
}

impl Companions {
    /// The companions that are frozen when exactly `frozen` of `units` are.
    pub fn frozen_with<'a>(
        self,
        units: impl IntoIterator<Item = &'a UnitId>,
        frozen: &BTreeSet<UnitId>,
    ) -> BTreeSet<Companion> {
        if self == Self::Train {
            return BTreeSet::new();
        }
        let mut layers: BTreeMap<(Tower, usize), bool> = BTreeMap::new();
        for unit in units {
            *layers.entry((unit.tower, unit.layer)).or_insert(true) &= frozen.contains(unit);
        }
        let mut companions = BTreeSet::new();
        for ((tower, layer), _) in layers.into_iter().filter(|(_, whole)| *whole) {
            companions.insert(Companion::Norms { tower, layer });
            if layer == 0 {
                companions.insert(Companion::Embedding { tower });
            }
        }
        companions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Role;

    #[test]
    fn norms_follow_the_last_matrix_of_their_layer_and_embeddings_layer_0() {
        let units = [
            UnitId::vision(0, Role::Qkv),
            UnitId::language(0, Role::Q),
            UnitId::language(0, Role::Down),
            UnitId::language(1, Role::Q),
        ];
        let with =
            |indices: &[usize]| Companions::Follow.frozen_with(&units, &indices.iter().map(|i| units[*i]).collect());
        let norms = |tower, layer| Companion::Norms { tower, layer };
        assert_eq!(with(&[1]), BTreeSet::new());
        assert_eq!(
            with(&[1, 2]),
            BTreeSet::from([norms(Tower::Language, 0), Companion::Embedding { tower: Tower::Language }])
        );
        assert_eq!(with(&[3]), BTreeSet::from([norms(Tower::Language, 1)]));
        assert_eq!(
            with(&[0, 1]),
            BTreeSet::from([norms(Tower::Vision, 0), Companion::Embedding { tower: Tower::Vision }])
        );
        assert_eq!(Companions::Train.frozen_with(&units, &units.into_iter().collect()), BTreeSet::new());
    }
}
