//! Weights that bitsandbytes quantised to NF4: the codes under the weight's own name, scales and tables beside it.
//!
//! The tensors of `up_proj.weight` are itself (two codes a byte), `up_proj.weight.absmax` (a scale a block), `….quant_map`
//! (what a code stands for), `….quant_state.bitsandbytes__nf4` (JSON: shape and block sizes), and with double
//! quantisation `….nested_absmax` and `….nested_quant_map`. When a checkpoint is opened they become one tensor.

use grades_kernels::quant::{NF4_BLOCK, NF4_CODE, NF4_NESTED_BLOCK as NESTED_BLOCK, Nf4, Nf4Scales, dynamic_map};
use serde::Deserialize;
use serde_json::Value;

use super::error::{Result, WeightsError};
use super::{Checkpoint, Dtype, Stored, TensorInfo};
use crate::fields::{self, Fields, FieldsError, Rest};

/// Between a weight's name and its format.
pub(super) const STATE: &str = ".quant_state.bitsandbytes__";
/// Ends of the names of a weight's other tensors.
const PARTS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
/// What can be read, for messages.
const KNOWN: &str =
    "of quantised weights, nf4 of bitsandbytes and GGUF files can be read; or take the unquantised weights";

/// Where the scales of a weight are.
#[derive(Debug)]
pub(super) struct Scales {
    /// Bytes of the weight's codes.
    codes: u64,
    absmax: Box<Stored>,
    /// The scales of the scales, and what was taken off.
    nested: Option<(Box<Stored>, f32)>,
}

/// The JSON of a weight's `quant_state`.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Scales {
    /// Bytes of the weight's codes.
    pub(super) fn codes(&self) -> u64 {
        self.codes
    }
}

impl Checkpoint {
    /// Puts the parts of quantised weights together, and refuses what is quantised otherwise.
    pub(super) fn join_quantized(&mut self) -> Result<()> {
        if let Some(problem) = self.config.as_ref().and_then(other_quantization) {
            return Err(WeightsError::unsupported(&self.path, format!("{problem}; {KNOWN}")));
        }
        let split = |name: &String| name.split_once(STATE).map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        let states: Vec<_> = self.tensors.keys().filter_map(split).collect();
        for (weight, kind) in states {
            self.join(&weight, &kind)?;
        }
        let left = self.tensors.iter().find(|(name, _)| PARTS.iter().any(|part| name.ends_with(part)));
        match left {
            Some((name, stored)) => {
                let weight = PARTS.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
                Err(WeightsError::malformed(
                    &self.files[stored.file].path,
                    format!("it has {name}, but no {weight}{STATE}nf4 that says how {weight} is quantised"),
                ))
            }
            None => Ok(()),
        }
    }

    /// Makes one tensor of the parts of `weight`.
    fn join(&mut self, weight: &str, kind: &str) -> Result<()> {
        let state = self.stored(&format!("{weight}{STATE}{kind}"))?;
        let (path, bytes) = (self.files[state.file].path.clone(), state.info.bytes);
        let malformed = |problem: String| WeightsError::malformed(&path, format!("tensor {weight} {problem}"));
        let unsupported = |problem: String| WeightsError::unsupported(&path, format!("tensor {weight} {problem}"));
        if kind != "nf4" {
            return Err(unsupported(format!("is in {kind}; {KNOWN}")));
        }
        let state: State = serde_json::from_slice(&self.bytes(weight, state, bytes)?)
            .map_err(|e| malformed(format!("has a quant_state that does not parse: {e}")))?;
        if state.quant_type != "nf4" || state.blocksize != NF4_BLOCK {
            let State { quant_type, blocksize, .. } = state;
            return Err(unsupported(format!(
                "is in {quant_type} with blocks of {blocksize}; only nf4 with blocks of {NF4_BLOCK} can be read"
            )));
        }
        if let Some(size) = state.nested_blocksize.filter(|size| *size != NESTED_BLOCK) {
            return Err(unsupported(format!("has scales in blocks of {size}; only {NESTED_BLOCK} can be read")));
        }
        self.tensors.remove(&format!("{weight}{STATE}{kind}"));
        let mut take = |part: &str| {
            let missing = || malformed(format!("is quantised, but {weight}{part} is missing"));
            self.tensors.remove(&format!("{weight}{part}")).ok_or_else(missing)
        };
        let (codes, absmax, table) = (take("")?, take(".absmax")?, take(".quant_map")?);
        let nested = match state.nested_offset {
            Some(offset) => Some((take(".nested_absmax")?, take(".nested_quant_map")?, offset)),
            None => None,
        };
        for (table, known) in [(Some(&table), &NF4_CODE[..]), (nested.as_ref().map(|n| &n.1), dynamic_map())] {
            let Some(table) = table else { continue };
            let found = self.floats(weight, table)?;
            if found.len() != known.len() || found.iter().zip(known).any(|(found, known)| (found - known).abs() > 1e-6)
            {
                return Err(unsupported("has a table of codes that is not bitsandbytes' own".into()));
            }
        }
        let values = state.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let values = values.ok_or_else(|| malformed(format!("has the impossible shape {:?}", state.shape)))?;
        let blocks = values.div_ceil(NF4_BLOCK);
        let scale = if nested.is_some() { 1 } else { 4 };
        let nested_blocks = blocks.div_ceil(NESTED_BLOCK);
        for (part, stored, expected) in [
            ("codes", Some(&codes), values.div_ceil(2)),
            ("scales in absmax", Some(&absmax), blocks * scale),
            ("scales in nested_absmax", nested.as_ref().map(|nested| &nested.0), nested_blocks * 4),
        ] {
            let Some(found) = stored.map(|stored| stored.info.bytes) else { continue };
            if found != expected as u64 {
                let shape = &state.shape;
                return Err(malformed(format!(
                    "has {found} bytes of {part} where its shape {shape:?} in nf4 takes {expected}"
                )));
            }
        }
        let bytes = codes.info.bytes + absmax.info.bytes + nested.as_ref().map_or(0, |nested| nested.0.info.bytes);
        let scales = Scales {
            codes: codes.info.bytes,
            absmax: Box::new(absmax),
            nested: nested.map(|(scales, _, offset)| (Box::new(scales), offset)),
        };
        let info = TensorInfo { shape: state.shape, dtype: Dtype::Nf4, bytes };
        self.tensors.insert(weight.to_owned(), Stored { info, scales: Some(scales), ..codes });
        Ok(())
    }

    /// The codes and scales of a quantised weight.
    pub(super) fn nf4(&self, name: &str, stored: &Stored, scales: &Scales) -> Result<Nf4> {
        let codes = self.bytes(name, stored, scales.codes)?;
        let absmax = &scales.absmax;
        let scales = match &scales.nested {
            None => Nf4Scales::Plain(self.floats(name, absmax)?),
            Some((nested, offset)) => Nf4Scales::Nested {
                codes: self.bytes(name, absmax, absmax.info.bytes)?,
                scales: self.floats(name, nested)?,
                offset: *offset,
            },
        };
        let path = &self.files[stored.file].path;
        Nf4::from_parts(stored.info.values(), codes, scales)
            .map_err(|e| WeightsError::malformed(path, format!("tensor {name}: {e}")))
    }

    /// A short tensor of F32.
    fn floats(&self, name: &str, stored: &Stored) -> Result<Vec<f32>> {
        if stored.info.dtype != Dtype::F32 {
            let path = &self.files[stored.file].path;
            let problem = format!("tensor {name} has scales or a table in {} in place of F32", stored.info.dtype);
            return Err(WeightsError::malformed(path, problem));
        }
        let bytes = self.bytes(name, stored, stored.info.bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

/// How a config says that weights are quantised, where it is in a way that cannot be read.
fn other_quantization(config: &Value) -> Option<String> {
    if config.get("compression_config").is_some_and(|value| !value.is_null()) {
        return Some("its weights are quantised by compressed-tensors".into());
    }
    let quantization = config.get("quantization_config").filter(|value| !value.is_null())?;
    let described = fields::read("quantization_config", quantization, Rest::Refuse, read_config);
    described.unwrap_or_else(|error: FieldsError| Some(format!("of its quantization_config {error}")))
}

/// What cannot be read of what a `quantization_config` describes.
fn read_config(fields: &Fields<'_>) -> std::result::Result<Option<String>, FieldsError> {
    let method = fields.optional::<String>("quant_method")?.unwrap_or_else(|| "bitsandbytes".into());
    if method != "bitsandbytes" {
        // Its keys are its own.
        fields.harmless(&fields.left().iter().map(String::as_str).collect::<Vec<_>>());
        return Ok(Some(format!("its weights are quantised by {method}")));
    }
    // How products are computed, and which modules are not quantised, which their tensors show.
    fields.harmless(&[
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_compute_dtype",
        "bnb_4bit_use_double_quant",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_has_fp16_weight",
        "llm_int8_skip_modules",
        "llm_int8_threshold",
        "load_in_4bit",
        "modules_to_not_convert",
        "target_parameters",
        "transformers_version",
    ]);
    fields.only("bnb_4bit_quant_storage", &["uint8".into(), "torch.uint8".into()])?;
    let in_8bit = fields.optional("load_in_8bit")?.unwrap_or(false);
    let kind = fields.optional::<String>("bnb_4bit_quant_type")?.unwrap_or_else(|| "fp4".into());
    Ok(match (in_8bit, kind.as_str()) {
        (true, _) => Some("its weights are in int8 of bitsandbytes".into()),
        (false, "nf4") => None,
        (false, other) => Some(format!("its weights are in {other} of bitsandbytes")),
    })
}
