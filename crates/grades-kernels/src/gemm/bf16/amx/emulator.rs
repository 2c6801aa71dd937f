//! The instructions in plain Rust, after Intel's description of them: it reads the programs' text.

use std::collections::HashMap;
use std::sync::OnceLock;

use half::bf16;

use super::program::{LINE, Operands, Runner, Shapes, narrow, wide};

/// A place in memory, `[{base} + {stride}*1 + offset]`.
#[derive(Clone, Debug)]
struct Place {
    base: String,
    stride: String,
    offset: usize,
}

#[derive(Clone, Debug)]
enum Instruction {
    Load(usize, Place),
    Store(Place, usize),
    /// Sums, pairs of rows, pairs of columns.
    Multiply(usize, usize, usize),
    Add(String, u64),
    Decrement(String),
    /// To the label before, unless the last count came to zero.
    JumpBack,
    Label,
}

fn register(text: &str) -> String {
    text.trim().strip_prefix('{').and_then(|name| name.strip_suffix('}')).expect("a register").to_owned()
}

fn tile(text: &str) -> usize {
    text.trim().strip_prefix("tmm").and_then(|number| number.parse().ok()).expect("a tile")
}

fn place(text: &str) -> Place {
    let inside = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']')).expect("a place");
    let parts: Vec<&str> = inside.split('+').map(str::trim).collect();
    Place {
        base: register(parts[0]),
        stride: register(parts[1].strip_suffix("*1").expect("a stride")),
        offset: parts.get(2).map_or(0, |offset| offset.parse().unwrap()),
    }
}

fn parse(program: &str) -> Vec<Instruction> {
    let lines = program.lines().map(str::trim).filter(|line| !line.is_empty());
    let instruction = |line: &str| {
        let (name, operands) = line.split_once(' ').unwrap_or((line, ""));
        let operands: Vec<&str> = operands.split(',').collect();
        match (name, operands.as_slice()) {
            ("tileloadd", [to, from]) => Instruction::Load(tile(to), place(from)),
            ("tilestored", [to, from]) => Instruction::Store(place(to), tile(from)),
            ("tdpbf16ps", [sums, a, b]) => Instruction::Multiply(tile(sums), tile(a), tile(b)),
            ("add", [to, number]) => Instruction::Add(register(to), number.trim().parse().unwrap()),
            ("dec", [of]) => Instruction::Decrement(register(of)),
            ("jnz", ["2b"]) => Instruction::JumpBack,
            ("2:", _) => Instruction::Label,
            _ => panic!("the emulation has no `{line}`"),
        }
    };
    lines.map(instruction).collect()
}

/// One tile: 16 rows of 64 bytes, of which its shape names the used ones.
type Tile = [[u8; 64]; 16];

/// A processor's tiles.
pub(super) struct Emulator {
    shapes: Option<Shapes>,
    tiles: [Tile; 8],
}

/// The number at `column` of a row, and the two bf16 numbers there.
fn number(row: &[u8; 64], column: usize) -> u32 {
    u32::from_le_bytes(row[4 * column..4 * column + 4].try_into().unwrap())
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// `a · b + c` rounded once, to the nearest and even; denormal numbers are zero before and after.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    flushed(flushed(a).mul_add(flushed(b), flushed(c)))
}

fn halves(pair: u32) -> [f32; 2] {
    [pair as u16, (pair >> 16) as u16].map(|bits| bf16::from_bits(bits).to_f32())
}

impl Emulator {
    /// Rows and bytes of a row of a tile.
    fn shape_of(&self, tile: usize) -> (usize, usize) {
        let shapes = self.shapes.expect("tiles have shapes before they are used");
        let (rows, bytes) = (usize::from(shapes.rows[tile]), usize::from(shapes.row_bytes[tile]));
        assert!((1..=16).contains(&rows) && (1..=64).contains(&bytes), "tile {tile} cannot be used");
        (rows, bytes)
    }

    /// As `tdpbf16ps`: the sums of the first and of the second number of each pair apart, then both together, then to what is there.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) {
        let ((rows, bytes), (a_rows, a_bytes), (b_rows, b_bytes)) =
            (self.shape_of(sums), self.shape_of(a), self.shape_of(b));
        assert!(rows == a_rows && bytes == b_bytes && a_bytes / 4 == b_rows, "tiles that do not fit");
        assert!(sums != a && sums != b && a != b, "one tile twice");
        for row in 0..rows {
            for column in 0..bytes / 4 {
                let mut parts = [0.0_f32; 2];
                for k in 0..a_bytes / 4 {
                    let (x, y) = (halves(number(&self.tiles[a][row], k)), halves(number(&self.tiles[b][k], column)));
                    parts = [fused(x[0], y[0], parts[0]), fused(x[1], y[1], parts[1])];
                }
                let before = f32::from_bits(number(&self.tiles[sums][row], column));
                let sum = flushed(flushed(before) + flushed(parts[0] + parts[1]));
                self.tiles[sums][row][4 * column..4 * column + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    /// # Safety
    /// What the program reads and writes is there.
    unsafe fn run(&mut self, program: &[Instruction], operands: Operands) {
        let Operands { upper, lower, stride, b, sums, steps } = operands;
        let values = [
            ("upper", upper.addr()),
            ("lower", lower.addr()),
            ("stride", stride),
            ("b", b.addr()),
            ("sums", sums.addr()),
            ("steps", steps),
            ("line", LINE),
        ];
        // Registers hold addresses; what they point into is known by its name.
        let pointers: HashMap<&str, *const u8> = HashMap::from([
            ("upper", upper.cast()),
            ("lower", lower.cast()),
            ("b", b.cast()),
            ("sums", sums.cast_const().cast()),
        ]);
        let mut registers: HashMap<&str, u64> = values.into_iter().map(|(name, value)| (name, value as u64)).collect();
        let (mut next, mut label, mut zero) = (0, 0, false);
        while let Some(instruction) = program.get(next) {
            next += 1;
            let row_of = |place: &Place, row: usize| {
                let at = registers[&*place.base] as usize + place.offset + row * registers[&*place.stride] as usize;
                let base = pointers[&*place.base];
                base.wrapping_add(at.wrapping_sub(base.addr()))
            };
            match instruction {
                Instruction::Load(tile, place) => {
                    let (rows, bytes) = self.shape_of(*tile);
                    self.tiles[*tile] = [[0; 64]; 16];
                    for row in 0..rows {
                        // SAFETY: the caller's promise.
                        unsafe {
                            row_of(place, row).copy_to_nonoverlapping(self.tiles[*tile][row].as_mut_ptr(), bytes);
                        }
                    }
                }
                Instruction::Store(place, tile) => {
                    let (rows, bytes) = self.shape_of(*tile);
                    for row in 0..rows {
                        // SAFETY: the caller's promise; `sums` may be written.
                        unsafe {
                            let to = row_of(place, row).cast_mut();
                            to.copy_from_nonoverlapping(self.tiles[*tile][row].as_ptr(), bytes);
                        }
                    }
                }
                Instruction::Multiply(sums, a, b) => self.multiply(*sums, *a, *b),
                Instruction::Add(to, number) => *registers.get_mut(&**to).unwrap() += number,
                Instruction::Decrement(of) => {
                    let count = registers.get_mut(&**of).unwrap();
                    *count = count.checked_sub(1).expect("a program runs at least one step");
                    zero = *count == 0;
                }
                Instruction::JumpBack if zero => {}
                Instruction::JumpBack => next = label,
                Instruction::Label => label = next,
            }
        }
        // The next program may not rely on what this one leaves.
        self.tiles = [[[0xff; 64]; 16]; 8];
    }
}

impl Runner for Emulator {
    unsafe fn new() -> Self {
        Self { shapes: None, tiles: [[[0xff; 64]; 16]; 8] }
    }

    unsafe fn shape(&mut self, shapes: &Shapes) {
        self.shapes = Some(*shapes);
    }

    unsafe fn wide(&mut self, operands: Operands) {
        static WIDE: OnceLock<Vec<Instruction>> = OnceLock::new();
        // SAFETY: passed on.
        unsafe { self.run(WIDE.get_or_init(|| parse(wide!())), operands) }
    }

    unsafe fn narrow(&mut self, operands: Operands) {
        static NARROW: OnceLock<Vec<Instruction>> = OnceLock::new();
        // SAFETY: passed on.
        unsafe { self.run(NARROW.get_or_init(|| parse(narrow!())), operands) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One product of a single pair in each of `rows × columns`, with what was there before.
    fn one(a: [f32; 2], b: [f32; 2], before: f32) -> f32 {
        let mut emulator = Emulator { shapes: Some(Shapes::new([1, 1])), tiles: [[[0; 64]; 16]; 8] };
        let pair = |x: [f32; 2]| {
            let [low, high] = x.map(|x| u32::from(bf16::from_f32(x).to_bits()));
            (low | high << 16).to_le_bytes()
        };
        emulator.tiles[4][0][..4].copy_from_slice(&pair(a));
        emulator.tiles[6][0][..4].copy_from_slice(&pair(b));
        emulator.tiles[0][0][..4].copy_from_slice(&before.to_le_bytes());
        emulator.multiply(0, 4, 6);
        f32::from_bits(number(&emulator.tiles[0][0], 0))
    }

    #[test]
    fn products_round_as_documented() {
        assert_eq!(one([3.0, 5.0], [7.0, 11.0], 0.5), 76.5);
        // Denormal numbers are zero: what is read, what a product makes, and what was there.
        let denormal = f32::from_bits(1 << 16);
        assert_eq!(one([denormal, 0.0], [1e30, 0.0], 0.0), 0.0);
        assert_eq!(one([1e-20, 0.0], [1e-20, 0.0], 0.0), 0.0);
        assert_eq!(one([0.0, 0.0], [0.0, 0.0], denormal), 0.0);
        // A tie goes to the even neighbour: 2²⁴ + 1 down, 2²⁴ + 3 up.
        assert_eq!(one([1.0, 0.0], [1.0, 0.0], 16_777_216.0), 16_777_216.0);
        assert_eq!(one([3.0, 0.0], [1.0, 0.0], 16_777_216.0), 16_777_220.0);
        // Both halves of a pair before what is there: 1 + 1 is not lost as twice 1 would be.
        assert_eq!(one([1.0, 1.0], [1.0, 1.0], 16_777_216.0), 16_777_218.0);
    }
}
