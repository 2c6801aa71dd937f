use super::{HeadNorms, layer_norm_backward_new, layer_norm_new, rms_norm_backward_new, rms_norm_new};
use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

const EPSILON: f32 = 1e-3;
const SIZES: [(usize, usize); 7] = [(0, 4), (1, 1), (1, 33), (5, 16), (33, 7), (70, 65), (3, 576)];

fn reference_rms(x: &[f64], scale: &[f64]) -> Vec<f64> {
    let normalise = |row: &[f64]| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        row.iter().zip(scale).map(|(x, s)| x * inverse * s).collect::<Vec<_>>()
    };
    x.chunks(scale.len()).flat_map(normalise).collect()
}

fn reference_layer(x: &[f64], scale: &[f64], bias: &[f64]) -> Vec<f64> {
    let normalise = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (variance + f64::from(EPSILON)).sqrt();
        row.iter().zip(scale).zip(bias).map(|((x, s), b)| (x - mean) * inverse * s + b).collect::<Vec<_>>()
    };
    x.chunks(scale.len()).flat_map(normalise).collect()
}

#[test]
fn rms_norm_equals_the_reference_and_its_finite_differences() {
    for (rows, width) in SIZES {
        let (x, scale, dout) = (numbers(1, rows * width), numbers(2, width), numbers(3, rows * width));
        let results = on_any_threads(|| {
            let (out, inverse) = rms_norm_new::<f32>(&x, &scale, EPSILON);
            let mut dscale = vec![f32::NAN; width];
            let dx = rms_norm_backward_new(&x, &scale, &inverse, &dout, Some(&mut dscale));
            let dx_alone = rms_norm_backward_new(&x, &scale, &inverse, &dout, None);
            vec![out, dx, dscale, dx_alone]
        });
        let [out, dx, dscale, dx_alone] = &results[..] else { unreachable!() };
        assert_eq!(dx, dx_alone);
        let (x64, scale64) = (in_f64(&x), in_f64(&scale));
        let what = format!("{rows}×{width}");
        assert_close(out, &reference_rms(&x64, &scale64), 2e-6, &what);
        assert_gradient(|x| inner(&reference_rms(x, &scale64), &dout), &x, dx, &what);
        assert_gradient(|scale| inner(&reference_rms(&x64, scale), &dout), &scale, dscale, &what);
    }
}

fn reference_heads(x: &[f64], [heads, kv_heads]: [usize; 2], [q_scale, k_scale]: [&[f64]; 2]) -> Vec<f64> {
    let (query, key) = (heads * q_scale.len(), kv_heads * k_scale.len());
    let row = |row: &[f64]| {
        let (q, rest) = row.split_at(query);
        let (k, v) = rest.split_at(key);
        [reference_rms(q, q_scale), reference_rms(k, k_scale), v.to_vec()].concat()
    };
    x.chunks(query + 2 * key).flat_map(row).collect()
}

#[test]
fn head_norms_equal_the_reference_and_its_finite_differences() {
    for (rows, heads, kv_heads, head_dim) in [(0, 1, 1, 2), (1, 1, 1, 1), (5, 4, 2, 6), (3, 3, 1, 33), (40, 2, 2, 5)] {
        let width = (heads + 2 * kv_heads) * head_dim;
        let (x, dout) = (numbers(1, rows * width), numbers(2, rows * width));
        let (q_scale, k_scale) = (numbers(3, head_dim), numbers(4, head_dim));
        let norms = HeadNorms { heads, kv_heads, scales: [&q_scale, &k_scale], epsilon: EPSILON };
        let results = on_any_threads(|| {
            let (out, inverse) = norms.norm_new(&x);
            let [mut dq_scale, mut dk_scale, mut dk_alone] = std::array::from_fn(|_| vec![f32::NAN; head_dim]);
            let dx = norms.backward_new(&x, &inverse, &dout, [Some(&mut dq_scale), Some(&mut dk_scale)]);
            assert_eq!(norms.backward_new(&x, &inverse, &dout, [None, None]), dx);
            assert_eq!(norms.backward_new(&x, &inverse, &dout, [None, Some(&mut dk_alone)]), dx);
            assert_eq!(dk_alone, dk_scale);
            vec![out, dx, dq_scale, dk_scale]
        });
        let (x64, q64, k64) = (in_f64(&x), in_f64(&q_scale), in_f64(&k_scale));
        let (what, form) = (format!("{rows} rows of {heads} and {kv_heads}·{head_dim}"), [heads, kv_heads]);
        assert_close(&results[0], &reference_heads(&x64, form, [&q64, &k64]), 2e-6, &what);
        assert_gradient(|x| inner(&reference_heads(x, form, [&q64, &k64]), &dout), &x, &results[1], &what);
        assert_gradient(|q| inner(&reference_heads(&x64, form, [q, &k64]), &dout), &q_scale, &results[2], &what);
        assert_gradient(|k| inner(&reference_heads(&x64, form, [&q64, k]), &dout), &k_scale, &results[3], &what);
    }
}

#[test]
fn layer_norm_equals_the_reference_and_its_finite_differences() {
    for (rows, width) in SIZES {
        // A mean far from 0, as the residual stream of vision towers has, must not cost the variance its digits.
        let x: Vec<f32> = numbers(1, rows * width).iter().map(|x| x + 10.0).collect();
        let (scale, bias, dout) = (numbers(2, width), numbers(4, width), numbers(3, rows * width));
        let results = on_any_threads(|| {
            let (out, moments) = layer_norm_new::<f32>(&x, &scale, &bias, EPSILON);
            let [mut dscale, mut dbias] = std::array::from_fn(|_| vec![f32::NAN; width]);
            let parameters = Some([dscale.as_mut_slice(), dbias.as_mut_slice()]);
            let dx = layer_norm_backward_new(&x, &scale, &moments, &dout, parameters);
            let dx_alone = layer_norm_backward_new(&x, &scale, &moments, &dout, None);
            vec![out, dx, dscale, dbias, dx_alone]
        });
        let [out, dx, dscale, dbias, dx_alone] = &results[..] else { unreachable!() };
        assert_eq!(dx, dx_alone);
        let (x64, scale64, bias64) = (in_f64(&x), in_f64(&scale), in_f64(&bias));
        let what = format!("{rows}×{width}");
        assert_close(out, &reference_layer(&x64, &scale64, &bias64), 1e-5, &what);
        if width > 1 {
            assert_gradient(|x| inner(&reference_layer(x, &scale64, &bias64), &dout), &x, dx, &what);
            assert_gradient(|s| inner(&reference_layer(&x64, s, &bias64), &dout), &scale, dscale, &what);
        }
        assert_gradient(|b| inner(&reference_layer(&x64, &scale64, b), &dout), &bias, dbias, &what);
    }
}
