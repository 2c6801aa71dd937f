//! Tokenizers small enough to tokenize by hand, and the real one where it is.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::words::Words;
use super::{Around, Encoded, Tokenizer, TokenizerError};
use crate::weights::WeightsError;
use crate::weights::gguf::testing::GgufBuilder;

/// Tokens of a byte-level vocabulary before the bytes.
const SPECIAL: [&str; 3] = ["<|end|>", "<|turn|>", "<think>"];
/// Merges behind the bytes; the n-th makes the token `MERGED + n`.
const MERGES: [&str; 9] = ["h e", "l l", "he ll", "hell o", "1 2", "3 4", "12 34", "Ġ Ġ", "c a"];
const BYTES: u32 = SPECIAL.len() as u32;
const MERGED: u32 = BYTES + 256;

/// The characters that stand for the bytes, in the order of the bytes.
fn byte_characters() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 256..;
    let code = (0..256).map(|byte| if printable(byte) { byte } else { others.next().unwrap() });
    code.map(|code| char::from_u32(code).unwrap().to_string()).collect()
}

fn byte_level_tokens() -> Vec<String> {
    let merged = MERGES.iter().map(|merge| merge.replace(' ', ""));
    SPECIAL.iter().map(ToString::to_string).chain(byte_characters()).chain(merged).collect()
}

/// The id of an ASCII byte.
fn byte(c: char) -> u32 {
    BYTES + c as u32
}

/// The id of the token that a merge makes.
fn merged(token: &str) -> u32 {
    MERGED + MERGES.iter().position(|merge| merge.replace(' ', "") == token).unwrap() as u32
}

/// A GGUF file with a byte-level tokenizer of the pre-tokenizer `pre`.
fn byte_level_gguf(pre: &str) -> GgufBuilder {
    let tokens = byte_level_tokens();
    let mut types = vec![1; tokens.len()];
    types[..3].copy_from_slice(&[3, 3, 4]);
    GgufBuilder::default()
        .string("general.architecture", "llama")
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &MERGES)
        .i32s("tokenizer.ggml.token_type", &types)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 0)
}

fn load(file: &GgufBuilder) -> Result<Tokenizer, TokenizerError> {
    let dir = TempDir::new().unwrap();
    file.write(&dir.path().join("model.gguf"));
    Tokenizer::from_checkpoint(dir.path())
}

fn byte_level(pre: &str) -> Tokenizer {
    load(&byte_level_gguf(pre)).unwrap()
}

#[test]
fn a_way_of_cutting_text_that_is_not_known_is_refused_by_name() {
    let error = load(&byte_level_gguf("klingon")).unwrap_err().to_string();
    assert!(error.contains("`klingon`") && error.contains("tokenizer.json"), "{error}");
    byte_level("gpt-2");
}

/// A sentencepiece vocabulary: three specials, the bytes, then these with their scores.
const PIECES: [(&str, f32); 13] = [
    ("▁", -10.0),
    ("a", -11.0),
    ("b", -12.0),
    ("c", -13.0),
    ("ab", -1.0),
    ("bc", -2.0),
    ("▁a", -2.0),
    ("▁ab", -3.0),
    ("abc", -4.0),
    ("<turn>", -99.0),
    ("cab", -4.5),
    ("ca", -5.0),
    ("▁c", -6.0),
];
const FIRST_PIECE: u32 = 259;

fn piece(text: &str) -> u32 {
    FIRST_PIECE + PIECES.iter().position(|(piece, _)| *piece == text).unwrap() as u32
}

fn sentencepiece_gguf(architecture: &str) -> GgufBuilder {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = [&[2, 3, 3][..], &[6; 256]].concat();
    let mut scores = vec![0.0; tokens.len()];
    for (piece, score) in PIECES {
        tokens.push(piece.to_owned());
        types.push(if piece == "<turn>" { 3 } else { 1 });
        scores.push(score);
    }
    GgufBuilder::default()
        .string("general.architecture", architecture)
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &types)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.unknown_token_id", 0)
}

#[test]
fn merges_apply_in_their_order_and_special_tokens_stay_whole() {
    let tokenizer = byte_level("default");
    let ids = tokenizer.encode("<|turn|>hello hell<|end|>", false).unwrap();
    assert_eq!(ids, [1, merged("hello"), byte('\u{20}'), merged("hell"), 0]);
    assert_eq!(tokenizer.decode(&ids, false), "<|turn|>hello hell<|end|>");
    assert_eq!(tokenizer.decode(&ids, true), "hello hell");
    // A user-defined token is whole but not special.
    let ids = tokenizer.encode("a<think>", false).unwrap();
    assert_eq!(ids, [byte('a'), 2]);
    assert_eq!(tokenizer.decode(&ids, true), "a<think>");
    assert_eq!(tokenizer.encode("", true).unwrap(), [0_u32; 0]);
}

#[test]
fn the_pre_tokenizer_decides_about_digits_and_spaces() {
    let encode = |pre: &str, text: &str| byte_level(pre).encode(text, false).unwrap();
    let digits = |text: &str| text.chars().map(byte).collect::<Vec<u32>>();
    // GPT-2 merges all digits, Llama 3 groups of three, the others none.
    assert_eq!(encode("default", "1234"), [merged("1234")]);
    assert_eq!(encode("llama-bpe", "1234"), [merged("12"), byte('3'), byte('4')]);
    assert_eq!(encode("qwen2", "1234"), digits("1234"));
    assert_eq!(encode("tekken", "1234"), digits("1234"));
    assert_eq!(encode("smollm", "1234"), digits("1234"));
    // Digits are split off before the two spaces could be parted.
    assert_eq!(encode("smollm", "a  1"), [byte('a'), merged("ĠĠ"), byte('1')]);
    assert_eq!(encode("default", "a  1"), [byte('a'), byte(' '), byte(' '), byte('1')]);
}

#[test]
fn only_qwen_normalises() {
    let decomposed = "e\u{301}";
    let composed = byte_level("qwen2").encode("é", false).unwrap();
    assert_eq!(composed.len(), 2);
    assert_eq!(byte_level("qwen2").encode(decomposed, false).unwrap(), composed);
    assert_eq!(byte_level("default").encode(decomposed, false).unwrap().len(), 3);
}

#[test]
fn tokens_around_a_sequence_follow_the_file() {
    let around = |file: GgufBuilder| load(&file).unwrap().encode("a", true).unwrap();
    assert_eq!(around(byte_level_gguf("smollm")), [byte('a')]);
    assert_eq!(around(byte_level_gguf("llama-bpe")), [1, byte('a')]);
    assert_eq!(around(byte_level_gguf("llama-bpe").bool("tokenizer.ggml.add_bos_token", false)), [byte('a')]);
    let both =
        byte_level_gguf("smollm").bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", true);
    assert_eq!(around(both), [1, byte('a'), 0]);
    assert_eq!(around(sentencepiece_gguf("llama")), [1, piece("▁a")]);
}

#[test]
fn a_token_of_ordinary_text_is_spelled_in_bytes() {
    // As some converters left it: "é " instead of its byte characters.
    let mut tokens = byte_level_tokens();
    tokens.push("é ".into());
    let file = GgufBuilder::default()
        .string("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &["Ã ©", "Ã© Ġ"]);
    // The first merge makes a token that is not in the vocabulary: refused, not a panic.
    assert!(load(&file).unwrap_err().to_string().contains("Ã"));
    let file = GgufBuilder::default()
        .string("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &MERGES);
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.id("Ã©Ġ"), Some(tokens.len() as u32 - 1));
    assert_eq!(tokenizer.decode(&[tokens.len() as u32 - 1], false), "é ");
}

#[test]
fn sentencepiece_merges_by_score() {
    let tokenizer = load(&sentencepiece_gguf("llama")).unwrap();
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    // ab (−1) first, then ▁ab (−3), which no longer lets abc (−4) happen.
    assert_eq!(encode("abc"), [piece("▁ab"), piece("c")]);
    // Behind a c: ab, then cab; the space stays alone, as ▁c comes too late.
    assert_eq!(encode("cab"), [piece("▁"), piece("cab")]);
    // No token for é: its bytes.
    assert_eq!(encode("é"), [piece("▁"), 3 + 0xC3, 3 + 0xA9]);
    // The prefix space is put only where the text begins.
    assert_eq!(encode("<turn>a"), [piece("<turn>"), piece("a")]);
    assert_eq!(tokenizer.decode(&encode("abc é\n"), false), "abc é\n");
    // An empty beginning gets no space.
    assert_eq!(encode(""), [0_u32; 0]);
    let plain = load(&sentencepiece_gguf("llama").bool("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(plain.encode("ab", false).unwrap(), [piece("ab")]);
    assert_eq!(plain.decode(&plain.encode(" ab", false).unwrap(), false), " ab");
    // Phi-3 puts the space before the text even if there is one.
    let phi3 = load(&sentencepiece_gguf("phi3")).unwrap();
    assert_eq!(phi3.encode(" a", false).unwrap(), [piece("▁"), piece("▁a")]);
    assert_eq!(encode(" a"), [piece("▁a")]);
}

#[test]
fn equal_scores_merge_longer_left_parts_first() {
    // "▁a" and "bc" both score −2, and "ab" is made impossible by a space: order is by length of the parts.
    let tokenizer = load(&sentencepiece_gguf("llama")).unwrap();
    let merges: Value = serde_json::from_str(&tokenizer.inner.to_string(false).unwrap()).unwrap();
    let merges: Vec<String> = merges["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    // As generate_merges of transformers orders them.
    let expected = ["a b", "b c", "▁ a", "▁a b", "▁ ab", "ab c", "a bc", "ca b", "c ab", "c a", "▁ c"];
    assert_eq!(merges, expected);
}

#[test]
fn roles_ids_and_sizes() {
    let tokenizer = byte_level("smollm");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), Some(0), None));
    assert_eq!(tokenizer.special_tokens().bos.as_deref(), Some("<|turn|>"));
    assert_eq!(tokenizer.id("hello"), Some(merged("hello")));
    assert_eq!(tokenizer.token(1).as_deref(), Some("<|turn|>"));
    assert_eq!((tokenizer.id("absent"), tokenizer.token(9999)), (None, None));
    let size = byte_level_tokens().len();
    assert_eq!(tokenizer.vocab_size(), size);
    tokenizer.check_fits(size).unwrap();
    let error = tokenizer.check_fits(size - 1).unwrap_err();
    assert!(matches!(&error, TokenizerError::DoesNotFit { token, .. } if token == "ca"), "{error}");
    tokenizer.check_rows(&[0, merged("ca")], size).unwrap();
    let error = tokenizer.check_rows(&[0, merged("ca")], size - 1).unwrap_err();
    assert!(matches!(&error, TokenizerError::NoRow { token, .. } if token == "ca"), "{error}");
}

#[test]
fn offsets_are_the_bytes_of_the_text() {
    let text = "<|turn|>é hell";
    let Encoded { ids, ranges: offsets } = byte_level("smollm").encode_text(text, Around::Template).unwrap();
    assert_eq!(ids, byte_level("smollm").encode(text, false).unwrap());
    let first = ids.iter().position(|&id| id == merged("hell")).unwrap();
    assert_eq!(&text[offsets[0].clone()], "<|turn|>");
    assert_eq!(&text[offsets[first].clone()], "hell");
}

#[test]
fn damaged_metadata_is_named() {
    let error = |file: GgufBuilder| load(&file).unwrap_err().to_string();
    assert!(error(GgufBuilder::default()).contains("tokenizer.ggml.tokens"));
    let tokens = || GgufBuilder::default().strings("tokenizer.ggml.tokens", &["a", "b"]);
    assert!(error(tokens()).contains("tokenizer.ggml.model"));
    assert!(error(tokens().string("tokenizer.ggml.model", "bert")).contains("kind bert"));
    let gpt2 = || tokens().string("tokenizer.ggml.model", "gpt2");
    assert!(error(gpt2()).contains("tokenizer.ggml.merges"));
    assert!(error(gpt2().strings("tokenizer.ggml.merges", &["ab"])).contains("\"ab\""));
    assert!(error(gpt2().strings("tokenizer.ggml.merges", &["a b"])).contains("merge"));
    assert!(error(gpt2().i32s("tokenizer.ggml.token_type", &[1])).contains("1 token types"));
    assert!(error(gpt2().u32("tokenizer.ggml.eos_token_id", 2)).contains("eos"));
    let no_bos = gpt2().strings::<&str>("tokenizer.ggml.merges", &[]).bool("tokenizer.ggml.add_bos_token", true);
    assert!(error(no_bos).contains("bos"));
    assert!(error(tokens().string("tokenizer.ggml.model", "llama")).contains("score"));
}

/// A folder with the byte-level tokenizer as its `tokenizer.json`.
fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    byte_level("smollm").save(dir.path()).unwrap();
    dir
}

fn write(dir: &TempDir, name: &str, value: &Value) {
    fs::write(dir.path().join(name), value.to_string()).unwrap();
}

#[test]
fn a_saved_tokenizer_is_the_same_and_replaces_nothing() {
    let dir = TempDir::new().unwrap();
    let template = "{{ messages }}\n";
    for (name, file) in [("bytes", byte_level_gguf("smollm")), ("pieces", sentencepiece_gguf("llama"))] {
        let original = load(&file.string("tokenizer.chat_template", template)).unwrap();
        let target = dir.path().join(name);
        original.save(&target).unwrap();
        let saved = Tokenizer::from_checkpoint(&target).unwrap();
        for text in ["hello  1234 abc\n", "é 😀 <|turn|><turn><think>", ""] {
            for special in [false, true] {
                assert_eq!(saved.encode(text, special).unwrap(), original.encode(text, special).unwrap());
            }
            let ids = original.encode(text, false).unwrap();
            assert_eq!(saved.decode(&ids, true), original.decode(&ids, true));
        }
        assert_eq!(saved.special_tokens(), original.special_tokens());
        assert_eq!(saved.chat_template(), Some(template));
        let error = original.save(&target).unwrap_err();
        assert!(matches!(error, TokenizerError::Checkpoint(WeightsError::Exists { .. })), "{error}");
        assert!(
            fs::read_dir(&target).unwrap().all(|file| !file.unwrap().file_name().to_string_lossy().contains("partial"))
        );
    }
}

#[test]
fn companion_files_give_roles_and_template() {
    let dir = folder();
    write(
        &dir,
        "tokenizer_config.json",
        &json!({
            "bos_token": { "content": "<|turn|>", "special": true }, "eos_token": null,
            "chat_template": [{ "name": "tool_use", "template": "T" }, { "name": "default", "template": "D" }],
        }),
    );
    // As in transformers 5.24, the map counts where the config does not list the added tokens, and then before the config.
    write(&dir, "special_tokens_map.json", &json!({ "eos_token": "<|end|>", "bos_token": "<think>" }));
    let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(2), Some(0)));
    assert_eq!((tokenizer.chat_template(), tokenizer.tool_template()), (Some("D"), Some("T")));
    let listed = json!({ "1": { "content": "<|turn|>", "special": true } });
    write(&dir, "tokenizer_config.json", &json!({ "bos_token": "<|turn|>", "added_tokens_decoder": listed }));
    let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), None));
    // Files of templates count before the config, and are saved.
    fs::write(dir.path().join("chat_template.jinja"), "F").unwrap();
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "U").unwrap();
    let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
    let copy = TempDir::new().unwrap();
    tokenizer.save(copy.path()).unwrap();
    for tokenizer in [tokenizer, Tokenizer::from_checkpoint(copy.path()).unwrap()] {
        assert_eq!((tokenizer.chat_template(), tokenizer.tool_template()), (Some("F"), Some("U")));
    }
    // Beside a single weight file the folder's tokenizer counts too.
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    assert!(Tokenizer::from_checkpoint(dir.path().join("model.safetensors")).is_ok());
}

#[test]
fn truncation_and_padding_of_the_file_are_forgotten() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    let mut definition: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    definition["truncation"] =
        json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
    definition["padding"] = json!({
        "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|end|>",
    });
    fs::write(&path, definition.to_string()).unwrap();
    let ids = Tokenizer::from_checkpoint(dir.path()).unwrap().encode("xyz", false).unwrap();
    assert_eq!(ids, [byte('x'), byte('y'), byte('z')]);
}

#[test]
fn tokens_listed_only_in_the_config_are_added() {
    let dir = folder();
    let size = byte_level_tokens().len();
    let listed =
        |id: usize| json!({ "added_tokens_decoder": { id.to_string(): { "content": "<new>", "special": true } } });
    write(&dir, "tokenizer_config.json", &listed(size));
    let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("a<new>", false).unwrap(), [byte('a'), size as u32]);
    assert_eq!(tokenizer.vocab_size(), size + 1);
    write(&dir, "tokenizer_config.json", &listed(5));
    assert!(Tokenizer::from_checkpoint(dir.path()).unwrap_err().to_string().contains("<new>"));
}

#[test]
fn the_post_processor_decides_what_is_put_around_a_text() {
    // Transformers 5.24 drops the flags of the config where there is a tokenizer.json.
    for (pre, wanted) in [("llama-bpe", &[1, byte('a')][..]), ("smollm", &[byte('a')])] {
        for flags in
            [json!({}), json!({ "add_bos_token": false }), json!({ "add_bos_token": true, "add_eos_token": true })]
        {
            let dir = TempDir::new().unwrap();
            byte_level(pre).save(dir.path()).unwrap();
            let mut config = json!({ "bos_token": "<|turn|>", "eos_token": "<|end|>" });
            flags.as_object().unwrap().iter().for_each(|(key, flag)| config[key] = flag.clone());
            write(&dir, "tokenizer_config.json", &config);
            let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
            assert_eq!(tokenizer.encode("a", true).unwrap(), wanted, "{pre}, {flags}");
        }
    }
}

#[test]
fn special_tokens_of_every_spelling_are_added() {
    let next = byte_level_tokens().len() as u32;
    let ids = |config: Value, files: &[(&str, Value)], text: &str| {
        let dir = folder();
        write(&dir, "tokenizer_config.json", &config);
        fs::remove_file(dir.path().join("special_tokens_map.json")).unwrap();
        files.iter().for_each(|(name, value)| write(&dir, name, value));
        Tokenizer::from_checkpoint(dir.path()).unwrap().encode(text, false).unwrap()
    };
    // Values of transformers 5.24 for the same files.
    let config = json!({ "extra_special_tokens": ["<x>"], "image_token": "<img>" });
    let map = json!({ "additional_special_tokens": ["<y>"] });
    assert_eq!(ids(config, &[("special_tokens_map.json", map.clone())], "<x><img>"), [next + 1, next]);
    assert_eq!(ids(json!({}), &[("special_tokens_map.json", map)], "<y>"), [next]);
    let both = json!({ "extra_special_tokens": { "foo": "<f>" }, "additional_special_tokens": ["<g>"] });
    assert_eq!(ids(both, &[], "<f><g>"), [next, next + 1]);
    let added = [("added_tokens.json", json!({ "<z>": next, "<w>": next + 1 }))];
    assert_eq!(ids(json!({}), &added, "<z>a<w>"), [next, byte('a'), next + 1]);
    // Special tokens in a text may be plain text.
    assert_eq!(ids(json!({ "split_special_tokens": true }), &[], "<|").len(), 2);
    assert_eq!(ids(json!({ "split_special_tokens": true }), &[], "<|end|>").len(), 7);
}

#[test]
fn what_belongs_around_a_text_is_there_once() {
    let tokenizer = byte_level("llama-bpe");
    let ids = |text: &str, around| tokenizer.encode_text(text, around).unwrap().ids;
    let (turn, end, a) = (1, 0, byte('a'));
    for (text, beginning, sample) in [
        ("a", vec![turn, a], vec![turn, a, end]),
        ("<|turn|>a", vec![turn, a], vec![turn, a, end]),
        ("a<|end|>", vec![turn, a, end], vec![turn, a, end]),
        (
            "\n<|turn|>a<|end|>\n",
            vec![byte('\n'), turn, a, end, byte('\n')],
            vec![byte('\n'), turn, a, end, byte('\n')],
        ),
        ("a<|turn|>a", vec![turn, a, turn, a], vec![turn, a, turn, a, end]),
        ("", vec![turn], vec![turn, end]),
    ] {
        assert_eq!(ids(text, Around::Beginning), beginning, "{text:?}");
        assert_eq!(ids(text, Around::Sample), sample, "{text:?}");
    }
    // A template writes its own; what a message repeats of it goes.
    assert_eq!(ids("<|turn|><|turn|>a<|end|><|end|>a", Around::Template), [turn, a, end, a]);
    assert_eq!(ids("a", Around::Template), [a]);
    let Encoded { ranges, .. } = tokenizer.encode_text("é  a", Around::Sample).unwrap();
    assert_eq!(ranges, [0..0, 0..2, 0..2, 2..3, 3..4, 4..5, 5..5]);
}

#[test]
fn a_token_with_a_role_is_matched_whole() {
    let dir = folder();
    fs::remove_file(dir.path().join("special_tokens_map.json")).unwrap();
    write(&dir, "tokenizer_config.json", &json!({ "eos_token": "hello", "pad_token": "<pad>" }));
    let tokenizer = Tokenizer::from_checkpoint(dir.path()).unwrap();
    // "hello" within a word would not be a token otherwise, and <pad> is new.
    let new = byte_level_tokens().len() as u32;
    assert_eq!(tokenizer.encode("xhellox<pad>", false).unwrap(), [byte('x'), merged("hello"), byte('x'), new]);
    assert_eq!(tokenizer.decode(&[merged("hello"), byte('x')], true), "x");
    // It needs a row only where it occurs.
    assert!(tokenizer.check_fits(new as usize).is_ok());
    assert!(tokenizer.check_rows(&[new], new as usize).is_err());
}

#[test]
fn damaged_files_are_named() {
    let dir = folder();
    let error = || Tokenizer::from_checkpoint(dir.path()).unwrap_err().to_string();
    let path = dir.path().join("tokenizer.json");
    let sound: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut long_merge = sound.clone();
    // The library would build this token in a buffer that is too short.
    long_merge["model"]["merges"] = json!([["<|turn|>", "<|turn|>"]]);
    fs::write(&path, long_merge.to_string()).unwrap();
    assert!(error().contains("merge"));
    let mut no_model = sound;
    no_model["model"] = json!(null);
    fs::write(&path, no_model.to_string()).unwrap();
    assert!(error().contains("tokenizer.json"));
    fs::write(&path, "{").unwrap();
    assert!(error().contains("does not parse"));
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    assert!(error().contains("there is no tokenizer.json"));
    assert!(Tokenizer::from_checkpoint(Path::new("absent/model.gguf")).unwrap_err().to_string().contains("absent"));
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text += &stream.finish();
    text
}

#[test]
fn a_stream_never_shows_half_a_character() {
    for tokenizer in [byte_level("default"), load(&sentencepiece_gguf("llama")).unwrap()] {
        let ids = tokenizer.encode("é😀", false).unwrap();
        let mut stream = tokenizer.stream(false);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).filter(|text| !text.is_empty()).collect();
        assert_eq!(pieces, ["é", "😀"]);
        // Cut in the middle of a character: what is left is marked as broken.
        let text = streamed(&tokenizer, &ids[..ids.len() - 1], false);
        assert!(text.starts_with("é\u{FFFD}"), "{text}");
        // Broken bytes in the middle do not stop the stream.
        let broken = [&ids[..ids.len() - 1], &tokenizer.encode("ab", false).unwrap()].concat();
        assert!(streamed(&tokenizer, &broken, false).trim_end().ends_with("ab"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_stream_gives_what_decoding_gives(text in "[ -~é😀\n\u{300}中ab]{0,24}", turn in any::<bool>(), skip in any::<bool>()) {
        let text = if turn { format!("<|turn|>{text}<|end|>") } else { text };
        for tokenizer in [byte_level("smollm"), load(&sentencepiece_gguf("llama")).unwrap()] {
            let ids = tokenizer.encode(&text, true).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip));
        }
    }

    #[test]
    fn byte_level_text_comes_back(text in any::<String>()) {
        let tokenizer = byte_level("smollm");
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Word by word, whether a word is new or known, a text is encoded as the crate encodes it whole.
    #[test]
    fn words_are_encoded_as_they_are_within_their_text(
        parts in prop::collection::vec(
            prop_oneof![
                "[a-hlor]{1,5}", " [a-hlor]{1,4}", "[ \t\n\r\u{a0}]{1,3}", "[0-9]{1,4}", "[,.!?'\"(-]{1,3}", "'(s|re|ll)", "[éü\u{301}漢😀]{1,2}",
                Just("<|turn|>".to_owned()), Just(" hell".to_owned()), any::<char>().prop_map(String::from),
            ],
            0..24,
        ),
        pre in prop_oneof![Just("gpt-2"), Just("smollm"), Just("llama-bpe"), Just("qwen2")],
    ) {
        let (text, tokenizer) = (parts.concat(), byte_level(pre));
        let words = Words::of(&tokenizer.inner).unwrap();
        let (whole, _) = tokenizer.encode_whole(&text, false).unwrap();
        for time in ["new", "known"] {
            prop_assert_eq!(&words.encode(&tokenizer.inner, &text).unwrap(), &whole, "{} {}", pre, time);
        }
        for around in [Around::Beginning, Around::Sample] {
            prop_assert_eq!(&words.around, &tokenizer.encode_whole(&text, true).unwrap().1, "{:?}", around);
        }
    }
}

/// Where a text is not certain to be parted before each word, it is encoded whole.
#[test]
fn words_are_encoded_by_themselves_only_where_that_is_the_same() {
    let is_by_words = |tokenizer: &Tokenizer| Words::of(&tokenizer.inner).is_some();
    assert!(is_by_words(&byte_level("smollm")) && !is_by_words(&byte_level("tekken")));
    assert!(!is_by_words(&byte_level("smollm").with_special_tokens(&["<two words>".to_owned()]).unwrap()));
    assert!(is_by_words(&byte_level("smollm").with_special_tokens(&["<one>".to_owned()]).unwrap()));
    // Words that were encoded before a token was added are not remembered behind it.
    let tokenizer = byte_level("smollm");
    let before = tokenizer.encode_text("a <one>", Around::Template).unwrap().ids;
    let tokenizer = tokenizer.with_special_tokens(&["<one>".to_owned()]).unwrap();
    let behind = tokenizer.encode_text("a <one>", Around::Template).unwrap().ids;
    assert!(behind.len() < before.len() && behind.last().copied() == tokenizer.id("<one>"));
}

/// Ids of transformers 5.23 for the tokenizer of SmolLM2-Instruct.
#[test]
fn the_real_tokenizer_agrees_with_transformers() {
    let Some(path) = std::env::var_os("GRADES_TEST_MODEL") else {
        println!("skipped: GRADES_TEST_MODEL does not name a checkpoint of SmolLM2-Instruct");
        return;
    };
    let tokenizer = Tokenizer::from_checkpoint(path).unwrap();
    let expected: [(&str, &[u32]); 3] = [
        ("In 1984, 12 geese flew home.", &[788, 216, 33, 41, 40, 36, 28, 216, 33, 34, 32130, 18927, 1478, 30]),
        (" x = naïve(3)\n\tdone 😀", &[1792, 446, 15486, 46494, 24, 35, 25, 198, 197, 22744, 40303, 218]),
        ("don't", &[12420, 982]),
    ];
    for (text, ids) in expected {
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(ids, false), text);
        assert_eq!(streamed(&tokenizer, ids, false), text);
    }
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), Some(2), Some(2)));
    assert_eq!(tokenizer.vocab_size(), 49_152);
}
