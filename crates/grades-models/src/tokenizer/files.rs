//! The tokenizer files of a Hugging Face checkpoint.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::post_processor::around;
use super::{Result, SpecialTokens, Tokenizer, TokenizerError};
use crate::weights::WeightsError;

/// Whether a folder has a tokenizer.
pub(super) fn present(folder: &Path) -> bool {
    folder.join("tokenizer.json").is_file()
}

/// Loads `tokenizer.json` and its companions.
pub(super) fn load(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    let definition = read_json(&path)?.ok_or_else(|| malformed(&path, "it does not exist"))?;
    let mut inner = build(&path, &definition)?;

    let config_path = folder.join("tokenizer_config.json");
    let config = read_json(&config_path)?.unwrap_or_else(|| json!({}));
    if !config.is_object() {
        return Err(malformed(&config_path, "it is no JSON object"));
    }
    add_listed_tokens(&config_path, &mut inner, &config)?;

    let map = read_json(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    let role = |key: &str| [&config, &map].into_iter().find_map(|source| token_text(&source[key]));
    let special = SpecialTokens {
        bos: role("bos_token"),
        eos: role("eos_token"),
        unk: role("unk_token"),
        pad: role("pad_token"),
    };
    add_roles(&path, &mut inner, &special)?;
    override_around(&config_path, &mut inner, &config, &special)?;
    // As in transformers, the file wins over the key.
    let template = folder.join("chat_template.jinja");
    let chat_template = match template.is_file() {
        true => Some(fs::read_to_string(&template).map_err(WeightsError::io("read", &template))?),
        false => template_in_config(&config),
    };
    Ok(Tokenizer { inner, special, chat_template, config })
}

/// Makes a tokenizer from the contents of a `tokenizer.json`; `path` is for messages.
pub(super) fn build(path: &Path, definition: &Value) -> Result<tokenizers::Tokenizer> {
    check_merges(path, definition)?;
    let bytes = serde_json::to_vec(definition).map_err(|e| malformed(path, e.to_string()))?;
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| malformed(path, e.to_string()))?;
    // A file may remember the truncation and padding of its last use; transformers resets both on every call.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| malformed(path, e.to_string()))?;
    Ok(inner)
}

/// The library builds each merged token in a buffer as long as the longest token and panics beyond it.
fn check_merges(path: &Path, definition: &Value) -> Result<()> {
    let model = &definition["model"];
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else { return Ok(()) };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("");
    let vocab: HashSet<&str> = vocab.keys().map(String::as_str).collect();
    for merge in merges {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => pair.first().and_then(Value::as_str).zip(pair.get(1).and_then(Value::as_str)),
            _ => None,
        };
        let known = pair.is_some_and(|(left, right)| {
            let joined = right.strip_prefix(prefix).map(|right| format!("{left}{right}"));
            vocab.contains(left) && vocab.contains(right) && joined.is_some_and(|t| vocab.contains(t.as_str()))
        });
        if !known {
            return Err(malformed(path, format!("the merge {merge} is not between tokens of its vocabulary")));
        }
    }
    Ok(())
}

/// Adds what `added_tokens_decoder` lists beyond `tokenizer.json`, in the order of the ids.
fn add_listed_tokens(path: &Path, inner: &mut tokenizers::Tokenizer, config: &Value) -> Result<()> {
    let Some(listed) = config["added_tokens_decoder"].as_object() else { return Ok(()) };
    let mut listed: Vec<(u32, &Value)> =
        listed.iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
    listed.sort_by_key(|(id, _)| *id);
    let known = inner.get_added_tokens_decoder();
    for (id, token) in listed {
        let Some(content) = token["content"].as_str() else { continue };
        if known.get(&id).is_some_and(|token| token.content == content) {
            continue;
        }
        let flag = |key: &str| token[key].as_bool().unwrap_or(false);
        let added = AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        inner.add_tokens([added]).map_err(|e| malformed(path, e.to_string()))?;
        if inner.token_to_id(content) != Some(id) {
            return Err(malformed(path, format!("it gives the token {content:?} the id {id}, which is not free")));
        }
    }
    Ok(())
}

/// A token with a role is matched whole even where the files do not list it as added.
fn add_roles(path: &Path, inner: &mut tokenizers::Tokenizer, special: &SpecialTokens) -> Result<()> {
    let known: HashSet<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let roles = [&special.bos, &special.eos, &special.unk, &special.pad].into_iter().flatten();
    let missing = roles.filter(|token| !known.contains(*token)).map(|token| AddedToken::from(token.as_str(), true));
    inner.add_special_tokens(missing.collect::<Vec<_>>()).map_err(|e| malformed(path, e.to_string()))?;
    Ok(())
}

/// `add_bos_token` and `add_eos_token` of the config, if one of them is given, decide what is put around a sequence,
/// whatever `tokenizer.json` says (as in transformers 5).
fn override_around(
    path: &Path,
    inner: &mut tokenizers::Tokenizer,
    config: &Value,
    special: &SpecialTokens,
) -> Result<()> {
    let (add_bos, add_eos) = (config["add_bos_token"].as_bool(), config["add_eos_token"].as_bool());
    if add_bos.is_none() && add_eos.is_none() {
        return Ok(());
    }
    let with_id = |token| Some((token, inner.token_to_id(token)?));
    let bos = special.bos.as_deref().filter(|_| add_bos == Some(true)).and_then(with_id);
    let eos = special.eos.as_deref().filter(|_| add_eos == Some(true)).and_then(with_id);
    let definition = around(bos, eos);
    let processor: Option<PostProcessorWrapper> =
        serde_json::from_value(definition).map_err(|e| malformed(path, e.to_string()))?;
    inner.with_post_processor(processor);
    Ok(())
}

/// A token written as text or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// One template, or the one named default of several.
fn template_in_config(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str())
            .map(str::to_owned),
        _ => None,
    }
}

/// Writes the files; none is replaced.
pub(super) fn save(tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(WeightsError::io("create", dir))?;
    let definition =
        tokenizer.inner.to_string(true).map_err(|e| malformed(&dir.join("tokenizer.json"), e.to_string()))?;

    let mut config = tokenizer.config.as_object().cloned().unwrap_or_default();
    // Since transformers 5 the template is a file of its own; the key is for older readers.
    match &tokenizer.chat_template {
        Some(template) => config.insert("chat_template".into(), json!(template)),
        None => config.remove("chat_template"),
    };
    let mut map = Map::new();
    let roles = &tokenizer.special;
    for (key, token) in
        [("bos_token", &roles.bos), ("eos_token", &roles.eos), ("unk_token", &roles.unk), ("pad_token", &roles.pad)]
    {
        if let Some(token) = token {
            map.insert(key.into(), json!(token));
            config.entry(key).or_insert_with(|| json!(token));
        }
    }
    let mut files = vec![
        ("tokenizer_config.json", format!("{:#}\n", Value::Object(config))),
        ("special_tokens_map.json", format!("{:#}\n", Value::Object(map))),
        ("tokenizer.json", definition),
    ];
    if let Some(template) = &tokenizer.chat_template {
        files.push(("chat_template.jinja", template.clone()));
    }
    for (name, _) in &files {
        let path = dir.join(name);
        if path.exists() {
            return Err(WeightsError::Exists { path }.into());
        }
    }
    for (name, contents) in &files {
        let path = dir.join(name);
        grades_fs::create(&path, contents).map_err(|error| TokenizerError::Save { path, source: error.source })?;
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(WeightsError::io("read", path))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| malformed(path, format!("it does not parse as JSON: {e}")))
}

pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), problem: problem.into() }
}
