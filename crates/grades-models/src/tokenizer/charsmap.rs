//! The table by which SentencePiece replaces letters before it cuts a text (`precompiled_charsmap`).
//!
//! The library that uses it (`spm_precompiled`) asks for as much memory as a table says it has, and goes where its numbers lead. So each is
//! walked through before: all that a text could reach must be there.

use std::str;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The bytes of a table as `tokenizer.json` writes them.
pub(super) fn written(table: &[u8]) -> String {
    STANDARD.encode(table)
}

/// Checks all tables in the normalizer of a `tokenizer.json`, in whatever it is put together from.
///
/// # Errors
/// What is wrong with the first that cannot be used.
pub(super) fn check(normalizer: &Value) -> Result<(), String> {
    match normalizer {
        Value::Array(parts) => parts.iter().try_for_each(check),
        Value::Object(parts) => parts.iter().try_for_each(|(key, part)| match part.as_str() {
            Some(table) if key == "precompiled_charsmap" => {
                let table = STANDARD
                    .decode(table)
                    .map_err(|error| format!("its precompiled_charsmap is no base64 ({error})"))?;
                walk(&table).map_err(|problem| format!("its precompiled_charsmap {problem}"))
            }
            _ => check(part),
        }),
        _ => Ok(()),
    }
}

/// Goes wherever a text could lead. A table is the length of a trie in bytes, the trie as a double array of units, and the texts that its
/// values are places in, each up to a zero byte (SentencePiece's `builder.h`, Darts-clone); all numbers are little-endian.
///
/// # Errors
/// Why the table cannot be used.
fn walk(table: &[u8]) -> Result<(), &'static str> {
    let (length, rest) = table.split_first_chunk::<4>().ok_or("is too short")?;
    let length = u32::from_le_bytes(*length) as usize / 4 * 4;
    let (trie, texts) = rest.split_at_checked(length).ok_or("ends before its trie does")?;
    let texts = str::from_utf8(texts).map_err(|_| "holds texts that are not UTF-8")?;
    let (units, _) = trie.as_chunks::<4>();
    let units: Vec<Unit> = units.iter().map(|bytes| Unit(u32::from_le_bytes(*bytes))).collect();
    let root = units.first().ok_or("has an empty trie")?;
    let unit_at = |at: usize| units.get(at).ok_or("leads out of its trie");
    let (mut seen, mut states) = (vec![false; units.len()], vec![root.offset()]);
    while let Some(state) = states.pop() {
        for byte in 1..=u8::MAX {
            let at = state ^ usize::from(byte);
            let unit = unit_at(at)?;
            if !unit.is_reached_by(byte) || seen[at] {
                continue;
            }
            seen[at] = true;
            let next = at ^ unit.offset();
            if unit.has_value() && !texts.is_char_boundary(unit_at(next)?.value()) {
                return Err("has a value that is not the place of a text");
            }
            states.push(next);
        }
    }
    Ok(())
}

/// A unit of the double array.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn is_reached_by(self, byte: u8) -> bool {
        self.0 & (1 << 31 | 0xFF) == u32::from(byte)
    }

    fn has_value(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & !(1 << 31)) as usize
    }

    /// What its place and those of its children differ by.
    fn offset(self) -> usize {
        (self.0 >> 10 << ((self.0 & 1 << 9) >> 6)) as usize
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A table that makes `a` into `xy`: the root's children lie at 0 ^ byte, and the value of `a` at 97 ^ 256 = 353.
    fn table() -> Vec<u8> {
        let mut units = vec![0_u32; 512];
        units[97] = 97 | 1 << 8 | 256 << 10;
        units[353] = 2;
        let trie = units.iter().flat_map(|unit| unit.to_le_bytes());
        [2048_u32.to_le_bytes().to_vec(), trie.collect(), b"q\0xy\0\xc3\xa9\0".to_vec()].concat()
    }

    fn with(at: usize, unit: u32) -> Vec<u8> {
        let mut table = table();
        table[4 + 4 * at..][..4].copy_from_slice(&unit.to_le_bytes());
        table
    }

    #[test]
    fn a_sound_table_is_what_the_library_takes_it_for() {
        assert_eq!(walk(&table()), Ok(()));
        let json = json!({ "type": "Precompiled", "precompiled_charsmap": written(&table()) });
        let normalizer: tokenizers::normalizers::NormalizerWrapper = serde_json::from_value(json.clone()).unwrap();
        let mut text = tokenizers::NormalizedString::from("banana");
        tokenizers::Normalizer::normalize(&normalizer, &mut text).unwrap();
        assert_eq!(text.get(), "bxynxynxy");
        assert!(check(&json!({ "type": "Sequence", "normalizers": [json] })).is_ok());
    }

    #[test]
    fn a_table_that_would_end_the_program_is_refused() {
        let cases: [(&str, Vec<u8>); 8] = [
            ("too short", vec![0, 0, 0]),
            ("ends before its trie", [0xff_ff_ff_fc_u32.to_le_bytes().to_vec(), table()[4..].to_vec()].concat()),
            ("empty trie", b"\0\0\0\0texts".to_vec()),
            ("not UTF-8", [table(), vec![0xff]].concat()),
            // The root's children, those of `a`, and the value of `a`.
            ("leads out", with(0, 512 << 10)),
            ("leads out", with(97, 97 | 1 << 9 | 2 << 10)),
            ("leads out", with(97, 97 | 1 << 8 | 1024 << 10)),
            ("place of a text", with(353, 6)),
        ];
        for (expected, table) in cases {
            let json = json!({ "type": "Sequence", "normalizers": [{ "precompiled_charsmap": written(&table) }] });
            let told = check(&json).unwrap_err();
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert!(walk(&with(353, 8)).is_ok() && walk(&with(353, 9)).is_err());
        assert!(check(&json!({ "precompiled_charsmap": "?" })).unwrap_err().contains("no base64"));
    }
}
