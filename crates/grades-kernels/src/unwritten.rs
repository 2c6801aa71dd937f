//! New memory that a kernel writes.
//!
//! It is not cleared before. Kernels write it through [`MaybeUninit`], and a vector of values comes into being only when all of
//! it has been written.

use std::mem::{ManuallyDrop, MaybeUninit};

/// A vector of `len` elements that `write` writes, in memory that is not cleared before.
///
/// # Safety
/// `write` writes every element, or panics.
pub(crate) unsafe fn written<T: Copy>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    // SAFETY: the caller's promise.
    let [new] = unsafe { written_each([len], |[new]| write(new)) };
    new
}

/// `N` vectors of `lens` elements that `write` writes, in memory that is not cleared before.
///
/// # Safety
/// As [`written`].
pub(crate) unsafe fn written_each<T: Copy, const N: usize>(
    lens: [usize; N],
    write: impl FnOnce([&mut [MaybeUninit<T>]; N]),
) -> [Vec<T>; N] {
    let mut all = lens.map(unwritten);
    write(all.each_mut().map(Vec::as_mut_slice));
    // SAFETY: the caller's promise.
    all.map(|new| unsafe { assume_written(new) })
}

/// As [`written_each`], for any number of vectors.
///
/// # Safety
/// As [`written`].
pub(crate) unsafe fn written_all<T: Copy>(
    lens: &[usize],
    write: impl FnOnce(Vec<&mut [MaybeUninit<T>]>),
) -> Vec<Vec<T>> {
    let mut all: Vec<_> = lens.iter().map(|&len| unwritten(len)).collect();
    write(all.iter_mut().map(Vec::as_mut_slice).collect());
    // SAFETY: the caller's promise.
    all.into_iter().map(|new| unsafe { assume_written(new) }).collect()
}

/// Room for `len` elements.
fn unwritten<T: Copy>(len: usize) -> Vec<MaybeUninit<T>> {
    let mut new: Vec<MaybeUninit<T>> = Vec::with_capacity(len);
    // SAFETY: the memory is there, and elements that may be uninitialised need not be written.
    unsafe { new.set_len(len) };
    // In tests, each element is not a number, so that one which a kernel leaves out shows in what it gives.
    #[cfg(test)]
    // SAFETY: the memory is there, and elements that may be uninitialised may hold any bytes.
    unsafe {
        new.as_mut_ptr().write_bytes(0xff, len);
    }
    new
}

/// The same memory as elements.
///
/// # Safety
/// Every element has been written.
unsafe fn assume_written<T: Copy>(new: Vec<MaybeUninit<T>>) -> Vec<T> {
    let mut new = ManuallyDrop::new(new);
    let (start, len, capacity) = (new.as_mut_ptr().cast::<T>(), new.len(), new.capacity());
    // SAFETY: the memory comes from a vector that gives it up here; `MaybeUninit<T>` has the size and alignment of `T`, so
    // that the allocation is that of a vector of `T`; all elements below the length hold values by the caller's promise.
    unsafe { Vec::from_raw_parts(start, len, capacity) }
}

/// Elements that hold values as a place to write to.
///
/// # Safety
/// Nothing but values of `T` is written to it.
pub(crate) unsafe fn to_write<T: Copy>(elements: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: both have the same layout, the memory stays borrowed mutably, and by the caller's promise it holds values after.
    unsafe { &mut *(std::ptr::from_mut(elements) as *mut [MaybeUninit<T>]) }
}

/// Writes `value` to every element.
pub(crate) fn filled<T: Copy>(elements: &mut [MaybeUninit<T>], value: T) -> &mut [T] {
    elements.fill(MaybeUninit::new(value));
    // SAFETY: every element has just been written.
    unsafe { elements.assume_init_mut() }
}
