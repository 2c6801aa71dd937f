//! Tensors in memory.

use grades_kernels::quant::{Nf4, PackedMatrix};

use super::super::{ALL, random, values};
use super::{DTYPES, compare, compare_exactly, operand};
use crate::cpu::CPU;
use crate::device;
use crate::device::{DeviceRef, UnknownDevice};
use crate::dtype::Dtype;

const SHAPES: [[usize; 2]; 6] = [[0, 5], [1, 1], [1, 7], [9, 1], [5, 33], [67, 101]];

fn nf4(out: usize, width: usize) -> PackedMatrix {
    PackedMatrix::nf4(Nf4::encode(&values(7, out * width)).unwrap(), out, width).unwrap()
}

#[test]
fn devices_have_names() {
    assert_eq!(ALL.map(|device| device.name()), ["cpu", "reference"]);
    for name in ["cpu", "auto"] {
        assert_eq!(device(name).unwrap().name(), "cpu");
    }
    let unknown = device("tpu").unwrap_err();
    assert_eq!(unknown, UnknownDevice { name: "tpu".to_owned() });
    assert_eq!(unknown.to_string(), "`device: tpu` is not there; this build has cpu, reference (auto takes the first)");
}

#[test]
fn values_come_back_from_a_device() {
    for device in ALL {
        for shape in SHAPES {
            let numbers = values(1, shape[0] * shape[1]);
            let tensor = device.from_host(numbers.clone(), shape);
            assert_eq!((tensor.shape(), tensor.dtype()), (shape, Dtype::F32));
            assert_eq!((tensor.rows(), tensor.columns(), tensor.len()), (shape[0], shape[1], numbers.len()));
            assert_eq!(tensor.is_empty(), numbers.is_empty());
            assert_eq!(*tensor.to_host(), *numbers);
            let zeros = DTYPES.map(|dtype| device.zeros(shape, dtype));
            for (zeros, dtype) in zeros.iter().zip(DTYPES) {
                assert_eq!((zeros.shape(), zeros.dtype()), (shape, dtype));
                assert_eq!(*zeros.to_host(), *vec![0.0; numbers.len()]);
            }
        }
    }
}

#[test]
fn packed_values_come_back_decoded() {
    let mut decoded = vec![0.0; 5 * 33];
    nf4(5, 33).decode(&mut decoded);
    for device in ALL {
        let tensor = device.from_packed(nf4(5, 33));
        assert_eq!((tensor.shape(), tensor.dtype()), ([5, 33], Dtype::Packed));
        for same in [&tensor, &device.copy(&tensor), &tensor.cast(Dtype::F32)] {
            assert_eq!(*same.to_host(), *decoded);
        }
    }
    compare_exactly("packed to bf16", |device| vec![device.from_packed(nf4(5, 33)).cast(Dtype::Bf16)]);
}

#[test]
fn a_change_stays_with_its_tensor() {
    for device in ALL {
        for dtype in DTYPES {
            let tensor = operand(device, 1, [3, 5], dtype);
            let before = tensor.to_host().into_owned();
            for mut other in [tensor.clone(), device.copy(&tensor)] {
                device.add(&mut other, &tensor);
                assert_eq!(*other.to_host(), *before.iter().map(|value| value + value).collect::<Vec<_>>());
                device.append_rows(&mut other, &tensor);
                assert_eq!((tensor.shape(), &*tensor.to_host()), ([3, 5], &*before));
            }
        }
        let tensor = random(device, 1, [3, 5]);
        let mut other = tensor.clone();
        device.set_part(&mut other, 0, &random(device, 2, [3, 5]));
        assert_eq!(*other.to_host(), *values(2, 15));
        assert_eq!(*tensor.to_host(), *values(1, 15));
    }
}

#[test]
fn a_scaled_tensor_is_its_own() {
    for shape in SHAPES {
        compare_exactly("scale", |device| {
            let tensor = random(device, 1, shape);
            let mut scaled = tensor.clone();
            device.scale(&mut scaled, -2.5);
            vec![tensor, scaled]
        });
    }
}

/// Halves between two bf16 numbers go to the even one, in both directions, and large ones become infinite.
#[test]
fn a_cast_rounds_to_the_nearest_even() {
    let half = 2_f32.powi(-8);
    let numbers = vec![1.0 + half, 1.0 + 3.0 * half, -1.0 - half, 1.0 + 1.01 * half, 0.0, f32::MAX, 1e-40];
    let smallest = f32::from_bits(0x0001_0000);
    let expected = [1.0, 1.0 + 4.0 * half, -1.0, 1.0 + 2.0 * half, 0.0, f32::INFINITY, smallest];
    for device in ALL {
        let cast = device.from_host(numbers.clone(), [1, 7]).cast(Dtype::Bf16);
        assert_eq!(cast.dtype(), Dtype::Bf16);
        assert_eq!(*cast.to_host(), expected);
        let wide = cast.cast(Dtype::F32);
        assert_eq!((wide.dtype(), wide.to_host()), (Dtype::F32, cast.to_host()));
    }
    for shape in SHAPES {
        compare_exactly("cast", |device| DTYPES.map(|dtype| operand(device, 1, shape, dtype)).to_vec());
    }
}

#[test]
fn bytes_are_those_of_the_elements() {
    let tensors = DTYPES.map(|dtype| CPU_DEVICE.zeros([3, 5], dtype));
    assert_eq!(tensors.map(|tensor| tensor.bytes()), [60, 30]);
    // Half a byte an element, and one scale a block of 64.
    let packed = CPU_DEVICE.from_packed(nf4(16, 64)).bytes();
    assert!((16 * 64 / 2 + 16..16 * 64).contains(&packed), "{packed}");
}

const CPU_DEVICE: DeviceRef = &CPU;

#[test]
fn add() {
    for dtype in DTYPES {
        for shape in SHAPES {
            compare(dtype, &format!("sum of {shape:?}"), |device| {
                let mut sum = operand(device, 1, shape, dtype);
                device.add(&mut sum, &operand(device, 2, shape, dtype));
                vec![sum]
            });
        }
    }
}

#[test]
fn rows_by_index() {
    for (rows, width, ids) in
        [(1, 1, vec![0]), (11, 7, vec![3]), (11, 33, vec![10, 0, 3, 3, 0, 3]), (4, 5, vec![]), (0, 5, vec![])]
    {
        for dtype in DTYPES {
            compare_exactly("gathered", |device| {
                vec![device.gather_rows(&operand(device, 1, [rows, width], dtype), &ids)]
            });
        }
        compare(Dtype::F32, "scattered", |device| {
            let mut sum = random(device, 1, [rows, width]);
            device.scatter_add_rows(&mut sum, &ids, &random(device, 2, [ids.len(), width]));
            vec![sum]
        });
    }
}

#[test]
fn rows_in_the_place_of_others() {
    for dtype in DTYPES {
        for (rows, width, places) in [(1, 1, vec![0]), (11, 33, vec![10, 0, 3]), (4, 5, vec![])] {
            compare_exactly("put", |device| {
                let mut all = operand(device, 1, [rows, width], dtype);
                device.put_rows(&mut all, &places, &operand(device, 2, [places.len(), width], dtype));
                vec![all]
            });
        }
    }
}

#[test]
fn a_tensor_of_another_shape_has_the_same_elements() {
    for device in ALL {
        let tensor = random(device, 1, [6, 4]);
        let wide = tensor.reshaped([2, 12]);
        assert_eq!((wide.shape(), wide.to_host()), ([2, 12], tensor.to_host()));
        let rows = device.gather_rows(&wide, &[1]);
        assert_eq!(*rows.to_host(), tensor.to_host()[12..]);
    }
}

#[test]
fn rows_at_the_end() {
    for dtype in DTYPES {
        for (before, lengths) in [(0, vec![3, 0, 1]), (1, vec![1, 1, 1, 1, 1, 1]), (5, vec![9, 2])] {
            compare_exactly("appended", |device| {
                let mut all = operand(device, 1, [before, 7], dtype);
                for (seed, &rows) in (2..).zip(&lengths) {
                    device.append_rows(&mut all, &operand(device, seed, [rows, 7], dtype));
                }
                vec![all]
            });
        }
    }
}
