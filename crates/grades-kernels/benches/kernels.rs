//! Times every kernel at the sizes of a SmolLM2-135M step: `cargo bench -p grades-kernels [-- NAME-PART]`.
//!
//! Prints the best of several runs, so that a busy machine disturbs little; compare only figures of one run.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use grades_kernels::Element;
use grades_kernels::activations::{Activation, gated, gated_backward, gated_joined, gated_joined_backward};
use grades_kernels::attention::{Attention, AttentionGradients, Saved, Segment, attention, attention_backward};
use grades_kernels::cross_entropy::{Head, HeadElement, HeadGradients, linear_cross_entropy};
use grades_kernels::gemm::bf16::{self as short, Rows};
use grades_kernels::gemm::{Matrix, MatrixMut, nn, nt, tn};
use grades_kernels::norms::{rms_norm, rms_norm_backward};
use grades_kernels::optimizer::{AdamW, AdamWState, Measure, Update, adamw, measure};
use grades_kernels::quant::{Nf4, PackedMatrix};
use grades_kernels::rope::{RotaryTable, Rotation, rope};
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

/// The same, as numbers of one kind.
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
    rows(&bench);
    short_rows(&bench);
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

/// Products of bf16 numbers with dense weights and with such in NF4.
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
        let (mut out, mut log_sum_exp) = (vec![E::ZERO; q.len()], vec![0.0; tokens * 9]);
        // Of the products that causal attention needs: two forward, five backward.
        let product = 2.0 * (tokens * (length + 1) / 2 * 576) as f64;
        bench.run(&format!("attention{kind} forward {tokens} in {length}s"), Work::Flops(2.0 * product), || {
            attention(&form, &segments, &q, &k, &v, &mut out, &mut log_sum_exp);
        });
        let (mut dq, mut dk, mut dv) = (vec![E::ZERO; q.len()], vec![E::ZERO; k.len()], vec![E::ZERO; k.len()]);
        bench.run(&format!("attention{kind} backward {tokens} in {length}s"), Work::Flops(5.0 * product), || {
            let saved = Saved { q: &q, k: &k, v: &v, out: &out, log_sum_exp: &log_sum_exp };
            let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
            attention_backward(&form, &segments, saved, &dout, gradients);
        });
    }
    let cached = 1000;
    let (q, k, v) = (numbers::<E>(576), numbers::<E>(cached * 192), numbers::<E>(cached * 192));
    let (mut out, mut log_sum_exp) = (vec![E::ZERO; 576], vec![0.0; 9]);
    let segment = [Segment { queries: 0..1, keys: 0..cached }];
    bench.run(
        &format!("attention{kind} of 1 token over 1000"),
        Work::Bytes((2 * size_of::<E>() * cached * 192) as f64),
        || {
            attention(&form, &segment, &q, &k, &v, &mut out, &mut log_sum_exp);
        },
    );
}

fn rows(bench: &Bench) {
    let (rows, width) = (1024, 576);
    let bytes = |streams: usize, width: usize| Work::Bytes((4 * streams * rows * width) as f64);
    let (x, dout, scale) = (values(rows * width), values(rows * width), values(width));
    let (mut out, mut inverse, mut dscale) = (vec![0.0; rows * width], vec![0.0; rows], vec![0.0; width]);
    bench.run("rms norm forward", bytes(2, width), || rms_norm(&x, &scale, 1e-5, &mut out, &mut inverse));
    bench.run("rms norm backward", bytes(3, width), || {
        rms_norm_backward(&x, &scale, &inverse, &dout, &mut out, Some(&mut dscale));
    });
    let (cos, sin) = (values(rows * 32), values(rows * 32));
    let table = RotaryTable { cos: &cos, sin: &sin, rotary_dim: 64 };
    let positions: Vec<u32> = (0..rows as u32).collect();
    bench.run("rope", bytes(2, width), || {
        black_box(rope(&mut out, 9, 64, table, &positions, Rotation::Forward).is_ok());
    });
    let (width, len) = (1536, rows * 1536);
    let (gate, up, dout) = (values(len), values(len), values(len));
    let (mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len]);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        bench
            .run(&format!("gated {activation:?} forward"), bytes(3, width), || gated(activation, &gate, &up, &mut dup));
        bench.run(&format!("gated {activation:?} backward"), bytes(5, width), || {
            gated_backward(activation, &gate, &up, &dout, &mut dgate, &mut dup);
        });
    }
}

fn short_rows(bench: &Bench) {
    let (rows, width) = (1024, 576);
    let bytes = |streams: usize, width: usize| Work::Bytes((2 * streams * rows * width) as f64);
    let (x, scale) = (values(rows * width), values(width));
    let (mut y, mut inverse) = (numbers::<bf16>(rows * width), vec![0.0; rows]);
    // x is f32: two streams of bf16.
    bench.run("rms norm bf16 forward", bytes(3, width), || rms_norm(&x, &scale, 1e-5, &mut y, &mut inverse));
    let mut dx = vec![0.0; x.len()];
    bench.run("rms norm bf16 backward", bytes(5, width), || {
        rms_norm_backward(&x, &scale, &inverse, &y, &mut dx, None);
    });
    let width = 1536;
    let (joined, dout) = (numbers::<bf16>(rows * 2 * width), numbers::<bf16>(rows * width));
    let (mut out, mut gradient) = (dout.clone(), joined.clone());
    bench.run("gated Silu bf16 forward", bytes(3, width), || {
        gated_joined(Activation::Silu, &joined, width, &mut out);
    });
    bench.run("gated Silu bf16 backward", bytes(5, width), || {
        gated_joined_backward(Activation::Silu, &joined, &dout, width, &mut gradient);
    });
}

fn head<E: HeadElement>(bench: &Bench, kind: &str) {
    let (rows, size, vocab) = (1024, 576, 49_152);
    let (hidden, weight) = (numbers::<E>(rows * size), values(vocab * size));
    let labels: Vec<i64> = (0..rows as i64).collect();
    let head = Head { hidden: &hidden, weight: &weight, labels: &labels, hidden_size: size };
    let product = 2.0 * (rows * size * vocab) as f64;
    bench.run(&format!("head + cross-entropy{kind} forward"), Work::Flops(product), || {
        black_box(linear_cross_entropy(head, HeadGradients::default()).is_ok());
    });
    let (mut dhidden, mut dweight) = (vec![E::ZERO; hidden.len()], vec![0.0; weight.len()]);
    bench.run(&format!("head + cross-entropy{kind} with gradients"), Work::Flops(3.0 * product), || {
        let gradients = HeadGradients { scale: 1.0, dhidden: Some(&mut dhidden), dweight: Some(&mut dweight) };
        black_box(linear_cross_entropy(head, gradients).is_ok());
    });
}

fn optimizers(bench: &Bench) {
    let len = 16 << 20;
    let (mut parameter, gradient, mut previous) = (values(len), values(len), values(len));
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let options = AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, step: 2 };
    let mut step = |measure: Measure| {
        let update = Update { parameter: &mut parameter, gradient: &gradient, gradient_scale: 0.5, measure };
        black_box(adamw(&options, update, AdamWState { first_moment: &mut first, second_moment: &mut second }));
    };
    let bytes = |streams: usize| Work::Bytes((4 * streams * len) as f64);
    bench.run("AdamW", bytes(7), || step(Measure::Off));
    bench.run("AdamW measuring against", bytes(8), || step(Measure::Against(&previous)));
    bench.run("AdamW measuring and replacing", bytes(9), || step(Measure::Replace(&mut previous)));
    bench.run("measure alone", bytes(2), || {
        black_box(measure(&gradient, Measure::Against(&previous)));
    });
}
