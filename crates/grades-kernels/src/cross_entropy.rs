//! The language-model head and its cross-entropy in one: `loss = Σ −ln softmax(hidden · weightᵀ)[label]`.
//!
//! Logits exist only for rows that have a label, and only for one chunk of them at a time.

use half::bf16;

use crate::dispatch::multiversion;
use crate::gemm::bf16::{Output, Part};
use crate::gemm::{self, Matrix, MatrixMut};
use crate::math::{LANES, exp, max, sum};
use crate::threads::{each, map};
use crate::{Element, OutOfRange};

/// The label of a row that has none, as in PyTorch.
pub const NO_LABEL: i64 = -100;

/// Logits that exist at a time: 96 MiB. Each chunk of rows goes once through the weight and its gradient, so small
/// chunks would be bound by memory.
const CHUNK_ELEMENTS: usize = 24 << 20;

/// What the loss is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, E = f32> {
    /// The last hidden states, `[rows, hidden_size]`.
    pub hidden: &'a [E],
    /// The head's weight, `[vocab, hidden_size]`.
    pub weight: &'a [f32],
    /// The label of every row, already shifted, `[rows]`; [`NO_LABEL`] where there is none.
    pub labels: &'a [i64],
    /// Elements of a hidden state.
    pub hidden_size: usize,
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

/// Where the gradients of `scale · Σ loss` go; what is `None` is not computed.
#[derive(Debug)]
pub struct HeadGradients<'a, E = f32> {
    /// The factor on the sum, `1 / count` for the gradients of the mean.
    pub scale: f32,
    /// `[rows, hidden_size]`, overwritten; zero where there is no label.
    pub dhidden: Option<&'a mut [E]>,
    /// `[vocab, hidden_size]`, added to.
    pub dweight: Option<&'a mut [f32]>,
}

/// No gradients; a scale of 1.
impl<E> Default for HeadGradients<'_, E> {
    fn default() -> Self {
        Self { scale: 1.0, dhidden: None, dweight: None }
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
/// If a label is neither [`NO_LABEL`] nor within the vocabulary; nothing is then written.
///
/// # Panics
/// If a length does not fit.
pub fn linear_cross_entropy<E: HeadElement>(
    head: Head<E>,
    mut gradients: HeadGradients<E>,
) -> Result<CrossEntropy, OutOfRange> {
    let labelled = labelled_rows(&head)?;
    let size = head.hidden_size;
    if let Some(dhidden) = &mut gradients.dhidden {
        assert_eq!(dhidden.len(), head.hidden.len());
        dhidden.fill(E::ZERO);
    }
    if let Some(dweight) = &gradients.dweight {
        assert_eq!(dweight.len(), head.weight.len());
    }
    let gradient_scale = (gradients.dhidden.is_some() || gradients.dweight.is_some()).then_some(gradients.scale);
    let mut own = Vec::new();
    let mut result = CrossEntropy { sum: 0.0, count: labelled.len(), rows: vec![0.0; head.labels.len()] };
    for_each_chunk(&head, &labelled, |rows, hidden, logits| {
        let vocab = logits.len() / rows.len();
        let losses = E::losses(logits, rows, gradient_scale, &mut own);
        for (&(row, _), &loss) in rows.iter().zip(&losses) {
            result.rows[row] = loss;
            result.sum += f64::from(loss);
        }
        if gradient_scale.is_none() {
            return;
        }
        let dlogits = Matrix::new(E::dlogits(logits, &own), rows.len(), vocab);
        if let Some(dweight) = &mut gradients.dweight {
            let hidden = Matrix::new(hidden, rows.len(), size);
            E::weight_gradient(dlogits, hidden, MatrixMut::new(dweight, vocab, size));
        }
        if let Some(dhidden) = &mut gradients.dhidden {
            let weight = Matrix::new(head.weight, vocab, size);
            E::hidden_gradient(dlogits, weight, MatrixMut::new(hidden, rows.len(), size));
            for (&(row, _), gradient) in rows.iter().zip(hidden.chunks_exact(size)) {
                dhidden[row * size..][..size].copy_from_slice(gradient);
            }
        }
    });
    Ok(result)
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
    weight: Matrix,
    labels: &[Label],
) -> Result<Vec<LabelScore>, OutOfRange> {
    let (rows, vocab) = (hidden.rows(), weight.rows());
    assert_eq!(hidden.columns(), weight.columns());
    assert!(labels.is_sorted_by_key(|label| label.row), "labels are not in the order of their rows");
    assert!(labels.last().is_none_or(|last| (last.row as usize) < rows), "a label has no row");
    if let Some(&Label { row, token }) = labels.iter().find(|label| label.token as usize >= vocab) {
        return Err(OutOfRange { what: "label", row: row as usize, value: token.into(), limit: vocab });
    }
    let mut logits = vec![0.0; rows.min(SCORED_ROWS) * vocab.min(SCORED_COLUMNS)];
    let mut scores = Vec::with_capacity(labels.len());
    let mut rest = labels;
    for first_row in (0..rows).step_by(SCORED_ROWS) {
        let rows = SCORED_ROWS.min(rows - first_row);
        let labels;
        (labels, rest) = rest.split_at(rest.partition_point(|label| (label.row as usize) < first_row + rows));
        let row_of = |label: &Label| label.row as usize - first_row;
        let (mut seen, mut own) = (vec![Seen::NOTHING; rows], vec![0.0; labels.len()]);
        for first in (0..vocab).step_by(SCORED_COLUMNS) {
            let columns = SCORED_COLUMNS.min(vocab - first);
            let logits = &mut logits[..rows * columns];
            let to = MatrixMut::new(logits, rows, columns);
            E::logits(hidden.rows_from(first_row, rows), weight.rows_from(first, columns), to);
            each(logits.chunks_exact(columns).zip(&mut seen), |(logits, seen)| seen.add(first, logits));
            for (label, own) in labels.iter().zip(&mut own) {
                if let Some(column) = (label.token as usize).checked_sub(first).filter(|&column| column < columns) {
                    *own = logits[row_of(label) * columns + column];
                }
            }
        }
        scores.extend(labels.iter().zip(own).map(|(label, own)| {
            let Seen { largest, greedy, total } = seen[row_of(label)];
            LabelScore {
                log_probability: (f64::from(own - largest) - total.ln()) as f32,
                is_greedy: greedy == label.token as usize,
            }
        }));
    }
    Ok(scores)
}

/// Rows and columns of a block of logits that are scored at once: 8 MiB.
const SCORED_ROWS: usize = 1024;
const SCORED_COLUMNS: usize = 2048;

/// What is known of a row of logits of which some were seen.
#[derive(Clone, Copy)]
struct Seen {
    largest: f32,
    /// The first of the largest.
    greedy: usize,
    /// Σ exp(logit − largest).
    total: f64,
}

impl Seen {
    const NOTHING: Self = Self { largest: f32::NEG_INFINITY, greedy: 0, total: 0.0 };

    /// The logits from number `first` on.
    fn add(&mut self, first: usize, logits: &[f32]) {
        let largest = max(logits);
        if largest > self.largest {
            self.greedy = first + logits.iter().position(|&logit| logit == largest).unwrap_or_default();
            self.total *= f64::from(self.largest - largest).exp();
            self.largest = largest;
        }
        self.total += f64::from(exp_sum(logits, self.largest));
    }
}

/// The products of the head for one kind of hidden states; logits and weight gradient are f32 for all.
pub trait HeadElement: Element {
    /// `logits [rows, vocab]` of `hidden [rows, size]` and `weight [vocab, size]`.
    fn logits(hidden: Matrix<Self>, weight: Matrix, logits: MatrixMut);

    /// The loss of each row of `logits`, which are overwritten. With a scale, the gradients of `scale · Σ loss` in the
    /// logits are where [`HeadElement::dlogits`] finds them: in their place, or in `own`.
    fn losses(logits: &mut [f32], rows: &[(usize, usize)], scale: Option<f32>, own: &mut Vec<Self>) -> Vec<f32>;

    /// The gradients that [`HeadElement::losses`] left.
    fn dlogits<'a>(logits: &'a [f32], own: &'a [Self]) -> &'a [Self];

    /// Adds `dlogitsᵀ · hidden` to `dweight [vocab, size]`.
    fn weight_gradient(dlogits: Matrix<Self>, hidden: Matrix<Self>, dweight: MatrixMut);

    /// `dhidden [rows, size] = dlogits · weight`.
    fn hidden_gradient(dlogits: Matrix<Self>, weight: Matrix, dhidden: MatrixMut<Self>);
}

impl HeadElement for f32 {
    fn logits(hidden: Matrix, weight: Matrix, logits: MatrixMut) {
        gemm::nt(hidden, weight, logits, false);
    }

    fn losses(logits: &mut [f32], rows: &[(usize, usize)], scale: Option<f32>, _: &mut Vec<f32>) -> Vec<f32> {
        let vocab = logits.len() / rows.len();
        let logits = logits.chunks_exact_mut(vocab).zip(rows);
        map(logits, |(logits, &(_, label))| row_loss(logits, label, scale))
    }

    fn dlogits<'a>(logits: &'a [f32], _: &'a [f32]) -> &'a [f32] {
        logits
    }

    fn weight_gradient(dlogits: Matrix, hidden: Matrix, dweight: MatrixMut) {
        gemm::tn(dlogits, hidden, dweight, true);
    }

    fn hidden_gradient(dlogits: Matrix, weight: Matrix, dhidden: MatrixMut) {
        gemm::nn(dlogits, weight, dhidden, false);
    }
}

impl HeadElement for bf16 {
    fn logits(hidden: Matrix<Self>, weight: Matrix, logits: MatrixMut) {
        gemm::bf16::nt(hidden, &[&weight], &[], Output::F32(logits));
    }

    fn losses(logits: &mut [f32], rows: &[(usize, usize)], scale: Option<f32>, own: &mut Vec<Self>) -> Vec<f32> {
        let vocab = logits.len() / rows.len();
        let Some(scale) = scale else {
            return f32::losses(logits, rows, None, &mut Vec::new());
        };
        own.resize(logits.len(), Self::ZERO);
        let rows = logits.chunks_exact_mut(vocab).zip(own.chunks_exact_mut(vocab)).zip(rows);
        map(rows, |((logits, own), &(_, label))| {
            let loss = row_loss(logits, label, Some(scale));
            crate::element::convert(logits, own);
            loss
        })
    }

    fn dlogits<'a>(logits: &'a [f32], own: &'a [Self]) -> &'a [Self] {
        &own[..logits.len()]
    }

    fn weight_gradient(dlogits: Matrix<Self>, hidden: Matrix<Self>, dweight: MatrixMut) {
        gemm::bf16::tn(dlogits, hidden, vec![Part { first: 0, c: dweight, accumulate: true }]);
    }

    fn hidden_gradient(dlogits: Matrix<Self>, weight: Matrix, dhidden: MatrixMut<Self>) {
        gemm::bf16::nn(dlogits, &[&weight], Output::Bf16(dhidden));
    }
}

/// Rows with a label, and the label.
fn labelled_rows<E>(head: &Head<E>) -> Result<Vec<(usize, usize)>, OutOfRange> {
    assert!(head.hidden_size > 0);
    assert_eq!(head.hidden.len(), head.labels.len() * head.hidden_size);
    assert_eq!(head.weight.len() % head.hidden_size, 0);
    let limit = head.weight.len() / head.hidden_size;
    let labelled = head.labels.iter().enumerate().filter(|&(_, &label)| label != NO_LABEL);
    labelled
        .map(|(row, &value)| match usize::try_from(value) {
            Ok(label) if label < limit => Ok((row, label)),
            _ => Err(OutOfRange { what: "label", row, value, limit }),
        })
        .collect()
}

/// Calls `visit` with chunks of labelled rows, their gathered hidden states `[chunk, hidden_size]` (scratch that it may
/// overwrite) and their logits `[chunk, vocab]`.
fn for_each_chunk<E: HeadElement>(
    head: &Head<E>,
    labelled: &[(usize, usize)],
    mut visit: impl FnMut(&[(usize, usize)], &mut [E], &mut [f32]),
) {
    let size = head.hidden_size;
    let vocab = head.weight.len() / size;
    if labelled.is_empty() {
        return;
    }
    let most = (CHUNK_ELEMENTS / vocab / 16 * 16).max(16);
    // Chunks of about one size, so that none is too small for the products.
    let chunk = labelled.len().div_ceil(labelled.len().div_ceil(most)).next_multiple_of(8).min(labelled.len());
    let mut hidden = vec![E::ZERO; chunk * size];
    let mut logits = vec![0.0; chunk * vocab];
    for rows in labelled.chunks(chunk) {
        let hidden = &mut hidden[..rows.len() * size];
        let logits = &mut logits[..rows.len() * vocab];
        gather(head, rows, hidden);
        let weight = Matrix::new(head.weight, vocab, size);
        E::logits(Matrix::new(hidden, rows.len(), size), weight, MatrixMut::new(logits, rows.len(), vocab));
        visit(rows, hidden, logits);
    }
}

/// Copies the hidden states of `rows` side by side.
fn gather<E: HeadElement>(head: &Head<E>, rows: &[(usize, usize)], hidden: &mut [E]) {
    for (&(row, _), gathered) in rows.iter().zip(hidden.chunks_exact_mut(head.hidden_size)) {
        gathered.copy_from_slice(&head.hidden[row * head.hidden_size..][..head.hidden_size]);
    }
}

multiversion! {
    /// Σ exp(logit − largest) of a block.
    fn exp_sum<FMA>(logits: &[f32], largest: f32) -> f32 {
        let mut sums = [0.0; LANES];
        for logits in logits.chunks(LANES) {
            for (sum, logit) in sums.iter_mut().zip(logits) {
                *sum += exp::<FMA>(logit - largest);
            }
        }
        sum(&sums)
    }

    /// The loss of one row of logits, which become the gradient of the loss if asked.
    fn row_loss<FMA>(logits: &mut [f32], label: usize, gradient_scale: Option<f32>) -> f32 {
        let largest = max(logits);
        let own = logits[label] - largest;
        // Blocks, so that the sum of a large vocabulary loses little.
        let mut total = 0.0_f64;
        for block in logits.chunks_mut(1024) {
            for logit in block.iter_mut() {
                *logit = exp::<FMA>(*logit - largest);
            }
            total += f64::from(sum(block));
        }
        if let Some(scale) = gradient_scale {
            let factor = (f64::from(scale) / total) as f32;
            for probability in logits.iter_mut() {
                *probability *= factor;
            }
            logits[label] -= scale;
        }
        total.ln() as f32 - own
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Head, HeadGradients, Label, LabelScore, NO_LABEL, for_each_chunk, labelled_rows, linear_cross_entropy,
    };
    use crate::OutOfRange;
    use crate::gemm::Matrix;
    use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

    /// Losses of all rows in f64.
    fn reference(hidden: &[f64], weight: &[f64], labels: &[i64], size: usize) -> Vec<f64> {
        let loss = |(row, &label): (usize, &i64)| {
            if label == NO_LABEL {
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
        let labels = head.labels.iter().enumerate().filter(|&(_, &label)| label != NO_LABEL);
        let labels: Vec<_> = labels.map(|(row, &label)| Label { row: row as u32, token: label as u32 }).collect();
        let hidden = Matrix::new(head.hidden, head.labels.len(), head.hidden_size);
        let weight = Matrix::new(head.weight, head.weight.len() / head.hidden_size, head.hidden_size);
        let rows = labels.iter().map(|label| label.row as usize).collect();
        super::log_likelihood(hidden, weight, &labels).map(|scores| (rows, scores))
    }

    fn labels(rows: usize, vocab: usize) -> Vec<i64> {
        (0..rows).map(|row| if row % 3 == 1 { NO_LABEL } else { (row * 7 % vocab) as i64 }).collect()
    }

    #[test]
    fn loss_and_gradients_equal_the_reference_and_its_differences() {
        for (rows, size, vocab) in [(0, 3, 5), (1, 1, 1), (5, 3, 7), (20, 9, 33), (2, 5, 40)] {
            // Three times the usual spread, so that the losses differ.
            let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 3.0 * x).collect();
            let weight = numbers(2, vocab * size);
            let labels = labels(rows, vocab);
            let head = Head { hidden: &hidden, weight: &weight, labels: &labels, hidden_size: size };
            let before = numbers(3, weight.len());
            let scale = 0.25;
            let results = on_any_threads(|| {
                let (mut dhidden, mut dweight) = (vec![f32::NAN; hidden.len()], before.clone());
                let gradients = HeadGradients { scale, dhidden: Some(&mut dhidden), dweight: Some(&mut dweight) };
                let loss = linear_cross_entropy(head, gradients).unwrap();
                assert_eq!(linear_cross_entropy(head, HeadGradients::default()).unwrap(), loss);
                let mut alone = vec![f32::NAN; hidden.len()];
                linear_cross_entropy(head, HeadGradients { scale, dhidden: Some(&mut alone), dweight: None }).unwrap();
                assert_eq!(alone, dhidden);
                let sum = vec![loss.sum as f32, loss.count as f32];
                vec![loss.rows, dhidden, dweight, sum]
            });
            let (hidden64, weight64) = (in_f64(&hidden), in_f64(&weight));
            let expected = reference(&hidden64, &weight64, &labels, size);
            let what = format!("{rows} rows of {size}, vocabulary {vocab}");
            assert_close(&results[0], &expected, 2e-6, &what);
            let total = [expected.iter().sum(), labels.iter().filter(|&&l| l != NO_LABEL).count() as f64];
            assert_close(&results[3], &total, 2e-6, &what);
            let loss = |hidden: &[f64]| 0.25 * reference(hidden, &weight64, &labels, size).iter().sum::<f64>();
            assert_gradient(loss, &hidden, &results[1], &what);
            let added: Vec<f32> = results[2].iter().zip(&before).map(|(after, before)| after - before).collect();
            let loss = |weight: &[f64]| 0.25 * reference(&hidden64, weight, &labels, size).iter().sum::<f64>();
            assert_gradient(loss, &weight, &added, &what);
        }
    }

    #[test]
    fn chunks_together_equal_the_whole() {
        // A vocabulary of which a chunk holds 16 rows only.
        let (rows, size, vocab) = (50, 2, 1 << 20);
        let (hidden, weight) = (numbers(1, rows * size), numbers(2, vocab * size));
        let labels: Vec<i64> = (0..rows as i64).map(|row| row * 20_000).collect();
        let head = Head { hidden: &hidden, weight: &weight, labels: &labels, hidden_size: size };
        let mut chunks = Vec::new();
        for_each_chunk(&head, &labelled_rows(&head).unwrap(), |rows, _, _| chunks.push(rows.len()));
        assert_eq!(chunks, [16, 16, 16, 2]);
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

    #[test]
    fn likelihoods_are_minus_the_losses_and_know_the_greedy_choice() {
        // One hidden element: logits are the weights times it.
        let weight = [0.0, 2.0, -1.0, 2.0];
        let head = Head {
            hidden: &[1.0, 1.0, -3.0, 1.0, 1.0],
            weight: &weight,
            labels: &[1, 3, 2, NO_LABEL, 0],
            hidden_size: 1,
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
        let (rows, size, vocab) = (super::SCORED_ROWS + 3, 2, 2 * super::SCORED_COLUMNS + 5);
        let hidden: Vec<f32> = numbers(1, rows * size).iter().map(|x| 9.0 * x).collect();
        let weight = numbers(2, vocab * size);
        let labels: Vec<i64> = (0..rows).map(|row| (row * 977 % vocab) as i64).collect();
        let head = Head { hidden: &hidden, weight: &weight, labels: &labels, hidden_size: size };
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
            best.iter().map(|&b| b as usize / super::SCORED_COLUMNS).collect();
        assert!(blocks.len() > 1, "all in one block");
    }

    #[test]
    fn labels_outside_the_vocabulary_are_errors() {
        for value in [-1, -101, 2] {
            let head = Head { hidden: &[0.0; 4], weight: &[0.0; 4], labels: &[0, value], hidden_size: 2 };
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
        let (rows, size, vocab) = (super::SCORED_ROWS + 5, 3, super::SCORED_COLUMNS + 7);
        let (hidden, weight) = (numbers(1, rows * size), numbers(2, vocab * size));
        let row = |index: usize| (index * 7 / 11 % rows) as u32;
        let labels: Vec<Label> =
            (0..rows * 11 / 7).map(|index| Label { row: row(index), token: (index * 577 % vocab) as u32 }).collect();
        assert!(labels.windows(2).any(|pair| pair[0].row == pair[1].row));
        let (hidden, weight) = (Matrix::new(&hidden, rows, size), Matrix::new(&weight, vocab, size));
        let all = super::log_likelihood(hidden, weight, &labels).unwrap();
        for (index, label) in labels.iter().enumerate().step_by(97) {
            let alone = Label { row: 0, ..*label };
            let alone = super::log_likelihood(hidden.rows_from(label.row as usize, 1), weight, &[alone]).unwrap();
            assert_eq!(alone[0].is_greedy, all[index].is_greedy);
            let difference = alone[0].log_probability - all[index].log_probability;
            assert!(difference.abs() < 1e-6, "{label:?}: {difference}");
        }
        assert_eq!(super::log_likelihood(hidden, weight, &[]), Ok(vec![]));
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let head = Head { hidden: &[1000.0], weight: &[1.0, -1.0], labels: &[1], hidden_size: 1 };
        let mut dhidden = [0.0];
        let gradients = HeadGradients { dhidden: Some(&mut dhidden), ..HeadGradients::default() };
        assert_eq!(linear_cross_entropy(head, gradients).unwrap().sum, 2000.0);
        assert_eq!(dhidden, [2.0]);
    }
}
