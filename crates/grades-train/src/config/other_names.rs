//! What the configs of other tools call things: Axolotl, LLaMA-Factory, TRL and transformers.
//!
//! A key that is an option here never gets here; `other_names.txt` has the answers to those that are none. `fixtures/config_keys`
//! holds the lists of their keys, each of which has an answer.

/// What to do about a key of another tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// The option of that meaning.
    Named(&'static str),
    /// What to write in its place.
    Otherwise(&'static str),
    /// Why it means nothing here.
    Nothing(&'static str),
}

impl Elsewhere {
    /// What is known of the key `name`.
    pub(super) fn of(name: &str) -> Option<Self> {
        answers().find(|(key, _)| *key == name).map(|(_, answer)| answer)
    }
}

/// The keys with their answers.
fn answers() -> impl Iterator<Item = (&'static str, Elsewhere)> {
    let answer = |line: &'static str| {
        let (sign, text) = line.split_once(' ')?;
        match sign {
            "=" => Some(Elsewhere::Named(text)),
            "~" => Some(Elsewhere::Otherwise(text)),
            "!" => Some(Elsewhere::Nothing(text)),
            _ => None,
        }
    };
    let mut current = None;
    include_str!("other_names.txt")
        .lines()
        .filter_map(move |line| match line.strip_prefix("  ") {
            Some(names) => Some((names, current?)),
            None => {
                current = answer(line);
                None
            }
        })
        .flat_map(|(names, answer)| names.split(' ').map(move |name| (name, answer)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::{Config, raw};

    /// The options here, with what is understood without being one.
    fn options() -> BTreeSet<String> {
        let config = serde_json::to_value(Config::default()).unwrap();
        let keys = config.as_object().unwrap().keys().cloned();
        keys.chain(raw::UNDERSTOOD.map(str::to_owned)).chain(raw::NOT_YET.map(str::to_owned)).collect()
    }

    fn lists() -> Vec<(String, Vec<String>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/config_keys");
        let list = |tool: &str| {
            let text = fs::read_to_string(folder.join(format!("{tool}.txt"))).unwrap();
            let keys: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            assert!(keys.len() > 20 && keys.is_sorted(), "{tool}");
            (tool.to_owned(), keys)
        };
        ["axolotl", "llamafactory", "transformers", "trl"].map(list).into()
    }

    #[test]
    fn every_key_of_the_other_tools_is_an_option_or_has_an_answer() {
        let options = options();
        for (tool, keys) in lists() {
            let unanswered: Vec<&String> =
                keys.iter().filter(|key| !options.contains(*key) && Elsewhere::of(key).is_none()).collect();
            assert!(unanswered.is_empty(), "{tool}: {unanswered:?}");
        }
    }

    #[test]
    fn an_answer_is_given_once() {
        let mut seen = BTreeSet::new();
        let twice: Vec<&str> = answers().map(|(name, _)| name).filter(|name| !seen.insert(*name)).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(seen.len() > 500);
        assert_eq!(Elsewhere::of("base_model"), Some(Elsewhere::Named("model")));
        assert_eq!(Elsewhere::of("flash_attn"), Some(Elsewhere::Nothing("it has no meaning on a processor")));
        assert_eq!((Elsewhere::of("="), Elsewhere::of("model"), Elsewhere::of("")), (None, None, None));
    }

    /// Each option that a sentence names in backquotes is one, so that an answer leads somewhere.
    #[test]
    fn answers_name_options_that_there_are() {
        let options = options();
        // Of a data set, and of chat templates.
        let others = ["split", "field", "image_folder", "type", "path", "chat_template_kwargs"];
        for (name, answer) in answers() {
            let Elsewhere::Otherwise(text) = answer else { continue };
            for quoted in text.split('`').skip(1).step_by(2) {
                let key = quoted.split(':').next().unwrap();
                assert!(options.contains(key) || others.contains(&key), "{name}: {quoted}");
            }
        }
    }
}
