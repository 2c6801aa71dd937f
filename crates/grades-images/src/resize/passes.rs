//! The two passes of a resize, over pixels of three channels.
//!
//! Both are sums of whole runs of numbers, each times one weight, which the compiler turns into vector code: down, a run is a
//! row; across, it is a column of a few rows, which are laid on their side before.

use super::weights::Spans;

const CHANNELS: usize = 3;
/// Rows that are laid on their side together.
const ROWS: usize = 32;

/// What one axis of a resize does.
pub(super) trait Axis {
    /// What a picture consists of.
    type Value: Copy + Default;

    /// Pixels along the axis before and after.
    fn sizes(&self) -> (usize, usize);

    /// Line `i` of the result from `source`, lines of `stride` values.
    fn line(&self, i: usize, source: &[Self::Value], stride: usize, out: &mut [Self::Value]);
}

/// Bytes, by weights in fixed point with `bits` after the point.
pub(super) struct Bytes {
    pub(super) spans: Spans<i32>,
    pub(super) bits: u32,
}

/// Numbers in f32.
pub(super) struct Numbers {
    pub(super) spans: Spans<f32>,
}

/// Sums that are held at a time.
const HELD: usize = 64;

impl Axis for Bytes {
    type Value = u8;

    fn sizes(&self) -> (usize, usize) {
        (self.spans.from, self.spans.to())
    }

    fn line(&self, i: usize, source: &[u8], stride: usize, out: &mut [u8]) {
        let (first, weights) = self.spans.span(i);
        let half = (1 << self.bits) >> 1;
        for (chunk, out) in out.chunks_mut(HELD).enumerate() {
            let mut sums = [half; HELD];
            for (k, &weight) in weights.iter().enumerate() {
                let run = &source[(first + k) * stride + chunk * HELD..][..out.len()];
                add(&mut sums, run, |&value| weight * i32::from(value));
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = (sum >> self.bits).clamp(0, 255) as u8;
            }
        }
    }
}

impl Axis for Numbers {
    type Value = f32;

    fn sizes(&self) -> (usize, usize) {
        (self.spans.from, self.spans.to())
    }

    fn line(&self, i: usize, source: &[f32], stride: usize, out: &mut [f32]) {
        let (first, weights) = self.spans.span(i);
        for (chunk, out) in out.chunks_mut(HELD).enumerate() {
            let mut sums = [0.0; HELD];
            for (k, &weight) in weights.iter().enumerate() {
                let run = &source[(first + k) * stride + chunk * HELD..][..out.len()];
                add(&mut sums, run, |&value| weight * value);
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// Adds a run to the sums: of full length in the common case, so that the loop has a known one.
fn add<T, S: Copy + std::ops::AddAssign>(sums: &mut [S; HELD], run: &[T], term: impl Fn(&T) -> S) {
    match run.first_chunk::<HELD>() {
        Some(run) => sums.iter_mut().zip(run).for_each(|(sum, value)| *sum += term(value)),
        None => sums.iter_mut().zip(run).for_each(|(sum, value)| *sum += term(value)),
    }
}

/// Resizes along both axes. `source` is `[height, width, 3]`; a pass that would change nothing is left out.
pub(super) fn both<A: Axis>(source: &[A::Value], across: &A, down: &A, down_first: bool) -> Vec<A::Value> {
    let ((width, new_width), (height, new_height)) = (across.sizes(), down.sizes());
    match (width == new_width, height == new_height) {
        (true, true) => source.to_vec(),
        (true, false) => vertical(source, width, down),
        (false, true) => horizontal(source, height, across),
        _ if down_first => horizontal(&vertical(source, width, down), new_height, across),
        _ => vertical(&horizontal(source, height, across), new_width, down),
    }
}

fn vertical<A: Axis>(source: &[A::Value], width: usize, axis: &A) -> Vec<A::Value> {
    let stride = width * CHANNELS;
    let mut result = vec![A::Value::default(); axis.sizes().1 * stride];
    for (i, out) in result.chunks_exact_mut(stride).enumerate() {
        axis.line(i, source, stride, out);
    }
    result
}

fn horizontal<A: Axis>(source: &[A::Value], height: usize, axis: &A) -> Vec<A::Value> {
    let (from, to) = axis.sizes();
    let mut result = vec![A::Value::default(); height * to * CHANNELS];
    let mut sideways = vec![A::Value::default(); from * ROWS * CHANNELS];
    let mut column = [A::Value::default(); ROWS * CHANNELS];
    let blocks = source.chunks(from * CHANNELS * ROWS).zip(result.chunks_mut(to * CHANNELS * ROWS));
    for (block, out) in blocks {
        let rows = block.len() / (from * CHANNELS);
        let stride = rows * CHANNELS;
        for (row, pixels) in block.chunks_exact(from * CHANNELS).enumerate() {
            for (x, pixel) in pixels.chunks_exact(CHANNELS).enumerate() {
                sideways[x * stride + row * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
            }
        }
        for x in 0..to {
            let column = &mut column[..stride];
            axis.line(x, &sideways, stride, column);
            for (row, pixel) in column.chunks_exact(CHANNELS).enumerate() {
                out[(row * to + x) * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
            }
        }
    }
    result
}
