//! The `tokenizer.json` that a SentencePiece model (Kudo and Richardson 2018) stands for.
//!
//! It encodes as SentencePiece itself does with the settings in the file, and as transformers 5.24 makes one of a file whose class
//! it does not know; control tokens that are written in a text are matched whole, as everywhere in transformers. With `legacy:
//! false` in `tokenizer_config.json` the space before a text comes before the whole of it, and not before each piece between
//! special tokens; a text that begins with a space then has none more, as in transformers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::charsmap;
use super::files::malformed;
use super::post_processor::around;
use super::protobuf::{Field, fields};
use super::{Result, SpecialTokens};

/// What `tokenizer_config.json` says about the tokens around a text and the space before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// `add_bos_token` and `add_eos_token`.
    pub(super) around: [bool; 2],
    /// Whether each piece of a text between special tokens gets a space before it.
    pub(super) legacy: bool,
    /// Whether a text gets one at all, if the model says so too.
    pub(super) add_prefix_space: bool,
}

/// What a piece of the vocabulary is: `ModelProto.SentencePiece.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Unknown text, or a token that no text is cut into.
    Special,
    /// Always cut out whole.
    UserDefined,
    /// A byte, or one that is never used.
    Other,
}

#[derive(Debug)]
struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

/// The parts of `ModelProto` that say how text is encoded.
#[derive(Debug)]
pub(super) struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    is_bpe: bool,
    byte_fallback: bool,
    /// The ids of the unknown token, begin, end and padding.
    roles: [Option<usize>; 4],
    charsmap: &'a [u8],
    dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl<'a> Model<'a> {
    /// Reads the file; `path` is for messages.
    pub(super) fn read(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        const OTHER: &str = "it is no SentencePiece model; put the tokenizer.json of the model beside it";
        let no_model = || malformed(path, OTHER);
        let part = |field: Field<'a>| field.bytes().and_then(fields).ok_or_else(no_model);
        let mut model = Self {
            pieces: Vec::new(),
            // What the schema of SentencePiece says where a field is left out.
            is_bpe: false,
            byte_fallback: false,
            roles: [Some(0), Some(1), Some(2), None],
            charsmap: &[],
            dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        let mut suffix = false;
        for (number, field) in fields(bytes).ok_or_else(no_model)? {
            match number {
                1 => model.pieces.push(piece(&part(field)?).ok_or_else(no_model)?),
                2 => {
                    for (number, field) in part(field)? {
                        let Some(value) = field.integer() else { continue };
                        // A negative number has all bits set above.
                        let id = usize::try_from(value as i64).ok();
                        match number {
                            3 if matches!(value, 1 | 2) => model.is_bpe = value == 2,
                            3 => {
                                let problem = "it is of the kind word or char; only unigram and BPE are supported";
                                return Err(malformed(path, problem));
                            }
                            24 => suffix = value != 0,
                            35 => model.byte_fallback = value != 0,
                            40..=43 => model.roles[number as usize - 40] = id,
                            _ => {}
                        }
                    }
                }
                3 => {
                    for (number, field) in part(field)? {
                        match (number, field) {
                            (2, Field::Bytes(charsmap)) => model.charsmap = charsmap,
                            (3, Field::Integer(on)) => model.dummy_prefix = on != 0,
                            (4, Field::Integer(on)) => model.remove_extra_whitespaces = on != 0,
                            (5, Field::Integer(on)) => model.escape_whitespaces = on != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(no_model());
        }
        if model.pieces.iter().any(|piece| piece.text.is_empty()) {
            return Err(malformed(path, "one of its tokens has no text"));
        }
        if suffix {
            return Err(malformed(
                path,
                "it puts spaces behind words (treat_whitespace_as_suffix), which is not supported",
            ));
        }
        let pieces = model.pieces.len();
        model.roles = model.roles.map(|id| id.filter(|id| *id < pieces));
        Ok(model)
    }

    /// Its tokens with a role.
    pub(super) fn special(&self) -> SpecialTokens {
        let text = |role: usize| self.roles[role].map(|id| self.pieces[id].text.to_owned());
        SpecialTokens { unk: text(0), bos: text(1), eos: text(2), pad: text(3), ..SpecialTokens::default() }
    }

    /// The contents of the `tokenizer.json`.
    pub(super) fn definition(&self, path: &Path, special: &SpecialTokens, options: Options) -> Result<Value> {
        let user_defined: Vec<&str> = self.of_kind(Kind::UserDefined).map(|(_, piece)| piece.text).collect();
        let (legacy, prefix) = (options.legacy, self.dummy_prefix && options.add_prefix_space);
        let replace = |pattern: Value, by: &str| json!({ "type": "Replace", "pattern": pattern, "content": by });
        let mut normalizers = Vec::new();
        if !self.charsmap.is_empty() {
            normalizers
                .push(json!({ "type": "Precompiled", "precompiled_charsmap": charsmap::written(self.charsmap) }));
        }
        if self.remove_extra_whitespaces {
            // Of spaces alone: other white space stays.
            normalizers.push(replace(json!({ "Regex": r"\A +| +\z" }), ""));
            normalizers.push(replace(json!({ "Regex": " {2,}" }), " "));
        }
        if self.escape_whitespaces {
            normalizers.push(replace(json!({ "String": " " }), "▁"));
        }
        let mut cuts = Vec::new();
        if prefix {
            if legacy {
                // Metaspace leaves its own out where there is one, SentencePiece does not.
                normalizers.push(replace(json!({ "Regex": r"\A▁" }), "▁▁"));
            }
            let scheme = if legacy { "always" } else { "first" };
            cuts.push(json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false }));
        }
        if !user_defined.is_empty() {
            let pattern = json!({ "Regex": any_of(user_defined.clone()) });
            cuts.push(json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }));
        }
        let mut decoders = vec![json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " })];
        if self.byte_fallback {
            decoders.push(json!({ "type": "ByteFallback" }));
        }
        if prefix || self.byte_fallback {
            decoders.push(json!({ "type": "Fuse" }));
        }
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = self.roles[0].ok_or_else(|| malformed(path, "it has no token for unknown text"))?;
        let model = match self.is_bpe {
            true => json!({
                "type": "BPE", "dropout": null, "unk_token": self.pieces[unknown].text, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback,
                "ignore_merges": !user_defined.is_empty(), "vocab": self.vocabulary(path)?, "merges": self.merges(),
            }),
            false => {
                let vocab: Vec<Value> =
                    self.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
                json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.byte_fallback })
            }
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": sequence("normalizers", normalizers),
            "pre_tokenizer": sequence("pretokenizers", cuts),
            "post_processor": self.around(path, special, options.around)?,
            "decoder": sequence("decoders", decoders),
            "model": model,
        }))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (usize, &Piece<'a>)> {
        self.pieces.iter().enumerate().filter(move |(_, piece)| piece.kind == kind)
    }

    fn added_tokens(&self) -> Vec<Value> {
        let token = |(id, piece): (usize, &Piece<'_>)| {
            json!({ "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        };
        self.of_kind(Kind::Special).map(token).collect()
    }

    fn vocabulary(&self, path: &Path) -> Result<Map<String, Value>> {
        let ids: Map<String, Value> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.to_owned(), json!(id))).collect();
        match ids.len() == self.pieces.len() {
            true => Ok(ids),
            false => Err(malformed(path, "two of its tokens have the same text")),
        }
    }

    /// Every cut of a normal piece into two, best score first, of equal scores in the order of the pieces.
    fn merges(&self) -> Vec<[&'a str; 2]> {
        let normal: HashMap<&str, f32> =
            self.of_kind(Kind::Normal).map(|(_, piece)| (piece.text, piece.score)).collect();
        let mut merges: Vec<(f32, usize, [&str; 2])> = Vec::new();
        for (id, piece) in self.of_kind(Kind::Normal) {
            let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
            let cuts = cuts.filter(|(left, right)| normal.contains_key(left) && normal.contains_key(right));
            merges.extend(cuts.map(|(left, right)| (piece.score, id, [left, right])));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
        merges.into_iter().map(|(_, _, pair)| pair).collect()
    }

    fn around(&self, path: &Path, special: &SpecialTokens, [bos, eos]: [bool; 2]) -> Result<Value> {
        let token = |wanted: bool, key: &str, token: &Option<String>| {
            let found = || self.pieces.iter().position(|piece| Some(piece.text) == token.as_deref());
            match wanted.then(found) {
                None => Ok(None),
                Some(Some(id)) => Ok(Some((self.pieces[id].text, id as u32))),
                Some(None) => Err(malformed(
                    path,
                    format!("`add_{key}_token` asks for a token around texts that it does not have"),
                )),
            }
        };
        Ok(around(token(bos, "bos", &special.bos)?, token(eos, "eos", &special.eos)?))
    }
}

fn piece<'a>(message: &[(u64, Field<'a>)]) -> Option<Piece<'a>> {
    let mut found = Piece { text: "", score: 0.0, kind: Kind::Normal };
    for (number, field) in message {
        match number {
            1 => found.text = field.text()?,
            2 => found.score = field.float()?,
            3 => {
                found.kind = match field.integer()? {
                    1 => Kind::Normal,
                    2 | 3 => Kind::Special,
                    4 => Kind::UserDefined,
                    _ => Kind::Other,
                }
            }
            _ => {}
        }
    }
    Some(found)
}

/// Several steps as one; null where there is none.
fn sequence(key: &str, steps: Vec<Value>) -> Value {
    if steps.is_empty() { Value::Null } else { json!({ "type": "Sequence", key: steps }) }
}

/// A regular expression of any of these texts, the longest first.
fn any_of(mut texts: Vec<&str>) -> String {
    texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
    let mut pattern = String::new();
    for text in texts {
        if !pattern.is_empty() {
            pattern.push('|');
        }
        for letter in text.chars() {
            // By its number, so that no letter means anything else.
            let _ = write!(pattern, r"\x{{{:x}}}", letter as u32);
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::tokenizer::Tokenizer;

    /// The fixtures of the repository, or those that `GRADES_FIXTURES` names.
    fn fixtures() -> PathBuf {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        std::env::var_os("GRADES_FIXTURES").map_or_else(own, PathBuf::from).join("sentencepiece")
    }

    /// A folder with one of the models and this config.
    fn folder(model: &str, config: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixtures().join(model).join("tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        folder
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text, true).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
    }

    #[test]
    fn odd_texts_have_the_ids_of_transformers() {
        let mut folders: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        let mut checked = 0;
        for folder in folders {
            let tokenizer = Tokenizer::from_checkpoint(&folder).unwrap();
            // What is saved is the same tokenizer.
            let saved = tempfile::tempdir().unwrap();
            tokenizer.save(saved.path()).unwrap();
            let again = Tokenizer::from_checkpoint(saved.path()).unwrap();
            let expected: Vec<(String, Vec<u32>)> =
                serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
            for (text, ids) in &expected {
                for tokenizer in [&tokenizer, &again] {
                    assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?} in {}", folder.display());
                }
            }
            checked += expected.len();
        }
        println!("{checked} texts");
        assert!(checked >= 750);
    }

    #[test]
    fn tokens_around_a_text_are_those_that_the_config_asks_for() {
        for (config, expected) in [
            (json!({}), &["▁a"][..]),
            (json!({ "add_bos_token": true }), &["<s>", "▁a"]),
            (json!({ "add_bos_token": true, "add_eos_token": true }), &["<s>", "▁a", "</s>"]),
            (json!({ "add_bos_token": true, "bos_token": "</s>" }), &["</s>", "▁a"]),
            (json!({ "add_prefix_space": false }), &["a"]),
        ] {
            let tokenizer = Tokenizer::from_checkpoint(folder("llama", &config).path()).unwrap();
            assert_eq!(tokens(&tokenizer, "a"), expected, "{config}");
            let special = tokenizer.special_tokens();
            assert_eq!((special.eos.as_deref(), special.unk.as_deref()), (Some("</s>"), Some("<unk>")), "{config}");
        }
        let error =
            Tokenizer::from_checkpoint(folder("llama", &json!({ "add_bos_token": true, "bos_token": "<no>" })).path());
        assert!(error.unwrap_err().to_string().contains("`add_bos_token` asks for a token"));
        // The model's own ids: padding, end, begin, unknown.
        let gemma = Tokenizer::from_checkpoint(folder("gemma", &json!({})).path()).unwrap();
        assert_eq!(
            (gemma.pad_id(), gemma.eos_id(), gemma.bos_id(), gemma.id("<unk>")),
            (Some(0), Some(1), Some(2), Some(3))
        );
        assert!(gemma.is_special(gemma.id("<mask>").unwrap()) && !gemma.is_special(gemma.id("<sep>").unwrap()));
    }

    #[test]
    fn tokens_that_the_config_adds_are_matched_whole() {
        let id = 460;
        let config =
            json!({ "added_tokens_decoder": { id.to_string(): { "content": "<|im_end|>", "special": true } } });
        let tokenizer = Tokenizer::from_checkpoint(folder("llama", &config).path()).unwrap();
        assert_eq!(tokens(&tokenizer, "a<|im_end|>"), ["▁a", "<|im_end|>"]);
        assert_eq!(tokenizer.id("<|im_end|>"), Some(id));
        // One that was added may lie beyond the embedding until it occurs; the vocabulary may not, and may be smaller.
        tokenizer.check_fits(460).unwrap();
        tokenizer.check_fits(1000).unwrap();
        assert!(tokenizer.check_rows(&[3, id], 460).unwrap_err().to_string().contains("\"<|im_end|>\" (id 460)"));
        assert!(tokenizer.check_fits(459).unwrap_err().to_string().contains("has only 459 embeddings"));
    }

    #[test]
    fn texts_come_back_from_their_bytes() {
        for model in ["llama", "gemma", "unigram_bytes"] {
            let tokenizer = Tokenizer::from_checkpoint(folder(model, &json!({})).path()).unwrap();
            for text in ["a b", "日本 語 \u{1F680}\tx", "naïve\ncafé"] {
                let ids = tokenizer.encode(text, false).unwrap();
                assert_eq!(tokenizer.decode(&ids, false), text, "{model}");
            }
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let read = |bytes: &[u8]| Model::read(Path::new("tokenizer.model"), bytes).unwrap_err().to_string();
        // The vocabulary of Llama 3 has the same name.
        for bytes in [&b""[..], b"IQ== 0\nIg== 1\n", &[0x0a, 3, 1, 2, 3], &[0x0a, 200]] {
            assert!(read(bytes).contains("it is no SentencePiece model"), "{}", read(bytes));
        }
        // trainer_spec: model_type 4 (char), and treat_whitespace_as_suffix.
        let piece = [0x0a, 3, 0x0a, 1, b'a'];
        assert!(read(&[&piece[..], &[0x12, 2, 0x18, 4]].concat()).contains("word or char"));
        assert!(read(&[&piece[..], &[0x0a, 0]].concat()).contains("no text"));
        assert!(read(&[&piece[..], &[0x12, 3, 0xc0, 0x01, 1]].concat()).contains("treat_whitespace_as_suffix"));
    }
}
