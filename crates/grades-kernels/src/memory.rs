//! How the process keeps memory between steps.
//!
//! A training step allocates and frees the same buffers again and again. The C library hands large freed buffers back
//! to the system at once, and the page faults of getting them again take a quarter of a step.

/// Keeps freed buffers for the next step, and asks for large pages for them. Call it once, at the start of the program.
///
/// A step walks through gigabytes; with pages of 4 KiB it spends some 3 % of its time looking up where they lie.
pub fn reuse_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const NEVER: libc::c_int = -1;
        // SAFETY: mallopt only sets options of the allocator; all are valid for every value given here.
        unsafe {
            // A threshold above 32 MiB is refused, so mappings of their own are turned off, not only made rare.
            libc::mallopt(libc::M_MMAP_MAX, 0);
            // The arenas of further threads give their memory back whatever the options say: one for all.
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
        }
        reserve_large_pages();
    }
}

/// Lets the heap grow at once to three quarters of the machine's memory, in addresses only, and asks for large pages there: where
/// the system gives them on request, it must know before the memory is first written.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn reserve_large_pages() {
    const LARGE: usize = 2 << 20;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is written by the call; sysconf only reads.
    let (addresses, pages, page) = unsafe {
        libc::getrlimit(libc::RLIMIT_AS, &raw mut limit);
        (limit.rlim_cur, libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE))
    };
    // Who has limited the addresses needs them for other things.
    let (Ok(pages), Ok(page), libc::RLIM_INFINITY) = (usize::try_from(pages), usize::try_from(page), addresses) else {
        return;
    };
    // The system refuses a block of all its memory.
    let size = pages.saturating_mul(page) / 4 * 3;
    // SAFETY: the block is this function's alone and is freed once; the advice changes no byte of it, and the range lies
    // within the block. Where the system refuses any of it, pages stay small.
    unsafe {
        let block = libc::malloc(size);
        if !block.is_null() {
            let before = block.align_offset(LARGE);
            if before < size {
                libc::madvise(block.wrapping_byte_add(before), (size - before) / LARGE * LARGE, libc::MADV_HUGEPAGE);
            }
            libc::free(block);
        }
    }
}

/// Gives what is free now back to the system: for when much less will be needed from here on.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim may be called at any time; it touches free memory only.
        unsafe { libc::malloc_trim(0) };
        // The end of the heap has gone back as well.
        reserve_large_pages();
    }
}
