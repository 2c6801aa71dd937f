//! Walking over a parameter, its gradient and its state together.

use crate::threads::each;

/// One parameter and its gradient in an optimizer step; both of one length.
#[derive(Debug)]
pub struct Update<'a> {
    /// The parameter, updated in place.
    pub parameter: &'a mut [f32],
    /// Its gradient.
    pub gradient: &'a [f32],
    /// Scaling factor of the gradient (clipping).
    pub gradient_scale: f32,
}

/// Elements of a block of work.
const BLOCK: usize = 16_384;

/// Applies `step` to parts of the parameter, the gradient and the states, on all threads, and adds up what it returns in
/// the order of the parts.
///
/// # Panics
/// If the lengths differ.
pub(super) fn apply<const STATES: usize>(
    update: Update,
    mut states: [&mut [f32]; STATES],
    step: impl Fn(&mut [f32], &[f32], [&mut [f32]; STATES]) -> f64 + Sync,
) -> f64 {
    let Update { parameter, gradient, .. } = update;
    let len = parameter.len();
    assert_eq!(gradient.len(), len);
    assert!(states.iter().all(|state| state.len() == len), "an optimizer state is not as long as its parameter");
    let mut take = |count: usize| states.each_mut().map(|rest| rest.split_off_mut(..count).unwrap_or_default());
    let parts = parameter.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
    let parts: Vec<_> = parts.map(|(parameter, gradient)| (take(parameter.len()), parameter, gradient)).collect();
    let mut results = vec![0.0; parts.len()];
    let results_of = results.iter_mut().zip(parts);
    each(results_of, |(result, (states, parameter, gradient))| *result = step(parameter, gradient, states));
    results.iter().sum()
}
