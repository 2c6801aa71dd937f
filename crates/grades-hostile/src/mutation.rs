//! Damage of many kinds, drawn from a seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a number in a text or a header may be replaced by.
const NUMBERS: [&str; 8] =
    ["0", "-1", "1", "4294967295", "9223372036854775807", "18446744073709551615", "1e308", "1e-400"];

/// Draws damaged files.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    /// Those of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end.max(1))
    }

    /// One of the files, with one to eight kinds of damage; `whole` are spliced in.
    pub fn damaged(&mut self, whole: &[Vec<u8>]) -> Vec<u8> {
        let mut file = whole[self.below(whole.len())].clone();
        for _ in 0..=self.below(8) {
            self.damage(&mut file, whole);
        }
        file
    }

    fn damage(&mut self, file: &mut Vec<u8>, whole: &[Vec<u8>]) {
        // Headers are where lengths are declared.
        let at = if self.below(2) == 0 { self.below(file.len().min(256)) } else { self.below(file.len()) };
        let span = at..(at + 1 + self.below(64)).min(file.len());
        match self.below(10) {
            _ if file.is_empty() => file.extend_from_slice(b"{\"a\":[1,2]}"),
            0 => file[at] ^= 1 << self.below(8),
            1 => file[at] = self.below(256) as u8,
            2 => file.truncate(at),
            3 => drop(file.drain(span)),
            4 => {
                let piece = file[span].to_vec();
                file.splice(at..at, piece);
            }
            5 => {
                // The largest numbers of every width, little-endian.
                let bytes = [0xff; 8];
                let width = [1, 2, 4, 8][self.below(4)].min(file.len() - at);
                file[at..at + width].copy_from_slice(&bytes[..width]);
                if self.below(2) == 0 {
                    file[at + width - 1] = 0x7f;
                }
            }
            6 => self.number(file, at),
            7 => {
                let other = &whole[self.below(whole.len())];
                let from = self.below(other.len());
                let piece = other[from..(from + self.below(200)).min(other.len())].to_vec();
                file.splice(at..at, piece);
            }
            8 => {
                // Depth.
                let open = [&b"["[..], b"{\"a\":", b"{% if a %}", b"("][self.below(4)].repeat(1 + self.below(2000));
                file.splice(at..at, open);
            }
            _ => {
                let word =
                    [&b"../"[..], b"/etc/passwd", b"null", b"\xff\xfe", b"\0", b"NaN", b"\"\"", b"\n"][self.below(8)];
                file.splice(at..at, word.iter().copied());
            }
        }
    }

    /// Replaces the first run of digits after `at`.
    fn number(&mut self, file: &mut Vec<u8>, at: usize) {
        let Some(start) = (at..file.len()).find(|place| file[*place].is_ascii_digit()) else { return };
        let end = (start..file.len()).find(|place| !file[*place].is_ascii_digit()).unwrap_or(file.len());
        let number = NUMBERS[self.below(NUMBERS.len())];
        file.splice(start..end, number.bytes());
    }
}
