use std::path::Path;

use serde_json::Value;

use super::*;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Losses and gradients of TRL's own code.
#[test]
fn losses_and_their_gradients_are_those_of_trl() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/preference/losses.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pairs: Vec<[Answer; 2]> = expected["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            let [logps, reference, tokens] = ["logps", "reference", "tokens"].map(|key| numbers(&pair[key]));
            let answer = |at: usize| Answer {
                log_probability: logps[at],
                reference: reference[at],
                tokens: tokens[at] as usize,
                ..Answer::default()
            };
            [answer(0), answer(1)]
        })
        .collect();
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let beta = number("beta");
        let loss = match case["method"].as_str().unwrap() {
            "dpo" => PreferenceLoss::Dpo {
                kind: serde_json::from_value(case["kind"].clone()).unwrap(),
                beta,
                label_smoothing: number("label_smoothing"),
                rpo_alpha: 0.0,
            },
            "simpo" => PreferenceLoss::SimPo { beta, gamma: number("gamma"), cpo_alpha: 0.0 },
            "orpo" => PreferenceLoss::Orpo { beta },
            other => panic!("{other}"),
        };
        let mut found = loss.of_pairs(&pairs);
        let gradient: Vec<f64> = case["gradient"].as_array().unwrap().iter().flat_map(numbers).collect();
        if loss.learns_prompts() {
            // TRL's value is of the odds ratio alone.
            let sums: (f64, usize) =
                pairs.iter().fold((0.0, 0), |sum, [c, _]| (sum.0 + c.log_probability, sum.1 + c.tokens));
            found.loss += sums.0 / sums.1 as f64;
            found.slopes.iter_mut().step_by(2).for_each(|slope| *slope += 1.0 / sums.1 as f64);
        }
        assert!((found.loss - number("loss")).abs() < 1e-9, "{case}: {}", found.loss);
        for (slope, expected) in found.slopes.iter().zip(&gradient) {
            assert!((slope - expected).abs() < 1e-9, "{case}: {slope} and {expected}");
        }
    }
}

/// Everything that a loss says of what it counts is its slope: also cross-entropies, learnt prompts, and judged answers.
#[test]
fn slopes_are_the_differences_of_losses() {
    let answer = |log_probability, reference, tokens| Answer {
        log_probability,
        reference,
        tokens,
        prompt: 1.5 * reference,
        prompt_tokens: 4,
    };
    let answers = [answer(-3.0, -2.5, 3), answer(-4.5, -6.0, 2), answer(-8.0, -7.0, 5), answer(-1.0, -2.0, 4)];
    let dpo = |kind, rpo_alpha| PreferenceLoss::Dpo { kind, beta: 0.6, label_smoothing: 0.1, rpo_alpha };
    let mut losses =
        vec![PreferenceLoss::Orpo { beta: 0.4 }, PreferenceLoss::SimPo { beta: 2.0, gamma: 0.5, cpo_alpha: 0.7 }];
    losses.push(PreferenceLoss::Kto { beta: 0.5, desirable_weight: 1.5, undesirable_weight: 0.8 });
    for kind in [DpoLossType::Sigmoid, DpoLossType::Hinge, DpoLossType::Ipo, DpoLossType::Robust] {
        losses.extend([dpo(kind, 0.0), dpo(kind, 0.3)]);
    }
    for loss in losses {
        let judge = |answers: &[Answer]| match loss {
            PreferenceLoss::Kto { .. } => {
                let judged: Vec<_> = answers.iter().copied().zip([true, false, true, true]).collect();
                loss.of_judged(&judged, &[answer(-3.0, -4.0, 1), answer(-1.0, -1.5, 1)])
            }
            _ => {
                // Only ORPO has prompts.
                let of = |one: &Answer| {
                    if loss.learns_prompts() { *one } else { Answer { prompt: 0.0, prompt_tokens: 0, ..*one } }
                };
                loss.of_pairs(&[[of(&answers[0]), of(&answers[1])], [of(&answers[2]), of(&answers[3])]])
            }
        };
        let found = judge(&answers);
        assert_eq!(found.slopes.len(), 4);
        let difference = |change: &dyn Fn(&mut [Answer; 4], f64)| {
            let at = |by: f64| {
                let mut moved = answers;
                change(&mut moved, by);
                judge(&moved).loss
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        for (index, slope) in found.slopes.iter().enumerate() {
            let expected = difference(&|answers, by| answers[index].log_probability += by);
            assert!((slope - expected).abs() < 1e-8, "{loss:?}, answer {index}: {slope} and {expected}");
        }
        if loss.learns_prompts() {
            let expected = difference(&|answers, by| answers[2].prompt += by);
            assert!((found.prompt_slope - expected).abs() < 1e-8 && expected != 0.0, "{loss:?}");
        }
    }
}

#[test]
fn rewards_are_told_by_their_means() {
    let loss = PreferenceLoss::Dpo { kind: DpoLossType::Sigmoid, beta: 0.5, label_smoothing: 0.0, rpo_alpha: 0.0 };
    let answer = |log_probability, reference| Answer { log_probability, reference, tokens: 1, ..Answer::default() };
    let mut sums = loss.of_pairs(&[[answer(-1.0, -2.0), answer(-3.0, -2.0)]]).rewards;
    sums.add(&loss.of_pairs(&[[answer(-4.0, -3.0), answer(-2.0, -2.0)]]).rewards);
    let (rewards, logps, kl) = sums.means();
    let expected = Rewards { chosen: Some(0.0), rejected: Some(-0.25), accuracies: Some(0.5), margins: Some(0.25) };
    assert_eq!((rewards, kl), (expected, None));
    assert_eq!(logps, AnswerLogps { chosen: Some(-2.5), rejected: Some(-2.5) });
    // Answers of one kind alone.
    let kto = PreferenceLoss::Kto { beta: 0.5, desirable_weight: 1.0, undesirable_weight: 1.0 };
    let (rewards, _, kl) = kto.of_judged(&[(answer(-1.0, -2.0), true)], &[answer(-3.0, -2.0)]).rewards.means();
    assert_eq!((rewards.chosen, rewards.rejected, rewards.margins, kl), (Some(0.5), None, None, Some(0.0)));
}

/// Certain answers and large margins give numbers.
#[test]
fn extremes_are_finite() {
    let answer = |log_probability| Answer { log_probability, reference: -1.0, tokens: 1, ..Answer::default() };
    for loss in [
        PreferenceLoss::Orpo { beta: 0.1 },
        PreferenceLoss::SimPo { beta: 100.0, gamma: 0.5, cpo_alpha: 1.0 },
        PreferenceLoss::Dpo { kind: DpoLossType::Sigmoid, beta: 100.0, label_smoothing: 0.0, rpo_alpha: 0.0 },
    ] {
        for pair in [[answer(0.0), answer(-1e4)], [answer(-1e4), answer(0.0)]] {
            let found = loss.of_pairs(&[pair]);
            assert!(
                found.loss.is_finite() && found.slopes.iter().all(|slope| slope.is_finite()),
                "{loss:?}: {found:?}"
            );
        }
    }
}
