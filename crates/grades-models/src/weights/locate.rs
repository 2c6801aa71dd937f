//! Which file of a folder a model is in.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, WeightsError};
use super::gguf;

/// Where the tensors are.
pub(super) enum Layout {
    Gguf(PathBuf),
    Safetensors(PathBuf),
    Sharded(PathBuf),
}

/// The GGUF file that `path` is or, as a folder without safetensors, holds.
pub(crate) fn locate_gguf(path: &Path) -> Result<Option<PathBuf>> {
    Ok(match locate(path)? {
        Layout::Gguf(file) => Some(file),
        Layout::Safetensors(_) | Layout::Sharded(_) => None,
    })
}

/// Whether a file is called as one of what reads pictures.
fn is_mmproj(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("mmproj"))
}

/// The file of what reads pictures in a folder with that of a language model; `None` where there is none or several.
pub(super) fn mmproj_beside(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let entries = fs::read_dir(folder).map_err(WeightsError::io("read", folder))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|e| e == "gguf") && is_mmproj(file)).collect();
    Ok(found.pop().filter(|_| found.is_empty()))
}

/// The file that `path` is or, as a folder, holds: where its tensors are, or what says where.
pub(super) fn locate(path: &Path) -> Result<Layout> {
    let not_a_checkpoint = |problem: String| WeightsError::NotACheckpoint { path: path.to_owned(), problem };
    let metadata = fs::metadata(path).map_err(WeightsError::io("open", path))?;
    if !metadata.is_dir() {
        return match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Ok(Layout::Gguf(path.to_owned())),
            Some("safetensors") => Ok(Layout::Safetensors(path.to_owned())),
            _ => Err(not_a_checkpoint("it is neither a folder nor a .safetensors or .gguf file".into())),
        };
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return Ok(Layout::Safetensors(single));
    }
    let index = path.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(Layout::Sharded(index));
    }
    let mut gguf = Vec::new();
    for entry in fs::read_dir(path).map_err(WeightsError::io("read", path))? {
        let entry = entry.map_err(WeightsError::io("read", path))?.path();
        if entry.extension().is_some_and(|e| e == "gguf") {
            gguf.push(entry);
        }
    }
    gguf.sort_unstable();
    gguf.retain(|file| !is_mmproj(file));
    // The parts of one model are one file.
    gguf.retain(|file| gguf::part_of(file).is_none_or(|part| part.number == 1));
    match (gguf.pop(), gguf.len()) {
        (Some(file), 0) => Ok(Layout::Gguf(file)),
        (Some(_), more) => Err(not_a_checkpoint(format!("it holds {} .gguf files; name the one to open", more + 1))),
        (None, _) if path.join("adapter_config.json").is_file() => Err(not_a_checkpoint(
            "it holds an adapter; give the model that it was trained on, with this folder as its adapter, or merge the two \
             first"
                .into(),
        )),
        (None, _) => Err(not_a_checkpoint(
            "it holds no model.safetensors, no model.safetensors.index.json and no .gguf file; \
             convert weights of other formats to safetensors first"
                .into(),
        )),
    }
}
