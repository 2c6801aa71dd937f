//! A model in several GGUF files: `name-00001-of-00003.gguf` holds the metadata, each file some of the tensors.

use std::path::{Path, PathBuf};

use super::Metadata;
use crate::weights::error::{Result, WeightsError};

/// A file that is one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What comes before the number in the file's name.
    pub stem: String,
    /// Which part it is, from 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl Part {
    /// The name of the file of part `number`.
    #[must_use]
    pub fn file(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// What a file's name says of the parts of a model, if it says so.
#[must_use]
pub fn part_of(path: &Path) -> Option<Part> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let parsed = |text: &str| text.parse().ok().filter(|_| text.len() == 5);
    let part = Part { stem: stem.to_owned(), number: parsed(number)?, count: parsed(count)? };
    (1..=part.count).contains(&part.number).then_some(part)
}

/// The files of the other parts of a model whose first part has this metadata.
///
/// # Errors
/// It is not the first part, its name does not say where the others are, or one is absent.
pub(super) fn others(metadata: &Metadata) -> Result<Vec<PathBuf>> {
    let path = metadata.path();
    let count = metadata.integer("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let refused = |problem: String| WeightsError::unsupported(path, problem);
    let part = part_of(path).filter(|part| part.count == count).ok_or_else(|| {
        refused(format!(
            "it is one of {count} parts of a model, which its name must say as in model-00001-of-{count:05}.gguf"
        ))
    })?;
    if part.number != 1 || metadata.integer("split.no").unwrap_or(0) != 0 {
        return Err(refused(format!("it is not the first part of its model; give {}", part.file(1))));
    }
    let others = (2..=count).map(|number| path.with_file_name(part.file(number)));
    let missing = |path: &PathBuf| !path.is_file();
    let others: Vec<PathBuf> = others.collect();
    match others.iter().find(|path| missing(path)) {
        Some(missing) => {
            let name = missing.file_name().unwrap_or_default().to_string_lossy();
            Err(refused(format!("{name}, another part of its model, is not beside it; download it too")))
        }
        None => Ok(others),
    }
}

/// Whether the parts have as many tensors as the first says.
pub(super) fn check(metadata: &Metadata, found: usize) -> Result<()> {
    match metadata.integer("split.tensors.count") {
        Some(count) if count as usize != found => {
            let problem = format!("its model has {count} tensors, and its parts {found}; download them again");
            Err(WeightsError::malformed(metadata.path(), problem))
        }
        _ => Ok(()),
    }
}
