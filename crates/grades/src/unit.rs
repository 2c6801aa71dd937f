//! What freezes: one projection matrix of one transformer layer.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The stack of transformer layers that a matrix belongs to, in the order in which data flows through a
/// vision-language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tower {
    /// The image encoder.
    Vision,
    /// The language model; the only tower of a text model.
    Language,
}

impl Tower {
    /// Both towers, in the order of the data.
    pub const ALL: [Self; 2] = [Self::Vision, Self::Language];

    /// The name used in configs, logs and unit names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Language => "language",
        }
    }
}

/// The block of a transformer layer that a role belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `q`, `k`, `v`, `o`, the fused `qkv`, and a vision tower's `proj`.
    Attention,
    /// `gate`, `up`, `down`, the fused `gate_up`, and a vision tower's `fc1` and `fc2`.
    Mlp,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// The name used in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}

/// What a matrix does in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection of a language layer.
    O,
    /// Query, key and value in one weight, monitored as one matrix.
    Qkv,
    /// Attention output projection of a vision layer.
    Proj,
    /// Gate of a gated MLP.
    Gate,
    /// Expansion of a gated MLP.
    Up,
    /// Reduction of a gated MLP.
    Down,
    /// Gate and expansion in one weight, monitored as one matrix.
    GateUp,
    /// First matrix of a plain MLP.
    Fc1,
    /// Second matrix of a plain MLP.
    Fc2,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 12] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Qkv,
        Self::Proj,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::GateUp,
        Self::Fc1,
        Self::Fc2,
    ];

    /// The block that the role belongs to.
    pub fn kind(self) -> Kind {
        match self {
            Self::Q | Self::K | Self::V | Self::O | Self::Qkv | Self::Proj => Kind::Attention,
            Self::Gate | Self::Up | Self::Down | Self::GateUp | Self::Fc1 | Self::Fc2 => Kind::Mlp,
        }
    }

    /// The roles inside a fused projection, in the order of its rows; of any other role the role itself.
    pub fn split(self) -> &'static [Self] {
        match self {
            Self::Qkv => &[Self::Q, Self::K, Self::V],
            Self::GateUp => &[Self::Gate, Self::Up],
            Self::Q => &[Self::Q],
            Self::K => &[Self::K],
            Self::V => &[Self::V],
            Self::O => &[Self::O],
            Self::Proj => &[Self::Proj],
            Self::Gate => &[Self::Gate],
            Self::Up => &[Self::Up],
            Self::Down => &[Self::Down],
            Self::Fc1 => &[Self::Fc1],
            Self::Fc2 => &[Self::Fc2],
        }
    }

    /// The name used in configs, logs and unit names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Qkv => "qkv",
            Self::Proj => "proj",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
            Self::GateUp => "gate_up",
            Self::Fc1 => "fc1",
            Self::Fc2 => "fc2",
        }
    }
}

/// The identity of a matrix, written `language.3.q` or `vision.0.fc1` in files.
///
/// The order is that of the data: tower, layer, role. Under LoRA the unit is the adapter pair of the projection; a
/// projection's bias belongs to its matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// The tower that holds the layer.
    pub tower: Tower,
    /// The layer's index in its tower, from 0.
    pub layer: usize,
    /// The matrix within the layer.
    pub role: Role,
}

impl UnitId {
    /// The matrix `role` of a layer.
    pub fn new(tower: Tower, layer: usize, role: Role) -> Self {
        Self { tower, layer, role }
    }

    /// A matrix of the language tower.
    pub fn language(layer: usize, role: Role) -> Self {
        Self::new(Tower::Language, layer, role)
    }

    /// A matrix of the vision tower.
    pub fn vision(layer: usize, role: Role) -> Self {
        Self::new(Tower::Vision, layer, role)
    }
}

/// A text that names no unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no matrix: write tower.layer.role, for example `language.3.q` or `vision.0.fc1`")]
pub struct ParseUnitError(String);

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` so that width and alignment work in tables.
        f.pad(&format!("{}.{}.{}", self.tower.name(), self.layer, self.role.name()))
    }
}

impl FromStr for UnitId {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (tower, rest) = text.split_once('.')?;
            let (layer, role) = rest.split_once('.')?;
            let tower = Tower::ALL.into_iter().find(|t| t.name() == tower)?;
            let role = Role::ALL.into_iter().find(|r| r.name() == role)?;
            // `parse` alone would take `+3` and `03`, which print differently.
            let index: usize = layer.parse().ok().filter(|n: &usize| n.to_string() == layer)?;
            Some(Self::new(tower, index, role))
        };
        parse().ok_or_else(|| ParseUnitError(text.to_owned()))
    }
}

impl Serialize for UnitId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnitId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_round_trips_through_its_name() {
        for tower in Tower::ALL {
            for role in Role::ALL {
                let unit = UnitId::new(tower, 17, role);
                assert_eq!(unit.to_string().parse(), Ok(unit));
                let json = serde_json::to_string(&unit).unwrap();
                assert_eq!(json, format!("\"{unit}\""));
                assert_eq!(serde_json::from_str::<UnitId>(&json).unwrap(), unit);
            }
        }
        assert_eq!(UnitId::language(3, Role::Q).to_string(), "language.3.q");
        assert_eq!(UnitId::vision(0, Role::Fc1).to_string(), "vision.0.fc1");
    }

    #[test]
    fn fused_roles_split_into_roles_of_their_kind() {
        assert_eq!(Role::Qkv.split(), [Role::Q, Role::K, Role::V]);
        assert_eq!(Role::GateUp.split(), [Role::Gate, Role::Up]);
        for role in Role::ALL {
            assert!(role.split().iter().all(|part| part.kind() == role.kind()));
            assert_eq!(role.split().len() == 1, role.split() == [role]);
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in [
            "",
            "language",
            "language.3",
            "audio.3.q",
            "language.x.q",
            "language.+3.q",
            "language.03.q",
            "language.3.z",
            "language.3.q.x",
        ] {
            assert!(text.parse::<UnitId>().is_err(), "{text}");
        }
    }

    #[test]
    fn order_is_the_order_of_the_data() {
        let mut units = [UnitId::language(10, Role::Q), UnitId::language(9, Role::Down), UnitId::vision(11, Role::Fc2)];
        units.sort();
        assert_eq!(units.map(|u| u.to_string()), ["vision.11.fc2", "language.9.down", "language.10.q"]);
    }
}
