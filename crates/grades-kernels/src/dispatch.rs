//! Choosing the instruction set at run time.
//!
//! [`multiversion!`] compiles one safe function body several times, for AVX-512, for AVX2 with FMA and for the
//! target's baseline, and calls the best version that the processor runs. The vector code itself comes from the
//! compiler: bodies are loops over lanes without branches.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// The instruction sets that are compiled apart, from the lowest.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The best level of this processor, or a lower one that the environment variable `GRADES_SIMD` names (`baseline`,
/// `avx2`; `avx512` leaves AMX alone out), so that the tests can run every version that the processor has.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let highest = match std::env::var("GRADES_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => Level::Avx2,
            Ok("avx512" | "") | Err(_) => Level::Avx512,
            Ok(name) => {
                log::warn!(
                    "GRADES_SIMD={name} names no level of instructions, so the processor's best is taken; there are `avx512` \
                     (without AMX), `avx2` and `baseline`"
                );
                Level::Avx512
            }
        };
        detect().min(highest)
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return Level::Baseline;
    }
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if avx512 { Level::Avx512 } else { Level::Avx2 }
}

/// Whether the processor has AVX512-BF16 with the parts of AVX-512 that the bf16 products use, and `GRADES_SIMD` does not
/// lower the level.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_bf16() -> bool {
    level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// Whether AMX may be looked for: AVX512-BF16, which its drivers need, is there, and `GRADES_SIMD` does not stop below it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn may_use_amx() -> bool {
    has_bf16() && std::env::var("GRADES_SIMD").as_deref() != Ok("avx512")
}

/// The best instruction set that products run on here: `amx`, `avx512-bf16`, `avx512`, `avx2` or `baseline`.
#[must_use]
pub fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        match level() {
            Level::Avx512 if crate::gemm::bf16::runs_on_amx() => "amx",
            Level::Avx512 if has_bf16() => "avx512-bf16",
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Baseline => "baseline",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        "baseline"
    }
}

/// Whether the target guarantees a fused multiply-add, without any detection.
pub(crate) const BASELINE_FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Defines functions that are compiled for each instruction set; type parameters follow a semicolon. `FMA` is a constant inside the body, for
/// [`crate::math::mul_add`]: without the instruction, a fused multiply-add would be a slow library call.
macro_rules! multiversion {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$fma:ident $(; $($generic:ident: $bound:ident),+)?>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name$(<$($generic: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$($($generic: $bound,)+)? const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512<$($($generic: $bound),+)?>($($arg: $ty),*) $(-> $ret)? {
                    body::<$($($generic,)+)? true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($($generic: $bound),+)?>($($arg: $ty),*) $(-> $ret)? {
                    body::<$($($generic,)+)? true>($($arg),*)
                }
                match $crate::dispatch::level() {
                    // SAFETY: `level` has detected every feature that `avx512` enables.
                    $crate::dispatch::Level::Avx512 => return unsafe { avx512::<$($($generic),+)?>($($arg),*) },
                    // SAFETY: `level` has detected every feature that `avx2` enables.
                    $crate::dispatch::Level::Avx2 => return unsafe { avx2::<$($($generic),+)?>($($arg),*) },
                    $crate::dispatch::Level::Baseline => {}
                }
            }
            body::<$($($generic,)+)? { $crate::dispatch::BASELINE_FMA }>($($arg),*)
        }
    )*};
}
pub(crate) use multiversion;
