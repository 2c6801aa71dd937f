use safetensors::SafeTensors;

use super::{EncodeError, TASK_VALUES, encode, is_written};
use crate::quant::{DecodeError, GgufType, decode};
use crate::testing::numbers;

/// Values and the blocks that ggml makes of them; `fixtures/make_encoded.py` wrote them.
fn recorded(kind: GgufType) -> (Vec<f32>, Vec<u8>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/encoded.safetensors");
    let file = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let values = tensors.tensor("values").unwrap();
    let values = values.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (values, tensors.tensor(&format!("{kind:?}").to_lowercase()).unwrap().data().to_vec())
}

fn decoded(kind: GgufType, bytes: &[u8], count: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; count];
    decode(kind, bytes, &mut values).unwrap();
    values
}

fn error(values: &[f32], found: &[f32]) -> f64 {
    values.iter().zip(found).map(|(value, found)| f64::from(value - found).powi(2)).sum()
}

fn block_types() -> impl Iterator<Item = GgufType> {
    GgufType::ALL.into_iter().filter(|kind| is_written(*kind) && kind.block_size() > 1)
}

#[test]
fn blocks_are_as_good_as_those_of_ggml() {
    for kind in block_types() {
        let (values, reference) = recorded(kind);
        let blocks = encode(kind, &values).unwrap();
        let of = |blocks: &[u8]| decoded(kind, blocks, values.len());
        let (found, wanted) = (of(&blocks), of(&reference));
        for (row, original) in values.chunks(512).enumerate() {
            let error = |decoded: &[f32]| error(original, &decoded[512 * row..][..512]);
            let (found, wanted) = (error(&found), error(&wanted));
            assert!(found <= 1.001 * wanted + 1e-12, "{kind:?}, row {row}: {found:e} where ggml has {wanted:e}");
        }
        // Sums in another order decide otherwise between trials that are as good; a scale of 0 leaves the codes open.
        let same = found.iter().zip(&wanted).filter(|(found, wanted)| found == wanted).count();
        assert!(same as f64 > 0.99 * values.len() as f64, "{kind:?}: {same} of {}", values.len());
    }
}

#[test]
fn more_bits_leave_less_error() {
    let values = numbers(3, 4096);
    let errors: Vec<f64> = [GgufType::Q4_0, GgufType::Q4_K, GgufType::Q5_K, GgufType::Q6_K, GgufType::Q8_0]
        .into_iter()
        .map(|kind| error(&values, &decoded(kind, &encode(kind, &values).unwrap(), values.len())))
        .collect();
    assert!(errors.is_sorted_by(|more, less| more > less), "{errors:?}");
    // Half a step of 1/127.
    assert!(errors[4] < 4096.0 * (0.5 / 127.0_f64).powi(2));
}

#[test]
fn tasks_encode_as_the_whole() {
    for kind in block_types().chain([GgufType::F16, GgufType::BF16, GgufType::F32]) {
        let values = numbers(5, 2 * TASK_VALUES + 512);
        let whole = encode(kind, &values).unwrap();
        let pieces: Vec<u8> = values.chunks(256).flat_map(|piece| encode(kind, piece).unwrap()).collect();
        assert_eq!(whole, pieces, "{kind:?}");
    }
}

#[test]
fn numbers_that_stand_alone_are_rounded() {
    let values = [1.5, -2.0, f32::INFINITY];
    for kind in [GgufType::F32, GgufType::F16, GgufType::BF16] {
        assert_eq!(decoded(kind, &encode(kind, &values).unwrap(), 3), values);
    }
    assert_eq!(encode(GgufType::BF16, &[1.003]).unwrap(), [0x80, 0x3f]);
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let blocks = DecodeError::Values { kind: GgufType::Q4_K, values: 32, block_size: 256 };
    assert_eq!(encode(GgufType::Q4_K, &[0.0; 32]), Err(blocks.into()));
    assert_eq!(encode(GgufType::Q2_K, &[0.0; 256]), Err(EncodeError::Type(GgufType::Q2_K)));
    let mut values = [0.0; 64];
    values[40] = f32::NAN;
    assert_eq!(encode(GgufType::Q8_0, &values), Err(EncodeError::NotFinite { index: 40 }));
}
