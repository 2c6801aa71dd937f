//! The three products of a linear layer, by themselves.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

use grades_kernels::gemm::bf16::{Output, Part};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_tensor::Dtype;
use half::bf16;
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

    /// Operations of one of its products.
    fn operations(self) -> f64 {
        2.0 * self.rows as f64 * self.input as f64 * self.output as f64
    }
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
    let measured = sizes.iter().map(|&size| {
        let layer = Layer::new(size, precision);
        let [nt, nn, tn] = Product::ALL.map(|product| {
            let mut out = layer.output(product);
            speed(size.operations(), || layer.multiply(product, &mut out))
        });
        let products = Products { size, nt, nn, tn };
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

/// One of the products of a linear layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Product {
    Forward,
    InputGradient,
    WeightGradient,
}

impl Product {
    pub(super) const ALL: [Self; 3] = [Self::Forward, Self::InputGradient, Self::WeightGradient];
}

/// A linear layer with an input and a gradient of its output.
pub(super) struct Layer {
    size: Size,
    numbers: Numbers,
    /// `[out, in]`.
    weight: Vec<f32>,
}

/// The input `[rows, in]` and the gradient `[rows, out]`.
enum Numbers {
    F32(Vec<f32>, Vec<f32>),
    /// As training in bf16 has them: activations in bf16, the weight in f32 and packed by the product, its gradient in f32.
    Bf16(Vec<bf16>, Vec<bf16>),
}

/// Where a product goes.
pub(super) enum Out {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Layer {
    pub(super) fn new(size: Size, precision: Dtype) -> Self {
        let Size { rows, input, output } = size;
        // Neither zeros nor numbers that grow: the values must not matter for the time.
        let filled = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect() };
        let short = |len: usize| grades_kernels::narrow(&filled(len));
        let numbers = match precision {
            Dtype::Bf16 => Numbers::Bf16(short(rows * input), short(rows * output)),
            Dtype::F32 | Dtype::U8 | Dtype::Packed => Numbers::F32(filled(rows * input), filled(rows * output)),
        };
        Self { size, numbers, weight: filled(output * input) }
    }

    /// Room for what a product gives.
    pub(super) fn output(&self, product: Product) -> Out {
        let Size { rows, input, output } = self.size;
        let len = match product {
            Product::Forward => rows * output,
            Product::InputGradient => rows * input,
            Product::WeightGradient => output * input,
        };
        match (&self.numbers, product) {
            (Numbers::F32(..), _) | (_, Product::WeightGradient) => Out::F32(vec![0.0; len]),
            (Numbers::Bf16(..), _) => Out::Bf16(vec![bf16::ZERO; len]),
        }
    }

    /// Computes a product into its output.
    pub(super) fn multiply(&self, product: Product, out: &mut Out) {
        let Size { rows, input, output } = self.size;
        let w = Matrix::new(&self.weight, output, input);
        match (&self.numbers, product, black_box(out)) {
            (Numbers::F32(x, _), Product::Forward, Out::F32(y)) => {
                gemm::nt(Matrix::new(x, rows, input), w, MatrixMut::new(y, rows, output), false);
            }
            (Numbers::F32(_, dy), Product::InputGradient, Out::F32(dx)) => {
                gemm::nn(Matrix::new(dy, rows, output), w, MatrixMut::new(dx, rows, input), false);
            }
            (Numbers::F32(x, dy), Product::WeightGradient, Out::F32(dw)) => {
                let (dy, x) = (Matrix::new(dy, rows, output), Matrix::new(x, rows, input));
                gemm::tn(dy, x, MatrixMut::new(dw, output, input), false);
            }
            (Numbers::Bf16(x, _), Product::Forward, Out::Bf16(y)) => {
                let y = Output::Bf16(MatrixMut::new(y, rows, output));
                gemm::bf16::nt(Matrix::new(x, rows, input), &[&w], &[], y);
            }
            (Numbers::Bf16(_, dy), Product::InputGradient, Out::Bf16(dx)) => {
                let dx = Output::Bf16(MatrixMut::new(dx, rows, input));
                gemm::bf16::nn(Matrix::new(dy, rows, output), &[&w], dx);
            }
            (Numbers::Bf16(x, dy), Product::WeightGradient, Out::F32(dw)) => {
                let (dy, x) = (Matrix::new(dy, rows, output), Matrix::new(x, rows, input));
                let c = MatrixMut::new(dw, output, input);
                gemm::bf16::tn(dy, x, vec![Part { first: 0, c, accumulate: false }]);
            }
            // `output` makes no other pair.
            _ => {}
        }
    }
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
