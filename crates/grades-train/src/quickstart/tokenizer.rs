//! A tokenizer that knows given words whole, and all other text by its bytes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Tokens that no text has: the one that ends a text.
const END: &str = "</s>";

/// The `tokenizer.json` of byte-level BPE whose merges build each word letter by letter. A word may begin with a space.
pub(super) fn of_words(words: &[String]) -> Value {
    let mut tokens: Vec<String> = vec![END.to_owned()];
    tokens.extend((0..=255).map(|byte| shown(byte).to_string()));
    let mut known: BTreeSet<String> = tokens.iter().cloned().collect();
    let mut merges = Vec::new();
    for word in words {
        let letters: Vec<String> = word.bytes().map(|byte| shown(byte).to_string()).collect();
        let mut begun = letters.first().cloned().unwrap_or_default();
        for letter in letters.iter().skip(1) {
            let longer = format!("{begun}{letter}");
            if known.insert(longer.clone()) {
                merges.push(json!([begun, letter]));
                tokens.push(longer.clone());
            }
            begun = longer;
        }
    }
    let vocabulary: Map<String, Value> = tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": 0, "content": END, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": null, "fuse_unk": false,
                   "byte_fallback": false, "dropout": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "ignore_merges": false },
    })
}

/// The `tokenizer_config.json` for it.
pub(super) fn config() -> Value {
    json!({ "eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast" })
}

/// The letter that byte-level BPE writes a byte as (Radford et al. 2019): itself where it is visible in Latin-1, else the
/// next free one from 256 on.
fn shown(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&byte| !visible(byte)).count() as u32;
    char::from_u32(256 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
