//! Low-rank adapters.

use super::memory::{Reference, build, row, tensor, values, values_mut};
use super::projections::dot;
use crate::device::{Adapters, Gain, Projections};
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// `B · A`, row-major.
fn product(a: &Tensor, b: &Tensor) -> Tensor {
    build([b.rows(), a.columns()], Dtype::F32, |i, j| dot(row(b, i), (0..a.rows()).map(|k| &row(a, k)[j])))
}

impl Adapters for Reference {
    fn reduce(&self, x: &Tensor, a: &[&Tensor], scaling: f32) -> Tensor {
        let scaled = |a: &&Tensor| build(a.shape(), Dtype::F32, |i, j| f64::from(scaling) * f64::from(row(a, i)[j]));
        let scaled: Vec<Tensor> = a.iter().map(scaled).collect();
        self.project(x, &scaled.iter().collect::<Vec<_>>(), &[], None)
    }

    fn expand(&self, y: Tensor, u: &Tensor, b: &[&Tensor], firsts: &[usize]) -> Tensor {
        let mut sum = values(&y).to_vec();
        let mut rank = 0;
        for (b, first) in b.iter().zip(firsts) {
            for i in 0..y.rows() {
                for j in 0..b.rows() {
                    let place = &mut sum[i * y.columns() + first + j];
                    *place = (f64::from(*place) + dot(&row(u, i)[rank..], row(b, j))) as f32;
                }
            }
            rank += b.columns();
        }
        tensor(sum, y.shape(), y.dtype())
    }

    fn expand_input_gradient(&self, dy: &Tensor, b: &[&Tensor], firsts: &[usize], scaling: f32) -> Tensor {
        let columns: Vec<(usize, usize, usize)> =
            b.iter().enumerate().flat_map(|(n, b)| (0..b.columns()).map(move |k| (n, k, firsts[n]))).collect();
        build([dy.rows(), columns.len()], dy.dtype(), |i, j| {
            let (n, k, first) = columns[j];
            let of_b = (0..b[n].rows()).map(|out| &row(b[n], out)[k]);
            f64::from(scaling) * dot(&row(dy, i)[first..], of_b)
        })
    }

    fn adapted_row_norms(&self, weight: &Tensor, _: &Tensor, a: &Tensor, b: &Tensor, scaling: f32) -> Tensor {
        let product = product(a, b);
        build([1, weight.rows()], Dtype::F32, |_, i| {
            let sum = |(w, p): (&f32, &f32)| f64::from(*w) + f64::from(scaling) * f64::from(*p);
            let squares = row(weight, i).iter().zip(row(&product, i)).map(sum).map(|sum| sum * sum);
            squares.sum::<f64>().max(f64::from(f32::MIN_POSITIVE)).sqrt()
        })
    }

    fn gains(&self, parts: &[Gain<'_>]) -> Tensor {
        let mut gains = Vec::new();
        for part in parts {
            match part {
                Gain::Adapted { magnitude, norms } => {
                    gains.extend(values(magnitude).iter().zip(values(norms)).map(|(length, norm)| length / norm));
                }
                Gain::Plain(columns) => gains.extend(vec![1.0; *columns]),
            }
        }
        let shape = [1, gains.len()];
        tensor(gains, shape, Dtype::F32)
    }

    fn gains_backward(&self, dgains: &Tensor, first: usize, norms: &Tensor) -> Tensor {
        build(norms.shape(), Dtype::F32, |_, j| f64::from(values(dgains)[first + j]) / f64::from(values(norms)[j]))
    }

    fn rescale(&self, y: &Tensor, gains: &Tensor, biases: &[&Tensor], residual: Option<Tensor>) -> Tensor {
        let bias: Vec<f32> = biases.iter().flat_map(|bias| values(bias)).copied().collect();
        let dtype = if residual.is_some() { Dtype::F32 } else { y.dtype() };
        build(y.shape(), dtype, |i, j| {
            let scaled = f64::from(row(y, i)[j]) * f64::from(values(gains)[j]);
            let onto = residual.as_ref().map_or(0.0, |residual| row(residual, i)[j]);
            scaled + f64::from(bias.get(j).copied().unwrap_or(0.0)) + f64::from(onto)
        })
    }

    fn rescale_backward(&self, dy: &Tensor, y: &Tensor, gains: &Tensor) -> (Tensor, Tensor) {
        let dx = build(y.shape(), y.dtype(), |i, j| f64::from(row(dy, i)[j]) * f64::from(values(gains)[j]));
        let dgains = build(gains.shape(), Dtype::F32, |_, j| {
            (0..y.rows()).map(|i| f64::from(row(dy, i)[j]) * f64::from(row(y, i)[j])).sum()
        });
        (dx, dgains)
    }

    fn fold(&self, weight: &mut Tensor, a: &Tensor, b: &Tensor, scaling: f32, magnitudes: Option<&Tensor>) {
        let (product, columns) = (product(a, b), weight.columns());
        let weights = values_mut(weight);
        weights.iter_mut().zip(values(&product)).for_each(|(value, product)| *value += scaling * product);
        for (row, magnitude) in weights.chunks_mut(columns).zip(magnitudes.into_iter().flat_map(values)) {
            let gain = f64::from(*magnitude) / dot(&*row, &*row).max(f64::from(f32::MIN_POSITIVE)).sqrt();
            row.iter_mut().for_each(|value| *value = (f64::from(*value) * gain) as f32);
        }
    }

    fn row_squares(&self, of: &Tensor) -> Tensor {
        build([1, of.rows()], Dtype::F32, |_, i| dot(row(of, i), row(of, i)))
    }
}
