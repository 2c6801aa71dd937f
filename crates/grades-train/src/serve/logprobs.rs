//! How likely the model held tokens to be.

/// A token, and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    /// The token.
    pub(super) id: u32,
    /// The natural logarithm of its probability; the first token of a text has none.
    pub(super) logprob: Option<f64>,
    /// The most likely tokens in its place with theirs, the most likely first.
    pub(super) top: Vec<(u32, f64)>,
}

impl Told {
    /// Of the logits that it was chosen by, with so many others.
    pub(super) fn of(id: u32, logits: &[f32], others: usize) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        let logprob = |id: u32| f64::from(logits[id as usize] - largest) - total.ln();
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let by_likelihood =
            |one: &u32, other: &u32| logits[*other as usize].total_cmp(&logits[*one as usize]).then(one.cmp(other));
        if others < ids.len() {
            ids.select_nth_unstable_by(others, by_likelihood);
            ids.truncate(others);
        }
        ids.sort_unstable_by(by_likelihood);
        Self { id, logprob: Some(logprob(id)), top: ids.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let probabilities = [0.1_f64, 0.2, 0.5, 0.2];
        let logits = probabilities.map(|p| (p.ln() + 3.0) as f32);
        let told = Told::of(0, &logits, 3);
        assert!((told.logprob.unwrap() - 0.1_f64.ln()).abs() < 1e-6);
        assert_eq!(told.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1, 3]);
        for (id, logprob) in told.top {
            assert!((logprob - probabilities[id as usize].ln()).abs() < 1e-6);
        }
        assert_eq!(Told::of(1, &logits, 0).top, []);
        assert_eq!(Told::of(1, &logits, 20).top.len(), 4);
    }
}
