//! A register of f32 numbers, as wide as the instruction set has them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps,
    _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_ps,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use crate::dispatch::BASELINE_FMA;
use crate::math::mul_add;

/// Some numbers that one instruction works on.
///
/// # Safety
/// Every function needs the instruction set of its vector on the processor, and is for functions that enable it.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;

    /// Zeros.
    unsafe fn zero() -> Self;

    /// The number at `from` in each lane; it can be read.
    unsafe fn splat(from: *const f32) -> Self;

    /// The numbers from `from` on; all can be read.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes the numbers from `to` on; all can be written.
    unsafe fn store(self, to: *mut f32);

    /// The sum, lane by lane.
    unsafe fn plus(self, other: Self) -> Self;

    /// `self · factor + sum`, lane by lane.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;

    /// A square of [`Vector::LANES`] rows transposed: number `p` of row `i` goes to `out + p · stride + i`. There are that
    /// many rows or more, of that many numbers each that can be read, and every such place can be written.
    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32], out: *mut f32, stride: usize) {
        for (i, row) in rows.iter().enumerate().take(Self::LANES) {
            for p in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *out.add(p * stride + i) = *row.add(p) };
            }
        }
    }
}

/// Four numbers for any processor: the compiler makes of them what the target has.
#[derive(Clone, Copy)]
pub(super) struct Four([f32; 4]);

impl Vector for Four {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 4])
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self([unsafe { *from }; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; numbers may lie anywhere.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a + e, b + f, c + g, d + h])
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        let lane = |i: usize| mul_add::<BASELINE_FMA>(self.0[i], factor.0[i], sum.0[i]);
        Self([lane(0), lane(1), lane(2), lane(3)])
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm256_broadcast_ss(&*from) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, self) };
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32], out: *mut f32, stride: usize) {
        let rows = &rows[..8];
        // SAFETY: the caller's promise.
        unsafe {
            for half in 0..2 {
                // Columns 4 · half .. 4 · half + 4 of all rows: rows 0 to 3 in the low lanes, 4 to 7 in the high ones.
                let both = |i: usize| {
                    let (low, high) = (_mm256_loadu_ps(rows[i]), _mm256_loadu_ps(rows[i + 4]));
                    if half == 0 {
                        _mm256_permute2f128_ps::<0x20>(low, high)
                    } else {
                        _mm256_permute2f128_ps::<0x31>(low, high)
                    }
                };
                let [a, b, c, d] = [both(0), both(1), both(2), both(3)];
                let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                let out = out.add(4 * half * stride);
                _mm256_storeu_ps(out, _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
                _mm256_storeu_ps(out.add(stride), _mm256_shuffle_ps::<0xEE>(ab_low, cd_low));
                _mm256_storeu_ps(out.add(2 * stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm256_storeu_ps(out.add(3 * stride), _mm256_shuffle_ps::<0xEE>(ab_high, cd_high));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(*from) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self) };
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm512_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32], out: *mut f32, stride: usize) {
        let rows = &rows[..16];
        // SAFETY: the caller's promise.
        unsafe {
            let square = std::array::from_fn(|i| _mm512_castps_si512(_mm512_loadu_ps(rows[i])));
            for (p, line) in crate::gemm::transpose::transpose(square).into_iter().enumerate() {
                _mm512_storeu_ps(out.add(p * stride), _mm512_castsi512_ps(line));
            }
        }
    }
}
