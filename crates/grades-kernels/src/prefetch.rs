//! Asking for memory ahead of its use.

/// Asks for `elements` to be brought into the cache. Rows that lie far apart are not foreseen by the processor itself.
#[inline(always)]
pub(crate) fn expect<T>(elements: &[T]) {
    const LINE: usize = 64;
    let start = elements.as_ptr().cast::<u8>();
    for offset in (0..size_of_val(elements)).step_by(LINE) {
        expect_line(start.wrapping_add(offset));
    }
}

/// Asks for the cache line of `address`, which may lie anywhere.
#[inline(always)]
pub(crate) fn expect_line<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing; every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
