//! Every kernel once, on few numbers: what an interpreter (Miri) can run in minutes, which sees a read or write out of bounds, of what is
//! not initialised, or of what another thread writes.
//!
//! ```sh
//! MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-deterministic-floats" \
//!     cargo +nightly miri test -p grades-kernels --lib small::
//! ```
//!
//! crossbeam, below rayon, needs tree borrows; left to itself, Miri draws the last bits of `exp` and the like at random, so that numbers
//! differ between numbers of threads. It has the baseline's instructions alone.
//!
//! The tests beside each kernel say what its numbers are; here they are finite, that is written, and the same on any number of threads.

use half::bf16;

use crate::activations::{self, Activation};
use crate::attention::{Attention, Saved, Segment, attention_backward_new, attention_new};
use crate::cross_entropy::{Head, LossScale, linear_cross_entropy_new};
use crate::elementwise;
use crate::embedding::{gather, scatter_add};
use crate::experts::route;
use crate::gemm::bf16::{Output, Rows};
use crate::gemm::{self, Matrix, MatrixMut};
use crate::heads::JoinedHeads;
use crate::norms::{layer_norm_new, rms_norm_backward_new, rms_norm_new};
use crate::optimizer::{self, AdamW, AdamWState, Codes, Measure, Update, state_scales};
use crate::quant::{Nf4, PackedMatrix};
use crate::rope::RotaryTable;
use crate::testing::{numbers, on_any_threads, rounded, widened};

/// The numbers of a kernel, which are finite and the same on any number of threads.
#[track_caller]
fn computed(compute: impl Fn() -> Vec<Vec<f32>> + Sync) -> Vec<Vec<f32>> {
    let results = on_any_threads(compute);
    assert!(results.iter().flatten().all(|x| x.is_finite()), "an element is not written");
    results
}

#[test]
fn copies() {
    // More than a block.
    let x = numbers(1, 16_390);
    assert!(computed(|| vec![elementwise::copy(&x)]) == [x.clone()]);
}

#[test]
fn elements() {
    let (x, y) = (numbers(1, 37), numbers(2, 37));
    let found = computed(|| {
        let mut sum = y.clone();
        elementwise::add_in_place(&mut sum, &x);
        elementwise::axpy(-1.0, &x, &mut sum);
        elementwise::lerp(0.5, &x, &mut sum);
        elementwise::scale(2.0, &mut sum);
        vec![sum]
    });
    assert!(found[0].iter().zip(x.iter().zip(&y)).all(|(found, (x, y))| (found - (x + y)).abs() < 1e-6));
}

#[test]
fn norms_and_activations() {
    let (x, scale, dout) = (numbers(1, 35), numbers(2, 7), numbers(3, 35));
    computed(|| {
        let (out, inverse) = rms_norm_new::<f32>(&x, &scale, 1e-5);
        let (layer, _) = layer_norm_new::<bf16>(&x, &scale, &scale, 1e-5);
        let mut dscale = vec![f32::NAN; 7];
        let dx = rms_norm_backward_new(&x, &scale, &inverse, &dout, Some(&mut dscale));
        let plain = activations::activated_new(Activation::Silu, &rounded(&x));
        let gated = activations::gated_joined_new(Activation::Silu, &x[..28], 7);
        let dgated = activations::gated_joined_backward_new(Activation::Silu, &x[..28], &dout[..14], 7);
        vec![out, widened(&layer), dscale, dx, widened(&plain), gated, dgated]
    });
}

#[test]
fn rows_of_an_embedding() {
    let weight = numbers(1, 15);
    computed(|| {
        let out = gather(&weight, 3, &[4, 0, 4]).unwrap();
        let mut sum = weight.clone();
        scatter_add(&out, 3, &[1, 1, 0], &mut sum).unwrap();
        vec![out, sum]
    });
}

#[test]
fn products_in_f32() {
    let (m, n, k) = (5, 9, 3);
    let (a, b, dy) = (numbers(1, m * k), numbers(2, n * k), numbers(3, m * n));
    let found = computed(|| {
        let [mut y, mut dx, mut db] = [m * n, m * k, n * k].map(|len| vec![f32::NAN; len]);
        let (a, b, dy) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k), Matrix::new(&dy, m, n));
        gemm::nt(a, b, MatrixMut::new(&mut y, m, n), false);
        gemm::nn(dy, b, MatrixMut::new(&mut dx, m, k), false);
        gemm::tn(dy, a, MatrixMut::new(&mut db, n, k), false);
        vec![y, dx, db, gemm::tn_new(dy, a)]
    });
    let first: f32 = a[..k].iter().zip(&b).map(|(a, b)| a * b).sum();
    assert!((found[0][0] - first).abs() < 1e-6 && found[2] == found[3]);
}

#[test]
fn products_in_bf16() {
    let (m, n, k) = (5, 9, 3);
    let (a, b, dy) = (rounded(&numbers(1, m * k)), numbers(2, n * k), rounded(&numbers(3, m * n)));
    computed(|| {
        let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![bf16::NAN; m * k]);
        let weight = Matrix::new(&b, n, k);
        let weights: [&dyn Rows; 1] = [&weight];
        gemm::bf16::nt(Matrix::new(&a, m, k), &weights, &[], Output::F32(MatrixMut::new(&mut y, m, n)));
        gemm::bf16::nn(Matrix::new(&dy, m, n), &weights, Output::Bf16(MatrixMut::new(&mut dx, m, k)));
        vec![y, widened(&dx)]
    });
}

#[test]
fn attention_and_heads() {
    let form = Attention { heads: 2, kv_heads: 1, head_dim: 4, scale: 0.5, causal: true, window: None };
    let segments = [Segment::from((0, 3)), Segment::from((3, 5))];
    let joined = numbers(1, 5 * 16);
    let (cos, sin) = (numbers(2, 5 * 2), numbers(3, 5 * 2));
    let table = RotaryTable { cos: &cos, sin: &sin, rotary_dim: 4 };
    let heads = JoinedHeads { heads: 2, kv_heads: 1, head_dim: 4, rotary: Some((table, &[0, 1, 2, 0, 1])) };
    computed(|| {
        let [q, k, v] = heads.split_new(&joined).unwrap();
        let (out, log_sum_exp) = attention_new(&form, &segments, &q, &k, &v);
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, log_sum_exp: &log_sum_exp };
        let [dq, dk, dv] = attention_backward_new(&form, &segments, saved, &q);
        let dx = heads.join_new(&dq, &dk, &dv).unwrap();
        let (short_out, _) = attention_new(&form, &segments, &rounded(&q), &rounded(&k), &rounded(&v));
        vec![out, dx, widened(&short_out)]
    });
}

#[test]
fn a_head_with_its_loss() {
    let (hidden, weight) = (numbers(1, 4 * 3), numbers(2, 7 * 3));
    computed(|| {
        let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, 7, 3), labels: &[0, 6, -100, 3] };
        let (loss, dhidden, dweight) = linear_cross_entropy_new(head, LossScale::Same(0.5), true, true).unwrap();
        vec![loss.rows, dhidden.unwrap(), dweight.unwrap()]
    });
}

#[test]
fn routes() {
    let logits = numbers(1, 5 * 4);
    computed(|| vec![route(&logits, 4, 2, true).weights]);
}

#[test]
fn updates() {
    let (start, gradient) = (numbers(1, 300), numbers(2, 300));
    let options = AdamW {
        learning_rate: 0.05,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-3,
        weight_decay: 0.1,
        step: 1,
        gain_of: None,
    };
    let found = computed(|| {
        let [mut plain, mut coded, mut first, mut second] =
            [&start, &start, &vec![0.0; 300], &vec![0.0; 300]].map(Clone::clone);
        let update = Update { parameter: &mut plain, gradient: &gradient, gradient_scale: 1.0 };
        optimizer::adamw(&options, update, AdamWState { first_moment: &mut first, second_moment: &mut second });
        let mut moments = [(); 2].map(|()| (vec![0_u8; 300], vec![0.0; state_scales(300)]));
        let moments = moments.each_mut().map(|(codes, scales)| Codes { codes, scales });
        let update = Update { parameter: &mut coded, gradient: &gradient, gradient_scale: 1.0 };
        optimizer::adamw_8bit(&options, update, moments);
        let sums = optimizer::measure(&gradient, Measure::Against(&start));
        vec![plain, coded, vec![sums.l1 as f32, sums.sq_change as f32]]
    });
    assert!(found[0] == found[1], "the first step, before moments are rounded");
}

#[test]
fn packed_weights() {
    let packed = PackedMatrix::nf4(Nf4::encode(&numbers(1, 3 * 70)).unwrap(), 3, 70).unwrap();
    let x = numbers(2, 2 * 70);
    computed(|| {
        let (mut values, mut y) = (vec![f32::NAN; 210], vec![f32::NAN; 6]);
        packed.decode(&mut values);
        let weights: [&dyn Rows; 1] = [&packed];
        let y_of = Output::F32(MatrixMut::new(&mut y, 2, 3));
        gemm::bf16::nt(Matrix::new(&rounded(&x), 2, 70), &weights, &[], y_of);
        vec![values, y]
    });
}
