//! The language-model head and its cross-entropy in one: `loss = Σ −ln softmax(hidden · weightᵀ)[label]`.
//!
//! Logits exist only for rows that have a label, and only for one block of the vocabulary at a time, which stays in the
//! cache. What gradients need of them is kept in the dtype of the hidden states: e^logit over a power of two that is as
//! large as the largest logit until then. When all of the row is known, another power of two makes these the gradient up to a
//! factor between 1 and 2, so that nothing is rounded again; the factor goes into the products' other operand and result.

use std::mem::MaybeUninit;

use half::bf16;

use crate::dispatch::multiversion;
use crate::gemm::bf16::{Output, Part, Rows};
use crate::gemm::{self, Matrix, MatrixMut, Span};
use crate::math::{LANES, exp_over, max, sum};
use crate::threads::each;
use crate::unwritten::written;
use crate::workspaces::{InUse, Workspace};
use crate::{Element, OutOfRange};

/// The label of what does not count in the loss, named and numbered as PyTorch's `ignore_index`.
pub const IGNORE_INDEX: i64 = -100;

/// Rows and columns of a block of logits that exist at a time: 8 MiB. Columns are whole panels of a product.
const BLOCK_ROWS: usize = 1024;
const BLOCK_COLUMNS: usize = 1920;
/// Bytes of gradients of logits that exist at a time. Each chunk of rows goes once through the weight and its gradient, so
/// small chunks would be bound by memory.
const CHUNK_BYTES: usize = 96 << 20;

/// What the loss is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, E = f32> {
    /// The last hidden states, `[rows, hidden_size]`.
    pub hidden: &'a [E],
    /// The head's weight, `[vocab, hidden_size]`, however it is stored; one that has a gradient is f32.
    pub weight: &'a dyn Rows,
    /// The label of every row, already shifted, `[rows]`; [`IGNORE_INDEX`] where there is none.
    pub labels: &'a [i64],
}

impl<E> Head<'_, E> {
    /// Elements of a hidden state, and rows of the weight.
    fn sizes(&self) -> (usize, usize) {
        let (vocab, size) = (self.weight.rows(), self.weight.columns());
        assert!(size > 0, "a head without hidden elements");
        (size, vocab)
    }
}

/// The loss of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Σ over the labelled rows; divide by `count` for the mean.
    pub sum: f64,
    /// The number of labelled rows.
    pub count: usize,
    /// The loss of each row, `[rows]`; 0 where there is no label.
    pub rows: Vec<f32>,
}

/// What the losses of rows are multiplied by before they are added up.
#[derive(Clone, Copy, Debug)]
pub enum LossScale<'a> {
    /// All by this one: `1 / count` makes the sum a mean.
    Same(f32),
    /// Each by its own, `[rows]`.
    Each(&'a [f32]),
}

impl LossScale<'_> {
    fn of(self, row: usize) -> f32 {
        match self {
            Self::Same(scale) => scale,
            Self::Each(scales) => scales[row],
        }
    }
}

/// Where the gradients of `Σ scale · loss` go; what is `None` is not computed.
#[derive(Debug)]
pub struct HeadGradients<'a, E = f32> {
    /// The factors of the losses.
    pub scale: LossScale<'a>,
    /// `[rows, hidden_size]`, overwritten; zero where there is no label.
    pub dhidden: Option<&'a mut [E]>,
    /// `[vocab, hidden_size]`, overwritten.
    pub dweight: Option<&'a mut [f32]>,
}

/// No gradients; a scale of 1.
impl<E> Default for HeadGradients<'_, E> {
    fn default() -> Self {
        Self { scale: LossScale::Same(1.0), dhidden: None, dweight: None }
    }
}

/// A token whose probability after a hidden state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// The hidden state's row.
    pub row: u32,
    /// The token.
    pub token: u32,
}

/// How well a label was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// ln softmax(logits)\[label\].
    pub log_probability: f32,
    /// Whether no other logit is larger: greedy decoding would give the label (of equal logits, the first counts).
    pub is_greedy: bool,
}

/// The loss, and in the same pass the gradients that `gradients` asks for.
///
/// # Errors
/// If a label is neither [`IGNORE_INDEX`] nor within the vocabulary; nothing is then written.
///
/// # Panics
/// If a length does not fit.
pub fn linear_cross_entropy<E: HeadElement>(
    head: Head<E>,
    gradients: HeadGradients<E>,
) -> Result<CrossEntropy, OutOfRange> {
    let HeadGradients { scale, dhidden, dweight } = gradients;
    let (size, vocab) = head.sizes();
    let labelled = labelled_rows(&head)?;
    let Some(dweight) = dweight else { return Ok(of_rows(head, &labelled, scale, dhidden, None)) };
    assert_eq!(dweight.len(), vocab * size);
    if labelled.is_empty() {
        dweight.fill(0.0);
    }
    let mut accumulate = false;
    let mut add = |dlogits: Matrix<E>, hidden: Matrix<E>| {
        E::weight_gradient(dlogits, hidden, MatrixMut::new(dweight, vocab, size), accumulate);
        accumulate = true;
    };
    Ok(of_rows(head, &labelled, scale, dhidden, Some(&mut add)))
}

/// The loss, and the gradients of `Σ scale · loss` in the hidden states and in the weight where they are wanted, in new
/// memory.
///
/// # Errors
/// As [`linear_cross_entropy`].
///
/// # Panics
/// If a length does not fit.
#[expect(clippy::type_complexity, reason = "the loss and its two gradients")]
pub fn linear_cross_entropy_new<E: HeadElement>(
    head: Head<E>,
    scale: LossScale,
    want_hidden: bool,
    want_weight: bool,
) -> Result<(CrossEntropy, Option<Vec<E>>, Option<Vec<f32>>), OutOfRange> {
    let (size, vocab) = head.sizes();
    let labelled = labelled_rows(&head)?;
    let mut dhidden = want_hidden.then(|| vec![E::ZERO; head.hidden.len()]);
    let mut dweight = None;
    let mut add = |dlogits: Matrix<E>, hidden: Matrix<E>| match &mut dweight {
        None => dweight = Some(E::weight_gradient_new(dlogits, hidden)),
        Some(sum) => E::weight_gradient(dlogits, hidden, MatrixMut::new(sum, vocab, size), true),
    };
    let add: Option<WeightGradient<E>> = if want_weight { Some(&mut add) } else { None };
    let loss = of_rows(head, &labelled, scale, dhidden.as_deref_mut(), add);
    if want_weight && dweight.is_none() {
        dweight = Some(vec![0.0; vocab * size]);
    }
    Ok((loss, dhidden, dweight))
}

/// What takes the gradients of some rows' logits `[rows, vocab]` and their hidden states `[rows, hidden_size]`, of which the
/// products make up the weight's gradient.
type WeightGradient<'a, E> = &'a mut dyn FnMut(Matrix<E>, Matrix<E>);

/// The loss of the labelled rows, chunk by chunk; overwrites `dhidden` where it is wanted.
fn of_rows<E: HeadElement>(
    head: Head<E>,
    labelled: &[(usize, usize)],
    loss_scale: LossScale,
    mut dhidden: Option<&mut [E]>,
    mut weight_gradient: Option<WeightGradient<E>>,
) -> CrossEntropy {
    let (size, vocab) = head.sizes();
    if let Some(dhidden) = &mut dhidden {
        assert_eq!(dhidden.len(), head.hidden.len());
        dhidden.fill(E::ZERO);
    }
    if let LossScale::Each(scales) = loss_scale {
        assert_eq!(scales.len(), head.labels.len());
    }
    let weight = head.weight;
    let wanted = dhidden.is_some() || weight_gradient.is_some();
    let mut result = CrossEntropy { sum: 0.0, count: labelled.len(), rows: vec![0.0; head.labels.len()] };
    for rows in labelled.chunks(chunk::<E>(labelled.len(), vocab)) {
        let of_row = if wanted { size_of::<E>() * vocab } else { 0 } + size_of::<f32>() * vocab.min(BLOCK_COLUMNS);
        let _counted = InUse::new(Workspace::Logits, rows.len() * of_row);
        let mut hidden = gather(&head, rows);
        let states = Matrix::new(&hidden, rows.len(), size);
        let labels: Vec<_> = rows.iter().enumerate().map(|(index, &(_, label))| (index, label)).collect();
        let (mut seen, mut own, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        if wanted {
            let keep = |kept: &mut [MaybeUninit<E>]| (seen, own) = see(states, weight, &labels, Some(kept));
            // SAFETY: `see` keeps every logit's exponential.
            kept = unsafe { written(rows.len() * vocab, keep) };
        } else {
            (seen, own) = see(states, weight, &labels, None);
        }
        for (&(row, _), (seen, &own)) in rows.iter().zip(seen.iter().zip(&own)) {
            result.rows[row] = -seen.log_probability(own);
            result.sum += f64::from(result.rows[row]);
        }
        if !wanted {
            continue;
        }
        let mut factors = vec![1.0; rows.len()];
        let items = kept.chunks_exact_mut(vocab).zip(&seen).zip(own.iter().zip(rows)).zip(&mut factors);
        each(items, |(((kept, seen), (&own, &(row, label))), factor)| {
            *factor = seen.gradient(kept, (label, own), loss_scale.of(row));
        });
        let dlogits = Matrix::new(&kept, rows.len(), vocab);
        if let Some(dhidden) = &mut dhidden {
            let mut sums = vec![0.0; hidden.len()];
            E::hidden_gradient(dlogits, weight, MatrixMut::new(&mut sums, rows.len(), size));
            for ((&(row, _), sums), &factor) in rows.iter().zip(sums.chunks_exact(size)).zip(&factors) {
                times(sums, factor, &mut dhidden[row * size..][..size]);
            }
        }
        if let Some(weight_gradient) = &mut weight_gradient {
            for (state, &factor) in hidden.chunks_exact_mut(size).zip(&factors) {
                scale(state, factor);
            }
            weight_gradient(dlogits, Matrix::new(&hidden, rows.len(), size));
        }
    }
    result
}

/// The log-probability of every label, for evaluation, in their order: `hidden [rows, size]`, `weight [vocab, size]`. A row
/// may have several labels. Logits exist for one block of the vocabulary at a time, which stays in the cache.
///
/// # Errors
/// If a label is not within the vocabulary.
///
/// # Panics
/// If a length does not fit, or the labels are not in the order of their rows.
pub fn log_likelihood<E: HeadElement>(
    hidden: Matrix<E>,
    weight: &dyn Rows,
    labels: &[Label],
) -> Result<Vec<LabelScore>, OutOfRange> {
    let (rows, vocab) = (hidden.rows(), weight.rows());
    assert_eq!(hidden.columns(), weight.columns());
    assert!(labels.is_sorted_by_key(|label| label.row), "labels are not in the order of their rows");
    assert!(labels.last().is_none_or(|last| (last.row as usize) < rows), "a label has no row");
    if let Some(&Label { row, token }) = labels.iter().find(|label| label.token as usize >= vocab) {
        return Err(OutOfRange { what: "label", row: row as usize, value: token.into(), limit: vocab });
    }
    let mut scores = Vec::with_capacity(labels.len());
    let mut rest = labels;
    for first in (0..rows).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(rows - first);
        let labels;
        (labels, rest) = rest.split_at(rest.partition_point(|label| (label.row as usize) < first + rows));
        let labels: Vec<_> = labels.iter().map(|label| (label.row as usize - first, label.token as usize)).collect();
        let (seen, own) = see(hidden.rows_from(first, rows), weight, &labels, None);
        scores.extend(labels.into_iter().zip(own).map(|((row, token), own)| LabelScore {
            log_probability: seen[row].log_probability(own),
            is_greedy: seen[row].greedy == token,
        }));
    }
    Ok(scores)
}

/// Rows of a chunk, which are of about one size, so that none is too small for the products.
fn chunk<E>(rows: usize, vocab: usize) -> usize {
    let most = (CHUNK_BYTES / size_of::<E>() / vocab.max(1) / 16 * 16).clamp(16, BLOCK_ROWS);
    rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(8).clamp(1, most)
}

/// What is known of a row of logits of which some were seen.
#[derive(Clone)]
struct Seen {
    largest: f32,
    /// The first of the largest.
    greedy: usize,
    /// The whole number k of which 2ᵏ is no less than e^largest.
    exponent: f32,
    /// Σ e^logit / 2ᵏ.
    total: f64,
    /// For each block whose exponentials were kept, the k until then.
    exponents: Vec<f32>,
}

impl Seen {
    const NOTHING: Self =
        Self { largest: f32::NEG_INFINITY, greedy: 0, exponent: f32::NEG_INFINITY, total: 0.0, exponents: Vec::new() };

    /// The logits from number `first` on, whose exponentials are all kept where there is room for as many.
    fn add<E: Element>(&mut self, first: usize, logits: &[f32], kept: Option<&mut [MaybeUninit<E>]>) {
        let largest = max(logits);
        if largest > self.largest {
            self.greedy = first + logits.iter().position(|&logit| logit == largest).unwrap_or_default();
            self.largest = largest;
            let exponent = (largest * std::f32::consts::LOG2_E).ceil();
            self.total *= f64::from(self.exponent - exponent).exp2();
            self.exponent = exponent;
        }
        self.total += f64::from(match kept {
            None => exp_sum(logits, self.exponent),
            Some(kept) => {
                self.exponents.push(self.exponent);
                keep_exp(logits, self.exponent, kept)
            }
        });
    }

    /// ln Σ e^logit. The largest of them is exact here, so that where it is nearly all a loss of nearly nothing remains.
    fn log_sum_exp(&self) -> f64 {
        let shift = f64::from(self.exponent) * std::f64::consts::LN_2;
        let exact = (f64::from(self.largest) - shift).exp();
        shift + (self.total - f64::from(exp_sum(&[self.largest], self.exponent)) + exact).ln()
    }

    /// ln softmax(logits) of the logit `own`.
    fn log_probability(&self, own: f32) -> f32 {
        (f64::from(own) - self.log_sum_exp()) as f32
    }

    /// Turns what was kept of a row into the gradient of `scale · loss`, where `own` is the label's logit, over the factor
    /// that it gives, whose size is between 1 and 2.
    fn gradient<E: Element>(&self, kept: &mut [E], (label, own): (usize, f32), loss_scale: f32) -> f32 {
        if loss_scale == 0.0 {
            kept.fill(E::ZERO);
            return 1.0;
        }
        let whole = f64::from(loss_scale) / self.total;
        let power = if whole.is_normal() { whole.abs().log2().floor() } else { 0.0 };
        let factor = whole / power.exp2();
        for (kept, exponent) in kept.chunks_mut(BLOCK_COLUMNS).zip(&self.exponents) {
            scale(kept, (power + f64::from(exponent - self.exponent)).exp2() as f32);
        }
        let probability = f64::from(self.log_probability(own)).exp();
        kept[label] = E::narrow((f64::from(loss_scale) * (probability - 1.0) / factor) as f32);
        factor as f32
    }
}

/// Computes the logits of `hidden [rows, size]` and `weight [vocab, size]`, block by block. Where there is room in
/// `kept [rows, vocab]`, all of it is written: it takes their exponentials. Gives what is known of each row, and the logit of each of `labels`
/// (its row, and the token).
fn see<E: HeadElement>(
    hidden: Matrix<E>,
    weight: &dyn Rows,
    labels: &[(usize, usize)],
    mut kept: Option<&mut [MaybeUninit<E>]>,
) -> (Vec<Seen>, Vec<f32>) {
    let (rows, vocab) = (hidden.rows(), weight.rows());
    let mut logits = vec![0.0; rows * vocab.min(BLOCK_COLUMNS)];
    let (mut seen, mut own) = (vec![Seen::NOTHING; rows], vec![0.0; labels.len()]);
    for first in (0..vocab).step_by(BLOCK_COLUMNS) {
        let columns = BLOCK_COLUMNS.min(vocab - first);
        let logits = &mut logits[..rows * columns];
        E::logits(hidden, &Span::new(weight, first, columns), MatrixMut::new(logits, rows, columns));
        let kept: Vec<Option<&mut [MaybeUninit<E>]>> = match &mut kept {
            Some(kept) => kept.chunks_exact_mut(vocab).map(|row| Some(&mut row[first..][..columns])).collect(),
            None => (0..rows).map(|_| None).collect(),
        };
        each(logits.chunks_exact(columns).zip(kept).zip(&mut seen), |((logits, kept), seen)| {
            seen.add(first, logits, kept);
        });
        for (&(row, token), own) in labels.iter().zip(&mut own) {
            if let Some(column) = token.checked_sub(first).filter(|&column| column < columns) {
                *own = logits[row * columns + column];
            }
        }
    }
    (seen, own)
}

/// The products of the head for one dtype of hidden states; logits and weight gradient are f32 for all.
pub trait HeadElement: Element {
    /// `logits [rows, vocab]` of `hidden [rows, size]` and `weight [vocab, size]`.
    fn logits(hidden: Matrix<Self>, weight: &dyn Rows, logits: MatrixMut);

    /// `dweight [vocab, size] = dlogitsᵀ · hidden`, or that added to what is there.
    fn weight_gradient(dlogits: Matrix<Self>, hidden: Matrix<Self>, dweight: MatrixMut, accumulate: bool);

    /// `dlogitsᵀ · hidden`, `[vocab, size]`, in new memory.
    fn weight_gradient_new(dlogits: Matrix<Self>, hidden: Matrix<Self>) -> Vec<f32>;

    /// `dhidden [rows, size] = dlogits · weight`.
    fn hidden_gradient(dlogits: Matrix<Self>, weight: &dyn Rows, dhidden: MatrixMut);
}

impl HeadElement for f32 {
    fn logits(hidden: Matrix, weight: &dyn Rows, logits: MatrixMut) {
        gemm::nt_rows(hidden, weight, logits, false);
    }

    fn weight_gradient(dlogits: Matrix, hidden: Matrix, dweight: MatrixMut, accumulate: bool) {
        gemm::tn(dlogits, hidden, dweight, accumulate);
    }

    fn weight_gradient_new(dlogits: Matrix, hidden: Matrix) -> Vec<f32> {
        gemm::tn_new(dlogits, hidden)
    }

    fn hidden_gradient(dlogits: Matrix, weight: &dyn Rows, dhidden: MatrixMut) {
        gemm::nn_rows(dlogits, weight, dhidden, false);
    }
}

impl HeadElement for bf16 {
    fn logits(hidden: Matrix<Self>, weight: &dyn Rows, logits: MatrixMut) {
        gemm::bf16::nt(hidden, &[weight], &[], Output::F32(logits));
    }

    fn weight_gradient(dlogits: Matrix<Self>, hidden: Matrix<Self>, dweight: MatrixMut, accumulate: bool) {
        gemm::bf16::tn(dlogits, hidden, vec![Part { first: 0, c: dweight, accumulate }]);
    }

    fn weight_gradient_new(dlogits: Matrix<Self>, hidden: Matrix<Self>) -> Vec<f32> {
        gemm::bf16::tn_new(dlogits, hidden, std::slice::from_ref(&(0..dlogits.columns()))).swap_remove(0)
    }

    fn hidden_gradient(dlogits: Matrix<Self>, weight: &dyn Rows, dhidden: MatrixMut) {
        gemm::bf16::nn(dlogits, &[weight], Output::F32(dhidden));
    }
}

/// Rows with a label, and the label.
fn labelled_rows<E>(head: &Head<E>) -> Result<Vec<(usize, usize)>, OutOfRange> {
    let (size, limit) = head.sizes();
    assert_eq!(head.hidden.len(), head.labels.len() * size);
    let labelled = head.labels.iter().enumerate().filter(|&(_, &label)| label != IGNORE_INDEX);
    labelled
        .map(|(row, &value)| match usize::try_from(value) {
            Ok(label) if label < limit => Ok((row, label)),
            _ => Err(OutOfRange { what: "label", row, value, limit }),
        })
        .collect()
}

/// Copies the hidden states of `rows` side by side, `[rows, hidden_size]`.
fn gather<E: HeadElement>(head: &Head<E>, rows: &[(usize, usize)]) -> Vec<E> {
    let (size, _) = head.sizes();
    let mut hidden = Vec::with_capacity(rows.len() * size);
    for &(row, _) in rows {
        hidden.extend_from_slice(&head.hidden[row * size..][..size]);
    }
    hidden
}

multiversion! {
    /// Σ e^logit / 2ᵏ of a block.
    fn exp_sum<FMA>(logits: &[f32], k: f32) -> f32 {
        let mut sums = [0.0; LANES];
        for logits in logits.chunks(LANES) {
            for (sum, logit) in sums.iter_mut().zip(logits) {
                *sum += exp_over::<FMA>(*logit, k);
            }
        }
        sum(&sums)
    }

    /// The same, and keeps each of them.
    fn keep_exp<FMA; E: Element>(logits: &[f32], k: f32, kept: &mut [MaybeUninit<E>]) -> f32 {
        let mut sums = [0.0; LANES];
        for (logits, kept) in logits.chunks(LANES).zip(kept.chunks_mut(LANES)) {
            for ((sum, logit), kept) in sums.iter_mut().zip(logits).zip(kept) {
                let exp = exp_over::<FMA>(*logit, k);
                kept.write(E::narrow(exp));
                *sum += exp;
            }
        }
        sum(&sums)
    }

    fn scale<FMA; E: Element>(x: &mut [E], factor: f32) {
        for x in x {
            *x = E::narrow(x.widen() * factor);
        }
    }

    fn times<FMA; E: Element>(x: &[f32], factor: f32, y: &mut [E]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = E::narrow(x * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Head, HeadGradients, IGNORE_INDEX, Label, LabelScore, LossScale, chunk, linear_cross_entropy,
        linear_cross_entropy_new,
    };
    use crate::OutOfRange;
    use crate::gemm::Matrix;
    use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

    /// Losses of all rows in f64.
    fn reference(hidden: &[f64], weight: &[f64], labels: &[i64], size: usize) -> Vec<f64> {
        let loss = |(row, &label): (usize, &i64)| {
            if label == IGNORE_INDEX {
                return 0.0;
            }
            let hidden = &hidden[row * size..][..size];
            let logit = |w: &[f64]| w.iter().zip(hidden).map(|(w, h)| w * h).sum::<f64>();
            let logits: Vec<f64> = weight.chunks(size).map(logit).collect();
            logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[label as usize]
        };
        labels.iter().enumerate().map(loss).collect()
    }

    /// The scores of the rows that have a label, and those rows.
    fn log_likelihood(head: Head) -> Result<(Vec<usize>, Vec<LabelScore>), OutOfRange> {
        let labels = head.labels.iter().enumerate().filter(|&(_, &label)| label != IGNORE_INDEX);
        let labels: Vec<_> = labels.map(|(row, &label)| Label { row: row as u32, token: label as u32 }).collect();
        let hidden = Matrix::new(head.hidden, head.labels.len(), head.weight.columns());
        let rows = labels.iter().map(|label| label.row as usize).collect();
        super::log_likelihood(hidden, head.weight, &labels).map(|scores| (rows, scores))
    }

    fn labels(rows: usize, vocab: usize) -> Vec<i64> {
        (0..rows).map(|row| if row % 3 == 1 { IGNORE_INDEX } else { (row * 7 % vocab) as i64 }).collect()
    }

    #[test]
    fn loss_and_gradients_equal_the_reference_and_its_differences() {
        for (rows, size, vocab) in [(0, 3, 5), (1, 1, 1), (5, 3, 7), (20, 9, 33), (2, 5, 40)] {
            // Three times the usual spread, so that the losses differ.
            let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 3.0 * x).collect();
            let weight = numbers(2, vocab * size);
            let labels = labels(rows, vocab);
            let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
            let scale = LossScale::Same(0.25);
            let results = on_any_threads(|| {
                let (mut dhidden, mut dweight) = (vec![f32::NAN; hidden.len()], vec![f32::NAN; weight.len()]);
                let gradients = HeadGradients { scale, dhidden: Some(&mut dhidden), dweight: Some(&mut dweight) };
                let loss = linear_cross_entropy(head, gradients).unwrap();
                assert_eq!(linear_cross_entropy(head, HeadGradients::default()).unwrap(), loss);
                let mut alone = vec![f32::NAN; hidden.len()];
                linear_cross_entropy(head, HeadGradients { scale, dhidden: Some(&mut alone), dweight: None }).unwrap();
                assert_eq!(alone, dhidden);
                let new = linear_cross_entropy_new(head, scale, true, true).unwrap();
                assert_eq!(new, (loss.clone(), Some(dhidden.clone()), Some(dweight.clone())));
                let sum = vec![loss.sum as f32, loss.count as f32];
                vec![loss.rows, dhidden, dweight, sum]
            });
            let (hidden64, weight64) = (in_f64(&hidden), in_f64(&weight));
            let expected = reference(&hidden64, &weight64, &labels, size);
            let what = format!("{rows} rows of {size}, vocabulary {vocab}");
            assert_close(&results[0], &expected, 2e-6, &what);
            let total = [expected.iter().sum(), labels.iter().filter(|&&l| l != IGNORE_INDEX).count() as f64];
            assert_close(&results[3], &total, 2e-6, &what);
            let loss = |hidden: &[f64]| 0.25 * reference(hidden, &weight64, &labels, size).iter().sum::<f64>();
            assert_gradient(loss, &hidden, &results[1], &what);
            let loss = |weight: &[f64]| 0.25 * reference(&hidden64, weight, &labels, size).iter().sum::<f64>();
            assert_gradient(loss, &weight, &results[2], &what);
        }
    }

    /// Losses that count differently: a row above another's, negatively, and not at all.
    #[test]
    fn each_loss_may_have_a_scale_of_its_own() {
        let (rows, size, vocab) = (21, 9, 33);
        let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 3.0 * x).collect();
        let weight = numbers(2, vocab * size);
        let labels = labels(rows, vocab);
        let scales: Vec<f32> = (0..rows).map(|row| [0.7, 2.0, -0.3, 0.0, -4.0][row % 5]).collect();
        let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
        let results = on_any_threads(|| {
            let (loss, dhidden, dweight) =
                linear_cross_entropy_new(head, LossScale::Each(&scales), true, true).unwrap();
            let same = linear_cross_entropy_new(head, LossScale::Each(&vec![0.7; rows]), true, true).unwrap();
            assert_eq!(same, linear_cross_entropy_new(head, LossScale::Same(0.7), true, true).unwrap());
            vec![loss.rows, dhidden.unwrap(), dweight.unwrap()]
        });
        let (hidden64, weight64) = (in_f64(&hidden), in_f64(&weight));
        assert_close(&results[0], &reference(&hidden64, &weight64, &labels, size), 2e-6, "losses are not scaled");
        let total = |losses: Vec<f64>| losses.iter().zip(&scales).map(|(loss, &scale)| loss * f64::from(scale)).sum();
        let loss = |hidden: &[f64]| total(reference(hidden, &weight64, &labels, size));
        assert_gradient(loss, &hidden, &results[1], "in the hidden states");
        let loss = |weight: &[f64]| total(reference(&hidden64, weight, &labels, size));
        assert_gradient(loss, &weight, &results[2], "in the weight");
    }

    #[test]
    fn chunks_together_equal_the_whole() {
        // A vocabulary of which a chunk holds 16 rows only, and which is no whole number of blocks.
        let (rows, size, vocab) = (50, 2, 1 << 20);
        let (hidden, weight) = (numbers(1, rows * size), numbers(2, vocab * size));
        let labels: Vec<i64> = (0..rows as i64).map(|row| row * 20_000).collect();
        let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
        assert_eq!(chunk::<f32>(rows, vocab), 16);
        let mut dhidden = vec![0.0; hidden.len()];
        let gradients = HeadGradients { dhidden: Some(&mut dhidden), ..HeadGradients::default() };
        let loss = linear_cross_entropy(head, gradients).unwrap();
        let expected = reference(&in_f64(&hidden), &in_f64(&weight), &labels, size);
        assert_close(&loss.rows, &expected, 2e-6, "losses");
        for row in [0, 15, 16, 49] {
            let state = &hidden[row * size..][..size];
            let exps = weight.chunks(size).map(|w| inner(&in_f64(w), state).exp());
            let mut expected = vec![0.0; size];
            let mut total = 0.0;
            for (w, exp) in weight.chunks(size).zip(exps) {
                total += exp;
                expected.iter_mut().zip(w).for_each(|(e, &w)| *e += exp * f64::from(w));
            }
            let own = &weight[labels[row] as usize * size..];
            expected.iter_mut().zip(own).for_each(|(e, &w)| *e = *e / total - f64::from(w));
            assert_close(&dhidden[row * size..][..size], &expected, 1e-5, "gradient of a row");
        }
    }

    /// Logits that grow by powers of two from one block of the vocabulary to the next, so that what was kept of a block must be
    /// brought to the scale of the last.
    #[test]
    fn gradients_over_several_blocks_equal_the_reference() {
        let (rows, size, vocab) = (3, 2, 2 * super::BLOCK_COLUMNS + 5);
        let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 3.0 + x).collect();
        let grown = |(index, w): (usize, f32)| w + 0.4 * (index / (size * super::BLOCK_COLUMNS)) as f32;
        let weight: Vec<f32> = numbers(2, vocab * size).into_iter().enumerate().map(grown).collect();
        let labels: Vec<i64> = vec![7, super::BLOCK_COLUMNS as i64, vocab as i64 - 1];
        let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
        let (_, dhidden, dweight) = linear_cross_entropy_new(head, LossScale::Same(0.5), true, true).unwrap();
        let (mut of_hidden, mut of_weight) = (vec![0.0; rows * size], vec![0.0; vocab * size]);
        let mut kept_on = 0.0;
        for (row, state) in hidden.chunks(size).enumerate() {
            let exps: Vec<f64> = weight.chunks(size).map(|w| inner(&in_f64(w), state).exp()).collect();
            let total: f64 = exps.iter().sum();
            kept_on += exps[..super::BLOCK_COLUMNS].iter().sum::<f64>() / total;
            for (token, exp) in exps.iter().enumerate() {
                let gradient = 0.5 * (exp / total - f64::from(u8::from(token as i64 == labels[row])));
                for i in 0..size {
                    of_hidden[row * size + i] += gradient * f64::from(weight[token * size + i]);
                    of_weight[token * size + i] += gradient * f64::from(state[i]);
                }
            }
        }
        // The first block counts, though it was scaled down.
        assert!(kept_on / rows as f64 > 0.01, "{kept_on}");
        assert_close(&dhidden.unwrap(), &of_hidden, 1e-5, "in the hidden states");
        assert_close(&dweight.unwrap(), &of_weight, 1e-5, "in the weight");
    }

    #[test]
    fn likelihoods_are_minus_the_losses_and_know_the_greedy_choice() {
        // One hidden element: logits are the weights times it.
        let weight = [0.0, 2.0, -1.0, 2.0];
        let head = Head {
            hidden: &[1.0, 1.0, -3.0, 1.0, 1.0],
            weight: &Matrix::new(&weight, 4, 1),
            labels: &[1, 3, 2, IGNORE_INDEX, 0],
        };
        let (rows, scores) = log_likelihood(head).unwrap();
        let losses = linear_cross_entropy(head, HeadGradients::default()).unwrap();
        let greedy: Vec<_> = rows.iter().zip(&scores).map(|(&row, s)| (row, s.is_greedy)).collect();
        assert_eq!(greedy, [(0, true), (1, false), (2, true), (4, false)]);
        for (row, score) in rows.into_iter().zip(&scores) {
            assert!((score.log_probability + losses.rows[row]).abs() < 1e-6);
        }
        let total = 1.0 + 2.0 * 2.0_f64.exp() + (-1.0_f64).exp();
        assert!((f64::from(scores[4 - 1].log_probability) + total.ln()).abs() < 1e-6);
    }

    /// More rows and a larger vocabulary than a block has, the largest logits in any of them.
    #[test]
    fn likelihoods_over_several_blocks_equal_the_losses() {
        let (rows, size, vocab) = (super::BLOCK_ROWS + 3, 2, 2 * super::BLOCK_COLUMNS + 5);
        let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 9.0 * x).collect();
        let weight = numbers(2, vocab * size);
        let labels: Vec<i64> = (0..rows).map(|row| (row * 977 % vocab) as i64).collect();
        let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
        let found = on_any_threads(|| {
            let (rows, scores) = log_likelihood(head).unwrap();
            let numbers =
                |(row, s): (usize, &LabelScore)| [row as f32, s.log_probability, f32::from(u8::from(s.is_greedy))];
            vec![rows.into_iter().zip(&scores).flat_map(numbers).collect()]
        });
        let losses = linear_cross_entropy(head, HeadGradients::default()).unwrap().rows;
        for (row, score) in found[0].chunks(3).enumerate() {
            assert_eq!(score[0], row as f32);
            assert!((score[1] + losses[row]).abs() < 1e-5, "row {row}: {} and {}", score[1], -losses[row]);
            let logit = |w: &[f32]| w[0] * hidden[2 * row] + w[1] * hidden[2 * row + 1];
            let logits: Vec<f32> = weight.chunks(size).map(logit).collect();
            let own = logits[labels[row] as usize];
            let larger = logits.iter().filter(|&&l| l > own + 1e-5).count();
            if larger > 0 {
                assert_eq!(score[2], 0.0, "row {row}");
            }
        }
        // Labels that are the largest, wherever that is.
        let best: Vec<i64> = (0..rows)
            .map(|row| {
                let logit = |w: &[f32]| w[0] * hidden[2 * row] + w[1] * hidden[2 * row + 1];
                let logits: Vec<f32> = weight.chunks(size).map(logit).collect();
                (0..vocab).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as i64
            })
            .collect();
        let greedy = log_likelihood(Head { labels: &best, ..head }).unwrap();
        assert!(greedy.1.iter().filter(|score| score.is_greedy).count() > rows * 99 / 100);
        let blocks: std::collections::HashSet<usize> =
            best.iter().map(|&b| b as usize / super::BLOCK_COLUMNS).collect();
        assert!(blocks.len() > 1, "all in one block");
    }

    #[test]
    fn labels_outside_the_vocabulary_are_errors() {
        for value in [-1, -101, 2] {
            let head = Head { hidden: &[0.0; 4], weight: &Matrix::new(&[0.0; 4], 2, 2), labels: &[0, value] };
            let error = OutOfRange { what: "label", row: 1, value, limit: 2 };
            assert_eq!(linear_cross_entropy(head, HeadGradients::<f32>::default()), Err(error.clone()));
            if value >= 0 {
                assert_eq!(log_likelihood(head), Err(error));
            }
        }
    }

    /// Rows with several labels, on both sides of a block's end, and rows with none.
    #[test]
    fn each_label_of_a_row_has_the_score_that_it_has_alone() {
        let (rows, size, vocab) = (super::BLOCK_ROWS + 5, 3, super::BLOCK_COLUMNS + 7);
        let (hidden, weight) = (numbers(1, rows * size), numbers(2, vocab * size));
        let row = |index: usize| (index * 7 / 11 % rows) as u32;
        let labels: Vec<Label> =
            (0..rows * 11 / 7).map(|index| Label { row: row(index), token: (index * 577 % vocab) as u32 }).collect();
        assert!(labels.windows(2).any(|pair| pair[0].row == pair[1].row));
        let (hidden, weight) = (Matrix::new(&hidden, rows, size), Matrix::new(&weight, vocab, size));
        let all = super::log_likelihood(hidden, &weight, &labels).unwrap();
        for (index, label) in labels.iter().enumerate().step_by(97) {
            let alone = Label { row: 0, ..*label };
            let alone = super::log_likelihood(hidden.rows_from(label.row as usize, 1), &weight, &[alone]).unwrap();
            assert_eq!(alone[0].is_greedy, all[index].is_greedy);
            let difference = alone[0].log_probability - all[index].log_probability;
            assert!(difference.abs() < 1e-6, "{label:?}: {difference}");
        }
        assert_eq!(super::log_likelihood(hidden, &weight, &[]), Ok(vec![]));
    }

    /// However the weight is stored: on bf16 values over several blocks of the vocabulary, in chunks of rows.
    #[test]
    fn a_weight_in_bf16_gives_what_its_values_give_in_f32() {
        fn check<E: super::HeadElement + PartialEq>(rows: usize, size: usize, vocab: usize) {
            let half = crate::narrow(&numbers(2, vocab * size));
            let weight = crate::widen(&half);
            let (half, weight) = (Matrix::new(&half, vocab, size), Matrix::new(&weight, vocab, size));
            let hidden: Vec<E> = numbers(1, rows * size).into_iter().map(E::narrow).collect();
            let labels = labels(rows, vocab);
            let of = |weight| {
                let head = Head { hidden: &hidden, weight, labels: &labels };
                let (loss, dhidden, _) = linear_cross_entropy_new(head, LossScale::Same(0.25), true, false).unwrap();
                let own: Vec<Label> = (0..rows as u32).map(|row| Label { row, token: row % vocab as u32 }).collect();
                let scores = super::log_likelihood(Matrix::new(&hidden, rows, size), weight, &own).unwrap();
                (loss, dhidden, scores)
            };
            assert!(of(&half) == of(&weight), "{rows} rows of {size}, vocabulary {vocab}");
        }
        for (rows, size, vocab) in [(0, 3, 5), (1, 1, 1), (5, 3, 7), (20, 9, 33), (2, 5, 40), (19, 34, 4_001)] {
            check::<f32>(rows, size, vocab);
            check::<half::bf16>(rows, size, vocab);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let head = Head { hidden: &[1000.0], weight: &Matrix::new(&[1.0, -1.0], 2, 1), labels: &[1] };
        let mut dhidden = [0.0];
        let gradients = HeadGradients { dhidden: Some(&mut dhidden), ..HeadGradients::default() };
        assert_eq!(linear_cross_entropy(head, gradients).unwrap().sum, 2000.0);
        assert_eq!(dhidden, [2.0]);
    }
}
