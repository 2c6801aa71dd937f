//! What the pool is made of: the standard library's, or loom's where its models run (`--cfg loom`), which tries the orders in which
//! threads may take their turns.

#[cfg(not(loom))]
pub(super) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle, Thread},
};

#[cfg(loom)]
pub(super) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle, Thread},
};
