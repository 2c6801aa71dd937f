//! Asking for memory ahead of its use.

/// Asks for `elements` to be brought into the cache. Rows that lie far apart are not foreseen by the processor itself.
#[inline(always)]
pub(crate) fn expect<T>(elements: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let start = elements.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(elements)).step_by(LINE) {
            // SAFETY: a hint, which reads nothing; every x86-64 processor has it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}
