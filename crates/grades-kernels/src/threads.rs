//! The threads of all kernels: rayon's global pool.

/// Sets the number of threads for the whole process; only before the first kernel runs.
///
/// # Errors
/// If kernels have run already, or the system gives no threads.
pub fn set_threads(count: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global()
}

/// Runs `body` on one of the kernels' threads. From there a kernel starts at once; from any other thread each call would
/// hand itself over and wait to be woken.
pub fn on_worker<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| body())
}

/// The number of threads that kernels run on.
#[must_use]
pub fn threads() -> usize {
    rayon::current_num_threads()
}
