//! The first stage: YAML as written, overrides, and errors that name the key.

use serde_json::{Map, Value};

use super::other_names::Elsewhere;
use super::{Config, ConfigError};

/// Keys of later versions. As `null` or `false` they say what holds anyway.
pub(super) const NOT_YET: [&str; 2] = ["lora_model_dir", "load_in_8bit"];

/// The section of what only some runs of a comparison have; a single run reads past it.
pub(super) const COMPARE: &str = "compare";

/// Axolotl's key for going on from the last checkpoint.
pub(super) const AUTO_RESUME: &str = "auto_resume_from_checkpoints";

/// Axolotl's key for adapters on every linear layer.
pub(super) const TARGET_LINEAR: &str = "lora_target_linear";

/// The method of early stopping where none is named.
pub(super) const DEFAULT_METHOD: &str = "grades";

/// Keys of other tools that are taken for what they mean.
#[cfg(test)]
pub(super) const UNDERSTOOD: [&str; 2] = [AUTO_RESUME, TARGET_LINEAR];

/// The mapping that `yaml` holds; an empty text is an empty mapping.
pub(super) fn parse(yaml: &str) -> Result<Value, ConfigError> {
    match value(yaml)? {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(tree) => Ok(Value::Object(tree)),
        _ => Err(ConfigError::Yaml("it must hold one `key: value` a line".to_owned())),
    }
}

fn value(yaml: &str) -> Result<Value, ConfigError> {
    serde_saphyr::from_str(yaml).map_err(|error| {
        let message = error.without_snippet().to_string();
        ConfigError::Yaml(message.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// Sets one option of `tree` from `key=value`.
pub(super) fn apply(tree: &mut Value, text: &str) -> Result<(), ConfigError> {
    let fail = |problem: String| ConfigError::Override { text: text.to_owned(), problem };
    let Some((key, new)) = text.split_once('=').map(|(key, new)| (key.trim(), new)) else {
        return Err(fail("is not written as key=value".to_owned()));
    };
    if key.split('.').any(str::is_empty) {
        return Err(fail("has an empty key".to_owned()));
    }
    let new = value(new).map_err(|error| fail(format!("has a value that is not YAML: {error}")))?;
    // Another method of early stopping does not know the options of the one in the file.
    if key == "early_stopping.method" && method(&tree["early_stopping"]).is_some_and(|old| old != new) {
        tree["early_stopping"] = Value::Null;
    }
    let mut place = tree;
    let mut path = String::new();
    for part in key.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(map) => map.entry(part).or_insert(Value::Null),
            Value::Array(items) => {
                let len = items.len();
                let index = part.parse().ok().filter(|index: &usize| *index <= len);
                let Some(index) = index else {
                    return Err(fail(format!(
                        "needs a number up to {len} in place of `{part}`, as `{path}` is a list"
                    )));
                };
                if index == len {
                    items.push(Value::Null);
                }
                &mut items[index]
            }
            _ => return Err(fail(format!("sets a key inside `{path}`, which is a single value"))),
        };
        path = if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    }
    *place = new;
    Ok(())
}

/// The method that `early_stopping` means: options without one are those of GradES.
fn method(early_stopping: &Value) -> Option<Value> {
    match early_stopping {
        Value::Null => None,
        Value::Object(options) => Some(options.get("method").cloned().unwrap_or_else(|| DEFAULT_METHOD.into())),
        short => Some(short.clone()),
    }
}

/// The config that `tree` means, its ranges not yet checked.
pub(super) fn resolve(mut tree: Value) -> Result<Config, ConfigError> {
    if let Value::Object(map) = &mut tree {
        map.shift_remove(COMPARE);
        for key in NOT_YET {
            match map.shift_remove(key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(_) => return Err(ConfigError::NotYet { key }),
            }
        }
        // What `off` is to some readers of YAML.
        for cache in ["prefix_cache", "vision_cache"] {
            if let Some(off @ Value::Bool(false)) = map.get_mut(cache) {
                *off = "off".into();
            }
        }
        // What `no` is to them.
        if let Some(no @ Value::Bool(false)) = map.get_mut("save_strategy") {
            *no = "no".into();
        }
        // Axolotl's name for `resume_from_checkpoint: auto`.
        if map.get(AUTO_RESUME).is_some_and(|auto| auto.is_boolean() || auto.is_null())
            && map.shift_remove(AUTO_RESUME) == Some(true.into())
        {
            match map.get("resume_from_checkpoint") {
                None | Some(Value::Null | Value::Bool(true)) => {}
                Some(auto) if auto == "auto" => {}
                Some(_) => {
                    return Err(ConfigError::Inconsistent(format!(
                        "`{AUTO_RESUME}` goes on from the last checkpoint of the run, and `resume_from_checkpoint` names another; remove one of \
                         them"
                    )));
                }
            }
            map.insert("resume_from_checkpoint".to_owned(), "auto".into());
        }
        // Axolotl's name for all of them.
        if map.get(TARGET_LINEAR).is_some_and(|all| all.is_boolean() || all.is_null())
            && map.shift_remove(TARGET_LINEAR) == Some(true.into())
        {
            map.insert("lora_target_modules".to_owned(), "all-linear".into());
        }
        match map.get_mut("early_stopping") {
            // `early_stopping: none` is short for `{method: none}`, and options without a method are those of GradES.
            Some(Value::String(method)) => {
                let method = std::mem::take(method);
                map.insert("early_stopping".to_owned(), serde_json::json!({ "method": method }));
            }
            Some(Value::Object(options)) if !options.contains_key("method") => {
                options.insert("method".to_owned(), DEFAULT_METHOD.into());
            }
            _ => {}
        }
    }
    let tree = without_nulls(tree);
    serde_json::from_value(tree.clone()).map_err(|error| {
        let (path, value, error) = blame(&tree, &|tree| tree).unwrap_or((Vec::new(), tree.clone(), error));
        explain(&tree, &path, &value, &error.to_string())
    })
}

/// The tree without options that are null: those are as if left out.
pub(crate) fn without_nulls(tree: Value) -> Value {
    match tree {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

/// Finds the smallest part of `tree` that is an error by itself: serde_json does not say where an error is. Every key
/// may be left out, so each is tried alone (but for `method`, which says what the keys beside it mean).
fn blame(tree: &Value, wrap: &dyn Fn(Value) -> Value) -> Option<(Vec<String>, Value, serde_json::Error)> {
    let error = serde_json::from_value::<Config>(wrap(tree.clone())).err()?;
    // The keys beside each key, so that it can be tried without the others.
    let beside = |map: &Map<String, Value>| -> Map<String, Value> {
        map.get("method").map(|method| ("method".to_owned(), method.clone())).into_iter().collect()
    };
    // Not into a list or a mapping where none is allowed.
    let empty = match tree {
        Value::Object(map) => Some(Value::Object(beside(map))),
        Value::Array(_) => Some(Value::Array(Vec::new())),
        _ => None,
    };
    let allowed = empty.is_some_and(|empty| serde_json::from_value::<Config>(wrap(empty)).is_ok());
    let within = match tree {
        // `method` first: where it is wrong, every key beside it fails as well.
        Value::Object(map) if allowed || map.contains_key("method") => {
            map.get_key_value("method").into_iter().chain(map).find_map(|(key, value)| {
                let alone = |value: Value| {
                    let mut one = beside(map);
                    one.insert(key.clone(), value);
                    wrap(Value::Object(one))
                };
                blame(value, &alone).map(|found| (key.clone(), found))
            })
        }
        Value::Array(items) if allowed => items.iter().enumerate().find_map(|(index, item)| {
            blame(item, &|item| wrap(Value::Array(vec![item]))).map(|found| (index.to_string(), found))
        }),
        _ => None,
    };
    Some(match within {
        Some((key, (mut path, value, error))) => {
            path.insert(0, key);
            (path, value, error)
        }
        None => (Vec::new(), tree.clone(), error),
    })
}

fn explain(tree: &Value, path: &[String], value: &Value, message: &str) -> ConfigError {
    let key = path.join(".");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        return ConfigError::UnknownKey { hint: hint(tree, unknown, &known), key };
    }
    let problem = if message.starts_with("unknown variant") {
        format!("it must be one of {}", quoted.skip(1).collect::<Vec<_>>().join(", "))
    } else {
        let message = message.split(" at line ").next().unwrap_or(message);
        [
            (", expected f64", ", expected a number"),
            (", expected usize", ", expected a whole number from 0"),
            (", expected u64", ", expected a whole number from 0"),
            (", expected a JSON number", ", expected a number"),
            (", expected a boolean", ", expected true or false"),
            (", expected a string", ", expected text"),
            (", expected path string", ", expected text"),
            (", expected a sequence", ", expected a list"),
            (", expected variant identifier", ", expected a method or its options"),
        ]
        .iter()
        .fold(message.to_owned(), |message, (rust, words)| message.replace(rust, words))
    };
    ConfigError::WrongType { key, value: value.to_string(), problem }
}

fn hint(tree: &Value, unknown: &str, known: &[&str]) -> String {
    let nearest = || nearest(unknown, known);
    match Elsewhere::of(unknown) {
        Some(Elsewhere::Named(name)) if known.contains(&name) => format!("did you mean `{name}`?"),
        Some(Elsewhere::Otherwise(answer)) => answer.to_owned(),
        Some(Elsewhere::Nothing(why)) => format!("{why}: remove it{}", as_well(tree, unknown)),
        _ if nearest().is_some() => format!("did you mean `{}`?", nearest().unwrap_or_default()),
        _ if known.is_empty() => "there are none to set here".to_owned(),
        _ => format!("the options here are {}", known.join(", ")),
    }
}

/// The other keys of a config that mean nothing here, so that they need not be found one by one.
fn as_well(tree: &Value, unknown: &str) -> String {
    let options = serde_json::to_value(Config::default()).unwrap_or_default();
    let keys = tree.as_object().into_iter().flat_map(Map::keys);
    let others = keys.filter(|key| *key != unknown && options.get(key.as_str()).is_none());
    let nothing = others.filter(|key| matches!(Elsewhere::of(key), Some(Elsewhere::Nothing(_))));
    let quoted: Vec<String> = nothing.map(|key| format!("`{key}`")).collect();
    if quoted.is_empty() { String::new() } else { format!(", and {} as well", quoted.join(", ")) }
}

/// The name that is meant, where one is near.
pub(super) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|name| (distance(unknown, name), *name));
    distances.min().filter(|(distance, name)| 3 * distance <= name.len().max(3)).map(|(_, name)| name)
}

/// How many letters must be changed, added, left out or swapped with their neighbour to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
