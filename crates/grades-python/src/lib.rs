//! The method for Python: `gradestop._core`. Numbers in, decisions out, by the same code as the program `grades`; and the
//! report of a run's directory. No tensors: what is measured in PyTorch is measured there (`python/gradestop`).
//!
//! Options, events and states cross as JSON, which serde writes and reads here as it does for the program's own files.

mod convert;
mod policy;
mod report;

use grades::{EarlyStopping, Role};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// An error of the method as Python's `ValueError`, with its sentence.
fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The options of a method as JSON, with every default written out; an error names the key.
#[pyfunction]
fn resolve(options: &str) -> PyResult<String> {
    let options: EarlyStopping = serde_json::from_str(options).map_err(value_error)?;
    options.validate().map_err(value_error)?;
    serde_json::to_string(&options).map_err(value_error)
}

/// The names of all methods.
#[pyfunction]
fn methods() -> Vec<&'static str> {
    EarlyStopping::all().iter().map(EarlyStopping::name).collect()
}

/// The roles inside a fused projection, in the order of its rows; empty for a role that is not fused.
#[pyfunction]
fn split(role: &str) -> PyResult<Vec<&'static str>> {
    let role: Role = role.parse().map_err(value_error)?;
    Ok(role.split().unwrap_or_default().iter().map(|role| role.name()).collect())
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::policy::{Decision, Policy, Wants};
    #[pymodule_export]
    use super::report::{figures, report};
    #[pymodule_export]
    use super::{methods, resolve, split};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
