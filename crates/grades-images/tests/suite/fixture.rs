//! What is recorded in `fixtures/vision`, or in the folder `vision` of the one that `GRADES_FIXTURES` names.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// The fixtures of the repository alone.
pub(crate) fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision")
}

/// Those, or others of the same layout.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("GRADES_FIXTURES").map_or_else(own, |others| Path::new(&others).join("vision"))
}

pub(crate) fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Calls with every tensor of a file.
pub(crate) fn each_tensor(path: PathBuf, mut visit: impl FnMut(&str, TensorView<'_>)) {
    let bytes = std::fs::read(path).unwrap();
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        visit(&name, tensor);
    }
}

pub(crate) fn numbers(tensor: &TensorView<'_>) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn integers(tensor: &TensorView<'_>) -> Vec<usize> {
    let whole = |b: &[u8]| i64::from_le_bytes(b.try_into().unwrap()) as usize;
    tensor.data().chunks_exact(8).map(whole).collect()
}

/// The picture file of that name, whatever its ending.
pub(crate) fn picture(folder: &Path, name: &str) -> Vec<u8> {
    let of_name = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == name);
    let path = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(of_name).unwrap();
    std::fs::read(path).unwrap()
}
