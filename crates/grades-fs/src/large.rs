//! Large files, written past the pages that the system keeps of files.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::checksums::{Sum, Summing};
use crate::error::Error;

/// Bytes that go to the disk at once.
const BLOCK: usize = 8 << 20;

/// Bytes that are copied and summed up at once, so that they are read from memory once.
const CACHED: usize = 128 << 10;

/// What their place in memory and in the file, and their number, must be multiples of: the largest sector that disks have.
const SECTOR: usize = 4096;

/// A new file that nobody will read soon.
///
/// Where the system and its file system can, what is written goes to the disk from here. The processor then does not copy it into pages of
/// the system's, for which other files' pages would have to go, and has time for other things.
#[derive(Debug)]
pub struct LargeFile {
    file: File,
    /// What waits to be written, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    direct: bool,
    summing: Summing,
}

impl LargeFile {
    /// An empty one.
    ///
    /// # Errors
    /// If there is something of this name, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let (file, direct) = open(path).map_err(Error::at(path))?;
        let buffer = vec![0; BLOCK + SECTOR];
        let start = buffer.as_ptr().align_offset(SECTOR).min(SECTOR - 1);
        Ok(Self { file, buffer, start, filled: 0, direct, summing: Summing::default() })
    }

    /// Writes what still waits, and gives the checksum of the whole. The file is not synced.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<Sum> {
        // The rest fills no sector.
        self.through_pages()?;
        self.write_out()?;
        Ok(self.summing.finish())
    }

    fn write_out(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.filled {
            match self.file.write(&self.buffer[self.start..][written..self.filled]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some file systems refuse what they have promised, or have larger sectors.
                Err(error) if self.direct && error.kind() == ErrorKind::InvalidInput => self.through_pages()?,
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Ok(())
    }

    /// Goes on as other files are written.
    fn through_pages(&mut self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if self.direct {
            let flags = rustix::fs::fcntl_getfl(&self.file)?;
            rustix::fs::fcntl_setfl(&self.file, flags.difference(rustix::fs::OFlags::DIRECT))?;
        }
        self.direct = false;
        Ok(())
    }
}

impl Write for LargeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == BLOCK {
            self.write_out()?;
        }
        let taken = bytes.len().min(BLOCK - self.filled).min(CACHED);
        self.buffer[self.start + self.filled..][..taken].copy_from_slice(&bytes[..taken]);
        self.summing.add(&bytes[..taken]);
        self.filled += taken;
        Ok(taken)
    }

    /// Does nothing: a part of a block waits for the rest.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file, and whether it is written past the system's pages.
fn open(path: &Path) -> io::Result<(File, bool)> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        match File::options().write(true).create_new(true).custom_flags(direct).open(path) {
            // The file may have been made all the same.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                Ok((File::options().write(true).create(true).truncate(true).open(path)?, false))
            }
            file => Ok((file?, true)),
        }
    }
    #[cfg(not(target_os = "linux"))]
    Ok((File::create_new(path)?, false))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Of nothing, less than a sector, a block, and blocks with a rest, in pieces of other sizes; on a disk, and where the system refuses to
    /// go past its pages.
    #[test]
    fn all_of_it_is_written_and_summed_up() {
        let folder = tempfile::tempdir().unwrap();
        for refused in [false, true] {
            for len in [0, 5, SECTOR, BLOCK, 2 * BLOCK + SECTOR + 77] {
                let path = folder.path().join(format!("{len}-{refused}"));
                let bytes: Vec<u8> = (0..len).map(|at| (at * 31 / 7) as u8).collect();
                let mut file = LargeFile::create(&path).unwrap();
                if refused {
                    // Memory at an odd place cannot be written from directly.
                    file.start = (file.start + 1) % SECTOR;
                }
                for piece in bytes.chunks(1_000_003) {
                    file.write_all(piece).unwrap();
                }
                let sum = file.finish().unwrap();
                assert!(fs::read(&path).unwrap() == bytes, "{len}");
                assert_eq!(sum, Sum::of(&path).unwrap());
            }
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "mine").unwrap();
        let error = LargeFile::create(&path).unwrap_err();
        assert_eq!((error.path, error.source.kind()), (path.clone(), ErrorKind::AlreadyExists));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
