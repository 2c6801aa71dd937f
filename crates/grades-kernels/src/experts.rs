//! Mixtures of experts (Shazeer et al. 2017): which tokens go to which expert, and the sum of what experts made of them.
//!
//! An expert's own products are those of any linear layer, over the rows of its tokens, which lie one behind another.

use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{dot, mul_add};
use crate::threads::each;

/// Tokens of a block of work.
const BLOCK: usize = 16;

/// Where the tokens go.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes {
    /// The softmax of each row of logits, `[tokens, experts]`.
    pub probabilities: Vec<f32>,
    /// The experts of each token, the likeliest first, `[tokens, top_k]`.
    pub chosen: Vec<u32>,
    /// What each of them counts, `[tokens, top_k]`.
    pub weights: Vec<f32>,
}

/// The `top_k` likeliest of `experts` by the softmax of `logits [tokens, experts]`; of equally likely ones the first. Each
/// counts its probability, divided by the sum of those that were chosen if `normalise`.
///
/// # Panics
/// If a length does not fit, or `top_k` is not between 1 and `experts`.
#[must_use]
pub fn route(logits: &[f32], experts: usize, top_k: usize, normalise: bool) -> Routes {
    assert!((1..=experts).contains(&top_k) && logits.len().is_multiple_of(experts));
    let tokens = logits.len() / experts;
    let mut routes = Routes {
        probabilities: vec![0.0; logits.len()],
        chosen: vec![0; tokens * top_k],
        weights: vec![0.0; tokens * top_k],
    };
    let of_block = routes.chosen.chunks_mut(BLOCK * top_k).zip(routes.weights.chunks_mut(BLOCK * top_k));
    let blocks = logits.chunks(BLOCK * experts).zip(routes.probabilities.chunks_mut(BLOCK * experts)).zip(of_block);
    each(blocks, |((logits, probabilities), (chosen, weights))| {
        let rows = logits.chunks_exact(experts).zip(probabilities.chunks_exact_mut(experts));
        let picks = chosen.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k));
        for ((logits, probabilities), (chosen, weights)) in rows.zip(picks) {
            softmax(logits, probabilities);
            choose(probabilities, chosen, weights, normalise);
        }
    });
    routes
}

fn softmax(logits: &[f32], probabilities: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = || logits.iter().map(|logit| f64::from(logit - largest).exp());
    let sum: f64 = exponentials().sum();
    probabilities.iter_mut().zip(exponentials()).for_each(|(p, exponential)| *p = (exponential / sum) as f32);
}

fn choose(probabilities: &[f32], chosen: &mut [u32], weights: &mut [f32], normalise: bool) {
    for slot in 0..chosen.len() {
        // A comparison with what is not a number is false, so that there is always a next one.
        let mut best: Option<usize> = None;
        for (expert, p) in probabilities.iter().enumerate() {
            let is_free = !chosen[..slot].contains(&(expert as u32));
            if is_free && best.is_none_or(|best| *p > probabilities[best]) {
                best = Some(expert);
            }
        }
        let best = best.unwrap_or(0);
        (chosen[slot], weights[slot]) = (best as u32, probabilities[best]);
    }
    if normalise {
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

/// The gradient of [`route`] in the logits, from the three parts of the [`Routes`] that it gave: `dweights [tokens, top_k]`, and `slopes [experts]`, a gradient in the
/// probabilities that is the same for each token (of a loss that balances the experts).
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn route_backward(
    dweights: &[f32],
    (probabilities, chosen, weights): (&[f32], &[u32], &[f32]),
    slopes: &[f32],
    normalise: bool,
) -> Vec<f32> {
    let experts = slopes.len();
    let top_k = if probabilities.is_empty() { 1 } else { chosen.len() * experts / probabilities.len() };
    assert!(dweights.len() == weights.len() && chosen.len() == weights.len());
    let mut dlogits = vec![0.0; probabilities.len()];
    let picks = chosen.chunks(BLOCK * top_k).zip(weights.chunks(BLOCK * top_k)).zip(dweights.chunks(BLOCK * top_k));
    let blocks = dlogits.chunks_mut(BLOCK * experts).zip(probabilities.chunks(BLOCK * experts)).zip(picks);
    each(blocks, |((dlogits, probabilities), ((chosen, weights), dweights))| {
        let rows = dlogits.chunks_exact_mut(experts).zip(probabilities.chunks_exact(experts));
        let picks = chosen.chunks_exact(top_k).zip(weights.chunks_exact(top_k)).zip(dweights.chunks_exact(top_k));
        for ((d, p), ((chosen, weights), dweights)) in rows.zip(picks) {
            d.copy_from_slice(slopes);
            let (mut mean, mut sum) = (0.0, 1.0);
            if normalise {
                mean = weights.iter().zip(dweights).map(|(weight, dweight)| weight * dweight).sum::<f32>();
                sum = chosen.iter().map(|&expert| p[expert as usize]).sum::<f32>();
            }
            for (&expert, dweight) in chosen.iter().zip(dweights) {
                d[expert as usize] += (dweight - mean) / sum;
            }
            // Through the softmax.
            let mean: f32 = d.iter().zip(p).map(|(d, p)| d * p).sum();
            d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
        }
    });
    dlogits
}

/// Adds to each row of `out [tokens, width]` the rows that experts made of it: `sources [tokens · top_k]` says for each choice
/// of a token in which of `parts`, each `[rows, width]`, and in which of its rows that is, `weights [tokens · top_k]` what it
/// counts.
///
/// # Panics
/// If a length does not fit, or a source lies outside the parts.
pub fn combine<E: Element>(out: &mut [f32], width: usize, parts: &[&[E]], sources: &[[u32; 2]], weights: &[f32]) {
    assert_eq!(sources.len(), weights.len());
    if sources.is_empty() {
        return;
    }
    let top_k = sources.len() * width / out.len();
    assert_eq!(sources.len() * width, top_k * out.len());
    let of_block = sources.chunks(BLOCK * top_k).zip(weights.chunks(BLOCK * top_k));
    each(out.chunks_mut(BLOCK * width).zip(of_block), |(out, (sources, weights))| {
        let choices = sources.chunks_exact(top_k).zip(weights.chunks_exact(top_k));
        for (out, (sources, weights)) in out.chunks_exact_mut(width).zip(choices) {
            for (&[part, row], &weight) in sources.iter().zip(weights) {
                add_row(weight, &parts[part as usize][row as usize * width..][..width], out);
            }
        }
    });
}

/// The gradients of [`combine`] in one of its parts, `[rows, width]`, and in the weights of its rows, `[rows]`: `tokens [rows]`
/// says whose rows of `dout` those are, `weights [rows]` what they count.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn combine_backward<E: Element>(
    dout: &[f32],
    width: usize,
    part: &[E],
    tokens: &[u32],
    weights: &[f32],
) -> (Vec<E>, Vec<f32>) {
    assert!(part.len() == tokens.len() * width && weights.len() == tokens.len());
    let (mut dpart, mut dweights) = (vec![E::ZERO; part.len()], vec![0.0; tokens.len()]);
    let rows = part.chunks(BLOCK * width).zip(tokens.chunks(BLOCK)).zip(weights.chunks(BLOCK));
    each(dpart.chunks_mut(BLOCK * width).zip(dweights.chunks_mut(BLOCK)).zip(rows), |((dpart, dweights), rows)| {
        let ((part, tokens), weights) = rows;
        let results = dpart.chunks_exact_mut(width).zip(dweights);
        let operands = part.chunks_exact(width).zip(tokens).zip(weights);
        for ((dpart, dweight), ((part, &token), &weight)) in results.zip(operands) {
            *dweight = split_row(weight, &dout[token as usize * width..][..width], part, dpart);
        }
    });
    (dpart, dweights)
}

multiversion! {
    /// `out += weight · row`.
    fn add_row<FMA; E: Element>(weight: f32, row: &[E], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = mul_add::<FMA>(weight, x.widen(), *out);
        }
    }

    /// `drow = weight · dout`, and ⟨dout, row⟩.
    fn split_row<FMA; E: Element>(weight: f32, dout: &[f32], row: &[E], drow: &mut [E]) -> f32 {
        for (drow, dout) in drow.iter_mut().zip(dout) {
            *drow = E::narrow(weight * dout);
        }
        dot::<FMA>(dout, row)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{combine, combine_backward, route, route_backward};
    use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

    /// The weights of the choices of each token in f64.
    fn weights(logits: &[f64], chosen: &[u32], experts: usize, normalise: bool) -> (Vec<f64>, Vec<f64>) {
        let (mut all, mut found) = (Vec::new(), Vec::new());
        let top_k = chosen.len() * experts / logits.len();
        for (logits, chosen) in logits.chunks(experts).zip(chosen.chunks(top_k)) {
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            let p: Vec<f64> = logits.iter().map(|logit| logit.exp() / sum).collect();
            let picked: Vec<f64> = chosen.iter().map(|&expert| p[expert as usize]).collect();
            let sum = if normalise { picked.iter().sum() } else { 1.0 };
            found.extend(picked.iter().map(|p| p / sum));
            all.extend(p);
        }
        (found, all)
    }

    #[test]
    fn tokens_go_to_their_likeliest_experts() {
        for (tokens, experts, top_k) in [(0, 3, 1), (1, 1, 1), (5, 4, 2), (50, 7, 7), (33, 128, 8)] {
            for normalise in [false, true] {
                let logits: Vec<f32> = numbers(1, tokens * experts).iter().map(|x| 4.0 * x).collect();
                on_any_threads(|| {
                    let found = route(&logits, experts, top_k, normalise);
                    vec![found.probabilities, found.weights, found.chosen.iter().map(|&e| e as f32).collect()]
                });
                let found = route(&logits, experts, top_k, normalise);
                for (logits, chosen) in logits.chunks(experts).zip(found.chosen.chunks(top_k)) {
                    let mut order: Vec<usize> = (0..experts).collect();
                    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
                    let expected: Vec<u32> = order[..top_k].iter().map(|&expert| expert as u32).collect();
                    assert_eq!(chosen, expected);
                }
                if tokens > 0 {
                    let (picked, all) = weights(&in_f64(&logits), &found.chosen, experts, normalise);
                    assert_close(&found.weights, &picked, 1e-6, "weights");
                    assert_close(&found.probabilities, &all, 1e-6, "probabilities");
                }
            }
        }
        // Of equally likely ones the first; and what is no number leaves no choice out.
        assert_eq!(route(&[0.0; 4], 4, 3, true).chosen, [0, 1, 2]);
        assert_eq!(route(&[f32::NAN; 3], 3, 2, false).chosen, [0, 1]);
    }

    #[test]
    fn logits_have_the_gradient_of_weights_and_of_a_balance() {
        for (tokens, experts, top_k) in [(1, 1, 1), (5, 4, 2), (19, 7, 3)] {
            for normalise in [false, true] {
                let logits: Vec<f32> = numbers(1, tokens * experts).iter().map(|x| 4.0 * x).collect();
                let (dweights, slopes) = (numbers(2, tokens * top_k), numbers(3, experts));
                let routes = route(&logits, experts, top_k, normalise);
                let parts = (&routes.probabilities[..], &routes.chosen[..], &routes.weights[..]);
                let gradient = on_any_threads(|| vec![route_backward(&dweights, parts, &slopes, normalise)]);
                let value = |logits: &[f64]| {
                    let (picked, all) = weights(logits, &routes.chosen, experts, normalise);
                    inner(&picked, &dweights) + all.chunks(experts).map(|p| inner(p, &slopes)).sum::<f64>()
                };
                assert_gradient(value, &logits, &gradient[0], &format!("{tokens} tokens, {experts} experts"));
            }
        }
    }

    /// Three tokens, each with two of three parts of 2, 1 and 3 rows.
    const TOKENS: [&[u32]; 3] = [&[0, 2], &[1], &[0, 1, 2]];
    const SOURCES: [[u32; 2]; 6] = [[2, 0], [0, 0], [1, 0], [2, 1], [0, 1], [2, 2]];

    #[test]
    fn rows_of_experts_are_added_with_their_weights() {
        for width in [1, 5, 67] {
            let parts: Vec<Vec<f32>> = (0..).zip(TOKENS).map(|(i, rows)| numbers(i, rows.len() * width)).collect();
            let (weights, before, dout) = (numbers(7, 6), numbers(8, 3 * width), numbers(9, 3 * width));
            let sources = |part: usize| {
                let of_part = SOURCES.iter().zip(&weights).filter(move |(source, _)| source[0] as usize == part);
                of_part.map(|(_, weight)| *weight).collect::<Vec<f32>>()
            };
            let mut expected = in_f64(&before);
            for (choice, &[part, row]) in SOURCES.iter().enumerate() {
                for d in 0..width {
                    let x = f64::from(parts[part as usize][row as usize * width + d]);
                    expected[choice / 2 * width + d] += f64::from(weights[choice]) * x;
                }
            }
            let all: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            let out = on_any_threads(|| {
                let mut out = before.clone();
                combine(&mut out, width, &all, &SOURCES, &weights);
                vec![out]
            });
            assert_close(&out[0], &expected, 1e-6, "the sum");
            for (index, (part, tokens)) in parts.iter().zip(TOKENS).enumerate() {
                let of_part = sources(index);
                let found = on_any_threads(|| {
                    let (dpart, dweights) = combine_backward(&dout, width, part, tokens, &of_part);
                    vec![dpart, dweights]
                });
                for (row, &token) in tokens.iter().enumerate() {
                    let dout = &dout[token as usize * width..][..width];
                    let dot: f64 = inner(&in_f64(dout), &part[row * width..][..width]);
                    assert_close(&found[1][row..=row], &[dot], 1e-5, "a weight's gradient");
                    for d in 0..width {
                        assert_eq!(found[0][row * width + d], of_part[row] * dout[d]);
                    }
                }
            }
        }
        let (mut out, half) = ([1.0], [bf16::from_f32(0.5)]);
        combine(&mut out, 1, &[&half], &[[0, 0]], &[3.0]);
        assert_eq!(out, [2.5]);
        combine::<f32>(&mut [], 4, &[], &[], &[]);
    }
}
