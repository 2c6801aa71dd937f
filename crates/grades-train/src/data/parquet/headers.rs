//! The headers of a parquet file, of the whole and of its pages, walked before the library reads them: in Thrift's compact form, whose
//! lists declare their length.
//!
//! What the library does not know it skips by the type that is declared, and truth values in a list take it a turn each and no byte: a
//! file of 41 bytes kept it busy for eleven seconds. So a header with such a list is refused. What it knows it reads as it should be,
//! whatever is declared; so a header is refused, too, if that is something else, as the library would go on at another byte than we.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use bytes::{Buf, Bytes};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// A file whose headers are walked as they are asked for.
pub(super) struct Walked(pub(super) File);

/// Bytes behind a file's own header: its length, and four letters.
const TAIL: u64 = 8;

impl Length for Walked {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Walked {
    type T = Header;

    /// The tail, or a page's header; or what is not read, as the header is known already.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let is_tail = start.checked_add(TAIL) == Some(self.len());
        Ok(Header { file: self.0.get_read(start)?, start, is_walked: is_tail })
    }

    /// The file's header, or what is in a page.
    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.0.get_bytes(start, length)?;
        if start.checked_add(length as u64 + TAIL) == Some(self.len()) {
            walk(bytes.clone().reader(), FILE)?;
        }
        Ok(bytes)
    }
}

/// A page's header, walked before its first byte is given away.
pub(super) struct Header {
    file: BufReader<File>,
    start: u64,
    is_walked: bool,
}

impl Read for Header {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_walked {
            walk(&mut self.file, PAGE).map_err(io::Error::other)?;
            self.file.seek(SeekFrom::Start(self.start))?;
            self.is_walked = true;
        }
        self.file.read(buffer)
    }
}

/// What a known field holds.
enum Kind {
    Truth,
    Byte,
    Number,
    Double,
    Bytes,
    List(&'static Kind),
    Struct(Fields),
}

/// Numbers of the fields that the library reads by themselves, and what they hold.
type Fields = &'static [(i16, Kind)];

use Kind::{Byte, Double, List, Number, Struct, Truth};

const FILE: Fields = &[
    (1, Number),
    (2, List(&Struct(SCHEMA))),
    (3, Number),
    (4, List(&Struct(ROW_GROUP))),
    (5, List(&Struct(PAIR))),
    (6, Kind::Bytes),
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))),
];
const EMPTY: Kind = Struct(&[]);
const PAIR: Fields = &[(1, Kind::Bytes), (2, Kind::Bytes)];
const SCHEMA: Fields = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Kind::Bytes),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Number),
    (9, Number),
    (10, Struct(LOGICAL_TYPE)),
];
const LOGICAL_TYPE: Fields = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Number), (2, Number)])),
    (6, EMPTY),
    (7, Struct(TIME)),
    (8, Struct(TIME)),
    (10, Struct(&[(1, Byte), (2, Truth)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Kind::Bytes)])),
    (18, Struct(&[(1, Kind::Bytes), (2, Number)])),
    (19, EMPTY),
];
const TIME: Fields = &[(1, Truth), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))];
const ROW_GROUP: Fields = &[
    (1, List(&Struct(COLUMN_CHUNK))),
    (2, Number),
    (3, Number),
    (4, List(&Struct(&[(1, Number), (2, Truth), (3, Truth)]))),
    (5, Number),
    (7, Number),
];
const COLUMN_CHUNK: Fields =
    &[(1, Kind::Bytes), (2, Number), (3, Struct(COLUMN)), (4, Number), (5, Number), (6, Number), (7, Number)];
const COLUMN: Fields = &[
    (1, Number),
    (2, List(&Number)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (9, Number),
    (10, Number),
    (11, Number),
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Number), (2, Number), (3, Number)]))),
    (14, Number),
    (15, Number),
    (16, Struct(&[(1, Number), (2, List(&Number)), (3, List(&Number))])),
    (17, Struct(&[(1, Struct(BOX)), (2, List(&Number))])),
];
const STATISTICS: Fields = &[
    (1, Kind::Bytes),
    (2, Kind::Bytes),
    (3, Number),
    (4, Number),
    (5, Kind::Bytes),
    (6, Kind::Bytes),
    (7, Truth),
    (8, Truth),
    (9, Number),
];
const BOX: Fields =
    &[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)];

/// The statistics of a page are skipped.
const PAGE: Fields = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Number),
    (5, Struct(&[(1, Number), (2, Number), (3, Number), (4, Number)])),
    (6, EMPTY),
    (7, Struct(&[(1, Number), (2, Number), (3, Truth)])),
    (8, Struct(&[(1, Number), (2, Number), (3, Number), (4, Number), (5, Number), (6, Number), (7, Truth)])),
];

/// Types as they are declared.
mod declared {
    pub(super) const STOP: u8 = 0;
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BYTES: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const MAP: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const UUID: u8 = 13;
}

impl Kind {
    fn is(&self, declared: u8) -> bool {
        match self {
            Truth => is_truth(declared),
            Byte => declared == declared::BYTE,
            Number => (declared::I16..=declared::I64).contains(&declared),
            Double => declared == declared::DOUBLE,
            Self::Bytes => declared == declared::BYTES,
            List(_) => declared == declared::LIST,
            Struct(_) => declared == declared::STRUCT,
        }
    }
}

fn is_truth(declared: u8) -> bool {
    matches!(declared, declared::TRUE | declared::FALSE)
}

fn wrong(what: &str) -> ParquetError {
    ParquetError::General(format!("a header {what}"))
}

/// Walks the header with which bytes begin.
///
/// # Errors
/// They end within it, or it would keep the library busy, or might.
fn walk(header: impl Read, fields: Fields) -> Result<()> {
    Walk(header).members(fields, DEPTH)
}

/// Deeper than any header goes.
const DEPTH: usize = 64;

struct Walk<R>(R);

impl<R: Read> Walk<R> {
    fn members(&mut self, fields: Fields, depth: usize) -> Result<()> {
        let mut last = 0_i16;
        loop {
            let head = self.byte()?;
            let declared = head & 0xF;
            if declared == declared::STOP {
                return Ok(());
            }
            let id = match head >> 4 {
                0 => {
                    let number = self.number()?;
                    // Zigzag, of which as many bits count as the library keeps.
                    ((number >> 1) as i64 ^ -((number & 1) as i64)) as i16
                }
                step => last.checked_add(step.into()).ok_or_else(|| wrong("has more fields than there are numbers"))?,
            };
            let kind = fields.iter().find(|(known, _)| *known == id).map(|(_, kind)| kind);
            self.value(declared, kind, depth)?;
            last = id;
        }
    }

    fn value(&mut self, declared: u8, kind: Option<&Kind>, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| wrong("is nested too deeply"))?;
        if kind.is_some_and(|kind| !kind.is(declared)) {
            return Err(wrong("has a field of another type than it should have"));
        }
        let truths = || wrong("declares a list of truth values, which parquet has not got");
        match declared {
            declared::TRUE | declared::FALSE => Ok(()),
            declared::BYTE => self.byte().map(drop),
            declared::I16..=declared::I64 => self.number().map(drop),
            declared::DOUBLE => self.pass(8),
            declared::BYTES => {
                let length = self.number()?;
                self.pass(length)
            }
            declared::LIST | declared::SET => {
                let head = self.byte()?;
                let (count, of) = match head >> 4 {
                    15 => (self.number()?, head & 0xF),
                    count => (count.into(), head & 0xF),
                };
                let inner = if let Some(List(inner)) = kind { Some(*inner) } else { None };
                match of {
                    // Some write an empty list like this.
                    _ if head == 0 => Ok(()),
                    declared::TRUE | declared::FALSE if count > 0 => Err(truths()),
                    _ => (0..count).try_for_each(|_| self.value(of, inner, depth)),
                }
            }
            declared::MAP => {
                let count = self.number()?;
                let of = if count > 0 { self.byte()? } else { 0 };
                if is_truth(of >> 4) || is_truth(of & 0xF) {
                    return Err(truths());
                }
                (0..count).try_for_each(|_| {
                    self.value(of >> 4, None, depth)?;
                    self.value(of & 0xF, None, depth)
                })
            }
            declared::STRUCT => self.members(if let Some(Struct(fields)) = kind { fields } else { &[] }, depth),
            declared::UUID => self.pass(16),
            _ => Err(wrong("has a field of a type that there is not")),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// An unsigned number, seven bits a byte.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        match self.byte()? {
            last @ (0 | 1) => Ok(number | u64::from(last) << 63),
            _ => Err(wrong("has a number that is too long")),
        }
    }

    fn pass(&mut self, bytes: u64) -> Result<()> {
        let passed = io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink())?;
        if passed < bytes { Err(wrong("ends within a text")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The declaration of 2³¹ - 1 truth values.
    const MANY: [u8; 6] = [0xF1, 0xFF, 0xFF, 0xFF, 0xFF, 0x07];

    fn said(header: &[u8], fields: Fields) -> String {
        walk(header, fields).map_or_else(|error| error.to_string(), |()| String::new())
    }

    /// A header of one field with what follows.
    fn header(field: u8, declared: u8, what: &[u8]) -> Vec<u8> {
        [&[field << 4 | declared], what, &[0]].concat()
    }

    #[test]
    fn truth_values_in_a_list_are_refused_wherever_a_list_may_be() {
        let list = header(14, declared::LIST, &MANY);
        let within = |of: u8| header(14, declared::STRUCT, &header(of, declared::STRUCT, &list));
        for bad in [
            list.clone(),
            header(14, declared::SET, &MANY),
            within(1),
            // A map of two, from truth values to texts.
            header(14, declared::MAP, &[2, 0x18]),
            header(14, declared::MAP, &[2, 0x81]),
            // A list of one struct.
            header(14, declared::LIST, &[&[0x1C], list.as_slice()].concat()),
        ] {
            for fields in [FILE, PAGE] {
                assert!(said(&bad, fields).contains("truth values"), "{bad:?}: {}", said(&bad, fields));
            }
        }
        let page = header(5, declared::STRUCT, &header(5, declared::STRUCT, &list));
        assert!(said(&page, PAGE).contains("truth values"), "in a page's statistics");
        assert_eq!(said(&header(14, declared::LIST, &[0x01]), FILE), "", "none of them");
        assert_eq!(said(&header(14, declared::LIST, &[0x00]), FILE), "", "none of anything");
    }

    /// The library takes the length of a text for the number that it wants there, and goes on within the text.
    #[test]
    fn a_field_of_another_type_is_refused() {
        let hidden = header(14, declared::LIST, &MANY);
        let text = [&[hidden.len() as u8], hidden.as_slice()].concat();
        assert!(said(&header(1, declared::BYTES, &text), FILE).contains("another type"));
        assert!(said(&header(9, declared::BYTES, &text), FILE).is_empty(), "a field that nobody knows");
        let schema = header(2, declared::LIST, &[&[0x1C], header(5, declared::BYTES, &text).as_slice()].concat());
        assert!(said(&schema, FILE).contains("another type"));
    }

    #[test]
    fn a_page_is_walked_before_it_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        let bad = header(5, declared::STRUCT, &header(5, declared::LIST, &MANY));
        // A header that is right, the other, and the tail.
        let right = header(1, declared::I64, &[7]);
        io::Write::write_all(&mut file, &[right.as_slice(), &bad, &[3; TAIL as usize]].concat()).unwrap();
        let file = Walked(file);
        let read = |start: usize, bytes: usize| {
            let mut found = vec![0; bytes];
            let read = file.get_read(start as u64).unwrap().read_exact(&mut found);
            read.map(|()| found).map_err(|error| error.to_string())
        };
        assert_eq!(read(0, right.len()).as_ref(), Ok(&right));
        assert!(read(right.len(), 1).unwrap_err().contains("truth values"));
        assert_eq!(read(right.len() + bad.len(), 8), Ok(vec![3; 8]));
    }

    #[test]
    fn what_ends_early_or_goes_too_deep_is_refused() {
        assert!(!said(&[], FILE).is_empty());
        assert!(said(&header(14, declared::BYTES, &[200, 1, 7]), FILE).contains("within a text"));
        assert!(said(&[0xE4; 20], FILE).contains("number"));
        assert!(said(&[0xEC; 100], FILE).contains("deep"));
    }
}
