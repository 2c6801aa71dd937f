//! A file that grows record by record, and waits where its disk is full.
//!
//! A record that finds no room stays in memory with all that follow, and is written with the first one that finds it again. What
//! of it had reached the file is cut off at once, so that a reader never meets half a record.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::TrainError;

/// What a log is written to.
pub(super) trait Sink: Write {
    /// Takes away what lies behind the first `length` bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Sink for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// A log at a path.
#[derive(Debug)]
pub(super) struct LogFile<S = File> {
    path: PathBuf,
    sink: S,
    /// Bytes of whole records in the file.
    written: u64,
    /// Records that the disk had no room for.
    waiting: Vec<u8>,
}

impl LogFile {
    /// A new file.
    ///
    /// # Errors
    /// If there is one already, or it cannot be made.
    pub(super) fn create(path: &Path) -> Result<Self, TrainError> {
        Self::at(path, File::options().append(true).create_new(true))
    }

    /// A file that may be there, behind whose end it goes on.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        Self::at(path, File::options().append(true).create(true))
    }

    fn at(path: &Path, options: &std::fs::OpenOptions) -> Result<Self, TrainError> {
        let io = |source| TrainError::io(path, source);
        let sink = options.open(path).map_err(io)?;
        let written = sink.metadata().map_err(io)?.len();
        Ok(Self { path: path.into(), sink, written, waiting: Vec::new() })
    }

    /// The file, for whoever brings it to the disk.
    pub(super) fn file(&self) -> io::Result<File> {
        self.sink.try_clone()
    }
}

impl<S: Sink> LogFile<S> {
    /// Appends a record. Where the disk is full, it waits, and a warning says so once.
    ///
    /// # Errors
    /// If the file cannot be written for another reason.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), TrainError> {
        let waited = !self.waiting.is_empty();
        self.waiting.extend(record);
        match self.write_waiting() {
            Ok(()) if waited => {
                log::warn!("{}: there is room again, and what had to wait is written", self.path.display())
            }
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                if !waited {
                    log::warn!(
                        "{}: {error}; training goes on, and what it tells waits in memory until there is room",
                        self.path.display()
                    );
                }
            }
            Err(error) => return Err(TrainError::io(&self.path, error)),
        }
        Ok(())
    }

    /// Appends a value as a line of JSON.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(super) fn line(&mut self, value: &impl Serialize) -> Result<(), TrainError> {
        let text = serde_json::to_string(value).map_err(|error| TrainError::io(&self.path, error.into()))?;
        self.append(format!("{text}\n").as_bytes())
    }

    /// Fails unless all records are in the file.
    ///
    /// # Errors
    /// If the disk is still full.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        self.write_waiting().map_err(|error| TrainError::io(&self.path, error))
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match self.sink.write_all(&self.waiting).and_then(|()| self.sink.flush()) {
            Ok(()) => {
                self.written += self.waiting.len() as u64;
                self.waiting.clear();
                Ok(())
            }
            Err(error) => {
                self.sink.cut(self.written)?;
                Err(error)
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    #[derive(Default)]
    struct Disk {
        held: Vec<u8>,
        room: usize,
        broken: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.broken {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            let fits = bytes.len().min(self.room - self.held.len());
            self.held.extend(&bytes[..fits]);
            if fits == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(fits) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Disk {
        fn cut(&mut self, length: u64) -> io::Result<()> {
            self.held.truncate(length as usize);
            Ok(())
        }
    }

    fn log(room: usize) -> LogFile<Disk> {
        LogFile {
            path: "metrics.jsonl".into(),
            sink: Disk { room, ..Disk::default() },
            written: 0,
            waiting: Vec::new(),
        }
    }

    #[test]
    fn records_wait_for_room_in_order_and_none_is_torn() {
        let mut log = log(5);
        for record in ["12\n", "34\n", "56\n"] {
            log.append(record.as_bytes()).unwrap();
            // Two bytes of the second would have fitted.
            assert_eq!(log.sink.held, b"12\n");
        }
        assert!(log.settle().unwrap_err().to_string().contains("metrics.jsonl"));
        log.sink.room = 12;
        log.append(b"78\n").unwrap();
        assert_eq!(log.sink.held, b"12\n34\n56\n78\n");
        log.settle().unwrap();
        // And once more.
        log.append(b"9\n").unwrap();
        log.sink.room = 100;
        log.settle().unwrap();
        assert_eq!(log.sink.held, b"12\n34\n56\n78\n9\n");
    }

    #[test]
    fn what_is_not_a_full_disk_is_an_error() {
        let mut log = log(100);
        log.append(b"1\n").unwrap();
        log.sink.broken = true;
        assert!(log.append(b"2\n").unwrap_err().to_string().contains("metrics.jsonl"));
    }

    #[test]
    fn a_file_goes_on_behind_its_end_and_a_new_one_must_be_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        LogFile::create(&path).unwrap().line(&[1, 2]).unwrap();
        assert!(LogFile::create(&path).is_err());
        let mut log = LogFile::open(&path).unwrap();
        log.line(&"three").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[1,2]\n\"three\"\n");
        // What a full disk would have left behind the whole records goes.
        log.sink.write_all(b"to").unwrap();
        log.sink.cut(log.written).unwrap();
        log.line(&4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[1,2]\n\"three\"\n4\n");
    }
}
