//! Filters by hand, frequencies against the softmax.

use super::{Penalties, Sampler, SamplingError, SamplingOptions};

fn sampler(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
    Sampler::new(SamplingOptions { temperature, top_p, top_k, seed, ..SamplingOptions::default() }).unwrap()
}

/// How often each token comes in `draws` draws.
fn frequencies(sampler: &mut Sampler, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1.0 / draws as f64;
    }
    counts
}

/// Logits whose softmax is exactly these probabilities.
fn logits(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

fn assert_near(frequencies: &[f64], expected: &[f64]) {
    for (token, (frequency, expected)) in frequencies.iter().zip(expected).enumerate() {
        // Four standard deviations of 20,000 draws are at most 0.0142.
        assert!((frequency - expected).abs() < 0.0142, "token {token}: {frequency} instead of {expected}");
        assert!(*expected > 0.0 || *frequency == 0.0, "token {token} was to be dropped");
    }
}

#[test]
fn temperature_zero_takes_the_first_largest() {
    let mut greedy = Sampler::new(SamplingOptions::default()).unwrap();
    assert_eq!(greedy.sample(&[0.0, 3.0, -1.0, 3.0]).unwrap(), 1);
    assert_eq!(greedy.sample(&[f32::NEG_INFINITY, -5.0]).unwrap(), 1);
}

#[test]
fn frequencies_are_the_softmax_at_the_temperature() {
    let probabilities = [0.5, 0.3, 0.15, 0.05];
    let drawn = frequencies(&mut sampler(1.0, 0, 1.0, 7), &logits(&probabilities), 20_000);
    assert_near(&drawn, &probabilities);
    // Temperature 1/2 squares the probabilities.
    let total: f64 = probabilities.iter().map(|p| p * p).sum();
    let drawn = frequencies(&mut sampler(0.5, 0, 1.0, 8), &logits(&probabilities), 20_000);
    assert_near(&drawn, &probabilities.map(|p| p * p / total));
}

#[test]
fn top_k_keeps_the_largest_and_their_equals() {
    let probabilities = [0.1, 0.4, 0.2, 0.2, 0.1];
    let drawn = frequencies(&mut sampler(1.0, 1, 1.0, 9), &logits(&probabilities), 100);
    assert_eq!(drawn[1].round(), 1.0);
    // The second largest has an equal, which stays.
    let drawn = frequencies(&mut sampler(1.0, 2, 1.0, 10), &logits(&probabilities), 20_000);
    assert_near(&drawn, &[0.0, 0.5, 0.25, 0.25, 0.0]);
    let drawn = frequencies(&mut sampler(1.0, 99, 1.0, 11), &logits(&probabilities), 20_000);
    assert_near(&drawn, &probabilities);
}

#[test]
fn top_p_keeps_the_smallest_sufficient_set() {
    let probabilities = [0.15, 0.5, 0.05, 0.3];
    // 0.5 is below 0.7, 0.5 + 0.3 is not: two tokens.
    let drawn = frequencies(&mut sampler(1.0, 0, 0.7, 12), &logits(&probabilities), 20_000);
    assert_near(&drawn, &[0.0, 0.625, 0.0, 0.375]);
    // The most probable stays however small the sum is.
    let drawn = frequencies(&mut sampler(1.0, 0, 1e-6, 13), &logits(&probabilities), 100);
    assert_eq!(drawn[1].round(), 1.0);
}

#[test]
fn top_p_counts_what_top_k_and_the_temperature_left() {
    // After top-k 3 the probabilities are 0.5, 0.3, 0.2 of 1: 0.5 + 0.3 reach 0.8 (of the whole they reach 0.64 only,
    // and a third token would stay).
    let probabilities = [0.4, 0.24, 0.16, 0.1, 0.1];
    let drawn = frequencies(&mut sampler(1.0, 3, 0.79, 14), &logits(&probabilities), 20_000);
    assert_near(&drawn, &[0.625, 0.375, 0.0, 0.0, 0.0]);
    // Temperature first: squared, 0.5 of (0.5, 0.3, 0.2) has 0.66 and suffices for 0.6.
    let drawn = frequencies(&mut sampler(0.5, 0, 0.6, 15), &logits(&[0.5, 0.3, 0.2]), 100);
    assert_eq!(drawn[0].round(), 1.0);
}

#[test]
fn min_p_keeps_what_is_near_the_most_probable() {
    let sampler = |temperature, min_p| {
        Sampler::new(SamplingOptions { temperature, min_p, seed: 18, ..SamplingOptions::default() }).unwrap()
    };
    // 0.16 of 0.5 is below 0.4 of it, 0.24 is not.
    let probabilities = [0.16, 0.5, 0.1, 0.24];
    let drawn = frequencies(&mut sampler(1.0, 0.4), &logits(&probabilities), 20_000);
    assert_near(&drawn, &[0.0, 0.5 / 0.74, 0.0, 0.24 / 0.74]);
    // At temperature 1/2 the squares count: 0.24² is below 0.4 of 0.5².
    let drawn = frequencies(&mut sampler(0.5, 0.4), &logits(&probabilities), 100);
    assert_eq!(drawn[1].round(), 1.0);
    let refused = Sampler::new(SamplingOptions { min_p: 1.1, ..SamplingOptions::default() });
    assert!(matches!(refused, Err(SamplingError::Option { option: "min_p", .. })));
}

#[test]
fn penalties_count_what_was_written() {
    let (prompt, written) = ([0, 1], [1, 2, 2]);
    let after = |penalties: Penalties| {
        let mut logits = [4.0, -2.0, 3.0, 1.0];
        penalties.apply(&mut logits, &prompt, &written);
        logits
    };
    let none = Penalties::default();
    assert_eq!(after(none.clone()), [4.0, -2.0, 3.0, 1.0]);
    // Positive logits are divided, others multiplied, once however often a token came; those of the prompt, too.
    assert_eq!(after(Penalties { repetition: 2.0, ..none.clone() }), [2.0, -4.0, 1.5, 1.0]);
    // Of what was written alone: once for each time, and once at all.
    assert_eq!(after(Penalties { frequency: 0.5, ..none.clone() }), [4.0, -2.5, 2.0, 1.0]);
    assert_eq!(after(Penalties { presence: 0.5, ..none.clone() }), [4.0, -2.5, 2.5, 1.0]);
    assert_eq!(after(Penalties { bias: vec![(3, 7.0), (9, 1.0)], ..none }), [4.0, -2.0, 3.0, 8.0]);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
    let draw = |seed| {
        let mut sampler = sampler(0.8, 40, 0.9, seed);
        (0..64).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn forbidden_tokens_never_come_and_tiny_temperatures_do_not_overflow() {
    let mut sampler = sampler(1e-30, 0, 1.0, 16);
    for _ in 0..20 {
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 1.0, 80.0]).unwrap(), 2);
    }
    // Logits of the largest size there is.
    assert_eq!(sampler.sample(&[f32::MIN, f32::MAX]).unwrap(), 1);
}

#[test]
fn broken_logits_and_options_are_errors() {
    for temperature in [0.0, 1.0] {
        let mut sampler = sampler(temperature, 2, 0.5, 17);
        let nan = sampler.sample(&[0.0, f32::NAN]).unwrap_err();
        assert!(matches!(nan, SamplingError::NotFinite { token: 1, .. }), "{nan}");
        let infinite = sampler.sample(&[0.0, 1.0, f32::INFINITY]).unwrap_err();
        assert!(matches!(infinite, SamplingError::NotFinite { token: 2, .. }), "{infinite}");
        assert_eq!(sampler.sample(&[]), Err(SamplingError::NoCandidate { count: 0 }));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3]), Err(SamplingError::NoCandidate { count: 3 }));
    }
    for (temperature, top_p) in
        [(-1.0, 1.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, f32::NAN)]
    {
        let options = SamplingOptions { temperature, top_p, ..SamplingOptions::default() };
        assert!(matches!(Sampler::new(options), Err(SamplingError::Option { .. })), "{options:?}");
    }
}
