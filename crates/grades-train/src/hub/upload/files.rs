//! The files of a folder that is uploaded, and what names their contents.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::UploadError;

/// Bytes from a file's beginning by which the Hub tells text from other things.
const SAMPLE: u64 = 512;

/// What Git itself reads, though it is hidden.
const OF_GIT: [&str; 2] = [".gitattributes", ".gitignore"];

/// A file to be uploaded.
#[derive(Clone, Debug)]
pub(super) struct LocalFile {
    pub(super) path: PathBuf,
    /// Its path in the repository.
    pub(super) name: String,
    pub(super) size: u64,
    /// Its beginning.
    pub(super) sample: Vec<u8>,
}

/// The files of a folder and of those in it, but for hidden ones, in the order of their names.
pub(super) fn of(folder: &Path) -> Result<Vec<LocalFile>, UploadError> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = folders.pop() {
        for entry in fs::read_dir(&path).map_err(UploadError::file(&path))? {
            let entry = entry.map_err(UploadError::file(&path))?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_str().ok_or_else(|| UploadError::NotUnicode { path: path.clone() })?;
            if name.starts_with('.') && !OF_GIT.contains(&name) {
                continue;
            }
            let inside = format!("{prefix}{name}");
            if path.is_dir() {
                folders.push((path, inside + "/"));
            } else {
                files.push(LocalFile::open(path, inside)?);
            }
        }
    }
    if files.is_empty() {
        return Err(UploadError::Empty { path: folder.to_owned() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

impl LocalFile {
    fn open(path: PathBuf, name: String) -> Result<Self, UploadError> {
        let file = File::open(&path).map_err(UploadError::file(&path))?;
        let size = file.metadata().map_err(UploadError::file(&path))?.len();
        let mut sample = Vec::new();
        file.take(SAMPLE).read_to_end(&mut sample).map_err(UploadError::file(&path))?;
        Ok(Self { path, name, size, sample })
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, UploadError> {
        fs::read(&self.path).map_err(UploadError::file(&self.path))
    }

    /// The name of its contents in a store of large files.
    pub(super) fn sha256(&self) -> Result<String, UploadError> {
        let hash = || -> io::Result<Digest> {
            let (mut file, mut buffer) = (File::open(&self.path)?, vec![0; 1 << 20]);
            let mut context = Context::new(&SHA256);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(context.finish()),
                    read => context.update(&buffer[..read]),
                }
            }
        };
        hash().map(|digest| hexadecimal(&digest)).map_err(UploadError::file(&self.path))
    }
}

/// The name that Git gives contents: SHA-1, before them their kind and length.
pub(super) fn git_name(contents: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", contents.len()).as_bytes());
    context.update(contents);
    hexadecimal(&context.finish())
}

fn hexadecimal(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_the_names_that_git_and_sha256sum_give_them() {
        // `printf 'hello\n' | git hash-object --stdin`, and `| sha256sum`.
        assert_eq!(git_name(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        grades_fs::write(&path, "hello\n").unwrap();
        let file = LocalFile::open(path, "a.txt".to_owned()).unwrap();
        assert_eq!(file.sha256().unwrap(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!((file.size, file.sample), (6, b"hello\n".to_vec()));
    }

    #[test]
    fn hidden_files_stay_here() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a/c.txt", ".gitattributes", ".env", ".git/config"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            grades_fs::write(&path, name).unwrap();
        }
        let names: Vec<_> = of(folder.path()).unwrap().into_iter().map(|file| file.name).collect();
        assert_eq!(names, [".gitattributes", "a/c.txt", "b.txt"]);
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(of(&empty).unwrap_err().to_string().contains("empty"));
    }
}
