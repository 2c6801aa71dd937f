//! The threads of all kernels: rayon's global pool.

/// Sets the number of threads for the whole process; only before the first kernel runs.
///
/// # Errors
/// If kernels have run already, or the system gives no threads.
pub fn set_threads(count: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global()
}

/// The number of threads that kernels run on.
#[must_use]
pub fn threads() -> usize {
    rayon::current_num_threads()
}
