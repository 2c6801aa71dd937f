use super::{
    AdamW, AdamWState, AdjustLr, Codes, Lion, Measure, Muon, STATE_BLOCK, Sgd, StateMap, Sums, Update, adamw,
    adamw_8bit, lion, measure, muon, sgd, state_scales, sum_squares,
};
use crate::testing::{assert_close, in_f64, numbers, on_any_threads};

const LENGTHS: [usize; 6] = [0, 1, 7, 1000, 16_384, 40_001];

/// Σ |g|, Σ |g − p|, Σ g² and Σ (g − p)².
fn expected_sums(gradient: &[f32], previous: &[f32]) -> [f64; 4] {
    let gradient = in_f64(gradient);
    let change: Vec<f64> = gradient.iter().zip(previous).map(|(g, &p)| g - f64::from(p)).collect();
    let sum = |terms: &[f64], of: fn(f64) -> f64| terms.iter().map(|&x| of(x)).sum::<f64>();
    let square = |x| x * x;
    [sum(&gradient, f64::abs), sum(&change, f64::abs), sum(&gradient, square), sum(&change, square)]
}

#[track_caller]
fn assert_sums(sums: Sums, expected: [f64; 4]) {
    let actual = [sums.l1, sums.l1_change, sums.sq, sums.sq_change];
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

const ADAMW: AdamW =
    AdamW { learning_rate: 0.05, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1, step: 1, gain_of: None };

#[test]
fn adamw_follows_its_definition() {
    let clip = 0.3;
    for len in LENGTHS {
        let start = numbers(1, len);
        let gradients: Vec<_> = (2..5).map(|seed| numbers(seed, len)).collect();
        let options = ADAMW;
        let results = on_any_threads(|| {
            let mut parameter = start.clone();
            let [mut first, mut second] = std::array::from_fn(|_| vec![0.0; len]);
            for (t, gradient) in gradients.iter().enumerate() {
                let options = AdamW { step: t as u64 + 1, ..options };
                let update = Update { parameter: &mut parameter, gradient, gradient_scale: clip as f32 };
                let state = AdamWState { first_moment: &mut first, second_moment: &mut second };
                assert_eq!(adamw(&options, update, state), 0.0);
            }
            vec![parameter, first, second]
        });
        let expected = reference_adamw(&options, &start, &gradients, clip);
        for (actual, expected) in results.iter().zip(&expected) {
            assert_close(actual, expected, 2e-6, &format!("{len} elements"));
        }
    }
}

/// The gain of a step is what the next gradient says of the change that was seen, also under a new learning rate.
#[test]
fn adamw_finds_the_gain_of_the_step_before() {
    for len in LENGTHS {
        let options = AdamW { weight_decay: 0.5, ..ADAMW };
        let gains = on_any_threads(|| {
            let mut parameter = numbers(1, len);
            let [mut first, mut second] = std::array::from_fn(|_| vec![0.0; len]);
            let (mut before, mut found) = (parameter.clone(), Vec::new());
            for step in 1..=4_u64 {
                let gradient = numbers(1 + step, len);
                let change = parameter.iter().zip(&before).map(|(now, before)| f64::from(*now) - f64::from(*before));
                let expected: f64 = gradient.iter().zip(change).map(|(g, change)| -f64::from(*g) * change).sum();
                before.clone_from(&parameter);
                let rate = |step: u64| 0.05 / step as f64;
                let options = AdamW { learning_rate: rate(step), step, gain_of: Some(rate(step - 1)), ..options };
                let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.3 };
                let gain = adamw(&options, update, AdamWState { first_moment: &mut first, second_moment: &mut second });
                // Each term is about 0.05 at most, and the changes are differences of f32.
                assert!(
                    (gain - expected).abs() <= 1e-7 * (len as f64 + 1.0),
                    "{len}, step {step}: {gain}, not {expected}"
                );
                assert_eq!(gain == 0.0, step == 1 || len == 0);
                found.push(gain.to_bits());
            }
            vec![found.iter().flat_map(|x| [*x as u32, (x >> 32) as u32]).map(f32::from_bits).collect()]
        });
        assert_eq!(gains[0].len(), 8);
    }
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
            for (t, gradient) in gradients.iter().enumerate() {
                let update = Update { parameter: &mut parameter, gradient, gradient_scale: clip as f32 };
                let velocity = (momentum != 0.0).then_some(&mut velocity[..]);
                sgd(&Sgd { first: t == 0, ..options }, update, velocity);
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
fn sums_are_those_of_their_definition_on_any_threads() {
    for len in LENGTHS {
        let (gradient, old) = (numbers(1, len), numbers(2, len));
        let expected = expected_sums(&gradient, &old);
        let [l1, _, sq, _] = expected;
        on_any_threads(|| {
            let (against, first) = (measure(&gradient, Measure::Against(&old)), measure(&gradient, Measure::First));
            assert_sums(against, expected);
            assert_sums(first, [l1, l1, sq, sq]);
            let squares = sum_squares(&gradient);
            assert!((squares - sq).abs() <= 2e-6 * sq);
            let sums = [against.l1, against.l1_change, against.sq, against.sq_change, first.sq_change, squares];
            // The bits of the f64.
            vec![
                sums.iter()
                    .flat_map(|x| [x.to_bits() as u32, (x.to_bits() >> 32) as u32])
                    .map(f32::from_bits)
                    .collect(),
            ]
        });
    }
}

#[test]
#[should_panic(expected = "another length")]
fn a_previous_gradient_of_another_length_is_refused() {
    measure(&[1.0; 3], Measure::Against(&[1.0; 2]));
}

#[test]
fn a_gradient_that_is_no_number_shows_in_the_sums() {
    let mut gradient = numbers(1, 100);
    gradient[97] = f32::NAN;
    let sums = measure(&gradient, Measure::First);
    assert!(sums.l1.is_nan() && sums.sq_change.is_nan() && sum_squares(&gradient).is_nan());
}

#[test]
fn lion_follows_its_definition() {
    let clip = 0.5;
    let options = Lion { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.2 };
    for len in [0, 1, 33, 17_000] {
        let start = numbers(1, len);
        let gradients: Vec<_> = (2..5).map(|seed| numbers(seed, len)).collect();
        let result = on_any_threads(|| {
            let (mut parameter, mut momentum) = (start.clone(), vec![0.0; len]);
            for gradient in &gradients {
                let update = Update { parameter: &mut parameter, gradient, gradient_scale: clip as f32 };
                lion(&options, update, &mut momentum);
            }
            vec![parameter, momentum]
        });
        let (mut w, mut m) = (in_f64(&start), vec![0.0; len]);
        for gradient in &gradients {
            for (i, &g) in gradient.iter().enumerate() {
                let (g, direction) = (f64::from(g) * clip, 0.9 * m[i] + 0.1 * f64::from(g) * clip);
                w[i] = w[i] * (1.0 - 0.1 * 0.2) - 0.1 * if direction == 0.0 { 0.0 } else { direction.signum() };
                m[i] = 0.99 * m[i] + 0.01 * g;
            }
        }
        assert_close(&result[0], &w, 2e-6, &format!("{len} elements"));
        assert_close(&result[1], &m, 2e-6, &format!("{len} elements"));
    }
}

#[test]
fn lion_stays_where_there_is_no_direction() {
    let options = Lion { learning_rate: 0.5, beta1: 0.9, beta2: 0.99, weight_decay: 0.5 };
    let (mut parameter, mut momentum) = ([2.0, 2.0], [0.0, 0.0]);
    let update = Update { parameter: &mut parameter, gradient: &[0.0, -0.0], gradient_scale: 1.0 };
    lion(&options, update, &mut momentum);
    assert_eq!((parameter, momentum), ([1.5, 1.5], [0.0, 0.0]));
}

#[test]
fn muon_brings_singular_values_near_one_and_is_the_same_on_any_threads() {
    for shape @ [rows, columns] in [[40, 24], [24, 40], [33, 33], [1, 17], [130, 3]] {
        let gradient = numbers(1, rows * columns);
        let options = Muon {
            learning_rate: 1.0,
            momentum: 0.5,
            nesterov: false,
            ns_steps: 5,
            adjust: AdjustLr::Original,
            weight_decay: 0.0,
        };
        let moved = on_any_threads(|| {
            let (mut parameter, mut momentum) = (vec![0.0; gradient.len()], vec![0.0; gradient.len()]);
            let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.5 };
            muon(&options, update, shape, &mut momentum);
            vec![parameter, momentum]
        });
        // Half of half of the gradient.
        assert_close(&moved[1], &in_f64(&gradient).iter().map(|g| 0.25 * g).collect::<Vec<_>>(), 1e-6, "momentum");
        // Random matrices have singular values that are far enough from 0: all come out between 0.6 and 1.3.
        let factor = options.adjust.factor(shape);
        let squares = sum_squares(&moved[0]) / (factor * factor) / rows.min(columns) as f64;
        assert!((0.36..1.69).contains(&squares), "{shape:?}: {squares}");
        let along: f64 = moved[0].iter().zip(&gradient).map(|(m, g)| f64::from(*m) * f64::from(*g)).sum();
        assert!(along < 0.0, "{shape:?} goes down");
    }
}

#[test]
fn rates_of_muon_follow_from_the_shape() {
    let factors = |adjust: AdjustLr| [[8, 2], [2, 8]].map(|shape| adjust.factor(shape));
    assert_eq!(factors(AdjustLr::Original), [2.0, 1.0]);
    assert_eq!(factors(AdjustLr::SpectralUnclamped), [2.0, 0.5]);
    assert_eq!(factors(AdjustLr::MatchRmsAdamW), [0.2 * 8.0_f64.sqrt(); 2]);
}

#[test]
fn the_code_of_a_number_is_the_nearest_one() {
    for (map, lowest) in [(StateMap::signed(), -1.0), (StateMap::unsigned(), 0.0)] {
        let all = || 0..=u8::MAX;
        assert_eq!((map.value(0), map.code(0.0), map.code(f32::NAN)), (0.0, 0, 0));
        assert!(all().all(|code| map.code(map.value(code)) == code));
        let grid = (0..=20_000).map(|i| i as f32 / 10_000.0 - 1.0);
        // And all sizes down to nothing.
        let sizes = numbers(3, 2000).into_iter().zip(0..).map(|(x, i)| (x * 0.7_f32.powi(i % 90)).clamp(-1.0, 1.0));
        for x in grid.chain(sizes).filter(|x| *x >= lowest) {
            let distance = |code: u8| (f64::from(map.value(code)) - f64::from(x)).abs();
            let least = all().map(distance).fold(f64::INFINITY, f64::min);
            // Where two are as near, to the precision of the comparison, either will do.
            assert!(distance(map.code(x)) <= least + 1e-7 * f64::from(x.abs()), "{x}");
        }
    }
}

#[test]
fn adamw_in_8_bits_is_adamw_on_rounded_moments() {
    let options = ADAMW;
    let maps = [StateMap::signed(), StateMap::unsigned()];
    for len in [0, 1, 255, 256, 257, 40_001] {
        let results = on_any_threads(|| {
            let mut parameter = numbers(1, len);
            let [mut m, mut v] = std::array::from_fn(|_| (vec![0_u8; len], vec![0.0; state_scales(len)]));
            for step in 1..=3_u64 {
                let gradient = numbers(1 + step, len);
                let options = AdamW { step, ..options };
                let mut expected = parameter.clone();
                let [mut first, mut second] = [(maps[0], &m), (maps[1], &v)].map(|(map, (codes, scales))| {
                    let mut values = vec![0.0; len];
                    map.decode(codes, scales, &mut values);
                    values
                });
                let plain = Update { parameter: &mut expected, gradient: &gradient, gradient_scale: 0.3 };
                adamw(&options, plain, AdamWState { first_moment: &mut first, second_moment: &mut second });
                let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.3 };
                let moments = [&mut m, &mut v].map(|(codes, scales)| Codes { codes, scales });
                adamw_8bit(&options, update, moments);
                assert_eq!(parameter, expected, "{len}, step {step}");
                for ((map, exact), (codes, scales)) in maps.into_iter().zip([&first, &second]).zip([&m, &v]) {
                    let mut values = vec![0.0; len];
                    map.decode(codes, scales, &mut values);
                    for ((values, exact), scale) in
                        values.chunks(STATE_BLOCK).zip(exact.chunks(STATE_BLOCK)).zip(scales)
                    {
                        assert_eq!(*scale, exact.iter().fold(0.0, |largest: f32, x| largest.max(x.abs())));
                        for (value, exact) in values.iter().zip(exact) {
                            // Half of the widest step of a map, 0.9 / 64, or of the smallest number that it has.
                            assert!((value - exact).abs() <= 0.0072 * scale, "{value} for {exact}, scale {scale}");
                        }
                    }
                }
            }
            let bytes = |codes: &[u8]| codes.iter().map(|code| f32::from(*code)).collect::<Vec<_>>();
            vec![parameter, bytes(&m.0), m.1, bytes(&v.0), v.1]
        });
        assert_eq!(results[0].len(), len);
    }
}
