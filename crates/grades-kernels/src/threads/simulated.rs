//! What work would take on more threads than there are processors: the items of each job are run one after the other and timed, and
//! then dealt out as the pool deals them.
//!
//! Counted is what the number of items and their sizes decide: threads that wait for others at the end of a job, and what runs outside
//! of jobs. Not counted is what threads share: memory, its bandwidth, and the clock; and that a thread which takes an item of another's
//! part may have to pack again.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::time::Duration;

use super::{INSIDE, Pool, Run};

/// One job: items that may run at once, and a barrier at their end.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Where the kernel hands it out.
    pub place: &'static Location<'static>,
    /// Its items.
    pub items: usize,
    /// What all of them take on one processor.
    pub work: Duration,
    /// What the thread takes that ends last.
    pub longest: Duration,
}

/// What some work would be on a number of threads.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The threads.
    pub threads: usize,
    /// The jobs, in their order.
    pub jobs: Vec<Job>,
    /// The time outside of them, in which one thread works.
    pub outside: Duration,
}

thread_local! {
    /// The jobs of a simulation that runs on this thread.
    static JOBS: RefCell<Option<Vec<Job>>> = const { RefCell::new(None) };
    /// The time that their simulation has taken, watching included.
    static TAKEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `body` on this thread, cut into jobs and items as for so many threads, and gives what it would be on them.
pub fn simulate<R>(threads: usize, body: impl FnOnce() -> R) -> (R, Simulation) {
    /// Puts back what was there before, when the simulation ends or panics.
    struct Before(Option<Vec<Job>>);
    impl Drop for Before {
        fn drop(&mut self) {
            JOBS.set(self.0.take());
        }
    }
    let before = Before(JOBS.replace(Some(Vec::new())));
    TAKEN.set(Duration::ZERO);
    let start = now();
    let result = Pool::without_helpers(threads).install(body);
    let whole = now().saturating_sub(start);
    let jobs = JOBS.take().unwrap_or_default();
    drop(before);
    (result, Simulation { threads, jobs, outside: whole.saturating_sub(TAKEN.get()) })
}

/// Whether this thread simulates others.
pub(super) fn runs() -> bool {
    JOBS.with_borrow(Option::is_some)
}

/// Runs a job of `len` items on `threads` simulated threads: each begins with its own part, as in the pool.
pub(super) fn job(threads: usize, len: usize, run: &Run<'_>, place: &'static Location<'static>) {
    /// What is called from items runs within them, until the job ends or panics.
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
    let start = now();
    INSIDE.set(true);
    let inside = Inside;
    let parts: Vec<Vec<Duration>> = (0..threads)
        .map(|thread| {
            let (times, mut last) = (RefCell::new(Vec::new()), now());
            let next = Cell::new(len * thread / threads);
            run(&mut std::iter::from_fn(|| {
                let index = next.get();
                let time = now();
                if index > len * thread / threads {
                    times.borrow_mut().push(time.saturating_sub(last));
                }
                last = time;
                next.set(index + 1);
                (index < len * (thread + 1) / threads).then_some(index)
            }));
            times.into_inner()
        })
        .collect();
    drop(inside);
    let job = Job { place, items: len, work: parts.iter().flatten().sum(), longest: longest(&parts) };
    JOBS.with_borrow_mut(|jobs| jobs.get_or_insert_default().push(job));
    TAKEN.set(TAKEN.get() + now().saturating_sub(start));
}

/// When the last thread ends: each takes the items of its own part, then those that are left of the others'.
fn longest(parts: &[Vec<Duration>]) -> Duration {
    let mut next = vec![0; parts.len()];
    let mut busy_until = vec![Duration::ZERO; parts.len()];
    let mut left: usize = parts.iter().map(Vec::len).sum();
    while left > 0 {
        let first = busy_until.iter().enumerate().min_by_key(|(_, time)| **time);
        let Some(thread) = first.map(|(thread, _)| thread) else { break };
        let mut order = (thread..parts.len()).chain(0..thread);
        let Some(part) = order.find(|&part| next[part] < parts[part].len()) else { break };
        busy_until[thread] += parts[part][next[part]];
        next[part] += 1;
        left -= 1;
    }
    busy_until.into_iter().max().unwrap_or_default()
}

/// The time that this thread has had of a processor: others that want it do not count.
#[cfg(target_os = "linux")]
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes `time`, and knows this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time that has passed.
#[cfg(not(target_os = "linux"))]
fn now() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::threads::{each, map, threads};

    fn milliseconds(parts: &[&[u64]]) -> u64 {
        let parts: Vec<Vec<Duration>> =
            parts.iter().map(|part| part.iter().map(|&ms| Duration::from_millis(ms)).collect()).collect();
        longest(&parts).as_millis() as u64
    }

    #[test]
    fn items_are_dealt_as_the_pool_deals_them() {
        assert_eq!(milliseconds(&[]), 0);
        assert_eq!(milliseconds(&[&[3, 4]]), 7);
        assert_eq!(milliseconds(&[&[3], &[], &[5]]), 5);
        // The second thread takes one of the first's when it has ended.
        assert_eq!(milliseconds(&[&[4, 4, 4], &[1]]), 8);
        // Three items on two threads: the last of them alone.
        assert_eq!(milliseconds(&[&[2], &[2, 2]]), 4);
        // The longest item begins last.
        assert_eq!(milliseconds(&[&[1, 1, 9], &[1, 1, 1]]), 11);
    }

    #[test]
    fn every_item_runs_once_and_every_job_is_counted() {
        let ((cells, seen), simulation) = simulate(5, || {
            let mut cells = vec![0; 12];
            each(&mut cells, |cell| *cell += map(0..3, |i| i).len());
            each(0..1, |_| {});
            each(0..0, |_: usize| {});
            (cells, threads())
        });
        assert_eq!((cells, seen, simulation.threads), (vec![3; 12], 5, 5));
        // What items call runs within them; a job of nothing is none.
        assert_eq!(simulation.jobs.iter().map(|job| job.items).collect::<Vec<_>>(), [12, 1]);
        for job in &simulation.jobs {
            assert!(job.longest <= job.work && job.place.file().ends_with("simulated.rs"));
        }
        assert!(!runs() && !INSIDE.get());
    }

    #[test]
    fn a_simulation_ends_with_a_panic() {
        let result = std::panic::catch_unwind(|| simulate(3, || each(0..9, |i| assert_ne!(i, 4))));
        assert!(result.is_err() && !INSIDE.get() && !runs());
        assert_eq!(simulate(2, || map(0..4, |i| i)).0, [0, 1, 2, 3]);
    }
}
