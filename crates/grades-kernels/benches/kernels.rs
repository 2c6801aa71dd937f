//! Times every kernel at the sizes of a SmolLM2-135M step: `cargo bench -p grades-kernels [-- NAME-PART]`.
//!
//! Prints the best of several runs, so that a busy machine disturbs little; compare only figures of one run.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use grades_kernels::Element;
use grades_kernels::activations::{Activation, gated_joined_backward_new, gated_joined_new};
use grades_kernels::attention::{Attention, Saved, Segment, attention_backward_new, attention_new};
use grades_kernels::cross_entropy::{Head, HeadElement, HeadGradients, linear_cross_entropy};
use grades_kernels::elementwise::{add_in_place, lerp};
use grades_kernels::gemm::bf16::{self as short, Rows};
use grades_kernels::gemm::{Matrix, MatrixMut, nn, nt, tn};
use grades_kernels::heads::JoinedHeads;
use grades_kernels::norms::{rms_norm_backward_new, rms_norm_new};
use grades_kernels::optimizer::{AdamW, AdamWState, Measure, Update, adamw, measure};
use grades_kernels::quant::{Nf4, PackedMatrix};
use grades_kernels::rope::RotaryTable;
use half::bf16;

/// The unit of a figure, and how much of it one run does.
enum Work {
    Flops(f64),
    Bytes(f64),
}

struct Bench {
    filter: String,
}

impl Bench {
    fn run(&self, name: &str, work: Work, mut body: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        body();
        let (mut best, start) = (f64::INFINITY, Instant::now());
        let mut runs = 0;
        while runs < 3 || (start.elapsed().as_secs_f64() < 0.3 && runs < 200) {
            let run = Instant::now();
            body();
            best = best.min(run.elapsed().as_secs_f64());
            runs += 1;
        }
        let figure = match work {
            Work::Flops(flops) => format!("{:8.1} GFLOP/s", flops / best / 1e9),
            Work::Bytes(bytes) => format!("{:8.1} GB/s", bytes / best / 1e9),
        };
        println!("{name:<44} {:10.3} ms {figure}", best * 1e3);
    }
}

/// Numbers that are neither equal nor special.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
}

/// The same in one dtype.
fn numbers<E: Element>(count: usize) -> Vec<E> {
    values(count).into_iter().map(E::narrow).collect()
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    // As every command does.
    grades_kernels::reuse_freed_memory();
    let bench = Bench { filter };
    println!("{} threads", grades_kernels::threads());
    products(&bench);
    short_products(&bench);
    attentions::<f32>(&bench, "");
    attentions::<bf16>(&bench, " bf16");
    rows::<f32>(&bench, "");
    rows::<bf16>(&bench, " bf16");
    head::<f32>(&bench, "");
    head::<bf16>(&bench, " bf16");
    optimizers(&bench);
}

fn products(bench: &Bench) {
    for (rows, inputs, outputs) in
        [(1024, 576, 1536), (1024, 1536, 576), (1024, 576, 576), (320, 576, 1536), (1, 576, 1536)]
    {
        let flops = || Work::Flops(2.0 * (rows * inputs * outputs) as f64);
        let (x, w, dy) = (values(rows * inputs), values(inputs * outputs), values(rows * outputs));
        let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        let (x, w) = (Matrix::new(&x, rows, inputs), Matrix::new(&w, outputs, inputs));
        let dy = Matrix::new(&dy, rows, outputs);
        let size = format!("{rows}×{inputs}→{outputs}");
        bench.run(&format!("gemm forward {size}"), flops(), || nt(x, w, MatrixMut::new(&mut y, rows, outputs), false));
        bench.run(&format!("gemm input gradient {size}"), flops(), || {
            nn(dy, w, MatrixMut::new(&mut dx, rows, inputs), false);
        });
        bench.run(&format!("gemm weight gradient {size}"), flops(), || {
            tn(dy, x, MatrixMut::new(&mut dw, outputs, inputs), false);
        });
    }
}

/// Products of bf16 activations with dense weights and with such in NF4.
fn short_products(bench: &Bench) {
    for (rows, inputs, outputs) in [(1024, 576, 1536), (1024, 1536, 576), (1024, 576, 576), (320, 576, 1536)] {
        let flops = || Work::Flops(2.0 * (rows * inputs * outputs) as f64);
        let (x, dy) = (numbers::<bf16>(rows * inputs), numbers::<bf16>(rows * outputs));
        let dense = values(inputs * outputs);
        let nf4 = Nf4::encode(&dense).ok().and_then(|nf4| PackedMatrix::nf4(nf4, outputs, inputs).ok());
        let (x, dy) = (Matrix::new(&x, rows, inputs), Matrix::new(&dy, rows, outputs));
        let dense = Matrix::new(&dense, outputs, inputs);
        let size = format!("{rows}×{inputs}→{outputs}");
        let weights: [(&str, Option<&dyn Rows>); 2] =
            [("bf16", Some(&dense)), ("nf4", nf4.as_ref().map(|nf4| nf4 as &dyn Rows))];
        for (name, weight) in weights {
            let Some(weight) = weight else { continue };
            bench.run(&format!("gemm {name} forward {size}"), flops(), || {
                black_box(short::nt_new(x, &[weight], &[]));
            });
            bench.run(&format!("gemm {name} input gradient {size}"), flops(), || {
                black_box(short::nn_new(dy, &[weight]));
            });
        }
        bench.run(&format!("gemm bf16 weight gradient {size}"), flops(), || {
            black_box(short::tn_new(dy, x, std::slice::from_ref(&(0..outputs))));
        });
    }
}

fn attentions<E: Element>(bench: &Bench, kind: &str) {
    let form = Attention { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, causal: true, window: None };
    for length in [40, 256, 2048] {
        let tokens = 2048_usize.next_multiple_of(length);
        let segments: Vec<Segment> = (0..tokens / length).map(|i| (i * length, (i + 1) * length).into()).collect();
        let (q, dout) = (numbers::<E>(tokens * 576), numbers::<E>(tokens * 576));
        let (k, v) = (numbers::<E>(tokens * 192), numbers::<E>(tokens * 192));
        // Of the products that causal attention needs: two forward, five backward.
        let product = 2.0 * (tokens * (length + 1) / 2 * 576) as f64;
        bench.run(&format!("attention{kind} forward {tokens} in {length}s"), Work::Flops(2.0 * product), || {
            black_box(attention_new(&form, &segments, &q, &k, &v));
        });
        let (out, log_sum_exp) = attention_new(&form, &segments, &q, &k, &v);
        bench.run(&format!("attention{kind} backward {tokens} in {length}s"), Work::Flops(5.0 * product), || {
            let saved = Saved { q: &q, k: &k, v: &v, out: &out, log_sum_exp: &log_sum_exp };
            black_box(attention_backward_new(&form, &segments, saved, &dout));
        });
    }
    let cached = 1000;
    let (q, k, v) = (numbers::<E>(576), numbers::<E>(cached * 192), numbers::<E>(cached * 192));
    let segment = [Segment { queries: 0..1, keys: 0..cached }];
    bench.run(
        &format!("attention{kind} of 1 token over 1000"),
        Work::Bytes((2 * size_of::<E>() * cached * 192) as f64),
        || {
            black_box(attention_new(&form, &segment, &q, &k, &v));
        },
    );
}

/// Kernels that go row by row: norms and gated activations.
fn rows<E: Element>(bench: &Bench, kind: &str) {
    let (rows, width) = (1024, 576);
    let bytes = |of_f32: usize, of_e: usize, width: usize| {
        Work::Bytes(((4 * of_f32 + size_of::<E>() * of_e) * rows * width) as f64)
    };
    let (x, dout, scale) = (values(rows * width), numbers::<E>(rows * width), values(width));
    let (_, inverse) = rms_norm_new::<E>(&x, &scale, 1e-5);
    bench.run(&format!("rms norm{kind} forward"), bytes(1, 1, width), || {
        black_box(rms_norm_new::<E>(&x, &scale, 1e-5));
    });
    let mut dscale = vec![0.0; width];
    bench.run(&format!("rms norm{kind} backward"), bytes(2, 1, width), || {
        black_box(rms_norm_backward_new(&x, &scale, &inverse, &dout, None));
    });
    bench.run(&format!("rms norm{kind} backward with its scale"), bytes(2, 1, width), || {
        black_box(rms_norm_backward_new(&x, &scale, &inverse, &dout, Some(&mut dscale)));
    });
    let width = 1536;
    let (joined, dout) = (numbers::<E>(rows * 2 * width), numbers::<E>(rows * width));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        bench.run(&format!("gated {activation:?}{kind} forward"), bytes(0, 3, width), || {
            black_box(gated_joined_new(activation, &joined, width));
        });
        bench.run(&format!("gated {activation:?}{kind} backward"), bytes(0, 5, width), || {
            black_box(gated_joined_backward_new(activation, &joined, &dout, width));
        });
    }
    let (cos, sin) = (values(rows * 32), values(rows * 32));
    let table = RotaryTable { cos: &cos, sin: &sin, rotary_dim: 64 };
    let positions: Vec<u32> = (0..rows as u32).collect();
    let form = JoinedHeads { heads: 9, kv_heads: 3, head_dim: 64, rotary: Some((table, &positions)) };
    let joined = numbers::<E>(rows * 15 * 64);
    bench.run(&format!("heads{kind} split and rotated"), bytes(0, 2, 15 * 64), || {
        black_box(form.split_new(&joined).is_ok());
    });
}

fn head<E: HeadElement>(bench: &Bench, kind: &str) {
    let (rows, size, vocab) = (1024, 576, 49_152);
    let (hidden, weight) = (numbers::<E>(rows * size), values(vocab * size));
    let labels: Vec<i64> = (0..rows as i64).collect();
    let head = Head { hidden: &hidden, weight: &Matrix::new(&weight, vocab, size), labels: &labels };
    let product = 2.0 * (rows * size * vocab) as f64;
    bench.run(&format!("head + cross-entropy{kind} forward"), Work::Flops(product), || {
        black_box(linear_cross_entropy(head, HeadGradients::default()).is_ok());
    });
    let (mut dhidden, mut dweight) = (vec![E::ZERO; hidden.len()], vec![0.0; weight.len()]);
    bench.run(&format!("head + cross-entropy{kind} with gradients"), Work::Flops(3.0 * product), || {
        let gradients =
            HeadGradients { dhidden: Some(&mut dhidden), dweight: Some(&mut dweight), ..HeadGradients::default() };
        black_box(linear_cross_entropy(head, gradients).is_ok());
    });
}

fn optimizers(bench: &Bench) {
    let len = 16 << 20;
    let (mut parameter, gradient, mut previous) = (values(len), values(len), values(len));
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let options = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        step: 2,
        gain_of: None,
    };
    let bytes = |streams: usize| Work::Bytes((4 * streams * len) as f64);
    bench.run("AdamW", bytes(7), || {
        let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.5 };
        adamw(&options, update, AdamWState { first_moment: &mut first, second_moment: &mut second });
    });
    let with_gain = AdamW { gain_of: Some(options.learning_rate), ..options };
    bench.run("AdamW with gain", bytes(7), || {
        let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.5 };
        black_box(adamw(&with_gain, update, AdamWState { first_moment: &mut first, second_moment: &mut second }));
    });
    bench.run("lerp", bytes(3), || lerp(0.25, &gradient, &mut previous));
    bench.run("measure", bytes(2), || {
        black_box(measure(&gradient, Measure::Against(&previous)));
    });
    bench.run("add in place", bytes(3), || add_in_place(&mut parameter, &gradient));
}
