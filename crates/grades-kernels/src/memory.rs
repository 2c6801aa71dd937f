//! How the process keeps memory between steps.
//!
//! A training step allocates and frees the same buffers again and again. The C library hands large freed buffers back
//! to the system at once, and the page faults of getting them again take a quarter of a step.

/// Keeps freed buffers for the next step. Call it once, at the start of the program.
pub fn reuse_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const ALWAYS: libc::c_int = libc::c_int::MAX;
        // SAFETY: mallopt only sets options of the allocator; both are valid for every value given here.
        unsafe {
            // A threshold above 32 MiB is refused, so mappings of their own are turned off, not only made rare.
            libc::mallopt(libc::M_MMAP_MAX, 0);
            // The arenas of further threads give their memory back whatever the options say: one for all.
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, ALWAYS);
        }
    }
}

/// A vector of `len` numbers that `write` writes, in memory that is not cleared before.
///
/// # Safety
/// `write` writes every element, and reads none that it has not written.
pub(crate) unsafe fn written<E: crate::Element>(len: usize, write: impl FnOnce(&mut [E])) -> Vec<E> {
    let mut new: Vec<E> = Vec::with_capacity(len);
    // SAFETY: the memory is there and this function's alone; an element is a plain number, of which every pattern is a
    // value, and none is read before it is written.
    write(unsafe { std::slice::from_raw_parts_mut(new.as_mut_ptr(), len) });
    // SAFETY: the elements have been written.
    unsafe { new.set_len(len) };
    new
}

/// Gives what is free now back to the system: for when much less will be needed from here on.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
