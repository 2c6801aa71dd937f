//! Writes the files from which fuzzing begins, those that are right and those that were once a mistake:
//! `cargo run --release -p grades-hostile --example corpus -- fuzz/corpus`.

use std::path::PathBuf;
use std::{env, fs, io};

use grades_hostile::{READERS, crashes};

/// Longer ones would only slow libFuzzer down.
const LONGEST: usize = 64 << 10;

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or_else(|| io::Error::other("name a folder to write to"))?);
    for reader in &READERS {
        let folder = folder.join(reader.name);
        fs::create_dir_all(&folder)?;
        let files = [(reader.corpus)(), crashes(reader.name)].concat();
        for (index, file) in files.iter().filter(|file| file.len() <= LONGEST).enumerate() {
            grades_fs::write(&folder.join(format!("{index:04}")), file).map_err(io::Error::other)?;
        }
    }
    Ok(())
}
