//! Files as they are, or compressed by gzip or zstd and decompressed as they are read, up to a bound: some kilobytes must not
//! become what fills a memory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::error::DataError;

/// Times its own size that a compressed file may hold. Texts are compressed to a tenth, the same row over and over to a hundredth.
const TIMES: u64 = 200;
/// Bytes that any compressed file may hold. A fuzzer, of whose files many hold as much as they may, is to see many of them.
const ALWAYS: u64 = if cfg!(fuzzing) { 1 << 20 } else { 64 << 20 };

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// What an extension in small letters stands for.
    pub(super) fn of(extension: &str) -> Option<Self> {
        match extension {
            "gz" => Some(Self::Gzip),
            "zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What a file holds, as it is read.
pub(super) struct Contents {
    reader: Box<dyn Read + Send>,
    source: Origin,
    /// Bytes that may still come.
    left: u64,
}

/// Where contents are from, for messages.
#[derive(Clone)]
pub(super) struct Origin {
    path: Arc<Path>,
    compression: Option<Compression>,
}

/// That a file holds more than it may.
#[derive(Debug, thiserror::Error)]
#[error("too much")]
struct TooMuch;

impl Contents {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path, compression: Option<Compression>) -> Result<Self, DataError> {
        let source = Origin { path: path.into(), compression };
        let open = || -> io::Result<(Box<dyn Read + Send>, u64)> {
            let file = File::open(path)?;
            let most = file.metadata()?.len().saturating_mul(TIMES).max(ALWAYS);
            Ok(match compression {
                None => (Box::new(file), u64::MAX),
                // Of several members and frames one behind another, as programs with several threads write them.
                Some(Compression::Gzip) => (Box::new(MultiGzDecoder::new(BufReader::new(file))), most),
                Some(Compression::Zstd) => (Box::new(zstd::Decoder::new(file)?), most),
            })
        };
        match open() {
            Ok((reader, left)) => Ok(Self { reader, source, left }),
            Err(error) => Err(DataError::Read { path: path.to_owned(), source: error }),
        }
    }

    /// Where they are from.
    pub(super) fn origin(&self) -> Origin {
        self.source.clone()
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(TooMuch))?;
        Ok(read)
    }
}

impl Origin {
    /// Why reading failed.
    pub(super) fn failed(&self, error: io::Error) -> DataError {
        let path = self.path.to_path_buf();
        let Some(compression) = self.compression else { return DataError::Read { path, source: error } };
        let name = compression.name();
        let is_too_much = error.get_ref().is_some_and(|inner| inner.is::<TooMuch>());
        let message = if is_too_much {
            format!(
                "holds more than {TIMES} times its own size, which no text does; if it is meant so, decompress it \
                 ({name} -d) and give what comes of it"
            )
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("ends within its {name} data; it is cut off, so copy or fetch it again")
        } else {
            format!("is not valid {name} ({error})")
        };
        DataError::Invalid { path, message }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    type Compress = fn(&[u8]) -> Vec<u8>;

    const BOTH: [(Compression, Compress); 2] = [(Compression::Gzip, gzip), (Compression::Zstd, zstd)];

    fn read(bytes: &[u8], compression: Compression) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        let mut contents = Contents::open(&path, Some(compression)).unwrap();
        let mut all = Vec::new();
        let origin = contents.origin();
        contents.read_to_end(&mut all).map_err(|error| origin.failed(error).to_string())?;
        Ok(all)
    }

    #[test]
    fn contents_are_what_was_compressed_in_one_piece_or_several() {
        let text: Vec<u8> = (0..40_000_u32).flat_map(|at| (at * at % 977).to_string().into_bytes()).collect();
        for (compression, compress) in BOTH {
            assert_eq!(read(&compress(&text), compression).as_deref(), Ok(text.as_slice()));
            let (one, two) = text.split_at(9_999);
            assert_eq!(read(&[compress(one), compress(two)].concat(), compression).as_deref(), Ok(text.as_slice()));
        }
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_is_told() {
        let text: Vec<u8> = (0..4_000_u32).flat_map(|at| (at * at % 977).to_string().into_bytes()).collect();
        for (compression, compress) in BOTH {
            let whole = compress(&text);
            for length in [whole.len() - 1, whole.len() - 9, whole.len() / 2, 5] {
                let error = read(&whole[..length], compression).unwrap_err();
                assert!(error.contains("is cut off") && error.contains(compression.name()), "{length}: {error}");
            }
            let error = read(b"{\"a\": 1}\n{\"a\": 2}\n", compression).unwrap_err();
            assert!(error.contains(&format!("is not valid {}", compression.name())), "{error}");
        }
        let mut damaged = gzip(&text);
        let place = damaged.len() - 6;
        damaged[place] ^= 1;
        assert!(read(&damaged, Compression::Gzip).unwrap_err().contains("checksum"));
    }

    /// 65 MiB of spaces are 200 times more than what they are compressed to; 63 MiB are always read.
    #[test]
    fn what_would_fill_the_memory_is_refused() {
        for (compression, compress) in BOTH {
            let error = read(&compress(&vec![b' '; 65 << 20]), compression).unwrap_err();
            assert!(error.contains("200 times") && error.contains(" -d)"), "{error}");
            assert_eq!(read(&compress(&vec![b' '; 63 << 20]), compression).map(|all| all.len()), Ok(63 << 20));
        }
    }
}
