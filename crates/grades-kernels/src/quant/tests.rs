use half::f16;
use safetensors::SafeTensors;

use super::decode::{TASK_VALUES, range};
use super::part::half;
use super::{DecodeError, GgufType, decode};

/// The blocks recorded with the reference implementation; `GRADES_FIXTURES` may name other fixtures, which need not have those
/// of unevenly spaced levels.
fn recorded(kind: GgufType) -> (Vec<u8>, Vec<f32>) {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures").to_owned();
    let (folder, file) = match kind {
        GgufType::IQ4_NL | GgufType::IQ4_XS | GgufType::MXFP4 => (own, "nonlinear"),
        _ => (std::env::var("GRADES_FIXTURES").unwrap_or(own), "blocks"),
    };
    let file = std::fs::read(format!("{folder}/gguf/{file}.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let part = |part: &str| tensors.tensor(&format!("{kind:?}.{part}").to_lowercase()).unwrap().data().to_vec();
    (part("bytes"), floats(&part("values")))
}

fn blocks() -> impl Iterator<Item = GgufType> {
    GgufType::ALL.into_iter().filter(|kind| kind.block_size() > 1)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_recorded_type_decodes_exactly() {
    for kind in blocks() {
        let (bytes, expected) = recorded(kind);
        let mut values = vec![f32::NAN; expected.len()];
        decode(kind, &bytes, &mut values).unwrap();
        assert_eq!(values, expected, "{kind:?}");
    }
}

#[test]
fn tensors_longer_than_a_task_decode_as_their_blocks() {
    for kind in blocks() {
        let (bytes, once) = recorded(kind);
        let times = 2 * TASK_VALUES / once.len() + 1;
        let mut values = vec![0.0; times * once.len()];
        decode(kind, &bytes.repeat(times), &mut values).unwrap();
        assert_eq!(values, once.repeat(times), "{kind:?}");
    }
}

#[test]
fn plain_floats_decode_exactly() {
    let mut values = [0.0; 2];
    decode(GgufType::F32, &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0], &mut values).unwrap();
    assert_eq!(values, [1.5, -2.0]);
    decode(GgufType::F16, &[0, 0x3e, 0, 0xc0], &mut values).unwrap();
    assert_eq!(values, [1.5, -2.0]);
    decode(GgufType::BF16, &[0xc0, 0x3f, 0, 0xc0], &mut values).unwrap();
    assert_eq!(values, [1.5, -2.0]);
}

#[test]
fn bytes_that_do_not_fit_are_errors() {
    let mut out = [0.0; 32];
    let error = decode(GgufType::Q4_0, &[0; 17], &mut out).unwrap_err();
    assert_eq!(error, DecodeError::Bytes { kind: GgufType::Q4_0, values: 32, expected: 18, bytes: 17 });
    let error = decode(GgufType::Q4_K, &[0; 18], &mut out).unwrap_err();
    assert_eq!(error, DecodeError::Values { kind: GgufType::Q4_K, values: 32, block_size: 256 });
    assert!(GgufType::F32.bytes_of(usize::MAX).is_err());
    assert_eq!(decode(GgufType::Q6_K, &[], &mut []), Ok(()));
}

#[test]
fn ids_are_those_of_ggml() {
    assert_eq!(GgufType::from_id(12), Some(GgufType::Q4_K));
    assert_eq!(GgufType::from_id(30), Some(GgufType::BF16));
    assert_eq!(GgufType::from_id(4), None);
    for kind in GgufType::ALL {
        assert_eq!(GgufType::from_id(kind.id()), Some(kind));
    }
}

#[test]
fn halves_are_those_of_ieee() {
    for bits in 0..=u16::MAX {
        let (found, expected) = (half(bits), f16::from_bits(bits).to_f32());
        assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#x}");
    }
}

#[test]
fn any_range_decodes_as_the_whole() {
    for kind in blocks() {
        let bytes = recorded(kind).0.repeat(20);
        let mut whole = vec![0.0; bytes.len() / kind.block_bytes() * kind.block_size()];
        decode(kind, &bytes, &mut whole).unwrap();
        for (first, len) in [(0, 0), (0, 1), (5, 3), (31, 2), (32, 96), (48, 48), (17, 300), (300, 211)] {
            let mut part = vec![f32::NAN; len];
            range(kind, &bytes, first, &mut part);
            assert_eq!(part, whole[first..first + len], "{kind:?} from {first}");
        }
    }
}

/// The smallest and the largest scale, of which random blocks have none.
#[test]
fn powers_of_two_reach_from_denormal_numbers_to_the_largest() {
    let mut values = [f32::NAN; 32];
    for (exponent, expected) in
        [(0, 2_f32.powi(-127)), (1, 2_f32.powi(-126)), (2, 2_f32.powi(-125)), (254, 2_f32.powi(127))]
    {
        let block = [&[exponent][..], &[0x2a; 16]].concat();
        decode(GgufType::MXFP4, &block, &mut values).unwrap();
        assert_eq!([values[0], values[16]], [-expected, expected]);
    }
}
