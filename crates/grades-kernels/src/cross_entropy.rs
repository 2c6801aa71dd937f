//! The language-model head and its cross-entropy in one: `loss = Σ −ln softmax(hidden · weightᵀ)[label]`.
//!
//! Logits exist only for rows that have a label, and only for one chunk of them at a time.

use rayon::prelude::*;

use crate::OutOfRange;
use crate::dispatch::multiversion;
use crate::gemm::{self, Matrix, MatrixMut};
use crate::math::{exp, max, sum};

/// The label of a row that has none, as in PyTorch.
pub const NO_LABEL: i64 = -100;

/// Logits that exist at a time: 64 MiB. Each chunk of rows goes once through the weight and its gradient, so small
/// chunks would be bound by memory.
const CHUNK_ELEMENTS: usize = 16 << 20;

/// What the loss is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The last hidden states, `[rows, hidden_size]`.
    pub hidden: &'a [f32],
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
#[derive(Debug, Default)]
pub struct HeadGradients<'a> {
    /// The factor on the sum, `1 / count` for the gradients of the mean.
    pub scale: f32,
    /// `[rows, hidden_size]`, overwritten; zero where there is no label.
    pub dhidden: Option<&'a mut [f32]>,
    /// `[vocab, hidden_size]`, added to.
    pub dweight: Option<&'a mut [f32]>,
}

/// How well a label was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// The row.
    pub row: usize,
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
pub fn linear_cross_entropy(head: Head, mut gradients: HeadGradients) -> Result<CrossEntropy, OutOfRange> {
    let labelled = labelled_rows(&head)?;
    let size = head.hidden_size;
    if let Some(dhidden) = &mut gradients.dhidden {
        assert_eq!(dhidden.len(), head.hidden.len());
        dhidden.fill(0.0);
    }
    if let Some(dweight) = &gradients.dweight {
        assert_eq!(dweight.len(), head.weight.len());
    }
    let gradient_scale = (gradients.dhidden.is_some() || gradients.dweight.is_some()).then_some(gradients.scale);
    let mut result = CrossEntropy { sum: 0.0, count: labelled.len(), rows: vec![0.0; head.labels.len()] };
    for_each_chunk(&head, &labelled, |rows, hidden, logits| {
        let vocab = logits.len() / rows.len();
        let losses: Vec<f32> = logits
            .par_chunks_exact_mut(vocab)
            .zip(rows)
            .map(|(logits, &(_, label))| row_loss(logits, label, gradient_scale))
            .collect();
        for (&(row, _), &loss) in rows.iter().zip(&losses) {
            result.rows[row] = loss;
            result.sum += f64::from(loss);
        }
        let dlogits = Matrix::new(logits, rows.len(), vocab);
        if let Some(dweight) = &mut gradients.dweight {
            let hidden = Matrix::new(hidden, rows.len(), size);
            gemm::tn(dlogits, hidden, MatrixMut::new(dweight, vocab, size), true);
        }
        if let Some(dhidden) = &mut gradients.dhidden {
            let weight = Matrix::new(head.weight, vocab, size);
            gemm::nn(dlogits, weight, MatrixMut::new(hidden, rows.len(), size), false);
            for (&(row, _), gradient) in rows.iter().zip(hidden.chunks_exact(size)) {
                dhidden[row * size..][..size].copy_from_slice(gradient);
            }
        }
    });
    Ok(result)
}

/// The log-probability of every label, for evaluation: one entry per labelled row, in order.
///
/// # Errors
/// If a label is neither [`NO_LABEL`] nor within the vocabulary.
///
/// # Panics
/// If a length does not fit.
pub fn log_likelihood(head: Head) -> Result<Vec<LabelScore>, OutOfRange> {
    let labelled = labelled_rows(&head)?;
    let mut scores = Vec::with_capacity(labelled.len());
    for_each_chunk(&head, &labelled, |rows, _, logits| {
        let vocab = logits.len() / rows.len();
        scores.par_extend(logits.par_chunks_exact_mut(vocab).zip(rows).map(|(logits, &(row, label))| {
            let own = logits[label];
            let is_greedy = logits[..label].iter().all(|&l| l < own) && logits[label + 1..].iter().all(|&l| l <= own);
            LabelScore { row, log_probability: -row_loss(logits, label, None), is_greedy }
        }));
    });
    Ok(scores)
}

/// Rows with a label, and the label.
fn labelled_rows(head: &Head) -> Result<Vec<(usize, usize)>, OutOfRange> {
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
fn for_each_chunk(
    head: &Head,
    labelled: &[(usize, usize)],
    mut visit: impl FnMut(&[(usize, usize)], &mut [f32], &mut [f32]),
) {
    let size = head.hidden_size;
    let vocab = head.weight.len() / size;
    if labelled.is_empty() {
        return;
    }
    let chunk = (CHUNK_ELEMENTS / vocab / 16 * 16).clamp(16, labelled.len().max(16)).min(labelled.len());
    let mut hidden = vec![0.0; chunk * size];
    let mut logits = vec![0.0; chunk * vocab];
    for rows in labelled.chunks(chunk) {
        let hidden = &mut hidden[..rows.len() * size];
        let logits = &mut logits[..rows.len() * vocab];
        for (&(row, _), gathered) in rows.iter().zip(hidden.chunks_exact_mut(size)) {
            gathered.copy_from_slice(&head.hidden[row * size..][..size]);
        }
        let weight = Matrix::new(head.weight, vocab, size);
        gemm::nt(Matrix::new(hidden, rows.len(), size), weight, MatrixMut::new(logits, rows.len(), vocab), false);
        visit(rows, hidden, logits);
    }
}

multiversion! {
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
