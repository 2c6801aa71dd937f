//! Where a run takes its steps from: samples that are all known, or a stream that a thread of its own reads and encodes ahead of the
//! training.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::batch::{Batch, Loader, LoaderOptions};
use super::error::DataError;
use super::held::Held;
use super::stream::Fresh;

/// Steps that wait ready.
const AHEAD: usize = 4;
/// Steps that were given and may be asked for again.
const KEPT: usize = 16;

/// What gives a run its steps.
#[derive(Clone, Debug)]
pub enum Feed {
    /// All samples are known: in memory, or in a file of their tokens.
    Whole(Loader),
    /// They are read while training goes on.
    Stream(Stream),
}

impl From<Loader> for Feed {
    fn from(loader: Loader) -> Self {
        Self::Whole(loader)
    }
}

/// Sends the steps of a stream from the first on, until nobody takes them.
pub type Produce = dyn Fn(&SyncSender<Result<Fresh, DataError>>) + Send + Sync;

/// Steps that a thread makes.
pub struct Stream {
    produce: Arc<Produce>,
    /// The most tokens of a micro-batch.
    largest: usize,
    running: Option<Receiver<Result<Fresh, DataError>>>,
    /// The last steps, and the number of the one behind them.
    kept: VecDeque<Fresh>,
    next: usize,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Clone for Stream {
    /// The same from its first step on.
    fn clone(&self) -> Self {
        Self { produce: self.produce.clone(), largest: self.largest, running: None, kept: VecDeque::new(), next: 0 }
    }
}

impl Stream {
    /// Of what `produce` sends, whose rows have at most `sequence_len` tokens. Nothing runs before the first step is asked for.
    pub fn new(produce: Arc<Produce>, options: LoaderOptions, sequence_len: usize) -> Self {
        let largest = options.micro_batch_size.max(1).saturating_mul(sequence_len);
        Self { produce, largest, running: None, kept: VecDeque::new(), next: 0 }
    }

    fn step(&mut self, step: usize) -> Result<&Fresh, DataError> {
        if step + self.kept.len() < self.next {
            // Long gone: from the beginning, which gives the same.
            *self = self.clone();
        }
        let gone = || DataError::Format("the thread that reads the data has ended; begin the run again".to_owned());
        while self.next <= step {
            let steps = match &self.running {
                Some(steps) => steps,
                None => self.running.insert(start(self.produce.clone()).map_err(|_| gone())?),
            };
            self.kept.push_back(steps.recv().map_err(|_| gone())??);
            self.next += 1;
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        self.kept.get(step + self.kept.len() - self.next).ok_or_else(gone)
    }
}

fn start(produce: Arc<Produce>) -> std::io::Result<Receiver<Result<Fresh, DataError>>> {
    let (sender, steps) = sync_channel(AHEAD);
    // It ends when the other side is gone.
    thread::Builder::new().name("data".to_owned()).spawn(move || produce(&sender))?;
    Ok(steps)
}

impl Feed {
    /// The micro-batches of a step, counted from 0.
    ///
    /// # Errors
    /// Of a stream: a file cannot be read, or a row does not fit.
    pub fn step(&mut self, step: usize) -> Result<Vec<Batch>, DataError> {
        match self {
            Self::Whole(loader) => loader.step(step),
            Self::Stream(stream) => Ok(stream.step(step)?.0.clone()),
        }
    }

    /// The micro-batches of these steps, as far as none of their samples comes in a step before them.
    ///
    /// # Errors
    /// As of [`step`](Self::step).
    pub fn unseen(&mut self, steps: Range<usize>) -> Result<Vec<Batch>, DataError> {
        let mut batches = Vec::new();
        for step in steps {
            match self {
                Self::Whole(loader) if step < loader.steps_per_epoch() => batches.extend(loader.step(step)?),
                Self::Whole(_) => {}
                Self::Stream(stream) => {
                    let (of_step, is_fresh) = stream.step(step)?;
                    if *is_fresh {
                        batches.extend(of_step.iter().cloned());
                    }
                }
            }
        }
        Ok(batches)
    }

    /// Steps of one epoch, where it is known.
    pub fn steps_per_epoch(&self) -> Option<usize> {
        match self {
            Self::Whole(loader) => Some(loader.steps_per_epoch()),
            Self::Stream(_) => None,
        }
    }

    /// The samples, where they are known before training.
    pub fn samples(&self) -> &[Held] {
        match self {
            Self::Whole(loader) => loader.samples(),
            Self::Stream(_) => &[],
        }
    }

    /// The most tokens that a micro-batch of the first `steps` steps may have, and the most tokens that stand for pictures.
    pub fn largest(&self, steps: usize) -> (usize, usize) {
        match self {
            Self::Whole(loader) => loader.largest(steps),
            Self::Stream(stream) => (stream.largest, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered() -> Stream {
        let produce = |sender: &SyncSender<Result<Fresh, DataError>>| {
            for number in 0_u32.. {
                let step = (vec![Batch { ids: vec![number], ..Batch::default() }], number < 20);
                if sender.send(Ok(step)).is_err() {
                    return;
                }
            }
        };
        let options = LoaderOptions {
            micro_batch_size: 3,
            gradient_accumulation_steps: 1,
            packing: None,
            shuffle: true,
            seed: 1,
        };
        Stream::new(Arc::new(produce), options, 100)
    }

    #[test]
    fn a_step_is_the_same_whenever_it_is_asked_for() {
        let mut feed = Feed::Stream(numbered());
        for step in [0, 1, 5, 2, 30, 29, 15, 3, 40] {
            assert_eq!(feed.step(step).unwrap()[0].ids, [step as u32]);
        }
        assert_eq!((feed.largest(7), feed.steps_per_epoch()), ((300, 0), None));
        assert_eq!(feed.clone().step(0).unwrap()[0].ids, [0]);
        // Of the first pass alone.
        assert_eq!(feed.unseen(18..22).unwrap().iter().map(|batch| batch.ids[0]).collect::<Vec<_>>(), [18, 19]);
    }

    #[test]
    fn an_error_comes_where_its_step_is_asked_for() {
        let produce = |sender: &SyncSender<Result<Fresh, DataError>>| {
            let _ = sender.send(Ok((Vec::new(), true)));
            let _ = sender.send(Err(DataError::Format("row 7 is wrong".to_owned())));
        };
        let stream = Stream { produce: Arc::new(produce), ..numbered() };
        let mut feed = Feed::Stream(stream);
        assert!(feed.step(0).unwrap().is_empty());
        assert_eq!(feed.step(1).unwrap_err().to_string(), "row 7 is wrong");
        assert!(feed.step(1).unwrap_err().to_string().contains("begin the run again"));
    }
}
