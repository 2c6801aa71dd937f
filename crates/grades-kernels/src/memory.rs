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
            libc::mallopt(libc::M_MMAP_THRESHOLD, ALWAYS);
            libc::mallopt(libc::M_TRIM_THRESHOLD, ALWAYS);
        }
    }
}

/// Gives what is free now back to the system: for when much less will be needed from here on.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
