use super::{AdamW, AdamWState, Measure, Sgd, Sums, Update, adamw, axpy, measure, scale, sgd, sum_squares};
use crate::testing::{assert_close, in_f64, numbers, on_any_threads};

const LENGTHS: [usize; 6] = [0, 1, 7, 1000, 16_384, 40_001];

fn expected_sums(gradient: &[f32], previous: &[f32], before: &[f32], after: &[f32]) -> [f64; 6] {
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>();
    let difference =
        |a: &[f32], b: &[f32]| -> Vec<f64> { a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect() };
    let (change, step) = (difference(gradient, previous), difference(after, before));
    let gradient = in_f64(gradient);
    [
        sum(&mut gradient.iter().map(|g| g.abs())),
        sum(&mut change.iter().map(|c| c.abs())),
        sum(&mut gradient.iter().map(|g| g * g)),
        sum(&mut change.iter().map(|c| c * c)),
        sum(&mut step.iter().map(|s| s.abs())),
        sum(&mut step.iter().map(|s| s * s)),
    ]
}

#[track_caller]
fn assert_sums(sums: Sums, expected: [f64; 6]) {
    let actual = [sums.l1, sums.l1_change, sums.sq, sums.sq_change, sums.weight_l1_change, sums.weight_sq_change];
    for (i, (actual, expected)) in actual.into_iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= 2e-6 * expected.abs(), "sum {i} is {actual}, expected {expected}");
    }
}

/// The same parameter through `steps` of an optimizer in f64, as PyTorch's documentation defines it.
fn reference_adamw(options: &AdamW, parameter: &[f32], gradients: &[Vec<f32>], clip: f64) -> [Vec<f64>; 3] {
    let mut w = in_f64(parameter);
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    for (t, gradient) in gradients.iter().enumerate() {
        let t = t as i32 + 1;
        for (i, &g) in gradient.iter().enumerate() {
            let g = f64::from(g) * clip;
            w[i] -= options.learning_rate * options.weight_decay * w[i];
            m[i] = options.beta1 * m[i] + (1.0 - options.beta1) * g;
            v[i] = options.beta2 * v[i] + (1.0 - options.beta2) * g * g;
            let (m_hat, v_hat) = (m[i] / (1.0 - options.beta1.powi(t)), v[i] / (1.0 - options.beta2.powi(t)));
            w[i] -= options.learning_rate * m_hat / (v_hat.sqrt() + options.epsilon);
        }
    }
    [w, m, v]
}

#[test]
fn adamw_follows_its_definition_and_measures_before_clipping() {
    let clip = 0.3;
    for len in LENGTHS {
        let start = numbers(1, len);
        let gradients: Vec<_> = (2..5).map(|seed| numbers(seed, len)).collect();
        let options = AdamW { learning_rate: 0.05, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1, step: 1 };
        let results = on_any_threads(|| {
            let mut parameter = start.clone();
            let [mut first, mut second, mut previous] = std::array::from_fn(|_| vec![0.0; len]);
            for (t, gradient) in gradients.iter().enumerate() {
                let options = AdamW { step: t as u64 + 1, ..options };
                let (before, last) = (parameter.clone(), previous.clone());
                let update = Update {
                    parameter: &mut parameter,
                    gradient,
                    gradient_scale: clip as f32,
                    measure: Measure::Replace(&mut previous),
                };
                let state = AdamWState { first_moment: &mut first, second_moment: &mut second };
                let sums = adamw(&options, update, state);
                assert_sums(sums, expected_sums(gradient, &last, &before, &parameter));
                assert_eq!(&previous, gradient);
            }
            vec![parameter, first, second]
        });
        let expected = reference_adamw(&options, &start, &gradients, clip);
        for (actual, expected) in results.iter().zip(&expected) {
            assert_close(actual, expected, 2e-6, &format!("{len} elements"));
        }
    }
}

#[test]
fn measuring_does_not_change_the_step() {
    let options = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, step: 3 };
    let (start, gradient, old) = (numbers(1, 20_000), numbers(2, 20_000), numbers(3, 20_000));
    let run = |measure: Measure| {
        let mut parameter = start.clone();
        let (mut first, mut second) = (numbers(4, 20_000), vec![0.5; 20_000]);
        let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 1.0, measure };
        let sums = adamw(&options, update, AdamWState { first_moment: &mut first, second_moment: &mut second });
        (parameter, sums)
    };
    let (off, nothing) = run(Measure::Off);
    assert_eq!(nothing, Sums::default());
    let (against, sums) = run(Measure::Against(&old));
    assert_eq!(off, against);
    assert_sums(sums, expected_sums(&gradient, &old, &start, &off));
    let (first, sums) = run(Measure::First);
    assert_eq!(off, first);
    assert_sums(sums, expected_sums(&gradient, &vec![0.0; 20_000], &start, &off));
}

#[test]
fn sgd_follows_its_definition() {
    let clip = 0.5;
    for (len, momentum, nesterov) in [(33, 0.0, false), (33, 0.9, false), (17_000, 0.9, true), (0, 0.9, false)] {
        let start = numbers(1, len);
        let gradients: Vec<_> = (2..5).map(|seed| numbers(seed, len)).collect();
        let options = Sgd { learning_rate: 0.1, momentum, nesterov, weight_decay: 0.2, first: true };
        let result = on_any_threads(|| {
            let mut parameter = start.clone();
            let mut velocity = vec![f32::NAN; len];
            let mut previous = vec![0.0; len];
            for (t, gradient) in gradients.iter().enumerate() {
                let (before, last) = (parameter.clone(), previous.clone());
                let update = Update {
                    parameter: &mut parameter,
                    gradient,
                    gradient_scale: clip as f32,
                    measure: Measure::Replace(&mut previous),
                };
                let velocity = (momentum != 0.0).then_some(&mut velocity[..]);
                let sums = sgd(&Sgd { first: t == 0, ..options }, update, velocity);
                assert_sums(sums, expected_sums(gradient, &last, &before, &parameter));
            }
            vec![parameter]
        });
        let mut expected = in_f64(&start);
        let mut velocity = vec![0.0; len];
        for (t, gradient) in gradients.iter().enumerate() {
            for (i, &g) in gradient.iter().enumerate() {
                let g = f64::from(g) * clip + options.weight_decay * expected[i];
                velocity[i] = if t == 0 { g } else { momentum * velocity[i] + g };
                let step = if nesterov { g + momentum * velocity[i] } else { velocity[i] };
                expected[i] -= options.learning_rate * step;
            }
        }
        assert_close(&result[0], &expected, 2e-6, &format!("{len} elements, momentum {momentum}"));
    }
}

#[test]
fn measuring_alone_gives_the_same_sums() {
    for len in LENGTHS {
        let (gradient, old) = (numbers(1, len), numbers(2, len));
        let [l1, l1_change, sq, sq_change, ..] = expected_sums(&gradient, &old, &[], &[]);
        assert_sums(measure(&gradient, Measure::Against(&old)), [l1, l1_change, sq, sq_change, 0.0, 0.0]);
        let mut replaced = old.clone();
        assert_sums(measure(&gradient, Measure::Replace(&mut replaced)), [l1, l1_change, sq, sq_change, 0.0, 0.0]);
        assert_eq!(replaced, gradient);
        assert_sums(measure(&gradient, Measure::First), [l1, l1, sq, sq, 0.0, 0.0]);
        assert!((sum_squares(&gradient) - sq).abs() <= 2e-6 * sq);
    }
}

#[test]
fn a_gradient_that_is_no_number_shows_in_the_sums() {
    let mut gradient = numbers(1, 100);
    gradient[97] = f32::NAN;
    let sums = measure(&gradient, Measure::First);
    assert!(sums.l1.is_nan() && sums.sq_change.is_nan() && sum_squares(&gradient).is_nan());
}

#[test]
fn axpy_and_scale() {
    let (x, y) = (numbers(1, 20_000), numbers(2, 20_000));
    let mut sum = y.clone();
    axpy(0.5, &x, &mut sum);
    let expected: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| 0.5 * f64::from(x) + f64::from(y)).collect();
    assert_close(&sum, &expected, 1e-7, "axpy");
    let mut scaled = x.clone();
    scale(-4.0, &mut scaled);
    assert!(scaled.iter().zip(&x).all(|(&scaled, &x)| scaled == -4.0 * x));
}
