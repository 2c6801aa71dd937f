//! The file of the sizes that products are cut by, which `grades bench gemm --tune` measured on this machine.
//!
//! It lies where `GRADES_BLOCKS` says (`none` reads no file), or as `grades/blocks.json` in the user's folder of caches. Sizes change no
//! result, so a file that does not fit, or was named and is not there, is told and passed over.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use grades_kernels::gemm;
use serde::{Deserialize, Serialize};

use crate::train::memory;

/// The sizes of one kind of products, as [`gemm::Sizes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Panels of columns that a task packs at once.
    pub panels: usize,
    /// The fewest rows for which panels are packed once more.
    pub rows: usize,
    /// Rows of a weight gradient that a task computes.
    pub gradient_rows: usize,
}

impl From<gemm::Sizes> for Sizes {
    fn from(gemm::Sizes { panels, rows, gradient_rows }: gemm::Sizes) -> Self {
        Self { panels, rows, gradient_rows }
    }
}

impl From<Sizes> for gemm::Sizes {
    fn from(Sizes { panels, rows, gradient_rows }: Sizes) -> Self {
        Self { panels, rows, gradient_rows }
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The processor that they were measured on.
    pub processor: Option<String>,
    /// What its products ran on.
    pub instructions: String,
    /// Threads of the measurement.
    pub threads: usize,
    /// For products in f32.
    pub f32: Sizes,
    /// For products in bf16, where the processor has them.
    pub bf16: Sizes,
}

/// Most bytes of a file.
const LONGEST: u64 = 1 << 16;

/// Why a file is not used: one sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Unused(String);

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tuned {
    /// What was measured on this machine.
    pub fn here(blocks: gemm::Blocks) -> Self {
        Self {
            processor: memory::processor(),
            instructions: grades_kernels::instructions().to_owned(),
            threads: grades_kernels::threads(),
            f32: blocks.f32.into(),
            bf16: blocks.bf16.into(),
        }
    }

    fn read(path: &Path) -> Result<Self, Unused> {
        let unused = |why: &dyn fmt::Display| {
            Unused(format!(
                "{}: {why}; products are cut as always (`grades bench gemm --tune` writes it anew)",
                path.display()
            ))
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        read.map_err(|error| unused(&error))?;
        let tuned: Self = serde_json::from_str(&text).map_err(|error| unused(&error))?;
        let blocks = tuned.blocks();
        if !(blocks.f32.fit() && blocks.bf16.fit()) {
            let gemm::Sizes { panels, rows, gradient_rows } = gemm::Sizes::MOST;
            return Err(unused(&format!(
                "`panels` must be 1 to {panels}, `rows` 1 to {rows}, `gradient_rows` a multiple of {} up to {gradient_rows}",
                gemm::Sizes::TILES
            )));
        }
        Ok(tuned)
    }

    /// The sizes as products take them.
    #[must_use]
    pub fn blocks(&self) -> gemm::Blocks {
        gemm::Blocks { f32: self.f32.into(), bf16: self.bf16.into() }
    }

    /// Writes the file, and the folder around it.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        grades_fs::write(path, text).map_err(io::Error::other)
    }
}

/// Where the file lies: where `GRADES_BLOCKS` says, else in the folder of caches; `None` where there is to be none.
#[must_use]
pub fn place() -> Option<PathBuf> {
    described_by(|name| env::var(name).ok(), env::home_dir())
}

fn described_by(variable: impl Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match set("GRADES_BLOCKS") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.as_os_str() != "none"),
        None => {
            let caches = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(user?.join(".cache")))?;
            Some(caches.join("grades").join("blocks.json"))
        }
    }
}

/// Has products cut by the sizes of the file, if there is one for this processor. Before the first product.
///
/// # Errors
/// There is a file that is not read, or none where `GRADES_BLOCKS` says.
pub fn apply() -> Result<(), Unused> {
    let named = env::var_os("GRADES_BLOCKS").is_some_and(|path| !path.is_empty());
    let Some(path) = place().filter(|path| named || path.exists()) else { return Ok(()) };
    let tuned = Tuned::read(&path)?;
    // A folder of a user may be that of several machines.
    if tuned.processor == memory::processor() && tuned.instructions == grades_kernels::instructions() {
        tuned.blocks().choose();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_lies_where_the_environment_says() {
        let place = |variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            described_by(value, Some("/home/a".into()))
        };
        assert_eq!(place(&[]), Some("/home/a/.cache/grades/blocks.json".into()));
        assert_eq!(place(&[("XDG_CACHE_HOME", "/x")]), Some("/x/grades/blocks.json".into()));
        assert_eq!(place(&[("XDG_CACHE_HOME", "/x"), ("GRADES_BLOCKS", "b.json")]), Some("b.json".into()));
        assert_eq!(place(&[("GRADES_BLOCKS", "none")]), None);
        assert_eq!(described_by(|_| None, None), None);
    }

    #[test]
    fn a_file_reads_back_and_a_damaged_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/blocks.json");
        let tuned = Tuned::here(gemm::Blocks::of_processor());
        tuned.write(&path).unwrap();
        assert_eq!(Tuned::read(&path), Ok(tuned.clone()));
        let whole = fs::read_to_string(&path).unwrap();
        for (text, named) in [
            (String::new(), "EOF"),
            (whole[..whole.len() / 2].to_owned(), "EOF"),
            (whole.replace("\"panels\"", "\"panel\""), "panel"),
            (whole.replacen("\"rows\": ", "\"rows\": -", 1), "-"),
            (whole.replacen("\"gradient_rows\": ", "\"gradient_rows\": 1", 1), "multiple of 48"),
            ("[".repeat(1 << 20), "invalid type"),
        ] {
            grades_fs::write(&path, &text).unwrap();
            let message = Tuned::read(&path).unwrap_err().to_string();
            assert!(
                message.contains(named) && message.contains("blocks.json") && message.contains("--tune"),
                "{message}"
            );
        }
    }
}
