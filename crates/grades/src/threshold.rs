//! The threshold τ of each unit: one number, by kind, role or name, a preset of the paper, or found automatically.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::preset::Preset;
use crate::unit::{Kind, Role, Tower, UnitId};

/// The threshold as a config writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Tau {
    /// One number for every unit: `tau: 1.5`.
    Number(f64),
    /// `tau: auto`: no threshold to choose, see [`AutoTau`](crate::AutoTau).
    Auto,
    /// By key: `tau: {default: 1.5, mlp: 3.0, q: 1.0, "language.2?.q": 0.5}`.
    ByKey(BTreeMap<TauKey, f64>),
    /// A threshold that the paper published: `tau: paper-qwen3-14b-full`.
    Preset(Preset),
}

/// A key of a `tau` map. The order of the variants is the order of precedence, least first.
///
/// The most specific key that matches a unit wins: pattern over role over kind over `default`. Ties: the kinds
/// `attention` and `mlp` win over the towers `vision` and `language`; of two patterns the one with more literal
/// characters wins, of two equally long ones the alphabetically first.
///
/// A role means those of experts, too: `gate` also `experts.3.gate`. Towers and roles that this crate does not know belong to no
/// kind, and a word alone does not name them: `default` and patterns such as `*.in_proj` or `audio.*` do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TauKey {
    /// `default`: every unit.
    Default,
    /// `vision` or `language`.
    Tower(Tower),
    /// `attention` or `mlp`.
    Kind(Kind),
    /// `q`, `k`, …
    Role(Role),
    /// A unit's name, in which `*` stands for any characters (also none) and `?` for one: `language.*.down`.
    Pattern(String),
}

impl TauKey {
    /// Whether the key speaks of `unit`.
    pub fn matches(&self, unit: UnitId) -> bool {
        match self {
            Self::Default => true,
            Self::Tower(tower) => unit.tower == *tower,
            Self::Kind(kind) => unit.role.kind() == Some(*kind),
            Self::Role(role) => unit.role.of_expert().unwrap_or(unit.role) == *role,
            Self::Pattern(pattern) => wildcard(pattern.as_bytes(), unit.to_string().as_bytes()),
        }
    }

    /// Among keys that match the same unit the greatest wins.
    fn precedence(&self) -> impl Ord {
        let (rank, literals, name) = match self {
            Self::Default => (0, 0, ""),
            Self::Tower(_) => (1, 0, ""),
            Self::Kind(_) => (2, 0, ""),
            Self::Role(_) => (3, 0, ""),
            Self::Pattern(pattern) => (4, pattern.bytes().filter(|b| !b"*?".contains(b)).count(), pattern.as_str()),
        };
        (rank, literals, std::cmp::Reverse(name.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let tower = Tower::KNOWN.into_iter().find(|t| t.name() == text).map(Self::Tower);
        let kind = Kind::ALL.into_iter().find(|k| k.name() == text).map(Self::Kind);
        let role = Role::KNOWN.into_iter().find(|r| r.name() == text).map(Self::Role);
        let default = (text == "default").then_some(Self::Default);
        let pattern = text.contains(['.', '*', '?']).then(|| Self::Pattern(text.to_owned()));
        default.or(tower).or(kind).or(role).or(pattern)
    }
}

impl fmt::Display for TauKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Tower(tower) => tower.name(),
            Self::Kind(kind) => kind.name(),
            Self::Role(role) => role.name(),
            Self::Pattern(pattern) => pattern,
        })
    }
}

impl Tau {
    /// The threshold of `unit`; `None` where no key of a map matches it, for a tower that a preset does not know, and
    /// for `auto`.
    pub fn of(&self, unit: UnitId) -> Option<f64> {
        match self {
            Self::Number(tau) => Some(*tau),
            Self::Auto => None,
            Self::ByKey(map) => map
                .iter()
                .filter(|(key, _)| key.matches(unit))
                .max_by_key(|(key, _)| key.precedence())
                .map(|(_, tau)| *tau),
            Self::Preset(preset) => preset.tau(unit.tower),
        }
    }
}

/// Whether `text` matches `pattern` with `*` and `?`. Takes quadratic time at most: only the last `*` is retried.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands and the end of what it has swallowed so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, end)) = star else {
                    return false;
                };
                star = Some((at, end + 1));
                p = at + 1;
                t = end + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

impl fmt::Display for Tau {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(tau) => write!(f, "{tau}"),
            Self::Auto => f.write_str("auto"),
            Self::Preset(preset) => f.write_str(preset.name()),
            Self::ByKey(map) => {
                let entries: Vec<_> = map.iter().map(|(key, tau)| format!("{key}: {tau}")).collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
        }
    }
}

impl Serialize for Tau {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(tau) => serializer.serialize_f64(*tau),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Preset(preset) => serializer.serialize_str(preset.name()),
            Self::ByKey(map) => serializer.collect_map(map.iter().map(|(key, tau)| (key.to_string(), tau))),
        }
    }
}

impl<'de> Deserialize<'de> for Tau {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TauVisitor;
        impl<'de> Visitor<'de> for TauVisitor {
            type Value = Tau;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`tau` as a number, `auto`, the name of a preset, or a map of numbers")
            }

            fn visit_f64<E: serde::de::Error>(self, tau: f64) -> Result<Tau, E> {
                Ok(Tau::Number(tau))
            }

            fn visit_i64<E: serde::de::Error>(self, tau: i64) -> Result<Tau, E> {
                Ok(Tau::Number(tau as f64))
            }

            fn visit_u64<E: serde::de::Error>(self, tau: u64) -> Result<Tau, E> {
                Ok(Tau::Number(tau as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tau, E> {
                if text == "auto" {
                    return Ok(Tau::Auto);
                }
                // Some YAML readers hand over `1e-3` as text.
                if let Ok(tau) = text.parse() {
                    return Ok(Tau::Number(tau));
                }
                Preset::from_name(text).map(Tau::Preset).ok_or_else(|| {
                    let names: Vec<_> = Preset::ALL.iter().map(Preset::name).collect();
                    E::custom(format!(
                        "`tau: {text}` is not known: write a number, `auto`, a map, or one of the presets {}",
                        names.join(", ")
                    ))
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tau, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((text, tau)) = entries.next_entry::<String, f64>()? {
                    let key = TauKey::parse(&text).ok_or_else(|| {
                        A::Error::custom(format!(
                            "`tau` has an unknown key `{text}`: use `default`, `attention`, `mlp`, `vision`, `language`, a \
                             role such as `q`, or a pattern such as `language.*.down` or `*.{text}`"
                        ))
                    })?;
                    if map.insert(key, tau).is_some() {
                        return Err(A::Error::custom(format!("`tau` has the key `{text}` twice: keep one of them")));
                    }
                }
                Ok(Tau::ByKey(map))
            }
        }
        deserializer.deserialize_any(TauVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tau(json: &str) -> Tau {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_spelling_round_trips() {
        for json in
            ["1.5", "\"auto\"", "\"paper-qwen3-14b-full\"", r#"{"default":1.5,"mlp":3.0,"q":0.5,"language.*.k":0.25}"#]
        {
            let value = tau(json);
            assert_eq!(serde_json::from_str::<Tau>(&serde_json::to_string(&value).unwrap()).unwrap(), value, "{json}");
        }
        assert_eq!(tau("2"), Tau::Number(2.0));
        assert_eq!(tau("\"1e-3\""), Tau::Number(1e-3));
        assert_eq!(tau("\"auto\""), Tau::Auto);
    }

    #[test]
    fn unknown_spellings_say_what_is_known() {
        let error = |json| serde_json::from_str::<Tau>(json).unwrap_err().to_string();
        assert!(error("\"paper-gpt2\"").contains("paper-qwen3-14b-full"));
        assert!(error(r#"{"atention": 1}"#).contains("`atention`"));
        assert!(error(r#"{"q": 1, "q": 2}"#).contains("twice"));
        assert!(error("true").contains("`tau` as a number"));
    }

    #[test]
    fn the_most_specific_key_wins() {
        let tau = tau(
            r#"{"default": 1, "language": 2, "attention": 3, "q": 4, "language.*.q": 5, "language.2?.q": 6, "language.25.q": 7, "v": 8, "*.v": 9}"#,
        );
        let of = |name: &str| tau.of(name.parse().unwrap());
        assert_eq!(of("vision.0.fc1"), Some(1.0));
        assert_eq!(of("language.0.up"), Some(2.0));
        assert_eq!(of("language.0.k"), Some(3.0));
        assert_eq!(of("vision.0.k"), Some(3.0));
        assert_eq!(of("vision.0.q"), Some(4.0));
        assert_eq!(of("language.3.q"), Some(5.0));
        assert_eq!(of("language.2.q"), Some(5.0));
        assert_eq!(of("language.24.q"), Some(6.0));
        assert_eq!(of("language.25.q"), Some(7.0));
        assert_eq!(of("vision.1.v"), Some(9.0));
        assert_eq!(of("vision.1.experts.4.q"), Some(4.0));
        assert_eq!(of("vision.1.experts.4.k"), Some(3.0));
        assert_eq!(Tau::ByKey(BTreeMap::new()).of(UnitId::language(0, Role::Q)), None);
    }

    #[test]
    fn equally_long_patterns_are_decided_by_the_alphabet() {
        let map = r#"{"language.?.q": 1, "language.*.q": 2}"#;
        // `*` sorts before `?`.
        assert_eq!(tau(map).of(UnitId::language(1, Role::Q)), Some(2.0));
    }

    #[test]
    fn wildcards() {
        let is = |p: &str, t: &str| wildcard(p.as_bytes(), t.as_bytes());
        assert!(is("*", "language.3.q") && is("*.q", "language.3.q") && is("l*3*q", "language.3.q"));
        assert!(is("language.?.q", "language.3.q") && !is("language.?.q", "language.13.q"));
        assert!(
            !is("language.3", "language.3.q") && !is("*.k", "language.3.q") && !is("language.3.q?", "language.3.q")
        );
    }
}
