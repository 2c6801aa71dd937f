use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::questions::{Metric, Questions};
use crate::config::Config;
use crate::data::DataError;
use crate::eval::open::Where;

/// How many runs there are of each kind, how they are scored, and where they go.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Runs of each: with the config's `seed` and those after it.
    pub seeds: NonZeroUsize,
    /// Benchmarks; none: losses and costs alone.
    pub tasks: Vec<String>,
    /// The folder that holds a folder for each benchmark; left out, as [`crate::eval::Task::load`] looks for them.
    pub data_dir: Option<PathBuf>,
    /// The folder of pictures that rows of questions give by path; left out, that of their file.
    pub image_folder: Option<PathBuf>,
    /// Only the first so many questions of each.
    pub limit: Option<usize>,
    /// What counts as right.
    pub metric: Metric,
    /// Where everything goes; left out: `output_dir` of the config.
    pub out: Option<PathBuf>,
}

impl RunOptions {
    /// The seeds, from the config's on.
    pub(super) fn seeds(&self, first: u64) -> impl Iterator<Item = u64> + use<> {
        (0..self.seeds.get() as u64).map(move |index| first.wrapping_add(index))
    }

    /// The questions that every run is scored on.
    pub(super) fn questions(&self) -> Result<Questions, DataError> {
        let (data_dir, image_folder) = (self.data_dir.as_deref(), self.image_folder.as_deref());
        Questions::load(&self.tasks, &Where { data_dir, image_folder, split: None, limit: self.limit })
    }

    /// The folder that everything goes into.
    pub(super) fn folder<'a>(&'a self, common: &'a Config) -> &'a Path {
        self.out.as_deref().unwrap_or(common.output_dir.as_path())
    }
}
