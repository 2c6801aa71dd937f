//! What a checkpoint calls the tensors that architectures ask for by the names of transformers' language models.

use std::ops::Range;

use grades_kernels::quant::PackedMatrix;
use half::bf16;

use crate::Error;
use crate::source::{Form, Source};

/// The names of an architecture's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The name in a file that is saved, of the name that is asked for.
    pub(crate) file: fn(&str) -> String,
    /// Another one that files have for it.
    pub(crate) other: fn(&str) -> Option<String>,
    /// The name of a module in memory, by which PEFT knows it, of that in a file.
    pub(crate) module: fn(&str) -> String,
    /// The way back.
    pub(crate) of_module: fn(&str) -> String,
    /// The key of a config that says whether the head is the embedding.
    pub(crate) tied: &'static str,
    /// The tensor of the rotary frequencies, where the reference asks for one.
    pub(crate) frequencies: Option<&'static str>,
}

impl Names {
    /// All of them alike.
    pub(crate) const PLAIN: Self = Self {
        file: str::to_owned,
        other: |_| None,
        module: str::to_owned,
        of_module: str::to_owned,
        tied: "tie_word_embeddings",
        frequencies: None,
    };
}

/// A source that may have tensors by their other names.
pub(crate) struct Renamed<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) names: Names,
}

impl Renamed<'_> {
    fn found(&self, name: &str) -> String {
        let other = || (self.names.other)(name).filter(|other| self.source.shape(other).is_some());
        match self.source.shape(name) {
            Some(_) => name.to_owned(),
            None => other().unwrap_or_else(|| name.to_owned()),
        }
    }
}

impl Source for Renamed<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&self.found(name))
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.source.load(&self.found(name), shape)
    }

    fn form(&self, name: &str) -> Form {
        self.source.form(&self.found(name))
    }

    fn load_half(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, Error> {
        self.source.load_half(&self.found(name), shape)
    }

    fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        self.source.load_rows(&self.found(name), rows)
    }

    fn load_scale(&self, name: &str, width: usize, offset: f32) -> Result<Vec<f32>, Error> {
        self.source.load_scale(&self.found(name), width, offset)
    }

    fn load_packed(&self, name: &str, shape: [usize; 2]) -> Result<PackedMatrix, Error> {
        self.source.load_packed(&self.found(name), shape)
    }
}
