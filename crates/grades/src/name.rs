//! Names of towers and roles: those that this crate knows, and any other that a framework or a family brings.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A name that is copied and compared like a number. Known names come first, in the order of their ranks; all others
/// follow by the alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Its place among the known names; [`Name::OTHER`] for all others.
    rank: u8,
    text: &'static str,
}

/// A name that a tower or a role cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too long, empty, or with other characters than are allowed.
    #[error(
        "`{name}` cannot name a tower or a role: use 1 to {} ASCII letters, digits and `_`, in a role also single dots \
         between them",
        Name::LONGEST
    )]
    Malformed {
        /// The name, cut where it is too long.
        name: String,
    },
    /// The process has met too many different names already.
    #[error("`{name}` is one name of a tower or a role too many: a process takes {} different ones", Name::MOST)]
    TooMany {
        /// The name.
        name: String,
    },
}

/// The names met so far that are not among the known ones. They live as long as the process, hence the bounds.
static OTHERS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

impl Name {
    /// The longest name, in bytes.
    pub(crate) const LONGEST: usize = 64;

    /// How many different names beside the known ones a process takes: with [`Self::LONGEST`] a quarter of a MiB.
    pub(crate) const MOST: usize = 4096;

    const OTHER: u8 = u8::MAX;

    pub(crate) const fn known(rank: u8, text: &'static str) -> Self {
        Self { rank, text }
    }

    pub(crate) fn text(self) -> &'static str {
        self.text
    }

    /// The name written `text`, where that is allowed: ASCII letters, digits, `_`, and with `dots` also single dots
    /// between them.
    pub(crate) fn parse(text: &str, known: impl IntoIterator<Item = Self>, dots: bool) -> Result<Self, NameError> {
        if let Some(name) = known.into_iter().find(|name| name.text == text) {
            return Ok(name);
        }
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let sound = if dots { text.split('.').all(word) } else { word(text) };
        if !sound || text.len() > Self::LONGEST {
            return Err(NameError::Malformed { name: text.chars().take(Self::LONGEST).collect() });
        }
        let mut others = OTHERS.lock().unwrap_or_else(PoisonError::into_inner);
        let text = intern(&mut others, text, Self::MOST).ok_or_else(|| NameError::TooMany { name: text.to_owned() })?;
        Ok(Self { rank: Self::OTHER, text })
    }
}

/// The one copy of `text`, which is made where there is none yet; `None` where `most` others are there.
fn intern(names: &mut BTreeSet<&'static str>, text: &str, most: usize) -> Option<&'static str> {
    if let Some(name) = names.get(text) {
        return Some(name);
    }
    if names.len() >= most {
        return None;
    }
    let name: &'static str = Box::leak(text.into());
    names.insert(name);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_kept_once_and_only_so_many() {
        let mut names = BTreeSet::new();
        let first = intern(&mut names, "in_proj", 2).unwrap();
        assert!(std::ptr::eq(first, intern(&mut names, "xin_proj".trim_start_matches('x'), 2).unwrap()));
        assert_eq!(intern(&mut names, "out_proj", 2), Some("out_proj"));
        assert_eq!(intern(&mut names, "x_proj", 2), None);
        assert_eq!((intern(&mut names, "in_proj", 2), names.len()), (Some("in_proj"), 2));
    }

    #[test]
    fn known_names_come_first_in_their_order_then_the_others_by_name() {
        let known = [Name::known(0, "zeta"), Name::known(1, "alpha")];
        let parse = |text| Name::parse(text, known, true).unwrap();
        let mut names = ["b", "alpha", "a.10.x", "zeta", "a"].map(parse);
        names.sort();
        assert_eq!(names.map(Name::text), ["zeta", "alpha", "a", "a.10.x", "b"]);
        assert_eq!(parse("zeta"), known[0]);
    }

    #[test]
    fn names_are_bounded_in_length_and_characters() {
        let parse = |text: &str, dots| Name::parse(text, [], dots);
        assert!(parse(&"x".repeat(Name::LONGEST), false).is_ok());
        let long = "x".repeat(Name::LONGEST + 1);
        assert_eq!(parse(&long, true), Err(NameError::Malformed { name: "x".repeat(Name::LONGEST) }));
        assert!(parse("experts.3.gate", true).is_ok() && parse("experts.3.gate", false).is_err());
        for text in ["", ".", ".q", "q.", "a..b", "a b", "a*", "a?", "a/b", "ä", "a\n"] {
            assert!(matches!(parse(text, true), Err(NameError::Malformed { .. })), "{text}");
        }
    }
}
