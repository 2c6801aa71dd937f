//! A tokenizer in the keys of llama.cpp's converter.

use super::container::Value;
use crate::Error;
use crate::tokenizer::Tokenizer;

/// The keys of a tokenizer for a model whose embedding has so many rows.
pub(super) fn of_tokenizer(tokenizer: &Tokenizer, rows: usize) -> Result<Vec<(String, Value)>, Error> {
    let written = tokenizer.as_gguf(rows).map_err(|error| Error::Input(error.to_string()))?;
    let mut keys = Vec::new();
    let mut set = |key: &str, value: Value| keys.push((format!("tokenizer.{key}"), value));
    set("ggml.model", Value::Text(written.model.to_owned()));
    if let Some(pre) = written.pre {
        set("ggml.pre", Value::Text(pre.to_owned()));
    }
    set("ggml.tokens", Value::Texts(written.tokens));
    set("ggml.token_type", Value::I32s(written.types));
    if let Some(scores) = written.scores {
        set("ggml.scores", Value::F32s(scores));
    }
    set("ggml.merges", Value::Texts(written.merges));
    for (role, id) in written.roles {
        set(&format!("ggml.{role}_token_id"), Value::U32(id));
    }
    set("ggml.add_bos_token", Value::Bool(written.add_bos));
    set("ggml.add_eos_token", Value::Bool(written.add_eos));
    set("ggml.add_space_prefix", Value::Bool(written.add_space_prefix));
    if let Some(template) = tokenizer.chat_template() {
        set("chat_template", Value::Text(template.to_owned()));
    }
    if let Some(template) = tokenizer.tool_template() {
        set("chat_templates", Value::Texts(vec!["tool_use".to_owned()]));
        set("chat_template.tool_use", Value::Text(template.to_owned()));
    }
    Ok(keys)
}
