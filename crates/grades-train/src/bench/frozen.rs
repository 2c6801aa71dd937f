//! Patterns of frozen matrices.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use grades::{Companions, Decision, Role, UnitId};
use serde::{Serialize, Serializer};

use super::BenchError;

/// Which matrices are frozen, written `none`, `scattered:0.5`, `prefix:0.5`, `roles:q,k,v,o` or `all-but-last`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Frozen {
    /// None.
    #[default]
    None,
    /// This share of all matrices, spread evenly: at one half every other one.
    Scattered(f64),
    /// All matrices of this share of the layers (rounded to whole layers), from the input.
    Prefix(f64),
    /// The matrices of these roles in every layer.
    Roles(Vec<Role>),
    /// All matrices of all layers but the last.
    AllButLast,
}

impl Frozen {
    /// The frozen ones of `units`, which are in their order.
    #[must_use]
    pub fn units(&self, units: &[UnitId]) -> BTreeSet<UnitId> {
        let layers = units.iter().map(|unit| unit.layer + 1).max().unwrap_or(0);
        let below = |layer: usize| units.iter().copied().filter(|unit| unit.layer < layer).collect();
        match self {
            Self::None => BTreeSet::new(),
            Self::Scattered(share) => {
                // The small addend lets 10 · 0.3 count as 3, however it is rounded.
                let until = |count: usize| (count as f64 * share + 1e-9).floor();
                let frozen = units.iter().enumerate().filter(|(index, _)| until(index + 1) > until(*index));
                frozen.map(|(_, unit)| *unit).collect()
            }
            Self::Prefix(share) => below((layers as f64 * share).round() as usize),
            Self::Roles(roles) => units.iter().copied().filter(|unit| roles.contains(&unit.role)).collect(),
            Self::AllButLast => below(layers.saturating_sub(1)),
        }
    }

    /// The decision of a policy that leads to this pattern.
    #[must_use]
    pub fn decision(&self, units: &[UnitId], companions: Companions) -> Decision {
        let frozen = self.units(units);
        let freeze_companions = companions.frozen_with(units, &frozen).into_iter().collect();
        Decision { freeze: frozen.into_iter().collect(), freeze_companions, ..Decision::default() }
    }
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Scattered(share) => write!(f, "scattered:{share}"),
            Self::Prefix(share) => write!(f, "prefix:{share}"),
            Self::Roles(roles) => {
                let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
                write!(f, "roles:{}", names.join(","))
            }
            Self::AllButLast => f.write_str("all-but-last"),
        }
    }
}

impl FromStr for Frozen {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share = |text: &str| text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        let role = |name: &str| Role::KNOWN.into_iter().find(|role| role.name() == name);
        let pattern = match text.split_once(':') {
            None if text == "none" => Some(Self::None),
            None if text == "all-but-last" => Some(Self::AllButLast),
            Some(("scattered", rest)) => share(rest).map(Self::Scattered),
            Some(("prefix", rest)) => share(rest).map(Self::Prefix),
            Some(("roles", rest)) => rest.split(',').map(role).collect::<Option<_>>().map(Self::Roles),
            _ => None,
        };
        pattern.ok_or_else(|| BenchError::Frozen(text.into()))
    }
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use grades::{Companion, Tower};

    use super::*;

    const ROLES: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

    fn units(layers: usize) -> Vec<UnitId> {
        (0..layers).flat_map(|layer| ROLES.map(|role| UnitId::language(layer, role))).collect()
    }

    fn frozen(pattern: &str, layers: usize) -> Vec<String> {
        let pattern: Frozen = pattern.parse().unwrap();
        pattern.units(&units(layers)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patterns_round_trip_through_their_text() {
        for text in ["none", "scattered:0.5", "prefix:0.25", "roles:q,k,v,o", "all-but-last", "scattered:0", "prefix:1"]
        {
            assert_eq!(text.parse::<Frozen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "all",
            "none:1",
            "scattered",
            "scattered:",
            "scattered:1.1",
            "prefix:-0.1",
            "prefix:NaN",
            "roles:",
            "roles:q,",
            "roles:z",
            "all-but-last:1",
        ] {
            let message = text.parse::<Frozen>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")), "{message}");
        }
    }

    #[test]
    fn patterns_name_the_matrices() {
        assert_eq!(frozen("none", 4), [""; 0]);
        assert_eq!(
            frozen("scattered:0.5", 2),
            ["0.k", "0.o", "0.up", "1.q", "1.v", "1.gate", "1.down"].map(|unit| format!("language.{unit}"))
        );
        assert_eq!(frozen("scattered:0.25", 4).len(), 7);
        assert_eq!(frozen("scattered:1", 4).len(), 28);
        assert_eq!(frozen("prefix:0.25", 4), ROLES.map(|role| format!("language.0.{}", role.name())));
        assert_eq!(frozen("prefix:0.5", 5).len(), 3 * 7);
        assert_eq!(frozen("prefix:1", 4).len(), 28);
        assert_eq!(frozen("roles:o,q", 2), ["language.0.q", "language.0.o", "language.1.q", "language.1.o"]);
        assert_eq!(frozen("all-but-last", 3), frozen("prefix:0.67", 3));
        assert_eq!(frozen("all-but-last", 1), [""; 0]);
    }

    #[test]
    fn companions_follow_or_train() {
        let (units, pattern) = (units(4), Frozen::Prefix(0.5));
        assert_eq!(pattern.decision(&units, Companions::Train).freeze_companions, []);
        let decision = pattern.decision(&units, Companions::Follow);
        assert_eq!(decision.freeze.len(), 14);
        let norms = |layer| Companion::Norms { tower: Tower::Language, layer };
        let embedding = Companion::Embedding { tower: Tower::Language };
        assert_eq!(decision.freeze_companions, [norms(0), norms(1), embedding]);
    }
}
