//! What is to be written, and what waits for its turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use grades_models::sampling::{Penalties, Sampler};

use super::error::ApiError;
use super::logprobs::Told;
use crate::data::Placed;

/// A text that is to be written.
#[derive(Debug)]
pub(super) struct Job {
    /// What it follows.
    pub(super) prompt: Arc<Vec<u32>>,
    /// The pictures in it.
    pub(super) pictures: Arc<Vec<Placed>>,
    /// Tokens that end it, and are no part of it.
    pub(super) ends: Arc<Vec<u32>>,
    /// How its tokens are drawn.
    pub(super) sampler: Sampler,
    /// What is done to logits before.
    pub(super) penalties: Arc<Penalties>,
    /// Texts that end it.
    pub(super) stop: Vec<String>,
    /// Most tokens.
    pub(super) max_new_tokens: usize,
    /// Whether it is told how likely tokens were, and of how many others.
    pub(super) logprobs: Option<usize>,
    /// Whether that is told of the prompt, too.
    pub(super) echo: bool,
    /// Which of the texts of its request it is.
    pub(super) index: usize,
    /// Whom to tell.
    pub(super) events: Sender<(usize, Event)>,
    /// Whether nobody waits for it any more.
    pub(super) gone: Arc<AtomicBool>,
}

/// What becomes of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// The prompt is read: its tokens, if asked for.
    Prompt(Vec<Told>),
    /// A piece of it, with its tokens, if asked for.
    Piece(String, Vec<Told>),
    /// It has ended, with so many tokens.
    End(Finish, usize),
    /// It cannot go on.
    Failed(ApiError),
}

/// Why a text has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// At an end or a stop.
    Stop,
    /// At the most tokens.
    Length,
}

impl Finish {
    /// As the API names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Jobs that wait.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// For so many jobs at most.
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), most }
    }

    /// Puts the jobs of a request at the end, all or none.
    ///
    /// # Errors
    /// There is no room for them, or the server ends.
    pub(super) fn push(&self, jobs: Vec<Job>) -> Result<(), ApiError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(ending());
        }
        waiting.jobs.retain(|job| !job.gone.load(Relaxed));
        if waiting.jobs.len() + jobs.len() > self.most {
            return Err(ApiError::unavailable("overloaded", "too many requests wait already; try again later"));
        }
        waiting.jobs.extend(jobs);
        self.changed.notify_all();
        Ok(())
    }

    /// The next jobs, at most so many; with `wait` at least one. `None` if there are none and will be none.
    pub(super) fn take(&self, most: usize, wait: bool) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        loop {
            waiting.jobs.retain(|job| !job.gone.load(Relaxed));
            if !waiting.jobs.is_empty() || (!wait && !waiting.closed) {
                let count = most.min(waiting.jobs.len());
                return Some(waiting.jobs.drain(..count).collect());
            }
            if waiting.closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more jobs.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said when the server ends.
pub(super) fn ending() -> ApiError {
    ApiError::unavailable("shutting_down", "the server is being ended")
}
