//! The dtypes that activations and their gradients are stored in. Kernels compute in f32.

use std::mem::MaybeUninit;

use half::bf16;

use crate::threads::each;
use crate::unwritten::{to_write, written};

/// An element that kernels read and write; its type is the dtype: `f32`, or `bf16`.
pub trait Element: Copy + Send + Sync + std::fmt::Debug + 'static {
    /// 0.
    const ZERO: Self;

    /// The element in f32.
    fn widen(self) -> f32;

    /// The nearest element of this dtype, of two equally near ones the even.
    fn narrow(x: f32) -> Self;

    /// The same elements where they are bf16.
    fn as_bf16(values: &[Self]) -> Option<&[bf16]>;

    /// The same elements to write to where they are bf16.
    fn as_bf16_mut(values: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<bf16>]>;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    fn as_bf16(_: &[Self]) -> Option<&[bf16]> {
        None
    }

    fn as_bf16_mut(_: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<bf16>]> {
        None
    }
}

impl Element for bf16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // By integers and without a branch, which vectorises; `half` calls a function.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        const NAN: u16 = 0x7fc0;
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        Self::from_bits(if x.is_nan() { NAN } else { rounded })
    }

    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        Some(values)
    }

    fn as_bf16_mut(values: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<bf16>]> {
        Some(values)
    }
}

/// `source` rounded to bf16, on all threads.
#[must_use]
pub fn narrow(source: &[f32]) -> Vec<bf16> {
    converted(source)
}

/// `source` in f32, on all threads.
#[must_use]
pub fn widen(source: &[bf16]) -> Vec<f32> {
    converted(source)
}

fn converted<S: Element, T: Element>(source: &[S]) -> Vec<T> {
    let convert_all = |target: &mut [MaybeUninit<T>]| {
        each(source.chunks(BLOCK).zip(target.chunks_mut(BLOCK)), |(from, to)| convert_into(from, to));
    };
    // SAFETY: source and target are of one length, so that each block of the one is converted into a block of the other.
    unsafe { written(source.len(), convert_all) }
}

/// Elements of a block of work.
const BLOCK: usize = 1 << 15;

/// Converts the elements of one slice into the other.
pub(crate) fn convert<S: Element, T: Element>(source: &[S], target: &mut [T]) {
    // SAFETY: `convert_into` writes values only.
    convert_into(source, unsafe { to_write(target) });
}

/// Converts the elements of one slice into the other, and writes all of that.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn convert_into<S: Element, T: Element>(source: &[S], target: &mut [MaybeUninit<T>]) {
    assert_eq!(source.len(), target.len());
    convert_each(source, target);
}

crate::dispatch::multiversion! {
    fn convert_each<FMA; S: Element, T: Element>(source: &[S], target: &mut [MaybeUninit<T>]) {
        for (target, source) in target.iter_mut().zip(source) {
            target.write(T::narrow(source.widen()));
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{Element, narrow, widen};

    #[test]
    fn rounding_is_that_of_half() {
        let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40, -1e-45];
        let patterns = (0..2_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_147_581_949)));
        for x in special.into_iter().chain(patterns) {
            let (found, expected) = (<bf16 as Element>::narrow(x), bf16::from_f32(x));
            assert!(found == expected || (x.is_nan() && found.is_nan()), "{x:e} became {found}, not {expected}");
            assert!(found.widen() == expected.to_f32() || x.is_nan());
        }
        let ties = [1.0 + 0.5 / 128.0, 1.0 + 1.5 / 128.0];
        assert_eq!(ties.map(|x| <bf16 as Element>::narrow(x).widen()), [1.0, 1.0 + 2.0 / 128.0]);
    }

    #[test]
    fn slices_convert_both_ways() {
        for len in [0, 1, 17, 70_000] {
            let values = crate::testing::numbers(1, len);
            let long = widen(&narrow(&values));
            assert_eq!(long.len(), len);
            assert!(long.iter().zip(&values).all(|(l, v)| *l == bf16::from_f32(*v).to_f32()));
        }
    }
}
