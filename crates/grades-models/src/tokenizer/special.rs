//! The tokens with a role.

use std::collections::BTreeMap;

/// The tokens with a role, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence.
    pub eos: Option<String>,
    /// Stands for what has no token.
    pub unk: Option<String>,
    /// Fills a batch.
    pub pad: Option<String>,
    /// Those of other roles, such as `image_token`.
    pub other: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// Each with the name that files and templates have for it, such as `bos_token`.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let Self { bos, eos, unk, pad, other } = self;
        let roles = [("bos_token", bos), ("eos_token", eos), ("unk_token", unk), ("pad_token", pad)];
        let roles = roles.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?)));
        roles.chain(other.iter().map(|(name, token)| (name.as_str(), token.as_str())))
    }

    /// Gives the role `name` to a token.
    pub(super) fn set(&mut self, name: &str, token: String) {
        let role = match name {
            "bos_token" => &mut self.bos,
            "eos_token" => &mut self.eos,
            "unk_token" => &mut self.unk,
            "pad_token" => &mut self.pad,
            other => {
                self.other.insert(other.to_owned(), token);
                return;
            }
        };
        *role = Some(token);
    }
}
