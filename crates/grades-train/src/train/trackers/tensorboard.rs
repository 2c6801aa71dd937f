//! TensorBoard's event files: `TFRecord`s of `Event` messages. The field numbers are those of
//! `tensorboard/compat/proto/{event,summary}.proto`.

use std::fs;

use grades_models::calendar;

use super::protobuf::{bytes, number};
use super::{Opened, Tracks, Values};
use crate::train::TrainError;
use crate::train::log_file::LogFile;

/// An event file of a run, under `tensorboard/`.
#[derive(Debug)]
pub(super) struct EventFile(LogFile);

impl EventFile {
    /// Begins a new file. That of a run that goes on says from which step on it replaces what older files hold.
    pub(super) fn create(opened: &Opened<'_>) -> Result<Self, TrainError> {
        let folder = opened.run.join("tensorboard");
        fs::create_dir_all(&folder).map_err(|source| TrainError::io(&folder, source))?;
        let time = calendar::now();
        // TensorBoard reads the files of a folder in the order of their names, and knows them by `tfevents`.
        let name = format!("events.out.tfevents.{}.{:09}.grades", time.as_secs(), time.subsec_nanos());
        let path = folder.join(name);
        let mut events = Self(LogFile::create(&path)?);
        events.append(&version(time.as_secs_f64()))?;
        if let Some(step) = opened.resumed {
            events.append(&start(time.as_secs_f64(), step as u64 + 1))?;
        }
        Ok(events)
    }

    fn append(&mut self, event: &[u8]) -> Result<(), TrainError> {
        self.0.append(&record(event))
    }
}

impl Tracks for EventFile {
    fn step(&mut self, values: &Values) -> Result<(), TrainError> {
        self.append(&scalars(values.time.as_secs_f64(), values.step, &values.values))
    }

    fn settle(&mut self) -> Result<(), TrainError> {
        self.0.settle()
    }
}

/// The event that a file begins with.
fn version(wall_time: f64) -> Vec<u8> {
    let mut event = timed(wall_time, 0);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// Says that a run starts at `step`, so that events of that step and later ones in older files are void.
fn start(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = timed(wall_time, step);
    // SessionLog { status: START = 1 }
    bytes(&mut event, 7, &[0x08, 0x01]);
    event
}

/// A summary with simple values, which are f32.
fn scalars(wall_time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut message = Vec::new();
        bytes(&mut message, 1, tag.as_bytes());
        message.push(2 << 3 | 5);
        message.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &message);
    }
    let mut event = timed(wall_time, step);
    bytes(&mut event, 5, &summary);
    event
}

/// Wall time (field 1, a double) and step (field 2, a varint, left out where it is 0).
fn timed(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(wall_time.to_le_bytes());
    if step > 0 {
        number(&mut event, 2, step);
    }
    event
}

/// Length, its checksum, the data, and their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that the checksum of data with checksums in it stays sound.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial, reflected.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !data.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b""), 0);
    }

    /// What tensorboard 2's `RecordWriter` and message classes write for the same events.
    #[test]
    fn records_are_those_of_tensorboard() {
        let reference = "\
            1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c\
            100000000000000095fbfe1809000000000000f83f10ad023a020801d17949d4\
            33000000000000000ca7205609000000000000024010ac022a250a110a0a747261696e2f6c6f737315000020400a100a096576616c2f\
            6c6f737315cdccccbd49b12242";
        let values = [("train/loss".to_owned(), 2.5), ("eval/loss".to_owned(), -0.1)];
        let events = [version(1.5), start(1.5, 301), scalars(2.25, 300, &values)];
        let written: String = events.iter().flat_map(|event| record(event)).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, reference);
    }
}
