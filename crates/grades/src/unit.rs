//! What freezes: one projection matrix of one transformer layer.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{Name, NameError};

/// The stack of transformer layers that a matrix belongs to, in the order in which data flows through a
/// vision-language model.
///
/// Any name parses; towers that are not among the [`KNOWN`](Self::KNOWN) come after them, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tower(Name);

#[expect(non_upper_case_globals, reason = "the cases of an open enumeration, matched like those of an enum")]
impl Tower {
    /// The image encoder.
    pub const Vision: Self = Self(Name::known(0, "vision"));
    /// The language model; the only tower of a text model.
    pub const Language: Self = Self(Name::known(1, "language"));

    /// The towers that a config may name by themselves, in the order of the data.
    pub const KNOWN: [Self; 2] = [Self::Vision, Self::Language];
}

impl Tower {
    /// The name used in configs, logs and unit names.
    pub fn name(self) -> &'static str {
        self.0.text()
    }
}

/// The block of a transformer layer that a role belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `q`, `k`, `v`, `o`, the fused `qkv`, and a vision tower's `proj`.
    Attention,
    /// `gate`, `up`, `down`, the fused `gate_up`, a vision tower's `fc1` and `fc2`, and those of an expert (`experts.3.gate`).
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
///
/// Any name parses (`in_proj`, `experts.3.gate`); roles that are not among the [`KNOWN`](Self::KNOWN) come after them,
/// by name, and belong to no [`Kind`] unless they are a known role [of an expert](Self::of_expert).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Name);

#[expect(non_upper_case_globals, reason = "the cases of an open enumeration, matched like those of an enum")]
impl Role {
    /// Query projection.
    pub const Q: Self = Self(Name::known(0, "q"));
    /// Key projection.
    pub const K: Self = Self(Name::known(1, "k"));
    /// Value projection.
    pub const V: Self = Self(Name::known(2, "v"));
    /// Attention output projection of a language layer.
    pub const O: Self = Self(Name::known(3, "o"));
    /// Query, key and value in one weight, monitored as one matrix.
    pub const Qkv: Self = Self(Name::known(4, "qkv"));
    /// Attention output projection of a vision layer.
    pub const Proj: Self = Self(Name::known(5, "proj"));
    /// Gate of a gated MLP.
    pub const Gate: Self = Self(Name::known(6, "gate"));
    /// Expansion of a gated MLP.
    pub const Up: Self = Self(Name::known(7, "up"));
    /// Reduction of a gated MLP.
    pub const Down: Self = Self(Name::known(8, "down"));
    /// Gate and expansion in one weight, monitored as one matrix.
    pub const GateUp: Self = Self(Name::known(9, "gate_up"));
    /// First matrix of a plain MLP.
    pub const Fc1: Self = Self(Name::known(10, "fc1"));
    /// Second matrix of a plain MLP.
    pub const Fc2: Self = Self(Name::known(11, "fc2"));

    /// The roles that a config may name by themselves, in their order.
    pub const KNOWN: [Self; 12] = [
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
}

impl Role {
    /// What the matrix does in its expert, where it is of one: `gate` of `experts.3.gate`.
    pub fn of_expert(self) -> Option<Self> {
        let (expert, role) = self.name().strip_prefix("experts.")?.split_once('.')?;
        let is_number = !expert.is_empty() && expert.bytes().all(|digit| digit.is_ascii_digit());
        Self::KNOWN.into_iter().find(|known| is_number && known.name() == role)
    }

    /// The block that the role belongs to; `None` for a role that is not among the known ones, nor one of them in an expert.
    pub fn kind(self) -> Option<Kind> {
        match self.of_expert().unwrap_or(self) {
            Self::Q | Self::K | Self::V | Self::O | Self::Qkv | Self::Proj => Some(Kind::Attention),
            Self::Gate | Self::Up | Self::Down | Self::GateUp | Self::Fc1 | Self::Fc2 => Some(Kind::Mlp),
            _ => None,
        }
    }

    /// The roles inside a fused projection, in the order of its rows; `None` for a role that is not fused.
    pub fn split(self) -> Option<&'static [Self]> {
        match self {
            Self::Qkv => Some(&[Self::Q, Self::K, Self::V]),
            Self::GateUp => Some(&[Self::Gate, Self::Up]),
            _ => None,
        }
    }

    /// The roles that the rows of a projection of this role are monitored as, in the order of the rows: those inside a
    /// fused one where `split_fused` asks for them ([`EarlyStopping::split_fused`](crate::EarlyStopping::split_fused)),
    /// else the role itself.
    pub fn monitored(self, split_fused: bool) -> Vec<Self> {
        self.split().filter(|_| split_fused).map_or_else(|| vec![self], <[Self]>::to_vec)
    }

    /// The name used in configs, logs and unit names.
    pub fn name(self) -> &'static str {
        self.0.text()
    }
}

impl FromStr for Tower {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Name::parse(text, Self::KNOWN.map(|tower| tower.0), false).map(Self)
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Name::parse(text, Self::KNOWN.map(|role| role.0), true).map(Self)
    }
}

impl fmt::Display for Tower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Tower {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Tower {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The identity of a matrix, written `language.3.q` or `vision.0.fc1` in files.
///
/// The order is that of the data: tower, layer, role. Under LoRA the unit is the adapter pair of the projection; of a
/// fused projection it may be the range of its rows that a role has ([`Role::monitored`]). A projection's bias belongs
/// to its matrix.
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
pub enum ParseUnitError {
    /// It is not written as one.
    #[error("`{0}` names no matrix: write tower.layer.role, for example `language.3.q` or `vision.0.fc1`")]
    Form(String),
    /// Its tower or role cannot be named so.
    #[error("`{text}` names no matrix: {source}")]
    Name {
        /// The text.
        text: String,
        /// What is wrong with the name.
        source: NameError,
    },
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` so that width and alignment work in tables.
        f.pad(&format!("{}.{}.{}", self.tower.name(), self.layer, self.role.name()))
    }
}

impl FromStr for UnitId {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseUnitError::Form(text.to_owned());
        let name = |source| ParseUnitError::Name { text: text.to_owned(), source };
        let (tower, rest) = text.split_once('.').ok_or_else(form)?;
        let (layer, role) = rest.split_once('.').ok_or_else(form)?;
        // `parse` alone would take `+3` and `03`, which print differently.
        let layer = layer.parse().ok().filter(|n: &usize| n.to_string() == layer).ok_or_else(form)?;
        Ok(Self::new(tower.parse().map_err(name)?, layer, role.parse().map_err(name)?))
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

    fn round_trip(unit: UnitId) {
        assert_eq!(unit.to_string().parse(), Ok(unit));
        let json = serde_json::to_string(&unit).unwrap();
        assert_eq!(json, format!("\"{unit}\""));
        assert_eq!(serde_json::from_str::<UnitId>(&json).unwrap(), unit);
    }

    #[test]
    fn every_unit_round_trips_through_its_name() {
        for tower in Tower::KNOWN {
            for role in Role::KNOWN {
                round_trip(UnitId::new(tower, 17, role));
            }
        }
        assert_eq!(UnitId::language(3, Role::Q).to_string(), "language.3.q");
        assert_eq!(UnitId::vision(0, Role::Fc1).to_string(), "vision.0.fc1");
    }

    #[test]
    fn towers_and_roles_that_are_not_known_are_units_all_the_same() {
        for text in ["language.12.in_proj", "audio.0.q", "language.3.experts.10.gate", "Encoder_2.7.Conv1"] {
            let unit: UnitId = text.parse().unwrap();
            assert_eq!(unit.to_string(), text);
            round_trip(unit);
        }
        let role: Role = "in_proj".parse().unwrap();
        assert_eq!((role.name(), role.kind(), role.split()), ("in_proj", None, None));
        assert_eq!(serde_json::to_string(&role).unwrap(), "\"in_proj\"");
        assert_eq!(serde_json::from_str::<Role>("\"in_proj\"").unwrap(), role);
        assert_eq!(serde_json::from_str::<Tower>("\"audio\"").unwrap(), "audio".parse().unwrap());
        assert_eq!(("q".parse(), "language".parse()), (Ok(Role::Q), Ok(Tower::Language)));
        assert_eq!(format!("{:>9}|{:<7}|", role, Tower::Vision), "  in_proj|vision |");
    }

    #[test]
    fn matrices_of_experts_are_of_the_kind_that_they_are_alone() {
        let role = |text: &str| text.parse::<Role>().unwrap();
        for (text, of_expert, kind) in [
            ("experts.3.gate", Some(Role::Gate), Some(Kind::Mlp)),
            ("experts.127.down", Some(Role::Down), Some(Kind::Mlp)),
            ("experts.0.q", Some(Role::Q), Some(Kind::Attention)),
            ("experts.3.in_proj", None, None),
            ("experts.x.gate", None, None),
            ("experts.gate", None, None),
            ("gate", None, Some(Kind::Mlp)),
        ] {
            assert_eq!((role(text).of_expert(), role(text).kind()), (of_expert, kind), "{text}");
        }
    }

    #[test]
    fn cases_match_like_those_of_an_enum() {
        let number = |role| match role {
            Role::Q => 1,
            Role::GateUp => 2,
            _ => 3,
        };
        assert_eq!([Role::Q, Role::GateUp, Role::Up, "x_proj".parse().unwrap()].map(number), [1, 2, 3, 3]);
        assert!(matches!("language".parse(), Ok(Tower::Language)));
    }

    #[test]
    fn fused_roles_split_into_roles_of_their_kind() {
        assert_eq!(Role::Qkv.split(), Some(&[Role::Q, Role::K, Role::V][..]));
        assert_eq!(Role::GateUp.split(), Some(&[Role::Gate, Role::Up][..]));
        for role in Role::KNOWN {
            assert!(role.split().unwrap_or_default().iter().all(|inner| inner.kind() == role.kind()));
            assert_eq!(role.split().is_some(), [Role::Qkv, Role::GateUp].contains(&role));
            assert_eq!(role.monitored(false), [role]);
            assert_eq!(role.monitored(true), role.split().unwrap_or(&[role]));
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in ["", "language", "language.3", "language.x.q", "language.+3.q", "language.03.q", "language.-1.q"] {
            assert_eq!(text.parse::<UnitId>(), Err(ParseUnitError::Form(text.to_owned())), "{text}");
        }
        let long = format!("language.3.{}", "x".repeat(65));
        for text in [".3.q", "language.3.", "lang uage.3.q", "language.3.q.", "language.3..q", "language.3.q*", &long] {
            let error = text.parse::<UnitId>().unwrap_err();
            assert!(matches!(error, ParseUnitError::Name { .. }), "{text}");
            assert!(error.to_string().contains("cannot name a tower or a role: use 1 to 64"), "{error}");
        }
    }

    #[test]
    fn order_is_the_order_of_the_data() {
        let mut units = [
            "audio.0.q",
            "language.9.x_proj",
            "language.10.q",
            "language.9.in_proj",
            "language.9.fc2",
            "language.9.down",
            "Audio.3.q",
            "vision.11.fc2",
        ]
        .map(|text| text.parse::<UnitId>().unwrap());
        units.sort();
        let expected = [
            "vision.11.fc2",
            "language.9.down",
            "language.9.fc2",
            "language.9.in_proj",
            "language.9.x_proj",
            "language.10.q",
            "Audio.3.q",
            "audio.0.q",
        ];
        assert_eq!(units.map(|u| u.to_string()), expected);
        assert!(Role::KNOWN.is_sorted() && Tower::KNOWN.is_sorted());
    }
}
