use half::bf16;

use super::{Attention, Saved, Segment, attention_backward_new, attention_new, reference};
use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

struct Case {
    form: Attention,
    segments: Vec<Segment>,
    query_tokens: usize,
    key_tokens: usize,
}

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, lengths: &[usize]) -> Self {
        // A token of padding before the first segment and two after the last.
        let mut segments = Vec::new();
        let mut start = 1;
        for length in lengths {
            segments.push(Segment::from((start, start + length)));
            start += length;
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        let form = Attention { heads, kv_heads, head_dim, scale, causal: true, window: None };
        Self { form, segments, query_tokens: start + 2, key_tokens: start + 2 }
    }

    fn inputs(&self) -> [Vec<f32>; 4] {
        let (queries, keys) = (self.query_tokens * self.form.query_width(), self.key_tokens * self.form.key_width());
        // Twice the usual spread, so that probabilities are uneven.
        let q = numbers(1, queries).iter().map(|x| 2.0 * x).collect();
        [q, numbers(2, keys), numbers(3, keys), numbers(4, queries)]
    }

    /// out, dq, dk, dv, log-sum-exp.
    fn run(&self) -> Vec<Vec<f32>> {
        self.run_on(&self.inputs())
    }

    /// As `run`, on any inputs.
    fn run_on(&self, [q, k, v, dout]: &[Vec<f32>; 4]) -> Vec<Vec<f32>> {
        on_any_threads(|| {
            let (out, log_sum_exp) = attention_new(&self.form, &self.segments, q, k, v);
            let saved = Saved { q, k, v, out: &out, log_sum_exp: &log_sum_exp };
            let [dq, dk, dv] = attention_backward_new(&self.form, &self.segments, saved, dout);
            vec![out, dq, dk, dv, log_sum_exp]
        })
    }

    fn check_forward(&self) {
        let [q, k, v, _] = self.inputs();
        let expected = reference::attention(&self.form, &self.segments, &in_f64(&q), &in_f64(&k), &in_f64(&v));
        assert_close(&self.run()[0], &expected, 5e-6, &format!("{:?} {:?}", self.form, self.segments));
    }

    fn check_gradients(&self) {
        let [q, k, v, dout] = self.inputs();
        let results = self.run();
        let (q64, k64, v64) = (in_f64(&q), in_f64(&k), in_f64(&v));
        let loss =
            |q: &[f64], k: &[f64], v: &[f64]| inner(&reference::attention(&self.form, &self.segments, q, k, v), &dout);
        let what = format!("{:?} {:?}", self.form, self.segments);
        assert_gradient(|q| loss(q, &k64, &v64), &q, &results[1], &format!("dq {what}"));
        assert_gradient(|k| loss(&q64, k, &v64), &k, &results[2], &format!("dk {what}"));
        assert_gradient(|v| loss(&q64, &k64, v), &v, &results[3], &format!("dv {what}"));
    }
}

#[test]
fn any_head_size_and_grouping_equals_the_reference() {
    for head_dim in [8, 16, 24, 64, 80, 96, 128, 256] {
        Case::new(2, 1, head_dim, &[5, 1, 33]).check_forward();
    }
    for (heads, kv_heads) in [(1, 1), (4, 4), (9, 3), (6, 1)] {
        Case::new(heads, kv_heads, 8, &[40, 3]).check_forward();
    }
}

#[test]
fn segments_longer_than_all_blocks_equal_the_reference() {
    let mut case = Case::new(2, 1, 8, &[300, 64, 128, 129]);
    case.check_forward();
    for (causal, window) in [(true, Some(8)), (true, Some(150)), (true, Some(1)), (false, None), (false, Some(70))] {
        case.form.causal = causal;
        case.form.window = window;
        case.check_forward();
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (heads, kv_heads, head_dim, lengths) in [(2, 2, 4, &[7, 1][..]), (4, 2, 3, &[9, 4]), (3, 1, 8, &[5])] {
        let mut case = Case::new(heads, kv_heads, head_dim, lengths);
        case.check_gradients();
        for (causal, window) in [(true, Some(3)), (false, None), (false, Some(2))] {
            case.form.causal = causal;
            case.form.window = window;
            case.check_gradients();
        }
    }
}

#[test]
fn gradients_across_blocks_equal_finite_differences() {
    let mut case = Case::new(1, 1, 2, &[140]);
    case.check_gradients();
    case.form.window = Some(75);
    case.check_gradients();
}

#[test]
fn new_queries_over_a_cache_equal_the_end_of_the_whole() {
    let whole = Case::new(4, 2, 16, &[150]);
    let [q, k, v, _] = whole.inputs();
    let results = whole.run();
    for new in [1, 3, 80] {
        let segment = Segment { queries: 0..new, keys: 1..151 };
        let rows = (151 - new) * whole.form.query_width()..151 * whole.form.query_width();
        let (out, log_sum_exp) = attention_new(&whole.form, &[segment], &q[rows.clone()], &k, &v);
        assert_close(&out, &in_f64(&results[0][rows]), 2e-6, &format!("{new} new queries"));
        let sums = &results[4][(151 - new) * whole.form.heads..151 * whole.form.heads];
        assert_close(&log_sum_exp, &in_f64(sums), 2e-6, &format!("{new} new queries"));
    }
}

#[test]
fn gradients_reach_the_cache() {
    let mut case = Case::new(2, 1, 4, &[3]);
    case.segments = vec![Segment { queries: 1..4, keys: 2..9 }, Segment { queries: 4..6, keys: 9..11 }];
    case.key_tokens = 12;
    case.check_gradients();
}

#[test]
fn tokens_outside_segments_get_zeros() {
    let case = Case::new(2, 2, 8, &[4]);
    let results = case.run();
    for part in &results[..4] {
        let width = case.form.query_width();
        assert!(part[..width].iter().chain(&part[5 * width..]).all(|&x| x == 0.0));
        assert!(part[width..5 * width].iter().any(|&x| x != 0.0));
    }
}

#[test]
fn no_tokens_and_empty_segments_are_fine() {
    let mut case = Case::new(2, 1, 8, &[0, 3, 0]);
    case.check_forward();
    case.segments.clear();
    assert!(case.run()[0].iter().all(|&x| x == 0.0));
    case.query_tokens = 0;
    case.key_tokens = 0;
    assert!(case.run().iter().all(Vec::is_empty));
}

#[test]
fn large_scores_do_not_overflow() {
    let form = Attention { heads: 1, kv_heads: 1, head_dim: 1, scale: 100.0, causal: true, window: None };
    let (out, log_sum_exp) = attention_new(&form, &[Segment::from(0..2)], &[1.0, 10.0], &[3.0, 5.0], &[1.0, 2.0]);
    assert_eq!(out, [1.0, 2.0]);
    assert_eq!(log_sum_exp, [300.0, 5000.0]);
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_segments_are_refused() {
    let mut case = Case::new(1, 1, 1, &[4]);
    case.segments.push(Segment::from(3..6));
    case.run();
}

/// bf16 against f32 on the same numbers: the results, log-sum-exp and gradients differ by what roundings make.
#[test]
fn bf16_equals_f32_within_rounding() {
    let mut cases = vec![Case::new(2, 1, 8, &[300, 64, 128, 129]), Case::new(9, 3, 64, &[97, 1, 2, 48])];
    for head_dim in [8, 16, 24, 64, 80, 96, 128, 256, 10, 7] {
        cases.push(Case::new(2, 1, head_dim, &[5, 1, 33, 130]));
    }
    for (causal, window) in [(true, Some(8)), (true, Some(150)), (true, Some(1)), (false, None), (false, Some(70))] {
        let mut case = Case::new(2, 2, 16, &[200, 50]);
        (case.form.causal, case.form.window) = (causal, window);
        cases.push(case);
    }
    for case in cases {
        let short = case.inputs().map(|x| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
        let [q, k, v, dout] = &short;
        let found = on_any_threads(|| {
            let (out, log_sum_exp) = attention_new(&case.form, &case.segments, q, k, v);
            let saved = Saved { q, k, v, out: &out, log_sum_exp: &log_sum_exp };
            let [dq, dk, dv] = attention_backward_new(&case.form, &case.segments, saved, dout);
            let wide = |x: Vec<bf16>| x.iter().map(|x| x.to_f32()).collect();
            vec![wide(out), wide(dq), wide(dk), wide(dv), log_sum_exp]
        });
        let wide = short.map(|x| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        let expected = case.run_on(&wide);
        let names = ["out", "dq", "dk", "dv", "log-sum-exp"];
        // Half a step of bf16 is 2⁻⁹ of a number; several roundings lie between the inputs and a gradient.
        let tolerances = [4e-3, 1.2e-2, 1.2e-2, 1.2e-2, 1e-5];
        for (i, (name, tolerance)) in names.into_iter().zip(tolerances).enumerate() {
            let what = format!("{name} {:?} {:?}", case.form, case.segments);
            assert_close(&found[i], &in_f64(&expected[i]), tolerance, &what);
        }
    }
}

/// Long segments and short ones are multiplied in different ways: a short one is what it is alone.
#[test]
fn a_segment_in_bf16_does_not_depend_on_its_neighbours() {
    let both = Case::new(2, 1, 16, &[40, 130]);
    let mut alone = Case::new(2, 1, 16, &[40, 130]);
    alone.segments.truncate(1);
    let [q, k, v, dout] = both.inputs().map(|x| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
    let run = |case: &Case| {
        let (out, log_sum_exp) = attention_new(&case.form, &case.segments, &q, &k, &v);
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, log_sum_exp: &log_sum_exp };
        let [dq, dk, dv] = attention_backward_new(&case.form, &case.segments, saved, &dout);
        [
            (out, case.form.query_width()),
            (dq, case.form.query_width()),
            (dk, case.form.key_width()),
            (dv, case.form.key_width()),
        ]
    };
    for ((found, width), (expected, _)) in run(&both).into_iter().zip(run(&alone)) {
        assert!(found[width..41 * width].iter().any(|x| x.to_f32() != 0.0));
        assert_eq!(found[width..41 * width], expected[width..41 * width]);
    }
}
