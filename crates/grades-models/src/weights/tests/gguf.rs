//! GGUF files: blocks, names, row order, config.

use std::fs;

use ::safetensors::SafeTensors;
use tempfile::TempDir;

use super::{fixture, le_bytes, open_error, values};
use crate::weights::gguf::testing::GgufBuilder;
use crate::weights::{Checkpoint, Dtype, TensorInfo};

const HIDDEN: usize = 32;

/// The rows as llama.cpp's converter stores them: the halves of each head interleaved (`LlamaModel.permute`).
fn interleave(weights: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let columns = weights.len() / rows;
    let half = rows / heads / 2;
    (0..rows)
        .flat_map(|row| {
            let (head, i, which) = (row / (2 * half), row % (2 * half) / 2, row % 2);
            let from = head * 2 * half + which * half + i;
            weights[from * columns..(from + 1) * columns].to_vec()
        })
        .collect()
}

/// The `llama` fixture (4 heads, 2 key-value heads, 2 layers) in the layout of a GGUF file.
fn converted_llama(original: &Checkpoint) -> GgufBuilder {
    let mut file = GgufBuilder::default().architecture("llama", 32, 4, 2).f32("llama.rope.freq_base", 10_000.0);
    for name in original.names() {
        let info = original.info(name).unwrap();
        let weights = original.load_f32(name).unwrap();
        let weights = match name {
            _ if name.contains("q_proj") => interleave(&weights, info.shape[0], 4),
            _ if name.contains("k_proj") => interleave(&weights, info.shape[0], 2),
            _ => weights,
        };
        let renamed = [
            ("model.embed_tokens", "token_embd"),
            ("model.layers", "blk"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ]
        .iter()
        .fold(name.to_owned(), |name, (theirs, ggml)| name.replace(theirs, ggml));
        file = file.f32_tensor(&renamed, &info.shape, &weights);
    }
    file
}

#[test]
fn a_converted_llama_has_the_names_shapes_and_weights_of_the_original() {
    let dir = TempDir::new().unwrap();
    let original = Checkpoint::open(fixture("llama")).unwrap();
    for version in [2, 3] {
        converted_llama(&original).version(version).write(&dir.path().join("model.gguf"));
        // A folder with one GGUF file opens it.
        let converted = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(converted.names().collect::<Vec<_>>(), original.names().collect::<Vec<_>>());
        for name in original.names() {
            assert_eq!(converted.info(name).unwrap(), original.info(name).unwrap(), "{name}");
            assert_eq!(converted.load_f32(name).unwrap(), original.load_f32(name).unwrap(), "{name}");
            assert_eq!(converted.raw(name).unwrap(), original.raw(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn other_architectures_keep_their_rows() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let weights = values(HIDDEN * HIDDEN, 5);
    GgufBuilder::default()
        .architecture("qwen2", 32, 4, 2)
        .f32_tensor("token_embd.weight", &[HIDDEN, HIDDEN], &weights)
        .f32_tensor("blk.1.attn_q.weight", &[HIDDEN, HIDDEN], &weights)
        .f32_tensor("blk.1.attn_q.bias", &[HIDDEN], &weights[..HIDDEN])
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.load_f32("model.layers.1.self_attn.q_proj.weight").unwrap(), weights);
    assert_eq!(checkpoint.load_f32("model.layers.1.self_attn.q_proj.bias").unwrap(), weights[..HIDDEN]);
}

#[test]
fn blocks_of_every_type_decode_as_ggml_does() {
    const EVENLY: [(&str, u32); 10] = [
        ("q4_0", 2),
        ("q4_1", 3),
        ("q5_0", 6),
        ("q5_1", 7),
        ("q8_0", 8),
        ("q2_k", 10),
        ("q3_k", 11),
        ("q4_k", 12),
        ("q5_k", 13),
        ("q6_k", 14),
    ];
    const NONLINEAR: [(&str, u32); 3] = [("iq4_nl", 20), ("iq4_xs", 23), ("mxfp4", 39)];
    let dir = TempDir::new().unwrap();
    let nonlinear = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/nonlinear.safetensors").into();
    for (file, kinds) in [(fixture("gguf/blocks.safetensors"), &EVENLY[..]), (nonlinear, &NONLINEAR)] {
        let bytes = fs::read(file).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        for &(name, kind) in kinds {
            let tensor = |part: &str| reference.tensor(&format!("{name}.{part}")).unwrap();
            let (blocks, expected) = (tensor("bytes"), tensor("values"));
            let columns = expected.data().len() / 4;
            let path = dir.path().join("model.gguf");
            GgufBuilder::default()
                .architecture("qwen2", 32, 4, 2)
                .f32_tensor("token_embd.weight", &[1, 4], &[0.0; 4])
                .tensor("blk.0.ffn_down.weight", &[1, columns], kind, blocks.data())
                .write(&path);
            let checkpoint = Checkpoint::open(&path).unwrap();
            let weight = "model.layers.0.mlp.down_proj.weight";
            assert_eq!(le_bytes(&checkpoint.load_f32(weight).unwrap()), expected.data(), "{name}");
            assert_eq!(checkpoint.raw(weight).unwrap(), blocks.data(), "{name}");
            let info = checkpoint.info(weight).unwrap();
            assert!(info.dtype.is_quantized());
            assert_eq!(info.dtype.to_string().to_lowercase(), name);
        }
    }
}

#[test]
fn packed_rows_of_a_llama_head_are_put_in_order_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    // 8 rows of one Q8_0 block: scale 1 and the row's number as every value; 2 heads.
    let row = |number: u8| [&[0x00, 0x3C][..], &[number; 32]].concat();
    let stored: Vec<u8> = (0..8).flat_map(row).collect();
    GgufBuilder::default()
        .architecture("llama", 32, 2, 2)
        .f32_tensor("token_embd.weight", &[1, 4], &[0.0; 4])
        .tensor("blk.0.attn_k.weight", &[8, 32], 8, &stored)
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let weight = "model.layers.0.self_attn.k_proj.weight";
    // Even rows of a head are its first half.
    let order = [0, 2, 1, 3, 4, 6, 5, 7];
    assert_eq!(checkpoint.raw(weight).unwrap(), order.into_iter().flat_map(row).collect::<Vec<u8>>());
    let first: Vec<f32> = checkpoint.load_f32(weight).unwrap().chunks(32).map(|row| row[0]).collect();
    assert_eq!(first, order.map(f32::from));
}

#[test]
fn the_config_says_what_the_metadata_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    GgufBuilder::default()
        .architecture("qwen3", 32, 4, 2)
        .u32("qwen3.attention.key_length", 16)
        .f32("qwen3.rope.freq_base", 1e6)
        .string("qwen3.rope.scaling.type", "yarn")
        .f32("qwen3.rope.scaling.factor", 4.0)
        .u32("qwen3.rope.scaling.original_context_length", 32)
        .u32("tokenizer.ggml.bos_token_id", 3)
        .u32("tokenizer.ggml.eos_token_id", 5)
        .u32("tokenizer.ggml.eot_token_id", 6)
        .f32_tensor("token_embd.weight", &[7, 32], &values(7 * 32, 6))
        .f32_tensor("output.weight", &[7, 32], &values(7 * 32, 7))
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let expected = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 },
        "max_position_embeddings": 128, "vocab_size": 7, "tie_word_embeddings": false, "attention_dropout": 0.0,
        "torch_dtype": "float32", "bos_token_id": 3, "eos_token_id": [5, 6],
    });
    assert_eq!(*checkpoint.config().unwrap(), expected);
}

/// Frequency divisors of llama-3 scaling with factor 8, as llama.cpp's converter computes them (head_dim 128, theta
/// 500,000): from `torch`-free arithmetic in the converter's own order.
fn llama3_divisors() -> Vec<f32> {
    let (low_wavelength, high_wavelength) = (8192.0 / 1.0, 8192.0 / 4.0);
    (0..64)
        .map(|i| {
            let frequency = 1.0 / 500_000_f64.powf(f64::from(2 * i) / 128.0);
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < high_wavelength {
                1.0
            } else if wavelength > low_wavelength {
                8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32
            }
        })
        .collect()
}

#[test]
fn llama3_scaling_is_found_in_the_frequency_divisors() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let file = |divisors: &[f32]| {
        GgufBuilder::default()
            .architecture("llama", 256, 2, 1)
            .u32("llama.rope.dimension_count", 128)
            .f32("llama.rope.freq_base", 500_000.0)
            .f32_tensor("token_embd.weight", &[1, 4], &[0.0; 4])
            .f32_tensor("rope_freqs.weight", &[divisors.len()], divisors)
            .write(&path);
    };
    file(&llama3_divisors());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let expected = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(checkpoint.config().unwrap()["rope_scaling"], expected);
    assert!(!checkpoint.contains("rope_freqs.weight"));

    // One divisor of the transition off by half a per cent: other parameters made it.
    let mut other = llama3_divisors();
    let transition = other.iter().position(|&d| d > 1.5 && d < 7.5).unwrap();
    other[transition] *= 1.005;
    file(&other);
    assert!(open_error(&path).contains("rope_freqs.weight"));
    file(&llama3_divisors()[1..]);
    assert!(open_error(&path).contains("rope_freqs.weight"));
}

#[test]
fn a_gemma_is_read_as_its_converter_wrote_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let norm = values(HIDDEN, 3);
    let shifted: Vec<f32> = norm.iter().map(|scale| scale + 1.0).collect();
    let file = || {
        let norms = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm"];
        let file = GgufBuilder::default()
            .architecture("gemma3", 32, 2, 1)
            .u32("gemma3.attention.key_length", 8)
            .u32("gemma3.attention.sliding_window", 9)
            .f32("gemma3.rope.freq_base", 1e6)
            .string("gemma3.rope.scaling.type", "linear")
            .f32("gemma3.rope.scaling.factor", 8.0)
            .f32_tensor("token_embd.weight", &[2, 32], &values(64, 4))
            .f32_tensor("output_norm.weight", &[HIDDEN], &shifted);
        norms.iter().fold(file, |file, name| file.f32_tensor(&format!("blk.1.{name}.weight"), &[HIDDEN], &shifted))
    };
    file().write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let layer = ["input", "post_attention", "pre_feedforward", "post_feedforward"];
    let layer = layer.map(|norm| format!("model.layers.1.{norm}_layernorm.weight"));
    for name in layer.iter().map(String::as_str).chain(["model.layers.1.self_attn.q_norm.weight", "model.norm.weight"])
    {
        let found = checkpoint.load_f32(name).unwrap();
        assert!(found.iter().zip(&norm).all(|(found, norm)| (found - norm).abs() < 1e-6), "{name}");
    }
    assert_eq!(checkpoint.load_f32("model.embed_tokens.weight").unwrap(), values(64, 4));
    let config = checkpoint.config().unwrap();
    let expected = serde_json::json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": { "rope_type": "linear", "factor": 8.0 }, "query_pre_attn_scalar": 8, "sliding_window": 9,
        "layer_types": ["sliding_attention", "sliding_attention"], "max_position_embeddings": 128, "vocab_size": 2,
        "tie_word_embeddings": true, "attention_dropout": 0.0, "torch_dtype": "float32",
    });
    assert_eq!(*config, expected);
    let types = |file: GgufBuilder| {
        file.write(&path);
        Checkpoint::open(&path).unwrap().config().unwrap()["layer_types"].clone()
    };
    let [slides, whole] = ["sliding_attention", "full_attention"];
    assert_eq!(types(file().u32("gemma3.attention.sliding_window_pattern", 2)), serde_json::json!([slides, whole]));
    assert_eq!(
        types(file().i32s("gemma3.attention.sliding_window_pattern", &[0, 1])),
        serde_json::json!([whole, slides])
    );
    file().f32("gemma3.final_logit_softcapping", 30.0).write(&path);
    assert!(open_error(&path).contains("`gemma3.final_logit_softcapping`"));
}

#[test]
fn a_smollm3_has_the_row_order_of_a_llama() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let weights = values(HIDDEN * HIDDEN, 5);
    GgufBuilder::default()
        .architecture("smollm3", 32, 4, 2)
        .f32_tensor("token_embd.weight", &[1, 4], &[0.0; 4])
        .f32_tensor("blk.0.attn_q.weight", &[HIDDEN, HIDDEN], &interleave(&weights, HIDDEN, 4))
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.load_f32("model.layers.0.self_attn.q_proj.weight").unwrap(), weights);
    assert_eq!(checkpoint.config().unwrap()["no_rope_layer_interval"], 4);
}

#[test]
fn a_phi_without_a_window_has_none() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    GgufBuilder::default()
        .architecture("phi3", 32, 4, 2)
        .u32("phi3.attention.sliding_window", 0)
        .u32("phi3.rope.dimension_count", 4)
        .u32("phi3.rope.scaling.original_context_length", 16)
        .f32("phi3.rope.scaling.attn_factor", 1.25)
        .f32_tensor("rope_factors_short.weight", &[2], &[1.0, 2.0])
        .f32_tensor("rope_factors_long.weight", &[2], &[3.0, 4.0])
        .f32_tensor("token_embd.weight", &[1, 4], &[0.0; 4])
        .write(&path);
    let config = Checkpoint::open(&path).unwrap().config().unwrap().clone();
    assert_eq!((&config["sliding_window"], &config["partial_rotary_factor"]), (&().into(), &0.5.into()));
    let expected = serde_json::json!({
        "type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0], "attention_factor": 1.25,
    });
    assert_eq!(config["rope_scaling"], expected);
}

#[test]
fn the_parts_of_a_model_are_one() {
    let dir = TempDir::new().unwrap();
    let path = |part: u32| dir.path().join(format!("tiny-Q8_0-{part:05}-of-00003.gguf"));
    let part = |number: u32| {
        let part = GgufBuilder::default().u32("split.no", number).u32("split.count", 3).u32("split.tensors.count", 3);
        if number == 0 { part.architecture("qwen2", 32, 4, 2) } else { part }
    };
    part(0).f32_tensor("token_embd.weight", &[2, 32], &values(64, 1)).write(&path(1));
    part(1).f32_tensor("blk.0.ffn_up.weight", &[2, 32], &values(64, 2)).write(&path(2));
    assert!(open_error(&path(1)).contains("tiny-Q8_0-00003-of-00003.gguf, another part"));
    part(2).f32_tensor("blk.1.ffn_up.weight", &[2, 32], &values(64, 3)).write(&path(3));
    for opened in [path(1), dir.path().to_owned()] {
        let checkpoint = Checkpoint::open(opened).unwrap();
        for (name, seed) in [("embed_tokens", 1), ("layers.0.mlp.up_proj", 2), ("layers.1.mlp.up_proj", 3)] {
            assert_eq!(checkpoint.load_f32(&format!("model.{name}.weight")).unwrap(), values(64, seed));
        }
    }
    assert!(open_error(&path(2)).contains("general.architecture"));
    part(2).write(&path(3));
    assert!(open_error(&path(1)).contains("has 3 tensors, and its parts 2"));
    part(2).f32_tensor("token_embd.weight", &[2, 32], &values(64, 3)).write(&path(3));
    assert!(open_error(&path(1)).contains("token_embd.weight occurs twice"));
    // Another part alone says which is the first.
    part(1).architecture("qwen2", 32, 4, 2).write(&path(2));
    assert!(open_error(&path(2)).contains("give tiny-Q8_0-00001-of-00003.gguf"));
}

#[test]
fn half_precision_files_say_so() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    for (kind, dtype, name) in [(1, Dtype::F16, "float16"), (30, Dtype::BF16, "bfloat16")] {
        GgufBuilder::default()
            .architecture("llama", 32, 4, 2)
            .tensor("token_embd.weight", &[2, 4], kind, &[0x80, 0x3F].repeat(8))
            .write(&path);
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.config().unwrap()["torch_dtype"], name);
        let info = TensorInfo { shape: vec![2, 4], dtype, bytes: 16 };
        assert_eq!(*checkpoint.info("model.embed_tokens.weight").unwrap(), info);
        let expected = if kind == 1 { 1.875 } else { 1.0 };
        assert_eq!(checkpoint.load_f32("model.embed_tokens.weight").unwrap(), [expected; 8]);
    }
}

#[test]
fn a_damaged_or_foreign_file_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let sound = || {
        GgufBuilder::default().architecture("llama", 32, 4, 2).f32_tensor("token_embd.weight", &[2, 4], &values(8, 8))
    };
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        open_error(&path)
    };
    let written = |file: GgufBuilder| error(&file.bytes());
    assert!(written(sound().version(1)).contains("version 1"));
    assert!(written(sound().version(3_u32.swap_bytes())).contains("big-endian"));
    assert!(written(sound().u32("llama.block_count", 1)).contains("llama.block_count occurs twice"));
    assert!(written(sound().u32("general.alignment", 0)).contains("general.alignment"));
    assert!(written(sound().u32("llama.expert_count", 8)).contains("llama.expert_used_count"));
    assert!(written(sound().f32("llama.attention.scale", 0.1)).contains("`llama.attention.scale`"));
    assert!(written(sound().u32("split.count", 3)).contains("model-00001-of-00003.gguf"));
    assert!(written(sound().string("general.type", "adapter")).contains("`general.type` is adapter"));
    assert!(
        written(sound().u32("llama.attention.key_length", 8).u32("llama.rope.dimension_count", 4))
            .contains("rotates 4 of a head's")
    );
    assert!(written(sound().f32("llama.rope.scaling.attn_factor", 1.5)).contains("`llama.rope.scaling.attn_factor`"));
    assert!(
        written(sound().i32s("llama.rope.dimension_sections", &[2, 2])).contains("`llama.rope.dimension_sections`")
    );
    assert!(written(GgufBuilder::default().architecture("mamba", 32, 4, 2)).contains("architecture is mamba"));
    assert!(written(GgufBuilder::default()).contains("general.architecture"));
    assert!(written(GgufBuilder::default().architecture("llama", 32, 4, 2)).contains("token_embd.weight"));
    let no_size = GgufBuilder::default().string("general.architecture", "llama");
    assert!(written(no_size).contains("llama.attention.head_count"));
    assert!(written(sound().f32_tensor("token_embd.weight", &[2, 4], &values(8, 8))).contains("occurs twice"));
    assert!(written(sound().f32_tensor("blk.0.ssm_a", &[4], &[0.0; 4])).contains("blk.0.ssm_a"));
    assert!(written(sound().tensor("blk.0.ffn_up.weight", &[2, 256], 16, &[0; 132])).contains("GGUF type 16"));
    assert!(written(sound().tensor("blk.0.ffn_up.weight", &[2, 33], 8, &[0; 128])).contains("whole number of blocks"));
    assert!(written(sound().tensor("blk.0.ffn_up.weight", &[2, 0], 0, &[])).contains("impossible shape"));
    assert!(written(sound().tensor("blk.0.ffn_up.weight", &[usize::MAX, 8], 0, &[])).contains("impossible shape"));
    assert!(written(sound().tensor("blk.0.ffn_up.weight", &[1 << 40], 0, &[0; 8])).contains("beyond the end"));
    assert!(written(sound().f32_tensor("blk.0.attn_q.weight", &[6, 4], &[0.0; 24])).contains("two per head"));

    let bytes = sound().bytes();
    assert!(error(b"GGUX").contains("letters GGUF"));
    assert!(error(&bytes[..20]).contains("middle of its header"));
    assert!(error(&bytes[..60]).contains("more than its 60 bytes hold") || error(&bytes[..60]).contains("middle"));
    assert!(error(&bytes[..bytes.len() - 1]).contains("beyond the end"));
    let mut lying = bytes.clone();
    lying[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error(&lying).contains("18446744073709551615 metadata entries"));
    let mut lying = bytes;
    lying[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(error(&lying).contains("text of 1099511627776 bytes"));
}

/// The real model, where it is: every tensor decodes to finite values.
#[test]
fn a_real_model_loads_whole() {
    let Some(path) = std::env::var_os("GRADES_TEST_MODEL") else {
        println!("skipped: GRADES_TEST_MODEL does not name a checkpoint");
        return;
    };
    let checkpoint = Checkpoint::open(path).unwrap();
    let hidden = checkpoint.config().unwrap()["hidden_size"].as_u64().unwrap() as usize;
    assert_eq!(checkpoint.info("model.embed_tokens.weight").unwrap().shape[1], hidden);
    for name in checkpoint.names() {
        let weights = checkpoint.load_f32(name).unwrap();
        assert_eq!(weights.len(), checkpoint.info(name).unwrap().values(), "{name}");
        assert!(weights.iter().all(|weight| weight.is_finite()), "{name}");
    }
}
