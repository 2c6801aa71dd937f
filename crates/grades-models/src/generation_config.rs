//! What ends a generated text: the tokens that a model's files name, and the end of a turn in its chat template.

use serde_json::{Value, json};

use crate::Error;
use crate::fields::{self, Fields, FieldsError, Rest, warn_once};
use crate::template::{ChatTemplate, Given, Message, TemplateError};
use crate::tokenizer::{Around, Tokenizer};
use crate::weights::Checkpoint;

/// Keys of `generation_config.json` that say how to draw, how much, and how fast, all of which the caller says; or how to
/// begin, which the tokenizer and the template do.
const HARMLESS: [&str; 39] = [
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "chat_format",
    "compile_config",
    "decoder_start_token_id",
    "disable_compile",
    "do_sample",
    "is_assistant",
    "max_length",
    "max_matching_ngram_size",
    "max_new_tokens",
    "max_time",
    "max_window_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "target_lookbehind",
    "temperature",
    "token_healing",
    "top_k",
    "top_p",
    "transformers_version",
    "trust_remote_code",
    "use_cache",
    "use_model_defaults",
    "low_memory",
];

/// Keys that change what is written, with the values that do not; others are warned of, as generation goes without them.
const PLAIN: [(&str, &[f64]); 19] = [
    ("diversity_penalty", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("guidance_scale", &[1.0]),
    ("length_penalty", &[0.0, 1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("min_p", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_beam_groups", &[1.0]),
    ("num_beams", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("presence_penalty", &[0.0]),
    ("repetition_penalty", &[1.0]),
    ("top_h", &[1.0]),
    ("typical_p", &[1.0]),
    ("watermarking_config", &[]),
];

/// The tokens that end a text: the tokenizer's end-of-text token, and every `eos_token_id` of the checkpoint's
/// `generation_config.json` and `config.json`.
///
/// # Errors
/// An id is none, or the generation config cannot be read.
pub fn end_tokens(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let mut ids: Vec<u32> = tokenizer.eos_id().into_iter().collect();
    let wrong = |file: &str, e: FieldsError| Error::Input(format!("{}: {file}: {e}", checkpoint.path().display()));
    if let Some(config) = checkpoint.generation_config() {
        let what = format!("{}: generation_config.json", checkpoint.path().display());
        let read = fields::read(&what, config, Rest::Warn, |fields| read(fields, &what));
        ids.extend(read.map_err(|e| wrong("generation_config.json", e))?);
    }
    if let Ok(config) = checkpoint.config() {
        // Models with images keep the language model's config within theirs.
        for config in [Some(config), config.get("text_config")].into_iter().flatten() {
            ids.extend(token_ids(config.get("eos_token_id")).map_err(|e| wrong("config.json", e))?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The end-of-text ids of a generation config.
fn read(fields: &Fields<'_>, what: &str) -> Result<Vec<u32>, FieldsError> {
    fields.harmless(&HARMLESS);
    for (key, plain) in PLAIN {
        let changes = |value: &&Value| !value.as_f64().is_some_and(|number| plain.contains(&number));
        if let Some(value) = fields.get(key).filter(changes) {
            warn_once(format!("{what}: generation goes without `{key}: {value}`"));
        }
    }
    token_ids(fields.get("eos_token_id"))
}

/// One id or several; −1 and null stand for none.
fn token_ids(value: Option<&Value>) -> Result<Vec<u32>, FieldsError> {
    let wrong = |value: &Value| FieldsError::WrongType { key: "eos_token_id".to_owned(), value: value.to_string() };
    let ids = match value {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(ids)) => ids,
        Some(one) => std::slice::from_ref(one),
    };
    let given = ids.iter().filter(|id| **id != json!(-1));
    given.map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(id))).collect()
}

/// The token with which a template ends a turn of the assistant, if it is one that is matched whole.
///
/// # Errors
/// If the tokenizer fails. A template that refuses the conversation tells nothing.
pub fn end_of_turn(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Option<u32>, Error> {
    const ANSWER: &str = "Yes";
    let messages = [Message::new("user", "Well?"), Message::new("assistant", ANSWER)];
    let rendered: Result<_, TemplateError> = template.render(&messages, &Given::default(), false);
    let Ok(text) = rendered.map(|rendered| rendered.text) else { return Ok(None) };
    let Some(behind) = text.rfind(ANSWER).map(|at| at + ANSWER.len()) else { return Ok(None) };
    let encoded = tokenizer.encode_text(&text, Around::Template).map_err(|e| Error::Input(e.to_string()))?;
    let blank = |range: &std::ops::Range<usize>| text.get(range.clone()).is_some_and(|text| text.trim().is_empty());
    let next = encoded.ids.iter().zip(&encoded.ranges).find(|(_, range)| range.start >= behind && !blank(range));
    Ok(next.map(|(&id, _)| id).filter(|&id| tokenizer.is_special(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Templates of the fixtures end a turn with a token that is matched whole, others with none.
    #[test]
    fn a_template_tells_its_end_of_turn() {
        let fixture = |name: &str| {
            let texts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts");
            Tokenizer::from_checkpoint(texts.join(name)).unwrap()
        };
        for (name, wanted) in [("bytes", "<|end|>"), ("legacy", "</s>")] {
            let tokenizer = fixture(name);
            let template = ChatTemplate::of(&tokenizer).unwrap().unwrap();
            assert_eq!(end_of_turn(&template, &tokenizer).unwrap(), tokenizer.id(wanted), "{name}");
        }
        let tokenizer = fixture("bytes");
        for (source, wanted) in [
            ("{% for m in messages %}{{ m.content }}\n<|begin|>{% endfor %}", Some("<|begin|>")),
            ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
            ("{{ raise_exception('no') }}", None),
        ] {
            let template = ChatTemplate::new(source, tokenizer.special_tokens()).unwrap();
            assert_eq!(
                end_of_turn(&template, &tokenizer).unwrap(),
                wanted.and_then(|token| tokenizer.id(token)),
                "{source}"
            );
        }
    }

    #[test]
    fn every_end_token_counts() {
        let ids =
            |config: &Value| fields::read("generation_config.json", config, Rest::Warn, |fields| read(fields, ""));
        assert_eq!(ids(&json!({ "eos_token_id": 3, "temperature": 0.6, "repetition_penalty": 1.1 })), Ok(vec![3]));
        assert_eq!(ids(&json!({ "eos_token_id": [3, 5, -1] })), Ok(vec![3, 5]));
        assert_eq!(ids(&json!({ "eos_token_id": null, "own": 1 })), Ok(vec![]));
        for wrong in [json!("</s>"), json!([1, -2]), json!(1.5)] {
            let error = ids(&json!({ "eos_token_id": wrong })).unwrap_err().to_string();
            assert!(error.contains("`eos_token_id:"), "{error}");
        }
    }
}
