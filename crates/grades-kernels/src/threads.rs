//! The threads of all kernels.
//!
//! A training step is some thousands of short jobs, one after the other. A pool's helpers therefore wait for the next job
//! spinning, for a short while, and sleep only then; with rayon, whose threads sleep between any two jobs, waking them
//! took 8 % of a step. A job is a list of items. Each thread begins with a part of its own, the same for each job of that
//! length, so that it finds what it has written before in its cache; who has finished takes items of the others.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{OnceLock, PoisonError};

use primitives::{Arc, AtomicUsize, JoinHandle, Mutex, MutexGuard, Ordering, Thread, thread};

use crate::processors;

#[cfg(all(test, loom))]
mod models;
mod primitives;
pub(crate) mod simulated;

/// Sets the number of threads for the whole process; only before the first kernel runs.
///
/// # Errors
/// If kernels have run already, or the system gives no threads.
pub fn set_threads(count: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    // Loading, encoding and random values run on rayon's.
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global()?;
    COUNT.get_or_init(|| count);
    Ok(())
}

/// Runs `body` on one of rayon's threads. From there what still runs on rayon starts at once; from any other thread each
/// call would hand itself over and wait to be woken.
pub fn on_worker<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| body())
}

/// The number of threads that kernels run on.
#[must_use]
pub fn threads() -> usize {
    current(|pool| pool.board.slots.len())
}

/// `body` for each item, on all threads.
#[track_caller]
pub(crate) fn each<T: Send>(items: impl IntoIterator<Item = T>, body: impl Fn(T) + Sync) {
    each_with(items, || (), |(), item| body(item));
}

/// `body` for each item, with what `init` made for the thread that runs it.
#[track_caller]
pub(crate) fn each_with<T: Send, S>(
    items: impl IntoIterator<Item = T>,
    init: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, T) + Sync,
) {
    let mut items: Vec<T> = items.into_iter().collect();
    let len = items.len();
    let start = Shared(items.as_mut_ptr());
    // SAFETY: the items move out of the buffer one by one below; a length of zero leaves the vector nothing but the
    // buffer. If a body panics, the items that nobody took are leaked.
    unsafe { items.set_len(0) };
    let run = |claims: &mut dyn Iterator<Item = usize>| {
        let mut state = None;
        for index in claims {
            // SAFETY: `claims` gives each index below `len` once over all threads, and `T` may be sent to this one.
            let item = unsafe { start.get().add(index).read() };
            body(state.get_or_insert_with(&init), item);
        }
    };
    if len == 0 || INSIDE.get() {
        run(&mut (0..len));
    } else if simulated::runs() {
        simulated::job(threads(), len, &run, Location::caller());
    } else if len == 1 {
        run(&mut (0..1));
    } else {
        current(|pool| pool.run(len, &run));
    }
}

/// Whether item `index` of `len` is the last of those that some thread begins with.
pub(crate) fn ends_a_part(index: usize, len: usize) -> bool {
    let threads = threads();
    (1..=threads).any(|thread| len * thread / threads == index + 1)
}

/// What `body` makes of each item, in the items' order.
#[track_caller]
pub(crate) fn map<T: Send, R: Send>(items: impl IntoIterator<Item = T>, body: impl Fn(T) -> R + Sync) -> Vec<R> {
    let items: Vec<T> = items.into_iter().collect();
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    each(items.into_iter().zip(&mut results), |(item, result)| *result = Some(body(item)));
    results.into_iter().flatten().collect()
}

/// A pointer, or what holds some, that the threads of one job share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: whoever makes one sees to it that the threads of a job touch disjoint parts of what it points to, within the call
// that owns that, and that the parts may be sent to them.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The pointer. A method, so that a closure captures the whole and not the pointer alone.
    pub(crate) fn get(&self) -> T {
        self.0
    }
}

static COUNT: OnceLock<usize> = OnceLock::new();
static GLOBAL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    /// Whether this thread runs an item: what is called from there runs on this thread alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The pool of this thread's kernels, where it is not the global one.
    static OWN: RefCell<Option<std::sync::Arc<Pool>>> = const { RefCell::new(None) };
}

fn current<R>(body: impl FnOnce(&Pool) -> R) -> R {
    if let Some(own) = OWN.with_borrow(Clone::clone) {
        return body(&own);
    }
    body(GLOBAL.get_or_init(|| Pool::new(*COUNT.get_or_init(processors::fitting))))
}

/// What one participant runs: the items that `claims` gives it.
type Run<'a> = dyn Fn(&mut dyn Iterator<Item = usize>) + Sync + 'a;

// States of a helper.
/// Waits for a job.
const IDLE: usize = 0;
/// Sleeps until it is woken.
const ASLEEP: usize = 1;
/// Should begin with the job; the caller may still take that back.
const WANTED: usize = 2;
/// Runs the job.
const RUNNING: usize = 3;
/// Should end.
const STOP: usize = 4;

/// Rounds that a helper waits for a job before it sleeps: some hundred microseconds.
const SPINS: usize = if cfg!(loom) { 1 } else { 20_000 };
/// Rounds that a caller waits for its helpers before it gives the processor away.
const PATIENCE: usize = 2_000;

/// One thread's part in a job. On cache lines of its own, since others look at it while it works.
#[derive(Default)]
#[repr(align(128))]
struct Slot {
    state: AtomicUsize,
    /// The next of its items, and the end of them.
    next: AtomicUsize,
    end: AtomicUsize,
}

/// The job of the moment; slot 0 is the calling thread.
struct Board {
    slots: Box<[Slot]>,
    job: Mutex<Option<Job>>,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// A [`Run`] whose lifetime [`Pool::run`] vouches for.
#[derive(Clone, Copy)]
struct Job(*const Run<'static>);

// SAFETY: what it points to is `Sync`, and `Pool::run` ends only when no helper uses it any more.
unsafe impl Send for Job {}

/// Threads that run one job at a time.
pub(crate) struct Pool {
    board: Arc<Board>,
    helpers: Vec<(Thread, Option<JoinHandle<()>>)>,
    /// Held during a job.
    busy: Mutex<()>,
}

impl Pool {
    /// A pool of the calling thread and `threads − 1` helpers, or as many as the system gives.
    pub(crate) fn new(threads: usize) -> Self {
        let mut pool = Self::without_helpers(threads);
        let board = &pool.board;
        let helper = |index: usize| {
            let board = board.clone();
            let name = format!("kernel-{index}");
            thread::Builder::new().name(name).spawn(move || board.help(index)).ok()
        };
        pool.helpers = (1..threads).map_while(helper).map(|handle| (handle.thread().clone(), Some(handle))).collect();
        pool
    }

    /// A pool that counts as so many threads, of which there is only the calling one.
    fn without_helpers(threads: usize) -> Self {
        let slots = (0..threads.max(1)).map(|_| Slot::default()).collect();
        let board = Arc::new(Board { slots, job: Mutex::new(None), panic: Mutex::new(None) });
        Self { board, helpers: Vec::new(), busy: Mutex::new(()) }
    }

    /// Sends the helpers to sleep at once.
    #[cfg(test)]
    fn rest(&self) {
        for slot in &self.board.slots[1..] {
            let _ = slot.state.compare_exchange(IDLE, ASLEEP, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Runs `body` with the kernels that it calls on this pool.
    pub(crate) fn install<R>(self, body: impl FnOnce() -> R) -> R {
        let before = OWN.replace(Some(std::sync::Arc::new(self)));
        let result = catch_unwind(AssertUnwindSafe(body));
        OWN.set(before);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a job of `len` items and returns when all have been run.
    fn run(&self, len: usize, run: &Run<'_>) {
        // A caller on another thread waits.
        let busy = lock(&self.busy);
        let threads = self.board.slots.len();
        for (index, slot) in self.board.slots.iter().enumerate() {
            slot.next.store(len * index / threads, Ordering::Relaxed);
            slot.end.store(len * (index + 1) / threads, Ordering::Relaxed);
        }
        let job: *const Run<'_> = run;
        // SAFETY: only the lifetime changes. The pointer is used by helpers in the state `RUNNING` alone, and this function
        // leaves none in it.
        let job = Job(unsafe { std::mem::transmute::<*const Run<'_>, *const Run<'static>>(job) });
        *lock(&self.board.job) = Some(job);
        for (slot, (thread, _)) in self.board.slots[1..].iter().zip(&self.helpers) {
            if slot.state.swap(WANTED, Ordering::AcqRel) == ASLEEP {
                thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.board.take_part(0, run)));
        for slot in &self.board.slots[1..=self.helpers.len()] {
            // A helper that has not begun yet need not any more.
            if slot.state.compare_exchange(WANTED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
                let mut rounds = 0;
                while slot.state.load(Ordering::Acquire) == RUNNING {
                    rounds += 1;
                    if rounds < PATIENCE { primitives::spin_loop() } else { thread::yield_now() }
                }
            }
        }
        *lock(&self.board.job) = None;
        let panic = lock(&self.board.panic).take();
        drop(busy);
        if let Some(panic) = own.err().or(panic) {
            resume_unwind(panic);
        }
    }
}

/// What none of these hold can be broken by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Runs items of the part of thread `index`, then of the others'.
    fn take_part(&self, index: usize, run: &Run<'_>) {
        let (before, after) = self.slots.split_at(index);
        let mut claims = after.iter().chain(before).flat_map(|slot| {
            std::iter::from_fn(|| {
                let next = slot.next.fetch_add(1, Ordering::Relaxed);
                (next < slot.end.load(Ordering::Relaxed)).then_some(next)
            })
        });
        let before = INSIDE.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut claims)));
        INSIDE.set(before);
        if let Err(panic) = result {
            // Nobody need begin with what is left.
            for slot in &self.slots {
                slot.next.store(slot.end.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            resume_unwind(panic);
        }
    }

    /// What a helper does all its life.
    fn help(&self, index: usize) {
        let state = &self.slots[index].state;
        let mut rounds = 0;
        loop {
            match state.load(Ordering::Acquire) {
                STOP => return,
                WANTED => {
                    if state.compare_exchange(WANTED, RUNNING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                        let job = *lock(&self.job);
                        if let Some(Job(run)) = job {
                            // SAFETY: `Pool::run` keeps what it points to until this helper is no longer `RUNNING`.
                            let run = unsafe { &*run };
                            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_part(index, run))) {
                                lock(&self.panic).get_or_insert(panic);
                            }
                        }
                        state.store(IDLE, Ordering::Release);
                        rounds = 0;
                    }
                }
                ASLEEP => {
                    thread::park();
                    rounds = 0;
                }
                _ if rounds < SPINS => {
                    rounds += 1;
                    primitives::spin_loop();
                }
                _ => {
                    let _ = state.compare_exchange(IDLE, ASLEEP, Ordering::AcqRel, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (slot, (thread, _)) in self.board.slots[1..].iter().zip(&self.helpers) {
            // Not a store, which loom takes for one that a helper's falling asleep may follow.
            slot.state.swap(STOP, Ordering::AcqRel);
            thread.unpark();
        }
        for (_, handle) in &mut self.helpers {
            let _ = handle.take().map(JoinHandle::join);
        }
    }
}

// Outside of a model loom's primitives do not work.
#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{Pool, current, each, each_with, map, threads};

    #[test]
    fn every_item_runs_once() {
        for count in [1, 2, 5] {
            Pool::new(count).install(|| {
                assert_eq!(threads(), count);
                for len in [0, 1, 2, 3, 1000] {
                    let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                    each(&runs, |run| {
                        run.fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1), "{len} items, {count} threads");
                    assert_eq!(map(0..len, |i| i * i), (0..len).map(|i| i * i).collect::<Vec<_>>());
                }
            });
        }
    }

    #[test]
    fn each_thread_has_a_state_of_its_own_and_items_may_be_jobs() {
        let made = AtomicUsize::new(0);
        let mut cells = vec![0; 100];
        Pool::new(3).install(|| {
            each_with(
                cells.iter_mut().enumerate(),
                || made.fetch_add(1, Ordering::Relaxed),
                |_, (i, cell)| *cell = map(0..i, |j| j).into_iter().sum::<usize>(),
            );
        });
        assert!((1..=3).contains(&made.into_inner()));
        assert!(cells.iter().enumerate().all(|(i, &sum)| sum == i * i.saturating_sub(1) / 2));
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        Pool::new(2).install(|| {
            for pause in [0, 1, 30] {
                current(Pool::rest);
                std::thread::sleep(Duration::from_millis(pause));
                // Both must take part: each waits for the other.
                let barrier = std::sync::Barrier::new(2);
                each(0..2, |_| {
                    barrier.wait();
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        Pool::new(3).install(|| {
            for bad in [0, 57, 99] {
                let result = std::panic::catch_unwind(|| each(0..100, |i| assert_ne!(i, bad)));
                assert!(result.is_err(), "item {bad}");
                assert_eq!(map(0..10, |i| i).len(), 10);
            }
        });
    }

    #[test]
    fn callers_on_several_threads_wait_for_each_other() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        each(0..50, |i| {
                            total.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 49 * 50 / 2);
    }
}
