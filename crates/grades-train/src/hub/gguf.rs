//! Which GGUF file of a model is meant, as llama.cpp and Ollama name them: `owner/name:Q4_K_M`.

use std::path::{Path, PathBuf};

use grades_models::weights::gguf::part_of;

use super::{HubError, Snapshot, is_id};

/// What Ollama writes before a name.
const HOSTS: [&str; 2] = ["hf.co/", "huggingface.co/"];

/// A model's name on the Hub, and which of its GGUF files is meant, if `text` may be that.
pub(super) fn named(text: &str) -> Option<(&str, Option<&str>)> {
    let text = HOSTS.iter().find_map(|host| text.strip_prefix(host)).unwrap_or(text);
    let (id, choice) = text.split_once(':').map_or((text, None), |(id, choice)| (id, Some(choice)));
    (is_id(id) && choice != Some("")).then_some((id, choice))
}

impl Snapshot<'_> {
    /// The GGUF file that is meant; of one in parts the first, with the others beside it.
    pub(super) fn gguf(&self, choice: Option<&str>) -> Result<PathBuf, HubError> {
        let page = || self.repo.page(&self.hub.endpoint);
        let models: Vec<&str> = self.files.iter().map(String::as_str).filter(|file| is_model(file)).collect();
        let meant: Vec<&str> = match choice {
            None => models.clone(),
            Some(choice) => models.iter().copied().filter(|file| fits(file, choice)).collect(),
        };
        match (meant.as_slice(), choice) {
            ([file], _) => self.with_parts(file),
            ([], None) if self.listed => Err(HubError::NoWeights { page: page() }),
            ([], _) if !self.listed => {
                // Another program did not need it.
                let what = match choice {
                    Some(choice) => format!("the file {choice} of {}", self.repo.id),
                    None => format!("the weights of {}", self.repo.id),
                };
                Err(HubError::Offline { what, cache: self.hub.cache.clone() })
            }
            ([], choice) => {
                let choice = choice.unwrap_or_default().to_owned();
                Err(HubError::NoFile { page: page(), choice, files: names(&models) })
            }
            (several, _) => Err(HubError::Choose { page: page(), id: self.repo.id.clone(), files: names(several) }),
        }
    }

    /// Fetches a file, and of one in parts all.
    fn with_parts(&self, file: &str) -> Result<PathBuf, HubError> {
        let path = self.fetch(file)?;
        if let Some(part) = part_of(Path::new(file)) {
            let folder = file.rfind('/').map_or("", |slash| &file[..=slash]);
            for number in 2..=part.count {
                self.fetch(&format!("{folder}{}", part.file(number)))?;
            }
        }
        Ok(path)
    }
}

/// Whether a file is a model, or the first part of one: not the eyes of one, not what a quantisation weighed values by.
fn is_model(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let other = name.contains("mmproj") || name.contains("imatrix");
    name.ends_with(".gguf") && !other && part_of(Path::new(file)).is_none_or(|part| part.number == 1)
}

/// A file's name without its end, and without what says that it is a part.
fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = &name[..name.len() - ".gguf".len()];
    match part_of(Path::new(file)) {
        Some(part) => &name[..part.stem.len()],
        None => name,
    }
}

/// Whether a choice means a file: it is its name, or the quantisation at the name's end or in that of its folder.
fn fits(file: &str, choice: &str) -> bool {
    let (stem, choice) = (stem(file).to_ascii_lowercase(), choice.to_ascii_lowercase());
    let ends = |text: &str| {
        let before = text.strip_suffix(choice.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']) && !is_prefix(before))
    };
    let folder = file.rsplit('/').nth(1).map(str::to_ascii_lowercase);
    file.to_ascii_lowercase() == choice || ends(&stem) || folder.is_some_and(|folder| ends(&folder))
}

/// Whether what comes before a quantisation belongs to it: `UD-Q4_K_M`, `i1-Q4_K_M` are others than `Q4_K_M`.
fn is_prefix(before: &str) -> bool {
    let before = before.trim_end_matches(['-', '.', '_']);
    ["ud", "i1"].iter().any(|prefix| {
        before == *prefix || before.ends_with(&format!("-{prefix}")) || before.ends_with(&format!(".{prefix}"))
    })
}

/// What names each of some files: the quantisation where that is told by their names, else their names.
fn names(files: &[&str]) -> Vec<String> {
    let stems: Vec<&str> = files.iter().map(|file| stem(file)).collect();
    let common = match stems.as_slice() {
        [first, others @ ..] if !others.is_empty() => others.iter().fold(*first, |common, other| {
            let same = common.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            common.get(..same).unwrap_or("")
        }),
        _ => "",
    };
    let cut = common.rfind(['-', '.']).map_or(0, |at| at + 1);
    files
        .iter()
        .zip(&stems)
        .map(|(file, stem)| {
            let label = &stem[cut..];
            let alone = files.iter().filter(|file| fits(file, label)).count() == 1;
            if cut > 0 && !label.is_empty() && alone { label.to_owned() } else { (*file).to_owned() }
        })
        .collect()
}
