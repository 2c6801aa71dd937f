//! Copying whole tensors, and adding, scaling and masking them in place, on all threads.
//!
//! Each element depends on those at its own place alone, so that results are the same bits on any number of threads.

use std::collections::TryReserveError;

use crate::Element;
use crate::dispatch::multiversion;
use crate::math::mul_add;
use crate::threads::each;
use crate::unwritten::{filled, written};

/// Elements of a block of work.
const BLOCK: usize = 16_384;

/// Elements of new memory that a thread fills at once: a large page or more.
const NEW: usize = 1 << 19;

/// `len` times `value`, in memory of its own.
///
/// The system finds and clears a page when it is first written, which takes longer than whatever is done with it then. Here all threads write them;
/// the C library's zeros are written by one, where the memory was the program's before.
///
/// # Errors
/// If there is not as much memory.
pub fn repeat<T: Copy + Send + Sync>(value: T, len: usize) -> Result<Vec<T>, TryReserveError> {
    let mut new = Vec::new();
    new.try_reserve_exact(len)?;
    each(new.spare_capacity_mut()[..len].chunks_mut(NEW), |part| {
        filled(part, value);
    });
    // SAFETY: there is room for `len` elements, and each has just been written.
    unsafe { new.set_len(len) };
    Ok(new)
}

/// The same elements in memory of their own. Each thread copies what it changes afterwards, and finds it in its cache then.
#[must_use]
pub fn copy<T: Copy + Send + Sync>(x: &[T]) -> Vec<T> {
    // SAFETY: each block is written whole, and the blocks are all elements.
    unsafe {
        written(x.len(), |copy| {
            each(copy.chunks_mut(BLOCK).zip(x.chunks(BLOCK)), |(copy, x)| {
                copy.write_copy_of_slice(x);
            });
        })
    }
}

/// `y += x`, each sum made in f32 and rounded once to the dtype.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place<E: Element>(y: &mut [E], x: &[E]) {
    assert_eq!(x.len(), y.len());
    each(y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)), |(y, x)| add_block(y, x));
}

/// `y += factor · x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    each(y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)), |(y, x)| axpy_block(factor, x, y));
}

/// `y += weight · (x − y)`: moves a running average y towards x.
///
/// # Panics
/// If the lengths differ.
pub fn lerp(weight: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    each(y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)), |(y, x)| lerp_block(weight, x, y));
}

/// `x *= factor`.
pub fn scale(factor: f32, x: &mut [f32]) {
    each(x.chunks_mut(BLOCK), |x| scale_block(factor, x));
}

/// Sets the elements that `keep` does not name to zero, whatever they are.
///
/// # Panics
/// If the lengths differ.
pub fn zero_masked<E: Element>(x: &mut [E], keep: &[bool]) {
    assert_eq!(keep.len(), x.len());
    each(x.chunks_mut(BLOCK).zip(keep.chunks(BLOCK)), |(x, keep)| zero_block(x, keep));
}

multiversion! {
    fn add_block<FMA; E: Element>(y: &mut [E], x: &[E]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = E::narrow(y.widen() + x.widen());
        }
    }

    fn axpy_block<FMA>(factor: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(factor, *x, *y);
        }
    }

    fn lerp_block<FMA>(weight: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(weight, *x - *y, *y);
        }
    }

    fn scale_block<FMA>(factor: f32, x: &mut [f32]) {
        for x in x {
            *x *= factor;
        }
    }

    fn zero_block<FMA; E: Element>(x: &mut [E], keep: &[bool]) {
        for (x, keep) in x.iter_mut().zip(keep) {
            *x = if *keep { *x } else { E::ZERO };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{NEW, add_in_place, axpy, copy, repeat, scale, zero_masked};
    use crate::testing::{assert_close, numbers, on_any_threads, rounded, widened};

    /// None, one, less than a vector, and some blocks of work with a rest.
    const LENGTHS: [usize; 6] = [0, 1, 7, 1000, 16_384, 40_001];

    #[test]
    fn sums_are_those_of_the_elements() {
        for len in LENGTHS {
            let (x, y) = (numbers(1, len), numbers(2, len));
            let (short_x, short_y) = (rounded(&x), rounded(&y));
            let found = on_any_threads(|| {
                let (mut sum, mut short_sum) = (y.clone(), short_y.clone());
                add_in_place(&mut sum, &x);
                add_in_place(&mut short_sum, &short_x);
                vec![sum, widened(&short_sum)]
            });
            assert_eq!(found[0], x.iter().zip(&y).map(|(x, y)| x + y).collect::<Vec<_>>());
            // The exact sum of two such numbers fits f64, so that this rounds once.
            let once = |(x, y): (&bf16, &bf16)| bf16::from_f64(x.to_f64() + y.to_f64()).to_f32();
            assert_eq!(found[1], short_x.iter().zip(&short_y).map(once).collect::<Vec<_>>());
        }
    }

    #[test]
    fn new_memory_holds_one_value_throughout() {
        for len in [0, 1, 1000, NEW, 2 * NEW + 1] {
            let found = on_any_threads(|| vec![repeat(0.5_f32, len).unwrap()]);
            assert!(found[0].len() == len && found[0].iter().all(|value| *value == 0.5), "{len}");
        }
        assert!(repeat(0_u8, usize::MAX).is_err());
    }

    #[test]
    fn copies_are_the_same_elements() {
        for len in LENGTHS {
            let x = numbers(1, len);
            assert_eq!(
                on_any_threads(|| vec![copy(&x), widened(&copy(&rounded(&x)))]),
                [x.clone(), widened(&rounded(&x))]
            );
        }
    }

    #[test]
    fn multiples_are_added_and_scaled() {
        for len in LENGTHS {
            let (x, y) = (numbers(1, len), numbers(2, len));
            let found = on_any_threads(|| {
                let (mut sum, mut scaled) = (y.clone(), x.clone());
                axpy(0.3, &x, &mut sum);
                scale(-4.0, &mut scaled);
                vec![sum, scaled]
            });
            let factor = f64::from(0.3_f32);
            let expected: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| factor * f64::from(x) + f64::from(y)).collect();
            assert_close(&found[0], &expected, 1e-7, &format!("{len} elements"));
            assert!(found[1].iter().zip(&x).all(|(&scaled, &x)| scaled == -4.0 * x));
        }
    }

    #[test]
    fn what_is_masked_out_becomes_zero_even_if_it_is_no_number() {
        for len in LENGTHS {
            let keep: Vec<bool> = (0..len).map(|i| i * i % 7 < 3).collect();
            let expected: Vec<f32> =
                numbers(1, len).iter().zip(&keep).map(|(&x, &k)| if k { x } else { 0.0 }).collect();
            // Masked elements that times zero would not be zero.
            let mut x = numbers(1, len);
            x.iter_mut().zip(&keep).filter(|(_, keep)| !**keep).for_each(|(x, _)| *x += f32::NAN);
            let found = on_any_threads(|| {
                let (mut long, mut halved) = (x.clone(), rounded(&x));
                zero_masked(&mut long, &keep);
                zero_masked(&mut halved, &keep);
                vec![long, widened(&halved)]
            });
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found[0]), bits(&expected));
            assert_eq!(bits(&found[1]), bits(&widened(&rounded(&expected))));
        }
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn a_mask_of_another_length_is_refused() {
        zero_masked(&mut [1.0_f32; 3], &[true; 2]);
    }
}
