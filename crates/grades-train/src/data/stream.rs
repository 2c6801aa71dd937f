//! Data sets that are read while training goes on: rows as they come from their files, encoded, mixed, shuffled within a buffer and
//! packed within another, so that what is held does not grow with what there is.
//!
//! Every draw follows from the seed and from what was read before, so that the same step is the same whenever it is asked for.

use std::collections::VecDeque;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bad_rows::BadRows;
use super::batch::{self, Batch, LoaderOptions};
use super::encode::{Encode, Tokenized};
use super::error::DataError;
use super::format::{DatasetSpec, Format};
use super::mix::{MixStrategy, Turns};
use super::rows::Rows;
use super::samples::{Outcome, Row, TokenOptions};
use crate::hub::Hub;

/// What a stream is of, and how it is gone through.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// How rows become tokens.
    pub tokens: TokenOptions,
    /// How samples become steps.
    pub loader: LoaderOptions,
    /// How several sets become one.
    pub mix_strategy: MixStrategy,
    /// With interleaving the share of each.
    pub shares: Option<Vec<f64>>,
    /// Samples among which the next is drawn.
    pub shuffle_buffer: usize,
    /// Samples that are packed into rows together.
    pub packing_buffer: usize,
}

/// One set, gone through from its beginning again and again.
struct SetStream<'a> {
    spec: &'a DatasetSpec,
    format: Format,
    rows: Option<Rows>,
    taken: usize,
    /// What is left of the last row, which may be several samples.
    ready: VecDeque<Tokenized>,
    bad: BadRows,
}

impl<'a> SetStream<'a> {
    fn new(spec: &'a DatasetSpec, options: TokenOptions) -> Result<Self, DataError> {
        let format = spec.format().map_err(DataError::Format)?;
        Ok(Self { spec, format, rows: None, taken: 0, ready: VecDeque::new(), bad: BadRows::new(options.on_bad_row) })
    }

    /// The next sample; `None` behind the last, once.
    fn next(&mut self, encoder: &dyn Encode, options: TokenOptions) -> Result<Option<Tokenized>, DataError> {
        loop {
            if let Some(sample) = self.ready.pop_front() {
                return Ok(Some(sample));
            }
            let rows = match &mut self.rows {
                Some(rows) => rows,
                none => {
                    self.taken = 0;
                    none.insert(self.spec.source().stream(self.spec.split.as_deref(), Hub::from_env())?)
                }
            };
            let is_over = options.max_samples.is_some_and(|most| self.taken >= most);
            let Some(record) = rows.next().filter(|_| !is_over) else {
                self.rows = None;
                return Ok(None);
            };
            self.taken += 1;
            let row = record.and_then(|record| Row::of(&record, &self.format, (encoder, None), options));
            let row = self.bad.pass(row)?;
            self.bad.tell();
            for outcome in row.into_iter().flat_map(|row| row.outcomes) {
                match outcome {
                    Outcome::Whole(sample) | Outcome::Cut(sample) => self.ready.push_back(sample),
                    Outcome::TooLong | Outcome::Torn | Outcome::RatedOut => {}
                }
            }
        }
    }
}

/// Several sets as one.
struct Mixed<'a> {
    sets: Vec<SetStream<'a>>,
    encoder: &'a dyn Encode,
    options: &'a StreamOptions,
    /// Which of them was gone through in this pass.
    gone: Vec<bool>,
    at: usize,
    turns: Option<Turns>,
}

impl Mixed<'_> {
    /// The next sample; `None` behind the last of a pass, once.
    fn next(&mut self) -> Result<Option<Tokenized>, DataError> {
        // As many sets in a row may have nothing as there are.
        let mut without = 0;
        loop {
            let is_concat = self.options.mix_strategy == MixStrategy::Concat;
            if !is_concat {
                self.at = match &mut self.turns {
                    Some(turns) => turns.take(),
                    None => self.at,
                };
            }
            if let Some(sample) = self.sets[self.at].next(self.encoder, self.options.tokens)? {
                if !is_concat && self.turns.is_none() {
                    self.at = (self.at + 1) % self.sets.len();
                }
                return Ok(Some(sample));
            }
            self.gone[self.at] = true;
            let is_over = match self.options.mix_strategy {
                MixStrategy::Concat => self.at + 1 == self.sets.len(),
                MixStrategy::InterleaveUnder => true,
                MixStrategy::InterleaveOver => !self.gone.contains(&false),
            };
            if is_over {
                self.begin_again();
                return Ok(None);
            }
            if is_concat {
                self.at += 1;
            } else if without > 2 * self.sets.len() {
                // A set without a sample would be asked for ever.
                self.at = (self.at + 1) % self.sets.len();
            }
            without += 1;
        }
    }

    fn begin_again(&mut self) {
        self.sets.iter_mut().for_each(|set| set.rows = None);
        self.gone.fill(false);
        self.at = 0;
    }
}

/// Steps without end, each as its micro-batches.
pub struct Steps<'a> {
    mixed: Mixed<'a>,
    options: &'a StreamOptions,
    random: ChaCha8Rng,
    /// Samples among which the next is drawn.
    buffer: Vec<Tokenized>,
    /// Whether the sets have no more in this pass.
    is_drained: bool,
    /// Samples of this pass.
    of_pass: usize,
    pass: u64,
    /// Samples so far: what each is called.
    count: usize,
    rows: VecDeque<Vec<(usize, Tokenized)>>,
}

/// A step: its micro-batches, and whether all of them are of the first pass.
pub type Fresh = (Vec<Batch>, bool);

impl<'a> Steps<'a> {
    /// Of these sets.
    ///
    /// # Errors
    /// The entry of a set is inconsistent.
    pub fn new(
        specs: &'a [DatasetSpec],
        encoder: &'a dyn Encode,
        options: &'a StreamOptions,
    ) -> Result<Self, DataError> {
        let sets: Vec<SetStream<'a>> =
            specs.iter().map(|spec| SetStream::new(spec, options.tokens)).collect::<Result<_, _>>()?;
        let turns = options.shares.as_ref().map(|shares| Turns::new(shares, options.loader.seed));
        let mixed = Mixed { gone: vec![false; sets.len()], sets, encoder, options, at: 0, turns };
        Ok(Self {
            mixed,
            options,
            random: generator(options, 0),
            buffer: Vec::new(),
            is_drained: false,
            of_pass: 0,
            pass: 0,
            count: 0,
            rows: VecDeque::new(),
        })
    }

    /// The micro-batches of the next step.
    ///
    /// # Errors
    /// A file cannot be read, a row does not fit, or a whole pass has no sample.
    pub fn step(&mut self) -> Result<Fresh, DataError> {
        let LoaderOptions { micro_batch_size, gradient_accumulation_steps, .. } = self.options.loader;
        let mut batches = Vec::new();
        for _ in 0..gradient_accumulation_steps.max(1) {
            let mut batch = Batch::default();
            for _ in 0..micro_batch_size.max(1) {
                for (number, sample) in self.row()? {
                    batch.push(number, &sample);
                }
            }
            batches.push(batch);
        }
        Ok((batches, self.pass == 0))
    }

    fn row(&mut self) -> Result<Vec<(usize, Tokenized)>, DataError> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Ok(row);
            }
            let together = if self.options.loader.packing.is_some() { self.options.packing_buffer.max(1) } else { 1 };
            let mut samples = Vec::new();
            while samples.len() < together {
                match self.sample()? {
                    Some(sample) => samples.push(sample),
                    // No row has samples of two passes.
                    None if samples.is_empty() => {}
                    None => break,
                }
            }
            let order: Vec<usize> = (0..samples.len()).collect();
            // A stream has no pictures.
            let rows = batch::rows(&order, self.options.loader.packing, |sample| (samples[sample].inputs(), 0));
            let mut samples: Vec<Option<Tokenized>> = samples.into_iter().map(Some).collect();
            for row in rows {
                let numbered = row.into_iter().filter_map(|at| Some((self.count + at, samples[at].take()?)));
                self.rows.push_back(numbered.collect());
            }
            self.count += samples.len();
        }
    }

    /// The next sample as it is drawn from the buffer; `None` behind the last of a pass, once.
    fn sample(&mut self) -> Result<Option<Tokenized>, DataError> {
        let room = if self.options.loader.shuffle { self.options.shuffle_buffer.max(1) } else { 1 };
        while !self.is_drained && self.buffer.len() < room {
            match self.mixed.next()? {
                Some(sample) => self.buffer.push(sample),
                None => {
                    self.is_drained = true;
                    // The last of a pass in an order of their own.
                    self.buffer.shuffle(&mut self.random);
                }
            }
        }
        if self.is_drained && self.buffer.is_empty() {
            if self.of_pass == 0 {
                let sequence_len = self.options.tokens.sequence_len;
                return Err(DataError::NothingLeft {
                    dropped: self.mixed.sets.iter().map(|set| set.taken).sum(),
                    sequence_len,
                });
            }
            (self.is_drained, self.of_pass, self.pass) = (false, 0, self.pass + 1);
            self.random = generator(self.options, self.pass);
            return Ok(None);
        }
        self.of_pass += 1;
        let at = if self.is_drained { self.buffer.len() - 1 } else { self.random.random_range(0..self.buffer.len()) };
        Ok(Some(self.buffer.swap_remove(at)))
    }
}

/// The first samples of a pass, as they are mixed, at most so many.
///
/// # Errors
/// As of [`Steps::step`].
pub fn first(
    specs: &[DatasetSpec],
    encoder: &dyn Encode,
    options: &StreamOptions,
    count: usize,
) -> Result<Vec<Tokenized>, DataError> {
    let mut mixed = Steps::new(specs, encoder, options)?.mixed;
    let mut samples = Vec::new();
    while samples.len() < count
        && let Some(sample) = mixed.next()?
    {
        samples.push(sample);
    }
    Ok(samples)
}

/// What a pass draws from: a stream of its own.
fn generator(options: &StreamOptions, pass: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(options.loader.seed);
    generator.set_stream(pass + 1);
    generator
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
