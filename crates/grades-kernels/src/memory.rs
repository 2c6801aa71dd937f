//! How the process keeps memory between steps.
//!
//! A training step allocates and frees the same buffers again and again. The C library hands large freed buffers back
//! to the system at once, and the page faults of getting them again take a quarter of a step.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::processors;

/// Keeps freed buffers for the next step, asks for large pages for them, and spreads them over all memory nodes. Call it once, at the
/// start of the program, before there are other threads.
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
        spread_over_nodes();
        reserve_large_pages();
    }
}

/// Has the system take pages from all memory nodes in turn, on a machine that has several, unless it was told otherwise already
/// (`numactl`). Threads that begin later do the same.
///
/// By itself it takes a page from the node of the thread that writes it first. Weights lie then on the node of the thread that read
/// them, and activations, whose memory is freed and used again by other threads, wherever their first users were. In turn all nodes
/// serve all threads, each with its share of the bandwidth.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn spread_over_nodes() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(nodes) = memory_nodes(&status).filter(|nodes| nodes.len() > 1) else { return };
    let mut mask = [0 as libc::c_ulong; MOST_NODES / libc::c_ulong::BITS as usize];
    for node in nodes {
        mask[node / libc::c_ulong::BITS as usize] |= 1 << (node % libc::c_ulong::BITS as usize);
    }
    let mut mode: libc::c_int = 0;
    let none = std::ptr::null_mut::<libc::c_ulong>();
    // SAFETY: the first call writes `mode` alone, the second reads as many bits of `mask` as it has. Where the system refuses
    // either, pages lie where they would have lain.
    unsafe {
        let asked = libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, none, 0_usize, none, 0_usize);
        if asked == 0 && mode == libc::MPOL_DEFAULT {
            // The kernel reads one bit less than it is told.
            libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_INTERLEAVE, mask.as_ptr(), MOST_NODES + 1);
        }
    }
}

/// As many memory nodes as Linux can have.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MOST_NODES: usize = 1024;

/// The memory nodes that the process may use, by `/proc/self/status`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn memory_nodes(status: &str) -> Option<Vec<usize>> {
    let line = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"))?;
    processors::list(line).filter(|nodes| nodes.iter().all(|&node| node < MOST_NODES))
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

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::{memory_nodes, spread_over_nodes};

    #[test]
    fn nodes_are_those_that_the_system_allows() {
        assert_eq!(memory_nodes("Name:\tgrades\nMems_allowed:\t3\nMems_allowed_list:\t0-1,4\n"), Some(vec![0, 1, 4]));
        assert_eq!(memory_nodes("Mems_allowed_list:\t0\n"), Some(vec![0]));
        for status in ["", "Mems_allowed_list:\t\n", "Mems_allowed_list:\t0-1024\n", "Mems_allowed_list:\t-1\n"] {
            assert_eq!(memory_nodes(status), None, "{status}");
        }
        // Wherever the tests run, memory can be written after it.
        spread_over_nodes();
        assert_eq!(vec![7_u8; 1 << 20].iter().map(|&x| u64::from(x)).sum::<u64>(), 7 << 20);
    }
}
