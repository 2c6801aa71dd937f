//! Options of conversations: the chat template, and which turns are learnt.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use grades_models::fields::warn_once;
use grades_models::template::NAMED;
use grades_models::tokenizer::Tokenizer;

use super::{Config, ConfigError};

/// `chat_template` for the tokenizer's own.
const OWN: &str = "tokenizer_default";
/// And for ChatML where it has none.
const OWN_OR_CHATML: &str = "tokenizer_default_fallback_chatml";
/// And for one that is given.
const GIVEN: &str = "jinja";

/// Most bytes of a template's file; real ones have some thousands.
const MOST: u64 = 1 << 20;

impl Config {
    /// Tells the data sets with messages what they do not say themselves of the turns that are learnt.
    pub(super) fn tell_sets(&mut self) {
        for set in self.datasets.iter_mut().chain(&mut self.test_datasets).filter(|set| set.has_messages()) {
            set.roles_to_train = set.roles_to_train.take().or_else(|| self.roles_to_train.clone());
            set.train_on_eos = set.train_on_eos.or(self.train_on_eos);
        }
    }

    /// What does not go together.
    pub(super) fn validate_chat(&self) -> Result<(), ConfigError> {
        let fail = |problem: String| Err(ConfigError::Inconsistent(problem));
        let name = self.chat_template.as_deref();
        let known = |name: &str| [OWN, OWN_OR_CHATML, GIVEN].contains(&name) || NAMED.iter().any(|(of, _)| *of == name);
        if let Some(name) = name.filter(|name| !known(name)) {
            let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
            return fail(format!(
                "`chat_template: {name}` is not known; it must be one of {OWN}, {OWN_OR_CHATML}, {}, or {GIVEN} with the template in \
                 `chat_template_jinja`",
                names.join(", ")
            ));
        }
        match (name, &self.chat_template_jinja) {
            (Some(GIVEN), None) => {
                return fail(
                    "`chat_template: jinja` needs the template: give its text or file as `chat_template_jinja`"
                        .to_owned(),
                );
            }
            (Some(name), Some(_)) if name != GIVEN => {
                return fail(format!(
                    "`chat_template_jinja` is not used by `chat_template: {name}`; remove one of them, or set chat_template: jinja"
                ));
            }
            _ => {}
        }
        if !self.datasets.iter().any(|set| set.has_messages()) {
            let unused =
                [("roles_to_train", self.roles_to_train.is_some()), ("train_on_eos", self.train_on_eos.is_some())];
            if let Some((key, _)) = unused.into_iter().find(|(_, set)| *set) {
                return fail(format!(
                    "`{key}` is about messages, and no data set is of type messages or sharegpt; remove it"
                ));
            }
        }
        if self.train_on_inputs {
            let set = |of: fn(&crate::data::DatasetSpec) -> bool| self.datasets.iter().any(of);
            let unused = [
                ("roles_to_train", set(|set| set.roles_to_train.is_some())),
                ("train_on_eos", set(|set| set.train_on_eos.is_some())),
                ("train_on_last_turn_only", self.train_on_last_turn_only),
            ];
            if let Some((key, _)) = unused.into_iter().find(|(_, set)| *set) {
                return fail(format!(
                    "`{key}` says what of conversations is learnt, and with `train_on_inputs: true` all is; remove one of them"
                ));
            }
        }
        Ok(())
    }

    /// Whether the chat template may be another than the tokenizer's.
    pub(crate) fn chooses_template(&self) -> bool {
        self.chat_template_jinja.is_some() || self.chat_template.as_deref().is_some_and(|name| name != OWN)
    }

    /// The tokenizer with the chat template that the config asks for.
    ///
    /// # Errors
    /// A sentence: the template's file cannot be read.
    pub fn with_chat_template(&self, tokenizer: Tokenizer) -> Result<Tokenizer, String> {
        let name = match (self.chat_template.as_deref(), &self.chat_template_jinja) {
            (_, Some(given)) => return Ok(tokenizer.with_chat_template(read(given)?)),
            (None | Some(OWN), None) => return Ok(tokenizer),
            (Some(OWN_OR_CHATML), None) if tokenizer.chat_template().is_some() => return Ok(tokenizer),
            (Some(OWN_OR_CHATML), None) => "chatml",
            (Some(name), None) => name,
        };
        let Some((_, source)) = NAMED.iter().find(|(of, _)| *of == name) else { return Ok(tokenizer) };
        let marks: Vec<&str> = marks(source).filter(|mark| tokenizer.id(mark).is_none()).collect();
        if !marks.is_empty() {
            warn_once(format!(
                "the tokenizer has no token for {} of the chat template {name}, so each is read and written as several tokens, and none \
                 of them ends a turn; take the template that belongs to the model",
                marks.join(", ")
            ));
        }
        Ok(tokenizer.with_chat_template((*source).to_owned()))
    }
}

/// The marks of a template, `<|…|>` and `<…_of_turn>`.
fn marks(source: &str) -> impl Iterator<Item = &str> {
    let mut found: Vec<&str> = Vec::new();
    for (at, _) in source.match_indices('<') {
        let mark = source[at..].split_inclusive('>').next().unwrap_or_default();
        let is_mark = (mark.starts_with("<|") && mark.ends_with("|>")) || mark.ends_with("_of_turn>");
        if is_mark && !mark.contains('\'') && !found.contains(&mark) {
            found.push(mark);
        }
    }
    found.into_iter()
}

/// A template that is given as its text or as its file.
fn read(given: &str) -> Result<String, String> {
    if given.contains("{{") || given.contains("{%") {
        return Ok(given.to_owned());
    }
    let fail = |problem: String| {
        format!(
            "`chat_template_jinja: {}` is neither a template (it has no {{{{ … }}}}) nor a file that can be read: {problem}",
            given.trim()
        )
    };
    let mut text = String::new();
    let file = File::open(Path::new(given)).map_err(|error| fail(error.to_string()))?;
    file.take(MOST + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > MOST {
        return Err(fail(format!("it has more than {MOST} bytes")));
    }
    Ok(text)
}
