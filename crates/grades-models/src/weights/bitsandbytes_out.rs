//! Weights in NF4 as bitsandbytes saves them; see [`bitsandbytes`](super::bitsandbytes) for the tensors of one.

use std::cell::LazyCell;
use std::rc::Rc;

use grades_kernels::quant::{NF4_BLOCK, NF4_CODE, NF4_NESTED_BLOCK, Nf4, Nf4Scales, NotFinite, dynamic_map};
use safetensors::Dtype as Stored;
use serde_json::{Value, json};

use super::bitsandbytes::STATE;
use super::error::WeightsError;
use super::save::{SaveDtype, TensorToSave};

/// Bytes of a weight's `quant_state`. Its JSON is shorter, and spaces fill the rest: the size of a tensor is written before the
/// scales are known that are in it.
const STATE_BYTES: usize = 256;

/// A matrix that is encoded when the first of its tensors is written, and dropped after the last.
type Encoded<'a> = LazyCell<Encoding, Box<dyn FnOnce() -> Encoding + 'a>>;
type Encoding = Result<Nf4, NotFinite>;

/// The bytes of one of its tensors.
type Part = Box<dyn FnOnce(&Nf4) -> Vec<u8>>;

/// The tensors of a matrix `[rows, columns]` in NF4 with double quantisation, to be saved in its place; `values` gives its
/// numbers, row-major. `dtype` is what bitsandbytes decodes it to.
pub fn nf4_tensors<'a>(
    name: &str,
    [rows, columns]: [usize; 2],
    dtype: SaveDtype,
    values: impl FnOnce() -> Vec<f32> + 'a,
) -> Vec<TensorToSave<'a>> {
    let count = rows * columns;
    let blocks = count.div_ceil(NF4_BLOCK);
    let encoded: Rc<Encoded<'a>> = Rc::new(LazyCell::new(Box::new(|| Nf4::encode(&values()))));
    let state_name = format!("{STATE}nf4");
    let state: Part = Box::new(move |nf4| state([rows, columns], nf4, dtype));
    let parts: [(&str, Stored, Vec<usize>, Part); 6] = [
        ("", Stored::U8, vec![count.div_ceil(2), 1], Box::new(|nf4| nf4.parts().0.to_vec())),
        (".absmax", Stored::U8, vec![blocks], Box::new(|nf4| nested(nf4).0.to_vec())),
        (".nested_absmax", Stored::F32, vec![blocks.div_ceil(NF4_NESTED_BLOCK)], Box::new(|nf4| floats(nested(nf4).1))),
        (".nested_quant_map", Stored::F32, vec![dynamic_map().len()], Box::new(|_| floats(dynamic_map()))),
        (".quant_map", Stored::F32, vec![NF4_CODE.len()], Box::new(|_| floats(&NF4_CODE))),
        (&state_name, Stored::U8, vec![STATE_BYTES], state),
    ];
    let tensor = |(end, stored, shape, bytes): (&str, Stored, Vec<usize>, Part)| {
        let (weight, encoded) = (name.to_owned(), Rc::clone(&encoded));
        TensorToSave::bytes(format!("{name}{end}"), stored, &shape, move || match &**encoded {
            Ok(encoded) => Ok(bytes(encoded)),
            Err(error) => Err(WeightsError::Values(format!("tensor {weight}: {error}"))),
        })
    };
    parts.into_iter().map(tensor).collect()
}

/// What a `config.json` says of such weights, in transformers' keys.
#[must_use]
pub fn quantization_config(dtype: SaveDtype) -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": dtype.torch_name(),
        "llm_int8_skip_modules": ["lm_head"],
    })
}

/// The codes of the blocks' scales, the scales of these, and what was taken off first.
fn nested(nf4: &Nf4) -> (&[u8], &[f32], f32) {
    match nf4.parts().1 {
        Nf4Scales::Nested { codes, scales, offset } => (codes, scales, *offset),
        // An encoder makes none of these.
        Nf4Scales::Plain(scales) => (&[], scales, 0.0),
    }
}

/// The JSON of a `quant_state`.
fn state(shape: [usize; 2], nf4: &Nf4, dtype: SaveDtype) -> Vec<u8> {
    let state = json!({
        "quant_type": "nf4",
        "blocksize": NF4_BLOCK,
        "dtype": dtype.torch_name(),
        "shape": shape,
        "nested_blocksize": NF4_NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": nested(nf4).2,
    });
    let mut bytes = state.to_string().into_bytes();
    bytes.resize(STATE_BYTES, b' ');
    bytes
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
