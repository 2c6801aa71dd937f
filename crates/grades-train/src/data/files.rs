//! Which files of a data set hold a split: one rule for local folders and for what the Hugging Face Hub lists.
//!
//! Of split `train` are `train.jsonl`, its parts `train-00000-of-00002.parquet`, and all files in a folder `train`; a folder
//! `data` around them does not count, and any other is the configuration's. So both `data/train-00000-of-00001.parquet`, as
//! `datasets` lays sets out, and `ARC-Easy/train/0000.parquet`, as the Hub converts them, are found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::compressed::Compression;
use super::error::DataError;

/// The formats that are read, by extension. Behind any but parquet, whose columns are compressed by themselves, may stand `.gz`
/// or `.zst`.
const FORMATS: [&str; 5] = ["jsonl", "json", "csv", "parquet", "tar"];

/// What the name of a file says that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// One of the formats.
    pub(super) format: &'static str,
    /// How it is compressed.
    pub(super) compression: Option<Compression>,
    /// What stands before that.
    stem: String,
}

impl Kind {
    /// `None` of what is not read.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_string_lossy();
        let (mut stem, mut last) = name.rsplit_once('.')?;
        let compression = Compression::of(&last.to_ascii_lowercase());
        if compression.is_some() {
            (stem, last) = stem.rsplit_once('.')?;
        }
        let format = FORMATS.into_iter().find(|format| last.eq_ignore_ascii_case(format))?;
        let is_read = compression.is_none() || format != "parquet";
        is_read.then(|| Self { format, compression, stem: stem.to_owned() })
    }
}

/// How deep folders are looked into: `data/<configuration>/<split>/<file>`.
const DEPTH: usize = 3;

/// The extension of a file in small letters.
pub(crate) fn extension(file: &Path) -> String {
    file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// The files of `split` in configuration `name` among `files`, paths within the set, in the order of their rows. Without
/// `name` it is the set's only configuration, or that called `default`. `set` is for messages.
///
/// # Errors
/// There is no such split or configuration, it is not clear which one is meant, or a part is missing.
pub(super) fn of_split<'a>(
    set: &Path,
    files: &'a [String],
    name: Option<&str>,
    split: &str,
) -> Result<Vec<&'a str>, DataError> {
    let mut configurations: BTreeMap<String, Vec<Part<'a>>> = BTreeMap::new();
    for (configuration, part) in files.iter().filter_map(|file| Part::of(file, split)) {
        configurations.entry(configuration).or_default().push(part);
    }
    if configurations.is_empty() {
        return Err(DataError::NoSuchSplit { path: set.to_owned(), split: split.to_owned(), found: listing(files) });
    }
    // A set whose files lie in no folder has the configuration `default`, as in `datasets`.
    let chosen = match name {
        Some("default") | None if configurations.contains_key("") => Some(""),
        Some(name) => Some(name),
        None if configurations.contains_key("default") => Some("default"),
        None if configurations.len() == 1 => configurations.keys().next().map(String::as_str),
        None => None,
    };
    let found = || list(configurations.keys().map(|name| if name.is_empty() { "default" } else { name }));
    let Some(chosen) = chosen else {
        return Err(DataError::NameMissing { path: set.to_owned(), found: found() });
    };
    let Some(parts) = configurations.get(chosen) else {
        return Err(DataError::NoSuchName { path: set.to_owned(), name: chosen.to_owned(), found: found() });
    };
    in_order(set, parts)
}

/// The files of one split of one configuration, which are all its parts or a single one.
fn in_order<'a>(set: &Path, parts: &[Part<'a>]) -> Result<Vec<&'a str>, DataError> {
    let mut files: Vec<&str> = parts.iter().map(|part| part.file).collect();
    files.sort_unstable();
    let alike = |part: &Part<'_>| part.of.is_some() && part.of == parts[0].of && part.beside(&parts[0]);
    if files.len() > 1 && !parts.iter().all(alike) {
        return Err(DataError::AmbiguousSplit { first: set.join(files[0]), second: set.join(files[1]) });
    }
    match parts[0].of {
        Some(Parts::Of(count)) if count != files.len() => {
            Err(DataError::PartsMissing { first: set.join(files[0]), count, found: files.len() })
        }
        _ => Ok(files),
    }
}

/// A file of the wanted split.
struct Part<'a> {
    file: &'a str,
    /// What it is a part of, where its name says that it is one.
    of: Option<Parts>,
}

/// How many files make a split.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// All in the split's folder.
    Folder,
    /// So many.
    Of(usize),
}

impl<'a> Part<'a> {
    /// The configuration of a file and its place in it, if it is of `split`.
    fn of(file: &'a str, split: &str) -> Option<(String, Self)> {
        let kind = Kind::of(Path::new(file))?;
        let mut folders: Vec<&str> = file.split('/').collect();
        folders.pop();
        folders.retain(|folder| *folder != "data");
        let of = if folders.last() == Some(&split) {
            folders.pop();
            Some(Parts::Folder)
        } else {
            match numbered(&kind.stem) {
                Some((name, count)) if name == split => Some(Parts::Of(count)),
                None if kind.stem == split => None,
                _ => return None,
            }
        };
        Some((folders.join("/"), Self { file, of }))
    }

    /// Whether both lie in one folder and have one format.
    fn beside(&self, other: &Part<'_>) -> bool {
        let (a, b) = (Path::new(self.file), Path::new(other.file));
        let kind = |path| Kind::of(path).map(|kind| (kind.format, kind.compression));
        a.parent() == b.parent() && kind(a) == kind(b)
    }
}

/// The name and the number of parts in `train-00000-of-00002` or `train-00000-of-00002-0123abcd`.
fn numbered(stem: &str) -> Option<(&str, usize)> {
    let (before, after) = stem.rsplit_once("-of-")?;
    let (name, index) = before.rsplit_once('-')?;
    let count = after.split('-').next()?;
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(index) || !all_digits(count) {
        return None;
    }
    Some((name, count.parse().ok()?))
}

/// The files of a folder and of those in it, as paths within it with `/` between folders, in their order. Hidden ones are
/// left out.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn walk(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((path, prefix, depth)) = folders.pop() {
        let entries = fs::read_dir(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let inside = format!("{prefix}{name}");
            if entry.path().is_file() {
                files.push(inside);
            } else if depth < DEPTH && entry.path().is_dir() {
                folders.push((entry.path(), inside + "/", depth + 1));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What a set holds, for messages: its data files, parts of one split as one.
fn listing(files: &[String]) -> String {
    let label = |file: &str| {
        let path = Path::new(file);
        let Kind { stem, .. } = Kind::of(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let label: PathBuf = match numbered(&stem) {
            Some((name, _)) => folder.join(name),
            None if stem.bytes().all(|byte| byte.is_ascii_digit()) => folder.to_owned(),
            None => path.to_owned(),
        };
        Some(label.to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = files.iter().filter_map(|file| label(file)).collect();
    if names.is_empty() {
        names = files.to_vec();
    }
    names.dedup();
    const SHOWN: usize = 10;
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    list(&names)
}

/// Names with commas between them.
pub(super) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[track_caller]
    fn finds(all: &str, name: Option<&str>, split: &str, wanted: &str) {
        assert_eq!(of_split(Path::new("set"), &files(all), name, split).unwrap(), files(wanted));
    }

    #[track_caller]
    fn refuses(all: &str, name: Option<&str>, split: &str, parts: &[&str]) {
        let error = of_split(Path::new("set"), &files(all), name, split).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn the_layouts_of_sets_on_the_hub() {
        let converted = ".gitattributes main/test/0000.parquet main/train/0001.parquet main/train/0000.parquet \
                         additional/train/0000.parquet";
        finds(converted, Some("main"), "train", "main/train/0000.parquet main/train/0001.parquet");
        finds(converted, None, "test", "main/test/0000.parquet");
        refuses(converted, None, "train", &["additional, main", "name"]);
        refuses(converted, Some("mian"), "train", &["`mian`", "additional, main"]);
        refuses(converted, Some("main"), "dev", &["`dev`", "main/test, main/train, additional/train"]);
        let own = "README.md data/train-00001-of-00002-0a.parquet data/train-00000-of-00002-0b.parquet \
                   data/test_easy-00000-of-00001.parquet";
        finds(own, None, "train", "data/train-00000-of-00002-0b.parquet data/train-00001-of-00002-0a.parquet");
        finds(own, Some("default"), "test_easy", "data/test_easy-00000-of-00001.parquet");
        refuses(own, Some("other"), "train", &["`other`", "default"]);
        finds("default/train/0000.parquet x/train/0000.parquet", None, "train", "default/train/0000.parquet");
        finds("train/b.csv train/a.csv", None, "train", "train/a.csv train/b.csv");
        let compressed =
            "train-00001-of-00002.jsonl.gz train-00000-of-00002.jsonl.gz test.JSON.zst README.md.gz train.parquet.gz";
        finds(compressed, None, "train", "train-00000-of-00002.jsonl.gz train-00001-of-00002.jsonl.gz");
        finds(compressed, None, "test", "test.JSON.zst");
        refuses(compressed, None, "dev", &["train, test.JSON.zst"]);
    }

    #[test]
    fn what_may_not_be_one_split() {
        refuses("train.jsonl data/train.csv", None, "train", &["set/data/train.csv", "set/train.jsonl"]);
        refuses("train.parquet train-00000-of-00001.parquet", None, "train", &["set/train.parquet"]);
        refuses("train/a.csv train/b.json", None, "train", &["set/train/a.csv"]);
        refuses("train/a.csv train/b.csv.gz", None, "train", &["set/train/b.csv.gz"]);
        refuses("train-00000-of-00003.parquet train-00002-of-00003.parquet", None, "train", &["2", "3"]);
        refuses("notes.txt", None, "train", &["notes.txt"]);
        refuses("retrain.csv train_sample.csv train-of-5.csv train-a-of-1.csv", None, "train", &["retrain.csv"]);
    }
}
