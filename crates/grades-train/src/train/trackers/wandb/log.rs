//! The file format of W&B's transaction log: that of LevelDB's logs, with zlib's CRC-32 and a header of its own.
//!
//! Blocks of 32 KiB hold pieces, each with checksum, length and kind before it; a record is one piece, or several over the ends of blocks.

/// `:W&B`, 0xBEE1 and version 0.
const HEADER: [u8; 7] = [b':', b'W', b'&', b'B', 0xe1, 0xbe, 0];

/// Bytes of a block.
const BLOCK: u64 = 32 * 1024;

/// Bytes before a piece.
const BEFORE: u64 = 7;

/// What a piece is of its record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole = 1,
    First = 2,
    Middle = 3,
    Last = 4,
}

/// The header, or a record, as it stands at byte `at` of a file.
pub(super) fn framed(at: u64, record: &[u8]) -> Vec<u8> {
    let mut written = if at == 0 { HEADER.to_vec() } else { Vec::new() };
    let (mut rest, mut first) = (record, true);
    loop {
        let room = BLOCK - (at + written.len() as u64) % BLOCK;
        if room < BEFORE {
            written.extend(vec![0; room as usize]);
            continue;
        }
        let (piece, after) = rest.split_at(rest.len().min((room - BEFORE) as usize));
        let kind = match (first, after.is_empty()) {
            (true, true) => Kind::Whole,
            (true, false) => Kind::First,
            (false, false) => Kind::Middle,
            (false, true) => Kind::Last,
        };
        written.extend(checksum(kind as u8, piece).to_le_bytes());
        written.extend((piece.len() as u16).to_le_bytes());
        written.push(kind as u8);
        written.extend(piece);
        if after.is_empty() {
            return written;
        }
        (rest, first) = (after, false);
    }
}

/// The whole records of a file, up to one that is torn or damaged.
pub(super) fn records(file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    if !file.starts_with(&HEADER) {
        return records;
    }
    let (mut at, mut record) = (HEADER.len(), Vec::new());
    while let Some((kind, piece, after)) = piece(file, at) {
        if kind == Kind::Whole as u8 || kind == Kind::First as u8 {
            record.clear();
        }
        record.extend(piece);
        if kind == Kind::Whole as u8 || kind == Kind::Last as u8 {
            records.push(std::mem::take(&mut record));
        }
        at = after;
    }
    records
}

/// The piece at or after a byte: its kind, its bytes, and where it ends.
fn piece(file: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let room = BLOCK as usize - at % BLOCK as usize;
    let at = if room < BEFORE as usize { at + room } else { at };
    let (head, rest) = file.get(at..)?.split_at_checked(BEFORE as usize)?;
    let (crc, length, kind) = (u32::from_le_bytes(head[..4].try_into().ok()?), [head[4], head[5]], head[6]);
    let length = usize::from(u16::from_le_bytes(length));
    let piece = rest.get(..length)?;
    (checksum(kind, piece) == crc).then_some((kind, piece, at + BEFORE as usize + length))
}

fn checksum(kind: u8, piece: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(piece);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of such lengths one behind another.
    fn file(lengths: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let records: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(index, length)| vec![index as u8 + 1; *length]).collect();
        let mut file = Vec::new();
        records.iter().for_each(|record| file.extend(framed(file.len() as u64, record)));
        (records, file)
    }

    /// As `wandb.sdk.internal.datastore` of wandb 0.19.11 writes them.
    #[test]
    fn records_are_framed_as_by_the_package() {
        assert_eq!(file(&[3]).1, *b":W&B\xe1\xbe\x00\x99\xd3\x26\xf6\x03\x00\x01\x01\x01\x01");
        let block = BLOCK as usize;
        // After the header and a record of this length 6 bytes are left, which no piece fits; with one more byte an empty one.
        for (length, size) in [(block - 20, block + 10), (block - 21, block + 10), (block, block + 7 + 7 + 7 + 10)] {
            let (records, file) = file(&[length, 3]);
            assert_eq!(file.len(), size, "{length}");
            assert_eq!(self::records(&file), records);
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_is_torn_is_not() {
        let (records, file) = file(&[0, 5, 40_000, 100_000, 7]);
        assert_eq!(self::records(&file), records);
        assert_eq!(self::records(&file[..file.len() - 1]), records[..4]);
        let mut damaged = file.clone();
        damaged[40] ^= 1;
        assert_eq!(self::records(&damaged), records[..2]);
        assert_eq!(self::records(b"no log"), Vec::<Vec<u8>>::new());
    }
}
