//! The tokens put around a sequence.

use serde_json::{Map, Value, json};

/// A token and its id.
pub(super) type Token<'a> = (&'a str, u32);

/// `post_processor` of a `tokenizer.json` that puts `bos` before and `eos` behind each sequence; null without both.
pub(super) fn around(bos: Option<Token<'_>>, eos: Option<Token<'_>>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let one = |sequence: &str, type_id: u32| -> Vec<Value> {
        let special = |(token, _): Token<'_>| json!({ "SpecialToken": { "id": token, "type_id": type_id } });
        let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        bos.map(special).into_iter().chain([text]).chain(eos.map(special)).collect()
    };
    let used: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] })))
        .collect();
    let pair: Vec<Value> = one("A", 0).into_iter().chain(one("B", 1)).collect();
    json!({ "type": "TemplateProcessing", "single": one("A", 0), "pair": pair, "special_tokens": used })
}
