//! Norms, gates and dropout.

use super::super::{ACTIVATIONS, random, values};
use super::{DTYPES, compare, compare_exactly, moved, operand, those};
use crate::device::Layers;
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::reference::REFERENCE;

#[test]
fn gated_activation() {
    for dtype in DTYPES {
        for activation in ACTIVATIONS {
            for (rows, width) in [(0, 3), (1, 1), (1, 5), (9, 33)] {
                compare(dtype, &format!("{activation:?} of {rows}·{width}"), |device| {
                    // Wide enough for both tails.
                    let gate_up = values(1, rows * 2 * width).iter().map(|v| 6.0 * v).collect();
                    let gate_up = device.from_host(gate_up, [rows, 2 * width]).cast(dtype);
                    let dy = operand(device, 2, [rows, width], dtype);
                    let y = device.gated_activation(&gate_up, activation);
                    vec![y, device.gated_activation_backward(&dy, &gate_up, activation)]
                });
            }
        }
    }
}

#[test]
fn activate() {
    for dtype in DTYPES {
        for activation in ACTIVATIONS {
            for (rows, width) in [(0, 3), (1, 1), (1, 5), (9, 33), (3, 5000)] {
                compare(dtype, &format!("{activation:?} of {rows}·{width}"), |device| {
                    let x = values(1, rows * width).iter().map(|v| 6.0 * v).collect();
                    let x = device.from_host(x, [rows, width]).cast(dtype);
                    let dy = operand(device, 2, [rows, width], dtype);
                    vec![device.activate(&x, activation), device.activate_backward(&dy, &x, activation)]
                });
            }
        }
    }
}

const ROWS: [(usize, usize); 5] = [(0, 3), (1, 1), (1, 7), (5, 33), (67, 100)];

#[test]
fn rms_norm() {
    for dtype in DTYPES {
        for (rows, width) in ROWS {
            compare(dtype, &format!("{rows}·{width}"), |device| {
                let (x, scale) = (random(device, 1, [rows, width]), random(device, 2, [1, width]));
                let (y, inverse) = device.rms_norm(&x, &scale, 1e-3, dtype);
                assert_eq!((y.dtype(), inverse.dtype()), (dtype, Dtype::F32));
                vec![y, inverse]
            });
        }
    }
}

#[test]
fn rms_norm_backward() {
    for dtype in DTYPES {
        for (rows, width) in ROWS {
            // With one column dx is all cancellation but for eps.
            let eps = if width == 1 { 0.5 } else { 1e-3 };
            let arguments = [random(&REFERENCE, 1, [rows, width]), random(&REFERENCE, 2, [1, width])];
            let inverse = REFERENCE.rms_norm(&arguments[0], &arguments[1], eps, Dtype::F32).1;
            for want_scale in [false, true] {
                compare(dtype, &format!("{rows}·{width}, scale {want_scale}"), |device| {
                    let [x, scale] = arguments.each_ref().map(|argument| moved(argument, device));
                    let (dy, inverse) = (operand(device, 3, [rows, width], dtype), moved(&inverse, device));
                    let (dx, dscale) = device.rms_norm_backward(&dy, &x, &scale, &inverse, want_scale);
                    assert_eq!((dx.dtype(), dscale.is_some()), (Dtype::F32, want_scale));
                    those([Some(dx), dscale])
                });
            }
        }
    }
}

#[test]
fn layer_norm() {
    for dtype in DTYPES {
        for (rows, width) in ROWS {
            compare(dtype, &format!("{rows}·{width}"), |device| {
                let [x, scale, bias] =
                    [(1, rows), (2, 1), (3, 1)].map(|(seed, rows)| random(device, seed, [rows, width]));
                let (y, moments) = device.layer_norm(&x, &scale, &bias, 1e-3, dtype);
                assert_eq!((y.dtype(), moments.dtype()), (dtype, Dtype::F32));
                vec![y, moments]
            });
        }
    }
}

#[test]
fn layer_norm_backward() {
    for dtype in DTYPES {
        // With one column there is no gradient in x.
        for (rows, width) in ROWS.into_iter().filter(|(_, width)| *width > 1) {
            let [x, scale, bias] =
                [(1, rows), (2, 1), (3, 1)].map(|(seed, rows)| random(&REFERENCE, seed, [rows, width]));
            let moments = REFERENCE.layer_norm(&x, &scale, &bias, 1e-3, Dtype::F32).1;
            for want in [false, true] {
                compare(dtype, &format!("{rows}·{width}, parameters {want}"), |device| {
                    let [x, scale, moments] = [&x, &scale, &moments].map(|tensor| moved(tensor, device));
                    let dy = operand(device, 3, [rows, width], dtype);
                    let (dx, parameters) = device.layer_norm_backward(&dy, &x, &scale, &moments, want);
                    assert_eq!((dx.dtype(), parameters.is_some()), (Dtype::F32, want));
                    [dx].into_iter().chain(parameters.into_iter().flatten()).collect()
                });
            }
        }
    }
}

#[test]
fn dropout() {
    for dtype in DTYPES {
        for (rows, rate) in [(0, 0.3), (13, 0.3), (13, 0.0)] {
            compare_exactly("dropout", |device| {
                vec![device.dropout(&operand(device, 1, [rows, 21], dtype), Dropout { rate, key: [4, 3, 2, 1] })]
            });
        }
    }
}
