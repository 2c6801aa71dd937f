//! The tokenizer files of a Hugging Face checkpoint.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::charsmap;
use super::sentencepiece::{Model, Options};
use super::{Result, SpecialTokens, Templates, Tokenizer, TokenizerError};
use crate::fields::{self, Fields, FieldsError, Rest, warn_once};
use crate::weights::WeightsError;

/// The file of a chat template.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Templates beside the default one, as transformers lays them out.
const MORE_TEMPLATES: &str = "additional_chat_templates";
const TOOL_USE: &str = "additional_chat_templates/tool_use.jinja";

/// The tokenizer itself, or what it was made from, which counts where there is nothing else.
const DEFINITION: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "tokenizer.model";

/// Whether a folder has a tokenizer.
pub(super) fn present(folder: &Path) -> bool {
    [DEFINITION, SENTENCEPIECE].iter().any(|name| folder.join(name).is_file())
}

/// Loads `tokenizer.json` or `tokenizer.model` with its companions, as transformers 5.24 does.
pub(super) fn load(folder: &Path) -> Result<Tokenizer> {
    let config_path = folder.join("tokenizer_config.json");
    let config = read_json(&config_path)?.unwrap_or_else(|| json!({}));
    // Files of older versions, which count where the config does not list the added tokens itself; then the map wins.
    let listed = !config["added_tokens_decoder"].is_null();
    let companion = |name: &str| if listed { Ok(None) } else { read_json(&folder.join(name)) };
    let map = companion("special_tokens_map.json")?.unwrap_or_else(|| json!({}));
    let added = companion("added_tokens.json")?.unwrap_or_else(|| json!({}));

    let mut described = Described::read(&config_path, &config)?;
    described.replace(Described::read(&folder.join("special_tokens_map.json"), &map)?);
    for (id, token) in numbered(&folder.join("added_tokens.json"), &added)? {
        let special = described.is_special(&token);
        let token = json!({ "content": token, "special": special, "normalized": !special });
        described.listed.push((id, token));
    }
    described.listed.sort_by_key(|(id, _)| *id);
    let mut path = folder.join(DEFINITION);
    let definition = match read_json(&path)? {
        Some(definition) => definition,
        None => {
            path = folder.join(SENTENCEPIECE);
            described.by_sentencepiece(&path, &config)?
        }
    };
    let mut inner = build(&path, &definition)?;
    add_listed_tokens(&config_path, &mut inner, &described.listed)?;
    add_special_tokens(&path, &mut inner, &described)?;
    inner.set_encode_special_tokens(described.split_special_tokens);

    // As in transformers, the files win over the key.
    let mut templates = described.templates;
    if let Some(template) = template(folder)? {
        templates = Templates { default: Some(template), tool_use: None };
    }
    let file = folder.join(TOOL_USE);
    if file.is_file() {
        templates.tool_use = Some(read_text(&file)?);
    }
    let tokenizer = Tokenizer { inner, special: described.special, templates, config, words: OnceLock::new() };
    tokenizer.tell_contradictions(&config_path, &described.flags)?;
    Ok(tokenizer)
}

/// The chat template that has a file of its own.
pub(super) fn template(folder: &Path) -> Result<Option<String>> {
    let file = folder.join(TEMPLATE_FILE);
    if file.is_file() { read_text(&file).map(Some) } else { Ok(None) }
}

/// What the companions say.
#[derive(Default)]
struct Described {
    special: SpecialTokens,
    /// Special tokens without a role.
    extra: Vec<Value>,
    /// Added tokens by id.
    listed: Vec<(u32, Value)>,
    templates: Templates,
    split_special_tokens: bool,
    /// `add_bos_token`, `add_eos_token`.
    flags: [Option<bool>; 2],
}

/// Keys that only say how a tokenizer is made, called or decodes, none of which is done by them here or, where there is a
/// tokenizer.json, in transformers' own backend.
const HARMLESS: [&str; 44] = [
    "add_prefix_space",
    "auto_map",
    "backend",
    "chat_template_jinja",
    "clean_up_tokenization_spaces",
    "device_map",
    "do_lower_case",
    "errors",
    "fix_mistral_regex",
    "from_slow",
    "image_processor_type",
    "init_inputs",
    "is_local",
    "keep_accents",
    "legacy",
    "local_files_only",
    "max_len",
    "max_length",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_id",
    "pad_token_type_id",
    "padding",
    "padding_side",
    "processor_class",
    "remove_space",
    "response_schema",
    "sp_model_kwargs",
    "spaces_between_special_tokens",
    "special_tokens_map_file",
    "stride",
    "tokenizer_class",
    "tokenizer_file",
    "tokenizer_type",
    "transformers_version",
    "truncation",
    "truncation_side",
    "truncation_strategy",
    "trust_remote_code",
    "use_default_system_prompt",
    "use_fast",
    "vocab_size",
];

impl Described {
    /// Reads `tokenizer_config.json`, or `special_tokens_map.json`, which has some of the same keys.
    fn read(path: &Path, config: &Value) -> Result<Self> {
        let read = |fields: &Fields<'_>| {
            fields.harmless(&HARMLESS);
            let mut described = Self {
                listed: fields.get("added_tokens_decoder").map_or(Ok(Vec::new()), decoder)?,
                templates: Templates::read(fields)?,
                split_special_tokens: fields.optional("split_special_tokens")?.unwrap_or(false),
                flags: [fields.optional("add_bos_token")?, fields.optional("add_eos_token")?],
                ..Self::default()
            };
            match fields.get("extra_special_tokens") {
                Some(Value::Array(tokens)) => described.extra = tokens.clone(),
                Some(Value::Object(named)) => named.iter().for_each(|(name, token)| described.role(name, token)),
                _ => {}
            }
            // The older name counts where the newer one lists none.
            if let (Some(Value::Array(tokens)), true) =
                (fields.get("additional_special_tokens"), described.extra.is_empty())
            {
                described.extra = tokens.clone();
            }
            let roles: Vec<String> = fields.left().into_iter().filter(|key| key.ends_with("_token")).collect();
            for key in
                ["bos_token", "eos_token", "unk_token", "pad_token"].into_iter().chain(roles.iter().map(String::as_str))
            {
                if let Some(token) = fields.get(key) {
                    described.role(key, token);
                }
            }
            Ok(described)
        };
        fields::read(&path.display().to_string(), config, Rest::Warn, read)
            .map_err(|e: FieldsError| malformed(path, e.to_string()))
    }

    fn role(&mut self, name: &str, token: &Value) {
        if let Some(text) = token_text(token) {
            self.special.set(name, text);
        }
    }

    /// What `other` says counts in place of what is said here.
    /// The definition that a SentencePiece model stands for, whose roles count where nothing else is said.
    fn by_sentencepiece(&mut self, path: &Path, config: &Value) -> Result<Value> {
        let bytes = fs::read(path).map_err(WeightsError::io("read", path))?;
        let model = Model::read(path, &bytes)?;
        let own = model.special();
        let missing = own.named().filter(|(name, _)| !self.special.named().any(|(known, _)| known == *name));
        let missing: Vec<(&str, &str)> = missing.collect();
        missing.into_iter().for_each(|(name, token)| self.special.set(name, token.to_owned()));
        let is_llama = config["tokenizer_class"].as_str().is_some_and(|class| class.starts_with("LlamaTokenizer"));
        let options = Options {
            around: self.flags.map(|flag| flag.unwrap_or(false)),
            // What its class says in transformers 5, and the conversion of any other file.
            legacy: config["legacy"].as_bool().unwrap_or(!is_llama),
            add_prefix_space: config["add_prefix_space"].as_bool().unwrap_or(true),
        };
        model.definition(path, &self.special, options)
    }

    fn replace(&mut self, other: Self) {
        for (name, token) in other.special.named() {
            self.special.set(name, token.to_owned());
        }
        if self.extra.is_empty() {
            self.extra = other.extra;
        }
    }

    fn is_special(&self, token: &str) -> bool {
        self.special.named().any(|(_, text)| text == token)
            || self.extra.iter().any(|extra| token_text(extra).as_deref() == Some(token))
    }
}

/// `added_tokens_decoder`: the tokens of ids.
fn decoder(value: &Value) -> Result<Vec<(u32, Value)>, FieldsError> {
    let wrong = || FieldsError::WrongType { key: "added_tokens_decoder".to_owned(), value: "…".to_owned() };
    let entry = |(id, token): (&String, &Value)| {
        Some((id.parse().ok()?, token.get("content")?.as_str().map(|_| token)?.clone()))
    };
    value.as_object().ok_or_else(wrong)?.iter().map(|pair| entry(pair).ok_or_else(wrong)).collect()
}

/// `added_tokens.json`: the ids of tokens.
fn numbered(path: &Path, value: &Value) -> Result<Vec<(u32, String)>> {
    let wrong = || malformed(path, "it must give each token its id");
    let entry = |(token, id): (&String, &Value)| Some((u32::try_from(id.as_u64()?).ok()?, token.clone()));
    value.as_object().ok_or_else(wrong)?.iter().map(|pair| entry(pair).ok_or_else(wrong)).collect()
}

impl Templates {
    /// One template, or several with names.
    fn read(fields: &Fields<'_>) -> Result<Self, FieldsError> {
        let named = match fields.get("chat_template") {
            Some(Value::String(template)) => {
                return Ok(Self { default: Some(template.clone()), tool_use: None });
            }
            Some(Value::Array(named)) => named,
            _ => return Ok(Self::default()),
        };
        let template = |name: &str| {
            let found = named.iter().find(|template| template["name"] == name);
            found.and_then(|template| template["template"].as_str()).map(str::to_owned)
        };
        Ok(Self { default: template("default"), tool_use: template("tool_use") })
    }
}

/// Makes a tokenizer from the contents of a `tokenizer.json`; `path` is for messages.
pub(super) fn build(path: &Path, definition: &Value) -> Result<tokenizers::Tokenizer> {
    check_merges(path, definition)?;
    charsmap::check(&definition["normalizer"]).map_err(|problem| malformed(path, problem))?;
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

/// Adds what the companions list beyond `tokenizer.json`, in the order of the ids.
fn add_listed_tokens(path: &Path, inner: &mut tokenizers::Tokenizer, listed: &[(u32, Value)]) -> Result<()> {
    let known = inner.get_added_tokens_decoder();
    for (id, token) in listed {
        let Some(content) = token["content"].as_str() else { continue };
        if known.get(id).is_some_and(|token| token.content == content) {
            continue;
        }
        inner.add_tokens([added(token, content, false)]).map_err(|e| malformed(path, e.to_string()))?;
        if inner.token_to_id(content) != Some(*id) {
            return Err(malformed(path, format!("it gives the token {content:?} the id {id}, which is not free")));
        }
    }
    Ok(())
}

/// A token with a role, or listed as special, is matched whole even where the files do not list it as added.
fn add_special_tokens(path: &Path, inner: &mut tokenizers::Tokenizer, described: &Described) -> Result<()> {
    let known: HashSet<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let roles = described.special.named().map(|(_, token)| AddedToken::from(token, true));
    let extra = described.extra.iter().filter_map(|token| Some(added(token, &token_text(token)?, true)));
    let missing: Vec<AddedToken> = roles.chain(extra).filter(|token| !known.contains(&token.content)).collect();
    inner.add_special_tokens(missing).map_err(|e| malformed(path, e.to_string()))?;
    Ok(())
}

/// A token to be added, with the flags that its object has.
fn added(token: &Value, content: &str, special: bool) -> AddedToken {
    let flag = |key: &str| token.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(false))
}

impl Tokenizer {
    /// Warns where the flags of `tokenizer_config.json` say otherwise than `tokenizer.json` about the tokens around a text.
    /// The latter counts, as in transformers 5, which drops the flags.
    fn tell_contradictions(&self, path: &Path, flags: &[Option<bool>; 2]) -> Result<()> {
        let ids = self.encode("a", true)?;
        let is = |token: Option<u32>, at: Option<&u32>| token.is_some() && token.as_ref() == at;
        let is = [is(self.bos_id(), ids.first()), is(self.eos_id(), ids.last())];
        for ((key, flag), is) in ["add_bos_token", "add_eos_token"].into_iter().zip(flags).zip(is) {
            if let Some(flag) = flag.filter(|flag| *flag != is) {
                let what = if is { "puts the token there" } else { "does not put the token there" };
                warn_once(format!(
                    "{}: `{key}: {flag}` is not used, as tokenizer.json {what} and counts (as in transformers 5)",
                    path.display()
                ));
            }
        }
        Ok(())
    }
}

/// A token written as text or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// Writes the files; none is replaced.
pub(super) fn save(tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(WeightsError::io("create", dir))?;
    let definition =
        tokenizer.inner.to_string(true).map_err(|e| malformed(&dir.join("tokenizer.json"), e.to_string()))?;

    let mut config = tokenizer.config.as_object().cloned().unwrap_or_default();
    // Since transformers 5 templates are files of their own; the key is for older readers.
    match &tokenizer.templates.default {
        Some(template) => config.insert("chat_template".into(), json!(template)),
        None => config.remove("chat_template"),
    };
    let mut map = Map::new();
    for (key, token) in tokenizer.special.named() {
        map.insert(key.into(), json!(token));
        config.entry(key).or_insert_with(|| json!(token));
    }
    let mut files = vec![
        ("tokenizer_config.json", format!("{:#}\n", Value::Object(config))),
        ("special_tokens_map.json", format!("{:#}\n", Value::Object(map))),
        ("tokenizer.json", definition),
    ];
    if let Some(template) = &tokenizer.templates.default {
        files.push((TEMPLATE_FILE, template.clone()));
    }
    if let Some(template) = &tokenizer.templates.tool_use {
        let folder = dir.join(MORE_TEMPLATES);
        fs::create_dir_all(&folder).map_err(WeightsError::io("create", &folder))?;
        files.push((TOOL_USE, template.clone()));
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

fn read_text(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path).map_err(WeightsError::io("read", path))?)
}

pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), problem: problem.into() }
}
