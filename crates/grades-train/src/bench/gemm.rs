//! The three products of a linear layer, by themselves.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

use grades_kernels::gemm::bf16::{self, Output, Part};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_tensor::Dtype;
use serde::{Serialize, Serializer};

use super::{BenchError, median};
use crate::train::memory;

/// The least time and the least runs that a figure comes from.
const TIME: Duration = Duration::from_millis(300);
const RUNS: usize = 5;
/// Most numbers of a matrix.
const LARGEST: usize = 1 << 31;

/// The size of a linear layer: written `ROWSxINxOUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of its input.
    pub rows: usize,
    /// Columns of its input.
    pub input: usize,
    /// Columns of its output.
    pub output: usize,
}

impl Size {
    /// The products of SmolLM2-135M with 1,024 tokens, and one with 512.
    pub const DEFAULT: [Self; 5] = [
        Self { rows: 1024, input: 576, output: 1536 },
        Self { rows: 512, input: 576, output: 1536 },
        Self { rows: 1024, input: 576, output: 576 },
        Self { rows: 1024, input: 1536, output: 576 },
        Self { rows: 1024, input: 576, output: 49_152 },
    ];
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}x{}", self.rows, self.input, self.output))
    }
}

impl FromStr for Size {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |a: usize, b: usize| a.checked_mul(b).is_some_and(|numbers| (1..=LARGEST).contains(&numbers));
        let sizes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        match sizes.as_deref() {
            Ok(&[rows, input, output]) if fits(rows, input) && fits(rows, output) && fits(input, output) => {
                Ok(Self { rows, input, output })
            }
            _ => Err(BenchError::Size(text.into())),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The speed of one product, in 10⁹ operations a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Median over the runs.
    pub gflops: f64,
    /// The fastest run.
    pub best_gflops: f64,
}

/// The products of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Products {
    /// The size.
    pub size: Size,
    /// Forward: `[rows, in] · [out, in]ᵀ`.
    pub nt: Speed,
    /// Input gradient: `[rows, out] · [out, in]`.
    pub nn: Speed,
    /// Weight gradient: `[rows, out]ᵀ · [rows, in]`.
    pub tn: Speed,
}

/// What a measurement came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GemmReport {
    /// The processor's name.
    pub processor: Option<String>,
    /// The best instruction set that products run on.
    pub instructions: &'static str,
    /// Threads.
    pub threads: usize,
    /// Numbers of the products.
    pub precision: Dtype,
    /// The products.
    pub sizes: Vec<Products>,
}

/// Measures the products of each size, and hands each to `on_size`.
pub fn run(sizes: &[Size], precision: Dtype, on_size: &mut dyn FnMut(&Products)) -> GemmReport {
    let measured = sizes.iter().map(|size| {
        let products = match precision {
            Dtype::Bf16 => products_bf16(*size),
            Dtype::F32 | Dtype::U8 | Dtype::Packed => products(*size),
        };
        on_size(&products);
        products
    });
    GemmReport {
        sizes: measured.collect(),
        processor: memory::processor(),
        instructions: grades_kernels::instructions(),
        threads: grades_kernels::threads(),
        precision,
    }
}

/// The products as training in bf16 makes them: activations in bf16, the weight in f32 and packed by the product, its
/// gradient in f32.
fn products_bf16(size: Size) -> Products {
    let Size { rows, input, output } = size;
    let filled = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect() };
    let short = |len: usize| grades_kernels::narrow(&filled(len));
    let (mut x, mut w, mut y) = (short(rows * input), filled(output * input), short(rows * output));
    let operations = 2.0 * rows as f64 * input as f64 * output as f64;
    let nt = speed(operations, || {
        let (x, w) = (Matrix::new(&x, rows, input), Matrix::new(&w, output, input));
        bf16::nt(x, &[&w], &[], Output::Bf16(MatrixMut::new(black_box(&mut y), rows, output)));
    });
    let nn = speed(operations, || {
        let (dy, w) = (Matrix::new(&y, rows, output), Matrix::new(&w, output, input));
        bf16::nn(dy, &[&w], Output::Bf16(MatrixMut::new(black_box(&mut x), rows, input)));
    });
    let tn = speed(operations, || {
        let (dy, x) = (Matrix::new(&y, rows, output), Matrix::new(&x, rows, input));
        let c = MatrixMut::new(black_box(&mut w), output, input);
        bf16::tn(dy, x, vec![Part { first: 0, c, accumulate: false }]);
    });
    Products { size, nt, nn, tn }
}

fn products(size: Size) -> Products {
    let Size { rows, input, output } = size;
    // Neither zeros nor numbers that grow: the values must not matter for the time.
    let filled = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect() };
    let (mut x, mut w, mut y) = (filled(rows * input), filled(output * input), filled(rows * output));
    let operations = 2.0 * rows as f64 * input as f64 * output as f64;
    // As in the step, each product reads two of the matrices and writes the third.
    let nt = speed(operations, || {
        let (x, w) = (Matrix::new(&x, rows, input), Matrix::new(&w, output, input));
        gemm::nt(x, w, MatrixMut::new(black_box(&mut y), rows, output), false);
    });
    let nn = speed(operations, || {
        let (dy, w) = (Matrix::new(&y, rows, output), Matrix::new(&w, output, input));
        gemm::nn(dy, w, MatrixMut::new(black_box(&mut x), rows, input), false);
    });
    let x = filled(rows * input);
    let tn = speed(operations, || {
        let (dy, x) = (Matrix::new(&y, rows, output), Matrix::new(&x, rows, input));
        gemm::tn(dy, x, MatrixMut::new(black_box(&mut w), output, input), false);
    });
    Products { size, nt, nn, tn }
}

/// One run to warm up, then as many as fill [`TIME`].
fn speed(operations: f64, mut run: impl FnMut()) -> Speed {
    run();
    let (started, mut rates) = (Instant::now(), Vec::new());
    while rates.len() < RUNS || started.elapsed() < TIME {
        let watch = Instant::now();
        run();
        rates.push(operations / watch.elapsed().as_secs_f64().max(1e-9) / 1e9);
    }
    Speed { best_gflops: rates.iter().copied().fold(0.0, f64::max), gflops: median(rates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip_through_their_text() {
        for size in Size::DEFAULT {
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
        for text in ["", "1024", "8x8", "8x8x8x8", "8x0x8", "8xax8", "65536x65536x1", "-8x8x8"] {
            assert!(text.parse::<Size>().unwrap_err().to_string().contains(&format!("`{text}`")));
        }
    }

    #[test]
    fn every_product_of_every_size_has_a_speed() {
        let sizes = ["5x7x3".parse().unwrap(), "1x16x8".parse().unwrap()];
        for precision in [Dtype::F32, Dtype::Bf16] {
            let mut seen = Vec::new();
            let report = run(&sizes, precision, &mut |products| seen.push(products.size));
            assert_eq!(seen, sizes);
            for products in report.sizes {
                for speed in [products.nt, products.nn, products.tn] {
                    assert!(speed.gflops > 0.0 && speed.gflops <= speed.best_gflops);
                }
            }
        }
    }
}
