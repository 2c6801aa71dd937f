//! Pictures that are decoded and resized by a thread of their own while a step computes.
//!
//! What a picture becomes does not depend on who decodes it or when, so results do not either: what the thread has not come to is
//! decoded by whoever needs it, and a picture that it could not decode is decoded again there, where the error names its row.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{mem, thread};

use grades_images::Pixels;

use crate::data::{DataError, Picture, Placed, Vision};

/// Bytes of decoded pictures beyond which the thread waits.
pub(super) const MOST: usize = 128 << 20;

/// The thread, and what it has decoded.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    vision: Arc<Vision>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is wanted and not yet begun, in the order in which it will be needed.
    queue: VecDeque<Placed>,
    /// What is being decoded.
    begun: Option<Picture>,
    done: HashMap<Picture, Pixels>,
    bytes: usize,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        // Looks up now and then, for a thread that is gone.
        let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Decodes what is wanted, until the end.
    fn work(&self) {
        let mut state = self.state();
        while !state.ended {
            let next = if state.bytes < MOST { state.queue.pop_front() } else { None };
            let Some(placed) = next else {
                state = self.wait(state);
                continue;
            };
            state.begun = Some(placed.picture.clone());
            drop(state);
            let pixels = self.vision.pixels(&placed.picture);
            state = self.state();
            state.begun = None;
            if let Ok(pixels) = pixels {
                state.bytes += bytes(&pixels);
                state.done.insert(placed.picture, pixels);
            }
            self.changed.notify_all();
        }
    }
}

impl Ahead {
    pub(super) fn new(vision: Arc<Vision>) -> Self {
        let shared = Arc::new(Shared { vision, state: Mutex::default(), changed: Condvar::new() });
        let worker = shared.clone();
        // Without a thread all is decoded where it is needed.
        let thread = thread::Builder::new().name("pictures".to_owned()).spawn(move || worker.work()).ok();
        Self { shared, thread }
    }

    /// Pictures that will be needed, in their order. What was wanted before and is not any more is dropped.
    pub(super) fn want(&self, pictures: Vec<Placed>) {
        let mut state = self.shared.state();
        let mut kept = HashMap::new();
        let mut queue = VecDeque::new();
        for placed in pictures {
            if let Some((picture, pixels)) = state.done.remove_entry(&placed.picture) {
                kept.insert(picture, pixels);
            } else if !kept.contains_key(&placed.picture) && state.begun.as_ref() != Some(&placed.picture) {
                queue.push_back(placed);
            }
        }
        state.bytes = kept.values().map(bytes).sum();
        (state.done, state.queue) = (kept, queue);
        self.shared.changed.notify_all();
    }

    /// The pixels of some pictures, in their order; each is decoded once, however often it is among them.
    ///
    /// # Errors
    /// A picture cannot be decoded; the row that it belongs to is named.
    pub(super) fn take(&self, pictures: &[&Placed]) -> Result<Vec<Pixels>, DataError> {
        let (mut different, mut places): (Vec<&Placed>, Vec<usize>) = (Vec::new(), Vec::new());
        for placed in pictures {
            let place = different.iter().position(|other| other.picture == placed.picture);
            places.push(place.unwrap_or(different.len()));
            if place.is_none() {
                different.push(placed);
            }
        }
        let pixels = self.take_each(&different)?;
        if different.len() == pictures.len() {
            return Ok(pixels);
        }
        Ok(places.into_iter().map(|place| pixels[place].clone()).collect())
    }

    /// The same of pictures no two of which are the same.
    fn take_each(&self, pictures: &[&Placed]) -> Result<Vec<Pixels>, DataError> {
        let mut state = self.shared.state();
        let mut found = Vec::with_capacity(pictures.len());
        for placed in pictures {
            let pixels = state.done.remove(&placed.picture);
            state.bytes -= pixels.as_ref().map_or(0, bytes);
            found.push(pixels);
        }
        state.queue.retain(|other| pictures.iter().all(|placed| placed.picture != other.picture));
        let begun = state.begun.clone();
        self.shared.changed.notify_all();
        drop(state);
        let theirs = pictures.iter().position(|placed| begun.as_ref() == Some(&placed.picture));
        self.decode(pictures, &mut found, |at| Some(at) != theirs)?;
        if let Some(theirs) = theirs.filter(|&at| found[at].is_none()) {
            found[theirs] = self.finished(&pictures[theirs].picture);
        }
        self.decode(pictures, &mut found, |_| true)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Decodes those that were not found, of those that are ours to decode.
    fn decode(
        &self,
        pictures: &[&Placed],
        found: &mut [Option<Pixels>],
        is_ours: impl Fn(usize) -> bool,
    ) -> Result<(), DataError> {
        let missing: Vec<usize> = (0..found.len()).filter(|&at| found[at].is_none() && is_ours(at)).collect();
        let placed: Vec<&Placed> = missing.iter().map(|&at| pictures[at]).collect();
        for (at, pixels) in missing.into_iter().zip(self.shared.vision.pixels_of(&placed)?) {
            found[at] = Some(pixels);
        }
        Ok(())
    }

    /// What the thread makes of the picture that it has begun; `None` if it cannot decode it.
    fn finished(&self, picture: &Picture) -> Option<Pixels> {
        let mut state = self.shared.state();
        let is_there = || self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while state.begun.as_ref() == Some(picture) && is_there() {
            state = self.shared.wait(state);
        }
        let pixels = state.done.remove(picture)?;
        state.bytes -= bytes(&pixels);
        Some(pixels)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = mem::take(&mut self.thread) {
            // One that has panicked has left nothing that is needed.
            let _ = thread.join();
        }
    }
}

fn bytes(pixels: &Pixels) -> usize {
    size_of::<f32>()
        * match pixels {
            Pixels::Tiles(tiles) => tiles.values.len(),
            Pixels::Patches(patches) => patches.values.len(),
        }
}
