//! An allocator with a limit, which ends the process where somebody asks for more.

use std::alloc::System;
use std::sync::Mutex;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Does `what` with at most so many bytes beside those that the process holds already. One at a time, since they count by process.
pub(crate) fn within<T>(bytes: usize, what: impl FnOnce() -> T) -> T {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + bytes).unwrap();
    let result = what();
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    result
}
