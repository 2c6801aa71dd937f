//! The pool under loom, which runs each model in all orders of its threads' turns, within a bound of forced changes, and with every value
//! that an atomic may give under the order asked for. It fails where a cell is read and written without order, and where all threads
//! wait.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p grades-kernels --lib --target-dir target/loom -- models
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::primitives::Arc;
use super::{IDLE, Pool};

/// Numbers that the threads of a job read and write in turn, with no order but the pool's.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: loom sees when two threads use a cell at a time, which is what the models are for.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

impl Cells {
    fn new(len: usize) -> Self {
        Self((0..len).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, index: usize, number: usize) {
        // SAFETY: loom's pointer is valid, and it fails where another thread uses the cell.
        self.0[index].with_mut(|cell| unsafe { *cell += number });
    }

    fn read(&self) -> Vec<usize> {
        // SAFETY: as above.
        self.0.iter().map(|cell| cell.with(|cell| unsafe { *cell })).collect()
    }
}

impl Pool {
    /// Adds a number to each of the cells, each in an item of its own.
    fn add(&self, cells: &Cells, number: usize) {
        self.run(cells.0.len(), &|claims| claims.for_each(|index| cells.add(index, number)));
    }
}

#[test]
fn each_item_runs_once() {
    loom::model(|| {
        let (pool, cells) = (Pool::new(2), Cells::new(3));
        pool.add(&cells, 1);
        assert_eq!(cells.read(), [1, 1, 1]);
    });
}

#[test]
fn a_job_sees_what_was_written_before_it() {
    loom::model(|| {
        let (pool, cells) = (Pool::new(2), Cells::new(2));
        pool.add(&cells, 1);
        (0..2).for_each(|index| cells.add(index, 2));
        pool.add(&cells, 4);
        assert_eq!(cells.read(), [7, 7]);
    });
}

#[test]
fn three_threads_share_a_job() {
    let mut model = loom::model::Builder::new();
    // With three changes of threads that are forced there are too many orders.
    model.preemption_bound = Some(2);
    model.check(|| {
        let (pool, cells) = (Pool::new(3), Cells::new(3));
        pool.add(&cells, 1);
        assert_eq!(cells.read(), [1, 1, 1]);
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    loom::model(|| {
        for bad in 0..2 {
            let (pool, cells) = (Pool::new(2), Cells::new(2));
            let run = |claims: &mut dyn Iterator<Item = usize>| {
                // Without the message of `panic!`, in each of many thousand runs.
                claims
                    .for_each(|index| if index == bad { resume_unwind(Box::new(index)) } else { cells.add(index, 1) });
            };
            let panic = catch_unwind(AssertUnwindSafe(|| pool.run(2, &run))).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&bad));
            let before = cells.read();
            pool.add(&cells, 2);
            assert_eq!(cells.read(), before.iter().map(|number| number + 2).collect::<Vec<_>>());
        }
    });
}

#[test]
fn helpers_that_sleep_are_woken() {
    loom::model(|| {
        let (pool, here) = (Pool::new(2), [AtomicBool::new(false), AtomicBool::new(false)]);
        pool.rest();
        // Both must take part: each waits for the other.
        pool.run(2, &|claims| {
            for index in claims {
                here[index].store(true, Ordering::Release);
                while !here[1 - index].load(Ordering::Acquire) {
                    thread::yield_now();
                }
            }
        });
    });
}

#[test]
fn callers_on_two_threads_wait_for_each_other() {
    loom::model(|| {
        let shared = Arc::new((Pool::new(2), Cells::new(2)));
        let other = shared.clone();
        let caller = thread::spawn(move || other.0.add(&other.1, 1));
        let (pool, cells) = &*shared;
        pool.add(cells, 2);
        caller.join().unwrap();
        assert_eq!(cells.read(), [3, 3]);
    });
}

#[test]
fn a_pool_that_goes_ends_its_helpers() {
    loom::model(|| {
        drop(Pool::new(3));
        let pool = Pool::new(2);
        pool.rest();
        assert_ne!(pool.board.slots[1].state.load(Ordering::Relaxed), IDLE);
    });
}
