//! Files that are right, from which damaged ones are made: those of `fixtures/` that are small, and some written here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

/// Files up to this size are worth damaging.
const SMALL: u64 = 100_000;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The small files of `fixtures/` with these names or endings.
pub(crate) fn named(endings: &[&str]) -> Vec<Vec<u8>> {
    within(fixtures(), endings)
}

/// Files with which a reader once panicked, hung, or allocated what it should not have.
#[must_use]
pub fn crashes(reader: &str) -> Vec<Vec<u8>> {
    within(Path::new(env!("CARGO_MANIFEST_DIR")).join("crashes").join(reader), &[""])
}

/// The small files below a folder with these names or endings.
fn within(folder: PathBuf, endings: &[&str]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending))
                && fs::metadata(&path).is_ok_and(|data| data.len() <= SMALL)
                && let Ok(bytes) = fs::read(&path)
            {
                found.push(bytes);
            }
        }
    }
    found
}

/// A byte-level tokenizer of some letters.
pub(crate) fn tokenizer() -> Vec<u8> {
    let letters = "abcdefghijklmnopqrstuvwxyzĠ.,";
    let special = ["<unk>", "<s>", "</s>"];
    let tokens = special.map(str::to_owned).into_iter().chain(letters.chars().map(String::from));
    let vocabulary: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true })
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "NFC" }] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "unk_token": "<unk>", "fuse_unk": false,
                   "byte_fallback": false, "dropout": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "ignore_merges": false },
    });
    tokenizer.to_string().into_bytes()
}

/// A GGUF file of version 3 with one tensor of each of some types, and a tokenizer.
pub(crate) fn gguf() -> Vec<u8> {
    let mut file = Vec::new();
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend_from_slice(&(text.len() as u64).to_le_bytes());
        file.extend_from_slice(text.as_bytes());
    };
    // Names, dimensions (the fastest first), ggml's number of the type, bytes.
    let tensors: [(&str, &[u64], u32, u64); 5] = [
        ("token_embd.weight", &[32, 4], 0, 512),
        ("output_norm.weight", &[32], 0, 128),
        ("blk.0.attn_q.weight", &[32, 32], 8, 34 * 32),
        ("blk.0.attn_k.weight", &[32, 32], 2, 18 * 32),
        ("blk.0.ffn_up.weight", &[32, 64], 1, 4096),
    ];
    let numbers = [
        ("llama.block_count", 1),
        ("llama.context_length", 64),
        ("llama.embedding_length", 32),
        ("llama.feed_forward_length", 64),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 2),
        ("general.alignment", 32),
    ];
    file.extend_from_slice(b"GGUF");
    file.extend_from_slice(&3u32.to_le_bytes());
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&(numbers.len() as u64 + 4).to_le_bytes());
    for (key, value) in
        [("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")]
    {
        text(&mut file, key);
        file.extend_from_slice(&8u32.to_le_bytes());
        text(&mut file, value);
    }
    for (key, value) in numbers {
        text(&mut file, key);
        file.extend_from_slice(&4u32.to_le_bytes());
        file.extend_from_slice(&(value as u32).to_le_bytes());
    }
    text(&mut file, "tokenizer.ggml.tokens");
    file.extend_from_slice(&9u32.to_le_bytes());
    file.extend_from_slice(&8u32.to_le_bytes());
    file.extend_from_slice(&4u64.to_le_bytes());
    ["a", "b", "ab", "</s>"].iter().for_each(|token| text(&mut file, token));
    let mut offset = 0u64;
    for (name, dimensions, kind, bytes) in tensors {
        text(&mut file, name);
        file.extend_from_slice(&(dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|dimension| file.extend_from_slice(&dimension.to_le_bytes()));
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&offset.to_le_bytes());
        offset += bytes.div_ceil(32) * 32;
    }
    file.resize(file.len().div_ceil(32) * 32 + offset as usize, 0);
    file
}

/// A safetensors file with tensors of several dtypes.
pub(crate) fn safetensors() -> Vec<u8> {
    let header = json!({
        "__metadata__": { "format": "pt" },
        "a": { "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16] },
        "b": { "dtype": "BF16", "shape": [4], "data_offsets": [16, 24] },
        "c": { "dtype": "U8", "shape": [8, 1], "data_offsets": [24, 32] },
    })
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&[1; 32]);
    file
}

/// Rows in several of the layouts that data sets have.
pub(crate) fn rows() -> Vec<Vec<u8>> {
    [
        json!({ "prompt": "the red fox", "completion": " runs" }),
        json!({ "instruction": "Add.", "input": "1 and 2", "output": "3" }),
        json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hello" }] }),
        json!({ "conversations": [{ "from": "human", "value": "<image>\nWhat?" }, { "from": "gpt", "value": "A fox" }], "image": "a.png" }),
    ]
    .map(|row| format!("{row}\n{row}\n").into_bytes())
    .into()
}

/// The same compressed, and a row that is longer than what may be decompressed.
pub(crate) fn compressed(compress: fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let much = [&b"{\"text\": \""[..], &vec![b'a'; 70 << 20], b"\"}\n"].concat();
    rows().iter().chain([&much]).map(|rows| compress(rows)).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap_or_default()
}

/// Chat templates with the constructs of the common ones.
pub(crate) fn templates() -> Vec<Vec<u8>> {
    [
        "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}{% endfor %}\
         {% if add_generation_prompt %}<|assistant|>{% endif %}",
        "{%- set ns = namespace(first=true) -%}{%- for m in messages -%}{%- if ns.first and m.role == 'system' -%}{{ m.content }}\
         {%- set ns.first = false -%}{%- endif -%}{{ m | tojson(indent=2) }}{%- endfor -%}{{ 'x' * 3 }}{{ strftime_now('%d %b %Y') }}",
        "{% macro show(x) %}[{{ x }}]{% endmacro %}{% for m in messages[::-1] %}{{ show(m.content.split('a')[0].upper()) }}\
         {% generation %}{{ loop.index0 }}{% endgeneration %}{% endfor %}",
    ]
    .map(|template| template.as_bytes().to_vec())
    .into()
}

/// Requests to a server.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    let calls = json!([{ "id": "1", "type": "function", "function": { "name": "add", "arguments": "{\"a\": 1}" } }]);
    let picture = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw0KGgo=" } });
    [
        ("chat/completions", json!({ "model": "m", "messages": [
            { "role": "system", "content": "Be brief." }, { "role": "user", "content": [{ "type": "text", "text": "Hi" }, picture] },
            { "role": "assistant", "content": null, "tool_calls": calls }, { "role": "tool", "content": "2", "tool_call_id": "1" } ],
            "tools": [{ "type": "function", "function": { "name": "add" } }], "tool_choice": "auto", "logprobs": true,
            "top_logprobs": 3, "stop": ["a", "b"], "stream": true, "stream_options": { "include_usage": true }, "seed": -1 })),
        ("completions", json!({ "prompt": ["a", [1, 2]], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
            "logit_bias": { "5": -100 }, "echo": true, "logprobs": 2, "n": 2, "frequency_penalty": 0.5, "user": "me" })),
    ]
    .map(|(path, body)| {
        let body = body.to_string();
        let head = "Host: a\r\nContent-Type: application/json\r\nAuthorization: Bearer b\r\nExpect: 100-continue";
        format!("POST /v1/{path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .into()
}

/// Configs of a run.
pub(crate) fn configs() -> Vec<Vec<u8>> {
    let folder = fixtures().join("../configs");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    paths.sort();
    paths.into_iter().filter_map(|path| fs::read(path).ok()).collect()
}

/// Pictures of every format, a few pixels each.
pub(crate) fn pictures() -> Vec<Vec<u8>> {
    let mut found = named(&[".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]);
    // A grey BMP of 2×2, so that there is always one.
    let mut bmp = b"BM".to_vec();
    bmp.extend_from_slice(&[70, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 24, 0]);
    bmp.extend_from_slice(&[0; 24]);
    bmp.extend_from_slice(&[9; 16]);
    found.push(bmp);
    found
}
