//! One config file for the runs of a comparison: what they share, and under `compare:` what only some of them have.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Config, ConfigError, raw};

/// A config with variants by name.
///
/// ```yaml
/// learning_rate: 2e-5
/// compare:
///   lora: {learning_rate: 2e-4, lora_r: 16}
/// ```
#[derive(Clone, Debug)]
pub struct Variants {
    common: Value,
    own: Map<String, Value>,
    /// From the command line: `name:key=value`, apart.
    overrides: Vec<(String, String)>,
}

impl Variants {
    /// Reads `path` and applies `overrides`: `key=value` for all runs, `name:key=value` for those of that name.
    ///
    /// # Errors
    /// The file cannot be read or is not YAML, or an override leads nowhere. Options are checked by
    /// [`config`](Self::config).
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, overrides).map_err(|error| error.of_file(path))
    }

    /// As [`load`](Self::load), from text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(yaml: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut common = raw::parse(yaml)?;
        let section = common.as_object_mut().and_then(|tree| tree.shift_remove(raw::COMPARE)).unwrap_or(Value::Null);
        let own = match raw::without_nulls(section) {
            Value::Null => Map::new(),
            Value::Object(own) if own.values().all(Value::is_object) => own,
            other => {
                return Err(ConfigError::WrongType {
                    key: raw::COMPARE.to_owned(),
                    value: other.to_string(),
                    problem: "it must give options by method or adapter, such as {lora: {learning_rate: 2e-4}}"
                        .to_owned(),
                });
            }
        };
        let mut named = Vec::new();
        for text in overrides {
            let key = text.split_once('=').map_or("", |(key, _)| key);
            match key.split_once(':') {
                Some((name, _)) => named.push((name.trim().to_owned(), text[name.len() + 1..].to_owned())),
                None => raw::apply(&mut common, text)?,
            }
        }
        Ok(Self { common, own, overrides: named })
    }

    /// The names that have options of their own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.own.keys().map(String::as_str).chain(self.overrides.iter().map(|(name, _)| name.as_str()))
    }

    /// Whether the file gives `name` an `early_stopping` of its own, so that it is a method under a new name.
    pub fn has_method(&self, name: &str) -> bool {
        self.own.get(name).is_some_and(|own| own.get("early_stopping").is_some())
    }

    /// The config of one run: the common options, then `options` (`key=value`), then those of each of `names` in turn,
    /// from the file and then from the command line.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn config(&self, options: &[String], names: &[&str]) -> Result<Config, ConfigError> {
        let mut tree = self.common.clone();
        options.iter().try_for_each(|text| raw::apply(&mut tree, text))?;
        for name in names {
            if let Some(own) = self.own.get(*name) {
                merge(&mut tree, own);
            }
        }
        for name in names {
            let own = self.overrides.iter().filter(|(of, _)| of == name);
            own.map(|(_, text)| raw::apply(&mut tree, text)).collect::<Result<Vec<_>, _>>()?;
        }
        let config = raw::resolve(tree)?;
        config.validate()?;
        if config.hub_model_id.is_some() {
            let problem = "`hub_model_id` is of a single run, and all runs of a comparison would go there; remove it, and upload \
                           the one that you want with `grades upload`";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        Ok(config)
    }
}

/// Puts the options of `own` over those of `tree`, mappings key by key.
fn merge(tree: &mut Value, own: &Value) {
    match (tree, own) {
        (Value::Object(tree), Value::Object(own)) => {
            for (key, value) in own {
                merge(tree.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (tree, own) => *tree = own.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "model: m\ndatasets: [{path: d.jsonl, type: completion}]\nlearning_rate: 1e-5\n\
                        early_stopping: {method: grades, tau: 3.0, patience: 2}\n\
                        compare: {lora: {learning_rate: 2e-4, lora_r: 4}, lora+grades: {early_stopping: {tau: 0.5}}}\n";

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_run_has_the_options_of_its_names_over_the_common_ones() {
        let overrides = texts(&["learning_rate=3e-5", "lora:lora_alpha=8", "none:max_steps=7"]);
        let variants = Variants::parse(YAML, &overrides).unwrap();
        assert_eq!(variants.names().collect::<Vec<_>>(), ["lora", "lora+grades", "lora", "none"]);
        let full = variants.config(&texts(&["early_stopping.method=none"]), &["full", "none"]).unwrap();
        assert_eq!((full.learning_rate.number(), full.max_steps, full.lora_r), (Some(3e-5), Some(7), 16));
        assert_eq!(full.early_stopping.name(), "none");
        let options = texts(&["adapter=lora", "early_stopping.method=grades"]);
        let lora = variants.config(&options, &["lora", "grades", "lora+grades"]).unwrap();
        assert_eq!(
            (lora.learning_rate.number(), lora.lora_r, lora.lora_alpha, lora.max_steps),
            (Some(2e-4), 4, 8.0, None)
        );
        let grades::EarlyStopping::Grades(grades) = lora.early_stopping else { panic!("not grades") };
        // The file's own options of GradES hold where nothing else is said.
        assert_eq!((grades.tau, grades.patience), (grades::Tau::Number(0.5), 2));
    }

    #[test]
    fn the_ready_comparison_can_be_made() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/compare.yaml");
        let variants = Variants::load(&path, &[]).unwrap();
        for (adapter, rate, patience) in [("full", 8e-5, 2), ("lora", 6e-4, 3)] {
            let adapter_option = if adapter == "full" { "adapter=null" } else { "adapter=lora" };
            let options = texts(&[adapter_option, "early_stopping.method=grades"]);
            let config = variants.config(&options, &[adapter, "grades", &format!("{adapter}+grades")]).unwrap();
            let grades::EarlyStopping::Grades(grades) = config.early_stopping else { panic!("not grades") };
            assert_eq!((config.learning_rate.number(), grades.patience), (Some(rate), patience));
            let options = texts(&[adapter_option, "early_stopping.method=validation_loss"]);
            variants.config(&options, &[adapter, "validation_loss"]).unwrap();
            let options = texts(&[adapter_option, "early_stopping=null"]);
            let auto = variants.config(&options, &[adapter, "auto", &format!("{adapter}+auto")]).unwrap();
            let grades::EarlyStopping::Grades(grades) = auto.early_stopping else { panic!("not grades") };
            // Nothing of the other rule's options is left.
            assert_eq!((grades.tau, grades.patience, grades.alpha), (grades::Tau::Auto, 1, None));
        }
    }

    #[test]
    fn training_alone_reads_past_the_section() {
        assert_eq!(Config::parse(YAML, &[]).unwrap().learning_rate.number(), Some(1e-5));
        let error = Variants::parse("compare: {lora: 3}", &[]).unwrap_err().to_string();
        assert!(error.contains("compare") && error.contains("learning_rate"), "{error}");
        let wrong = Variants::parse("model: m\ncompare: {lora: {lora_rr: 3}}", &[]).unwrap();
        assert!(wrong.config(&[], &["lora"]).unwrap_err().to_string().contains("lora_rr"));
    }
}
