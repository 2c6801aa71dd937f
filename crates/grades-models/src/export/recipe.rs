//! Which type each tensor of a file gets: the mix that llama.cpp's quantiser makes.

use std::fmt;
use std::str::FromStr;

use grades_kernels::quant::GgufType;

use crate::config::Sizes;

/// What most of a file's matrices are, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "llama.cpp's names")]
#[expect(missing_docs, reason = "llama.cpp's names say all there is")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_K_M,
    Q5_K_M,
    Q6_K,
    Q8_0,
}

impl FileType {
    /// Every type.
    pub const ALL: [Self; 8] =
        [Self::F32, Self::F16, Self::BF16, Self::Q4_0, Self::Q4_K_M, Self::Q5_K_M, Self::Q6_K, Self::Q8_0];

    /// Its number as `general.file_type`.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
            Self::Q5_K_M => 17,
            Self::Q6_K => 18,
            Self::BF16 => 32,
        }
    }

    fn plain(self) -> GgufType {
        match self {
            Self::F32 => GgufType::F32,
            Self::F16 => GgufType::F16,
            Self::BF16 => GgufType::BF16,
            Self::Q4_0 => GgufType::Q4_0,
            Self::Q4_K_M => GgufType::Q4_K,
            Self::Q5_K_M => GgufType::Q5_K,
            Self::Q6_K => GgufType::Q6_K,
            Self::Q8_0 => GgufType::Q8_0,
        }
    }

    /// Whether it is a mix with more bits where they count.
    fn is_mixed(self) -> bool {
        matches!(self, Self::Q4_K_M | Self::Q5_K_M)
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for FileType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |kind: &Self| kind.to_string().eq_ignore_ascii_case(text);
        let known = || Self::ALL.map(|kind| kind.to_string()).join(", ");
        Self::ALL.into_iter().find(named).ok_or_else(|| format!("there is no type {text}; there are {}", known()))
    }
}

/// What of a model its tensors' types depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Whether the embedding is the head, too.
    pub(super) tied: bool,
    /// Experts of a layer.
    pub(super) experts: usize,
}

/// Experts of a Mixtral.
const EIGHT: usize = 8;

/// The type of a tensor of a model, by its name in the file.
pub(super) fn of_tensor(name: &str, shape: &[usize], file: FileType, sizes: &Sizes, of: &Facts) -> GgufType {
    let (&[.., _, columns], true) = (shape, name.ends_with(".weight")) else { return GgufType::F32 };
    if name.ends_with(".ffn_gate_inp.weight") {
        return GgufType::F32;
    }
    let &Facts { tied, experts } = of;
    let plain = file.plain();
    if plain.block_size() == 1 {
        return plain;
    }
    let (layer, part) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (layer.parse().unwrap_or(0), part),
        None => (0, name),
    };
    let more = file.is_mixed() && has_more_bits(layer, sizes.num_hidden_layers);
    let kind = match part {
        // The head, also where it is the embedding.
        "output.weight" => head(plain, columns),
        "token_embd.weight" if tied => head(plain, columns),
        // In models like Mixtral these are small beside the experts.
        "attn_v.weight" | "attn_k.weight" if experts == EIGHT => GgufType::Q8_0,
        "attn_output.weight" if experts == EIGHT && file == FileType::Q4_K_M => GgufType::Q5_K,
        "attn_v.weight" | "ffn_down.weight" | "ffn_down_exps.weight" if more => GgufType::Q6_K,
        // In models like Llama 70B values are an eighth of the queries.
        "attn_v.weight" if file == FileType::Q4_K_M && is_70b(sizes) => GgufType::Q5_K,
        "attn_qkv.weight" if file == FileType::Q4_K_M => GgufType::Q5_K,
        "attn_qkv.weight" if file == FileType::Q5_K_M => GgufType::Q6_K,
        _ => plain,
    };
    fitting(kind, columns)
}

fn head(plain: GgufType, columns: usize) -> GgufType {
    match plain {
        _ if !columns.is_multiple_of(plain.block_size()) => GgufType::Q8_0,
        GgufType::Q8_0 => GgufType::Q8_0,
        _ => GgufType::Q6_K,
    }
}

/// Whether a layer is one of those whose values and outputs get more bits: the first and last eighth, and each third between.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

fn is_70b(sizes: &Sizes) -> bool {
    sizes.num_hidden_layers == 80 && sizes.num_attention_heads != sizes.num_key_value_heads
}

/// The type itself, or one of smaller blocks where a row is no whole number of its blocks.
fn fitting(kind: GgufType, columns: usize) -> GgufType {
    if columns.is_multiple_of(kind.block_size()) {
        return kind;
    }
    let smaller = match kind {
        GgufType::Q4_K => GgufType::Q5_0,
        GgufType::Q5_K => GgufType::Q5_1,
        GgufType::Q6_K => GgufType::Q8_0,
        _ => GgufType::F16,
    };
    if columns.is_multiple_of(smaller.block_size()) { smaller } else { GgufType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(layers: usize) -> Sizes {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 8,
            "intermediate_size": 1024, "num_hidden_layers": layers,
        });
        crate::registry::sizes(&crate::config::HfConfig::new(config).unwrap()).unwrap()
    }

    fn of(name: &str, columns: usize, file: FileType, tied: bool) -> GgufType {
        of_tensor(name, &[64, columns], file, &sizes(16), &Facts { tied, experts: 0 })
    }

    /// The layers with more bits as the Q4_K_M files of a model of 16 layers (Llama 3.2 1B) have them.
    #[test]
    fn values_and_outputs_of_some_layers_get_more_bits() {
        for part in ["attn_v", "ffn_down"] {
            let more = (0..16).filter(|layer| {
                of(&format!("blk.{layer}.{part}.weight"), 2048, FileType::Q4_K_M, true) == GgufType::Q6_K
            });
            assert_eq!(more.collect::<Vec<_>>(), [0, 1, 4, 7, 10, 13, 14, 15]);
        }
        for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
            let name = format!("blk.0.{part}.weight");
            assert_eq!(of(&name, 2048, FileType::Q4_K_M, true), GgufType::Q4_K);
            assert_eq!(of(&name, 2048, FileType::Q5_K_M, true), GgufType::Q5_K);
        }
        assert_eq!(of("blk.0.attn_v.weight", 2048, FileType::Q4_0, true), GgufType::Q4_0);
        assert_eq!(of("blk.2.attn_qkv.weight", 2048, FileType::Q4_K_M, true), GgufType::Q5_K);
        let large = of_tensor("blk.10.attn_v.weight", &[64, 2048], FileType::Q4_K_M, &sizes(80), &Facts::default());
        assert_eq!(large, GgufType::Q5_K);
    }

    /// As llama.cpp's quantiser decides for a Mixtral of 32 layers.
    #[test]
    fn experts_have_a_mix_of_their_own() {
        let of = |name: &str, shape: &[usize], file, experts| {
            of_tensor(name, shape, file, &sizes(32), &Facts { tied: false, experts })
        };
        let stacked = [8, 64, 512];
        assert_eq!(of("blk.9.ffn_gate_exps.weight", &stacked, FileType::Q4_K_M, 8), GgufType::Q4_K);
        assert_eq!(of("blk.0.ffn_down_exps.weight", &stacked, FileType::Q4_K_M, 8), GgufType::Q6_K);
        assert_eq!(of("blk.0.ffn_gate_inp.weight", &[8, 512], FileType::Q4_K_M, 8), GgufType::F32);
        for part in ["attn_v", "attn_k"] {
            let name = format!("blk.10.{part}.weight");
            assert_eq!(of(&name, &[64, 512], FileType::Q4_K_M, 8), GgufType::Q8_0);
            assert_eq!(of(&name, &[64, 512], FileType::Q4_K_M, 128), GgufType::Q4_K);
        }
        assert_eq!(of("blk.9.attn_output.weight", &[64, 512], FileType::Q4_K_M, 8), GgufType::Q5_K);
        assert_eq!(of("blk.9.attn_output.weight", &[64, 512], FileType::Q5_K_M, 8), GgufType::Q5_K);
        assert_eq!(of("blk.9.attn_output.weight", &[64, 512], FileType::Q6_K, 8), GgufType::Q6_K);
    }

    #[test]
    fn the_head_gets_more_bits_also_where_it_is_the_embedding() {
        for file in [FileType::Q4_0, FileType::Q4_K_M, FileType::Q5_K_M, FileType::Q6_K] {
            assert_eq!(of("output.weight", 512, file, false), GgufType::Q6_K);
            assert_eq!(of("token_embd.weight", 512, file, true), GgufType::Q6_K);
            assert_eq!(of("token_embd.weight", 512, file, false), file.plain());
        }
        assert_eq!(of("output.weight", 512, FileType::Q8_0, false), GgufType::Q8_0);
    }

    /// SmolLM2-135M has rows of 576, which is no multiple of 256.
    #[test]
    fn rows_that_are_no_whole_blocks_get_smaller_ones() {
        for (file, plain, more) in [
            (FileType::Q4_K_M, GgufType::Q5_0, GgufType::Q8_0),
            (FileType::Q5_K_M, GgufType::Q5_1, GgufType::Q8_0),
            (FileType::Q6_K, GgufType::Q8_0, GgufType::Q8_0),
        ] {
            assert_eq!(of("blk.2.attn_q.weight", 576, file, true), plain);
            assert_eq!(of("blk.0.attn_v.weight", 576, file, true), more);
            assert_eq!(of("token_embd.weight", 576, file, true), GgufType::Q8_0);
        }
        assert_eq!(of("token_embd.weight", 576, FileType::Q4_0, true), GgufType::Q8_0);
        assert_eq!(of("blk.2.attn_q.weight", 40, FileType::Q4_K_M, true), GgufType::F16);
        assert_eq!(of("blk.2.attn_q.weight", 40, FileType::Q8_0, true), GgufType::F16);
    }

    #[test]
    fn what_is_no_matrix_stays_as_it_is() {
        assert_eq!(
            of_tensor("blk.0.attn_q.bias", &[512], FileType::Q4_K_M, &sizes(2), &Facts::default()),
            GgufType::F32
        );
        assert_eq!(of_tensor("output_norm.weight", &[512], FileType::F16, &sizes(2), &Facts::default()), GgufType::F32);
        assert_eq!(of("blk.0.attn_q.weight", 40, FileType::BF16, true), GgufType::BF16);
    }

    #[test]
    fn types_have_the_names_of_llama_cpp() {
        assert_eq!("q4_k_m".parse(), Ok(FileType::Q4_K_M));
        assert!("Q3_K_M".parse::<FileType>().unwrap_err().contains("Q4_K_M, Q5_K_M"));
    }
}
