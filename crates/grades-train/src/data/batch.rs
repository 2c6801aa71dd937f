//! Micro-batches: flat sequences of tokens in which each sample sees only itself.

use std::ops::Range;
use std::sync::Arc;

use grades_models::Inputs;
use grades_tensor::{IGNORE_INDEX, Layout};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::encode::Tokenized;
use super::error::DataError;
use super::held::Held;
use super::packing::{Packing, Size, first_fit};
use super::placed::Placed;

/// A micro-batch: samples one after the other, without padding. All vectors but `segments`, `samples` and `pictures` are
/// `[tokens]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token the one that it should be followed by, or [`IGNORE_INDEX`]: labels are already shifted here.
    pub targets: Vec<i64>,
    /// The position of each token in its sample, from 0.
    pub positions: Vec<u32>,
    /// Where each sample begins and ends (exclusive): attention stays within these, `[samples]`.
    pub segments: Vec<(usize, usize)>,
    /// Which sample each segment is, `[samples]`.
    pub samples: Vec<usize>,
    /// How many targets are not [`IGNORE_INDEX`].
    pub label_count: usize,
    /// The pictures whose features take the place of some tokens' embeddings, in the order of these tokens.
    pub pictures: Vec<Placed>,
}

impl Batch {
    /// The batch as a model takes it.
    pub fn inputs(&self) -> Inputs {
        let segments: Vec<_> = self.segments.iter().map(|&(start, end)| start..end).collect();
        Inputs::tokens(Arc::new(self.ids.clone()), Arc::new(Layout::packed(&segments)))
    }

    /// These segments of the batch alone, in the given order, as a model takes them.
    pub fn inputs_of(&self, segments: &[usize]) -> Inputs {
        let (mut ids, mut ranges) = (Vec::new(), Vec::new());
        for &segment in segments {
            let (start, end) = self.segments[segment];
            ranges.push(ids.len()..ids.len() + end - start);
            ids.extend_from_slice(&self.ids[start..end]);
        }
        Inputs::tokens(Arc::new(ids), Arc::new(Layout::packed(&ranges)))
    }

    /// Some of its segments that lie behind one another, none of which has a picture.
    pub fn part(&self, segments: Range<usize>) -> Self {
        let all = &self.segments[segments.clone()];
        let start = all.first().map_or(0, |first| first.0);
        let rows = start..all.last().map_or(start, |last| last.1);
        let targets = self.targets[rows.clone()].to_vec();
        Self {
            ids: self.ids[rows.clone()].to_vec(),
            label_count: targets.iter().filter(|&&target| target != IGNORE_INDEX).count(),
            targets,
            positions: self.positions[rows].to_vec(),
            segments: all.iter().map(|&(from, to)| (from - start, to - start)).collect(),
            samples: self.samples[segments].to_vec(),
            pictures: Vec::new(),
        }
    }

    /// Appends a sample. Its tokens from the last label on are left out: they are only ever targets, and no loss
    /// depends on what would be computed from them.
    pub fn push(&mut self, index: usize, tokens: &Tokenized) {
        let inputs = tokens.inputs();
        self.targets.extend_from_slice(&tokens.labels[1..=inputs]);
        self.push_inputs(index, tokens, inputs);
    }

    /// Appends a prompt, all of whose tokens are read. Nothing of it is learnt.
    pub fn push_prompt(&mut self, index: usize, tokens: &Tokenized) {
        let inputs = tokens.ids.len();
        self.targets.extend(std::iter::repeat_n(IGNORE_INDEX, inputs));
        self.push_inputs(index, tokens, inputs);
    }

    /// Appends the first `inputs` tokens of a sample.
    fn push_inputs(&mut self, index: usize, tokens: &Tokenized, inputs: usize) {
        let start = self.ids.len();
        self.ids.extend_from_slice(&tokens.ids[..inputs]);
        self.positions.extend((0_u32..).take(inputs));
        self.segments.push((start, start + inputs));
        self.samples.push(index);
        self.label_count += tokens.label_count();
        self.pictures.extend(tokens.pictures.iter().map(|picture| picture.moved(start)));
    }
}

/// How samples form micro-batches, and these the steps of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches of a step.
    pub gradient_accumulation_steps: usize,
    /// With sample packing, what a row holds at most; without, a row is one sample.
    pub packing: Option<Packing>,
    /// Whether each epoch has an order of its own, or all have that of the samples.
    pub shuffle: bool,
    /// Seed of the order.
    pub seed: u64,
}

/// Training samples in an order that depends on the seed and the epoch alone.
///
/// Rows are packed once, so that every epoch has the same number of steps, and with `shuffle` shuffled anew in every epoch. The last
/// micro-batch of an epoch, and the last step, may be smaller than the others; none crosses into the next epoch.
#[derive(Clone, Debug)]
pub struct Loader {
    samples: Vec<Held>,
    rows: Vec<Vec<usize>>,
    options: LoaderOptions,
    epoch: Option<(usize, Vec<usize>)>,
}

impl Loader {
    /// A loader over `samples`. Sizes of 0 count as 1.
    pub fn new(samples: impl IntoIterator<Item = impl Into<Held>>, options: LoaderOptions) -> Self {
        let samples: Vec<Held> = samples.into_iter().map(Into::into).collect();
        let mut order: Vec<usize> = (0..samples.len()).collect();
        if options.packing.is_some() && options.shuffle {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
        }
        let rows = rows(&order, options.packing, |sample| size(&samples[sample]));
        Self { samples, rows, options, epoch: None }
    }

    /// One whose rows are given, by the numbers of their samples: those of a row are always in one micro-batch.
    pub fn grouped(samples: Vec<Tokenized>, rows: Vec<Vec<usize>>, options: LoaderOptions) -> Self {
        let samples = samples.into_iter().map(Held::from).collect();
        Self { samples, rows, options, epoch: None }
    }

    /// The samples, as [`Batch::samples`] counts them.
    pub fn samples(&self) -> &[Held] {
        &self.samples
    }

    /// Its rows: samples packed together, or single ones.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The tokens of all samples that the model reads.
    pub fn tokens(&self) -> usize {
        self.samples.iter().map(Held::inputs).sum()
    }

    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.micro_batches().div_ceil(self.options.gradient_accumulation_steps.max(1))
    }

    /// The micro-batches of the optimizer's step `step`, counted from 0 over all epochs. A run is resumed by asking for
    /// the step that comes next. Empty only if there are no samples.
    ///
    /// # Errors
    /// Samples lie in a file that cannot be read.
    pub fn step(&mut self, step: usize) -> Result<Vec<Batch>, DataError> {
        let (epoch, step) = match self.steps_per_epoch() {
            0 => return Ok(Vec::new()),
            steps => (step / steps, step % steps),
        };
        let order = match self.epoch.take() {
            Some((of, order)) if of == epoch => order,
            _ => self.order(epoch),
        };
        let rows = self.options.micro_batch_size.max(1);
        let micro_batches = self.options.gradient_accumulation_steps.max(1);
        let batches = order
            .chunks(rows)
            .skip(step * micro_batches)
            .take(micro_batches)
            .map(|rows| batch(&self.samples, rows.iter().map(|row| &self.rows[*row])))
            .collect();
        self.epoch = Some((epoch, order));
        batches
    }

    /// The most tokens that a micro-batch of the first `steps` steps has, and the most tokens that stand for pictures.
    pub fn largest(&self, steps: usize) -> (usize, usize) {
        let (rows, per_step) = (self.options.micro_batch_size.max(1), self.options.gradient_accumulation_steps.max(1));
        let (mut largest, mut left, mut epoch) = ((0, 0), steps, 0);
        while left > 0 && !self.rows.is_empty() {
            let steps = left.min(self.steps_per_epoch());
            for rows in self.order(epoch).chunks(rows).take(steps.saturating_mul(per_step)) {
                let samples = rows.iter().flat_map(|row| &self.rows[*row]).map(|sample| &self.samples[*sample]);
                let (tokens, of_pictures) = samples.fold((0, 0), |(tokens, of_pictures), sample| {
                    (tokens + sample.inputs(), of_pictures + sample.pictures().iter().map(Placed::rows).sum::<usize>())
                });
                largest = (tokens.max(largest.0), of_pictures.max(largest.1));
            }
            (left, epoch) = (left - steps, epoch + 1);
        }
        largest
    }

    fn micro_batches(&self) -> usize {
        self.rows.len().div_ceil(self.options.micro_batch_size.max(1))
    }

    fn order(&self, epoch: usize) -> Vec<usize> {
        // A stream of its own for each epoch, apart from stream 0 that packing uses: `seed + epoch` would give
        // neighbouring seeds the same orders.
        let mut generator = ChaCha8Rng::seed_from_u64(self.options.seed);
        generator.set_stream(epoch as u64 + 1);
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if self.options.shuffle {
            order.shuffle(&mut generator);
        }
        order
    }
}

/// Some of the samples in their order, for validation.
///
/// # Errors
/// They lie in a file that cannot be read.
pub fn in_order(
    samples: &[Held],
    of: Range<usize>,
    micro_batch_size: usize,
    packing: Option<Packing>,
) -> Result<Vec<Batch>, DataError> {
    let order: Vec<usize> = of.collect();
    let rows = rows(&order, packing, |sample| size(&samples[sample]));
    rows.chunks(micro_batch_size.max(1)).map(|rows| batch(samples, rows)).collect()
}

/// Rows in their order, given by the numbers of their samples.
pub fn grouped(samples: &[Tokenized], rows: &[Vec<usize>], micro_batch_size: usize) -> Vec<Batch> {
    let of_rows = |rows: &[Vec<usize>]| {
        let mut batch = Batch::default();
        rows.iter().flatten().for_each(|sample| batch.push(*sample, &samples[*sample]));
        batch
    };
    rows.chunks(micro_batch_size.max(1)).map(of_rows).collect()
}

fn size(sample: &Held) -> Size {
    (sample.inputs(), sample.pictures().iter().map(Placed::tiles).sum())
}

/// Samples, given by their numbers, as rows.
pub(super) fn rows(order: &[usize], packing: Option<Packing>, size: impl Fn(usize) -> Size) -> Vec<Vec<usize>> {
    match packing {
        None => order.iter().map(|sample| vec![*sample]).collect(),
        Some(packing) => {
            let sizes: Vec<Size> = order.iter().map(|sample| size(*sample)).collect();
            let rows = first_fit(&sizes, packing);
            rows.into_iter().map(|row| row.into_iter().map(|item| order[item]).collect()).collect()
        }
    }
}

fn batch<'a>(samples: &[Held], rows: impl IntoIterator<Item = &'a Vec<usize>>) -> Result<Batch, DataError> {
    let mut batch = Batch::default();
    for sample in rows.into_iter().flatten() {
        batch.push(*sample, &*samples[*sample].tokens()?);
    }
    Ok(batch)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
