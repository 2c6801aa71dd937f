//! Looking 4-bit codes up, sixteen at a time where the processor permutes a table in a register.

use super::codes::CODE;

/// `out[i] = CODE[i-th code] · scale`: codes two a byte, the first in the high four bits.
///
/// # Panics
/// If there are fewer codes than values.
pub(super) fn scaled(codes: &[u8], scale: f32, out: &mut [f32]) {
    assert!(2 * codes.len() >= out.len(), "there are fewer codes than values");
    #[cfg(target_arch = "x86_64")]
    if crate::dispatch::level() == crate::dispatch::Level::Avx512 {
        // SAFETY: `level` has detected every feature that the function enables.
        unsafe { avx512(codes, scale, out) };
        return;
    }
    portable(codes, scale, out);
}

fn portable(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (pair, codes) in out.chunks_mut(2).zip(codes) {
        for (value, code) in pair.iter_mut().zip([codes >> 4, codes & 15]) {
            *value = CODE[usize::from(code)] * scale;
        }
    }
}

/// Sixteen values: the bytes' halves as indices, of which the permutation reads the low four bits alone.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(codes: &[u8], scale: f32, out: &mut [f32]) {
    use std::arch::x86_64::{
        _mm_cvtsi64_si128, _mm_srli_epi16, _mm_unpacklo_epi8, _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps,
        _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };
    // SAFETY: the table has sixteen numbers.
    let table = unsafe { _mm512_loadu_ps(CODE.as_ptr()) };
    let table = _mm512_mul_ps(table, _mm512_set1_ps(scale));
    let (whole, rest) = out.as_chunks_mut::<16>();
    for (out, codes) in whole.iter_mut().zip(codes.as_chunks::<8>().0) {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*codes));
        let halves = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(bytes), bytes);
        let values = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(halves), table);
        // SAFETY: there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
    }
    portable(&codes[8 * whole.len()..], scale, rest);
}

#[cfg(test)]
mod tests {
    use super::{portable, scaled};

    #[test]
    fn the_fastest_version_equals_the_portable_one() {
        let codes: Vec<u8> = (0..70_u32).map(|i| (i * 37 + 11) as u8).collect();
        for len in (0..=70).chain([128, 139, 140]) {
            for scale in [1.0, -0.3, 0.0, 1e-30] {
                let (mut found, mut expected) = (vec![f32::NAN; len], vec![f32::NAN; len]);
                scaled(&codes, scale, &mut found);
                portable(&codes, scale, &mut expected);
                assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()), "{len} at {scale}");
            }
        }
    }
}
