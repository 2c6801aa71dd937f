//! Rows as tokens with real tokenizers: what transformers makes of the fixtures, and properties over made-up tokenizers.

use std::fs;
use std::path::{Path, PathBuf};

use grades_models::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{DatasetSpec, ExcessLength, OnBadRow, TokenOptions, load};
use super::*;
use crate::encoder::Encoder;

/// What `fixtures/make_texts.py` writes.
#[derive(Deserialize)]
struct Fixture {
    /// A chat template that looks at the first message.
    first: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    rows: Vec<Value>,
    samples: Vec<Labelled>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Labelled {
    ids: Vec<u32>,
    labels: Vec<i64>,
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts")
}

#[test]
fn samples_are_those_of_transformers() {
    let Fixture { first, cases } = serde_json::from_slice(&fs::read(fixture().join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() > 60);
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture().join("bytes").join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("chat_template.jinja"), first).unwrap();
    for Case { tokenizer: name, name: case, kind, rows, samples } in cases {
        let path = if name == "first" { folder.path().to_owned() } else { fixture().join(&name) };
        let tokenizer = Tokenizer::from_checkpoint(path).unwrap();
        let file = folder.path().join("rows.jsonl");
        fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let spec = DatasetSpec { path: file.to_string_lossy().into_owned(), kind, ..DatasetSpec::default() };
        let options = TokenOptions {
            sequence_len: 1000,
            train_on_inputs: false,
            excess_length: ExcessLength::Raise,
            max_samples: None,
            train_on_last_turn_only: false,
            on_bad_row: OnBadRow::Stop,
        };
        let encoder = Encoder::new(&tokenizer, tokenizer.vocab_size());
        let found =
            load(&[spec], &encoder, None, options).unwrap_or_else(|error| panic!("{name}, {case}: {error}")).tokens();
        let found = found.into_iter().map(|Tokenized { ids, labels, .. }| Labelled { ids, labels });
        for (found, wanted) in found.zip(&samples) {
            let shown = |ids: &[u32]| ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<Vec<_>>().join("|");
            assert_eq!(shown(&found.ids), shown(&wanted.ids), "{name}, {case}");
            assert_eq!(&found, wanted, "{name}, {case}");
        }
    }
}

fn place() -> Place {
    Place { file: Path::new("rows.jsonl").into(), at: super::super::record::At::Line(1) }
}

/// A tokenizer made for a test.
#[derive(Clone, Debug)]
struct Made {
    definition: Value,
    config: Value,
    kind: Kind,
    /// Whether it puts the token `<s>` before a text.
    begins: bool,
}

const BEGIN: &str = "<s>";
const END: &str = "</s>";

/// Byte-level, or SentencePiece-like with the space put before every piece, before the first, or before none.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Bytes { trimmed: bool },
    Legacy,
    Metaspace(&'static str),
}

/// A tokenizer over `a`, `b`, space and new line, with the merges that `pairs` make of its tokens.
fn made(kind: Kind, pairs: &[(usize, usize)], begins: bool, ends: bool) -> Made {
    let special = ["<unk>", BEGIN, END];
    let mut tokens: Vec<String> = special.iter().map(ToString::to_string).collect();
    let letters = match kind {
        Kind::Bytes { .. } => ["a", "b", "Ġ", "Ċ"],
        _ => ["a", "b", "▁", "<0x0A>"],
    };
    tokens.extend(letters.map(str::to_owned));
    let mut merges = Vec::new();
    for (left, right) in pairs {
        // Bytes are no letters of a merge.
        let known: Vec<&String> = tokens[special.len()..].iter().filter(|token| !token.starts_with('<')).collect();
        let (left, right) = (known[left % known.len()].clone(), known[right % known.len()].clone());
        let merged = format!("{left}{right}");
        if merged.chars().count() <= 5 && !tokens.contains(&merged) {
            merges.push(json!([left, right]));
            tokens.push(merged);
        }
    }
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let around = {
        let token = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let of = |id: &str| -> Vec<Value> {
            begins.then(|| token(BEGIN)).into_iter().chain([text(id)]).chain(ends.then(|| token(END))).collect()
        };
        let used = |token: &str, id: u32| (token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        let used: Map<String, Value> = [used(BEGIN, 1), used(END, 2)].into_iter().collect();
        json!({ "type": "TemplateProcessing", "single": of("A"), "pair": of("A").into_iter().chain(of("B")).collect::<Vec<_>>(),
                "special_tokens": used })
    };
    let byte_level = |trimmed: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trimmed, "use_regex": false });
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let (normalizer, pre_tokenizer, processor) = match kind {
        Kind::Bytes { trimmed: true } => {
            let both = json!({ "type": "Sequence", "processors": [byte_level(true), around] });
            (Value::Null, byte_level(true), both)
        }
        Kind::Bytes { trimmed: false } => (Value::Null, byte_level(true), around),
        Kind::Legacy => {
            let prepend = json!({ "type": "Prepend", "prepend": "▁" });
            (json!({ "type": "Sequence", "normalizers": [prepend, replace] }), Value::Null, around)
        }
        Kind::Metaspace(scheme) => {
            let metaspace =
                json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
            (Value::Null, metaspace, around)
        }
    };
    let fallback = !matches!(kind, Kind::Bytes { .. });
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": processor, "decoder": null,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": "<unk>", "fuse_unk": false,
                   "byte_fallback": fallback, "dropout": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "ignore_merges": false },
    });
    Made { definition, config: json!({ "bos_token": BEGIN, "eos_token": END }), kind, begins }
}

impl Made {
    fn tokenizer(&self) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), self.definition.to_string()).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), self.config.to_string()).unwrap();
        Tokenizer::from_checkpoint(folder.path()).unwrap()
    }
}

fn tokenizers() -> impl Strategy<Value = Made> {
    let kind = prop_oneof![
        any::<bool>().prop_map(|trimmed| Kind::Bytes { trimmed }),
        Just(Kind::Legacy),
        prop_oneof![Just("first"), Just("always"), Just("never")].prop_map(Kind::Metaspace),
    ];
    let pairs = proptest::collection::vec((0..100_usize, 0..100_usize), 0..24);
    (kind, pairs, any::<bool>(), any::<bool>()).prop_map(|(kind, pairs, begins, ends)| made(kind, &pairs, begins, ends))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The tokens of a sample are those of its whole text, with a begin token where the tokenizer puts one and an end token,
    /// both once, whoever writes them.
    #[test]
    fn a_sample_has_the_tokens_of_its_whole_text(
        made in tokenizers(), prompt in "[ab \n]{1,6}", answer in "[ab \n]{1,6}", begun in any::<bool>(), ended in any::<bool>(),
    ) {
        let tokenizer = made.tokenizer();
        let encoder = Encoder::new(&tokenizer, tokenizer.vocab_size());
        let prompt = if begun { format!("{BEGIN}{prompt}") } else { prompt };
        let answer = if ended { format!("{answer}{END}") } else { answer };
        let sample = Sample::Text(Written::answered(&prompt, &answer));
        let Tokenized { ids, labels, .. } = tokenize(&sample, &encoder, None, false, &place()).unwrap().remove(0);
        let body = tokenizer.encode(&format!("{prompt}{answer}"), false).unwrap();
        let begin: &[u32] = if made.begins && !begun { &[1] } else { &[] };
        let end: &[u32] = if ended { &[] } else { &[2] };
        prop_assert_eq!(&ids, &[begin, &body, end].concat());
        prop_assert_eq!(ids.iter().filter(|id| **id == 1).count(), usize::from(made.begins || begun));
        prop_assert_eq!(ids.iter().filter(|id| **id == 2).count(), 1);

        // What is learnt is an end of the sample, and where the prompt's tokens are a beginning of it, all that follows them.
        let first = labels.iter().position(|label| *label != IGNORE_INDEX).unwrap();
        for (place, (id, label)) in ids.iter().zip(&labels).enumerate() {
            prop_assert_eq!(*label, if place < first { IGNORE_INDEX } else { i64::from(*id) });
        }
        let alone = [begin, &tokenizer.encode(&prompt, false).unwrap()].concat();
        if ids.starts_with(&alone) {
            prop_assert_eq!(first, alone.len());
        }
        // Where tokens are as long as what they stand for, their begins are told by adding up.
        if let Kind::Bytes { trimmed } = made.kind {
            let mut end = 0;
            let mut begins = Vec::new();
            for id in &body {
                let token = tokenizer.token(*id).unwrap();
                let spaces = token.chars().take_while(|letter| *letter == 'Ġ').count();
                // Spaces before something else are left out.
                begins.push(end + if trimmed && spaces < token.chars().count() { spaces } else { 0 });
                end += token.chars().count();
            }
            let behind = begins.iter().position(|begin| *begin >= prompt.len()).unwrap_or(body.len());
            prop_assert_eq!(first, begin.len() + behind);
        }

        // The prompt when the model is used: the same begin, and nothing behind it.
        let used = tokenizer.encode_text(&prompt, Around::Beginning).unwrap().ids;
        prop_assert_eq!(used, alone);
    }
}

#[test]
fn a_token_without_a_row_is_named() {
    let tokenizer = made(Kind::Legacy, &[], false, false).tokenizer();
    let sample = |text: &str| Sample::Text(Written::whole(text.to_owned()));
    let rows = tokenizer.vocab_size();
    // The largest id is the new line's.
    assert!(tokenize(&sample("ab\n"), &Encoder::new(&tokenizer, rows), None, false, &place()).is_ok());
    assert!(tokenize(&sample("ab"), &Encoder::new(&tokenizer, rows - 1), None, false, &place()).is_ok());
    let error = tokenize(&sample("ab\n"), &Encoder::new(&tokenizer, rows - 1), None, false, &place()).unwrap_err();
    assert!(error.contains("<0x0A>") && error.contains("id 6") && error.contains("6 rows"), "{error}");
}
