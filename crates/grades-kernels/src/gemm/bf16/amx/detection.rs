//! Whether products may run on AMX: what the processor says, what the system allows, and what a first product gives.

use std::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};
use std::sync::OnceLock;

use half::bf16;

use super::{Amx, COLUMNS, ROWS, SIDE};
use crate::dispatch;
use crate::gemm::bf16::tile::{Left, Pair, Target};
use crate::gemm::bf16::unit::Unit;

/// How AMX stands on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Products run on it.
    Works,
    /// The processor has none (or `GRADES_SIMD` leaves it out).
    Absent,
    /// The system does not let this process use it; the number of its error, where it gave one.
    Refused(Option<i32>),
    /// A first product was wrong.
    Wrong,
}

/// The state, found at the first call.
pub(crate) fn state() -> State {
    static STATE: OnceLock<State> = OnceLock::new();
    *STATE.get_or_init(|| {
        if !dispatch::may_use_amx() {
            return State::Absent;
        }
        // SAFETY: `may_use_amx` has found AVX-512, and with it `xgetbv`, which only reads.
        let enabled = || unsafe { enabled_states() };
        match by(__cpuid_count, enabled, ask_system) {
            // SAFETY: the processor has AMX, and the system lets this process use it.
            State::Works if !unsafe { agrees::<Amx>() } => State::Wrong,
            state => state,
        }
        .warned()
    })
}

impl State {
    /// The same, with a line in the log where there is AMX that is not used.
    fn warned(self) -> Self {
        if let Some(why) = self.why_not() {
            log::warn!(
                "this processor has AMX, but {why}; bf16 products run on AVX512-BF16 (GRADES_SIMD=avx512 says so without this line)"
            );
        }
        self
    }

    fn why_not(self) -> Option<String> {
        match self {
            Self::Works | Self::Absent => None,
            Self::Refused(None) => Some("the system does not keep its tiles for a process".into()),
            Self::Refused(Some(error)) => {
                let error = std::io::Error::from_raw_os_error(error);
                Some(format!("the system does not let this process use it ({error})"))
            }
            Self::Wrong => Some("a first product on it was wrong".into()),
        }
    }
}

#[target_feature(enable = "xsave")]
fn enabled_states() -> u64 {
    // SAFETY: register 0 is there wherever the instruction is.
    unsafe { _xgetbv(0) }
}

/// The state by the processor's own description, by what the system saves of a thread, and by its permission.
fn by(cpuid: impl Fn(u32, u32) -> CpuidResult, enabled: impl Fn() -> u64, ask: impl Fn() -> State) -> State {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    /// The shapes and the numbers of tiles, as bits of the extended state.
    const STATES: u64 = 1 << 17 | 1 << 18;
    if cpuid(0, 0).eax < 0x1e || cpuid(7, 0).edx & (BF16 | TILE) != BF16 | TILE || cpuid(0x1d, 0).eax < 1 {
        return State::Absent;
    }
    // The programs use eight tiles of sixteen rows of 64 bytes, and multiply sixteen pairs by sixteen columns.
    let (tiles, multiplier) = (cpuid(0x1d, 1), cpuid(0x1e, 0).ebx);
    let (row_bytes, count, rows) = (tiles.ebx & 0xffff, tiles.ebx >> 16, tiles.ecx & 0xffff);
    let (pairs, column_bytes) = (multiplier & 0xff, multiplier >> 8 & 0xffff);
    if row_bytes < 64 || count < 8 || rows < 16 || pairs < 16 || column_bytes < 64 {
        return State::Absent;
    }
    if enabled() & STATES != STATES { State::Refused(None) } else { ask() }
}

/// Asks Linux, which saves the tiles of a process's threads only then.
#[cfg(target_os = "linux")]
fn ask_system() -> State {
    const REQUEST: libc::c_ulong = 0x1023;
    const NUMBERS: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers; it changes what all threads of this process may use, nothing in its memory.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, NUMBERS) } {
        0 => State::Works,
        _ => State::Refused(std::io::Error::last_os_error().raw_os_error()),
    }
}

/// Elsewhere nothing is known of how to ask.
#[cfg(not(target_os = "linux"))]
fn ask_system() -> State {
    State::Refused(None)
}

/// Whether products of a unit are those of plain loops, up to rounding: for tiles that are whole, and that end within.
///
/// # Safety
/// As [`Unit::new`].
pub(super) unsafe fn agrees<U: Unit>() -> bool {
    // SAFETY: passed on.
    let mut unit = unsafe { U::new() };
    let cases = [(ROWS, COLUMNS, 3 * SIDE), (ROWS - 3, COLUMNS - 5, 2 * SIDE + 5), (5, SIDE + 1, SIDE), (1, 3, 1)];
    cases.into_iter().all(|(rows, columns, pairs)| {
        // Small whole numbers, of which every order of summing gives the same.
        let small = |seed: usize, i: usize| bf16::from_f32(((i * 7 + seed * 5) % 23) as f32 - 11.0);
        let a: Vec<bf16> = (0..rows * 2 * pairs).map(|i| small(1, i)).collect();
        let mut panel = crate::gemm::panels::Buffer::<Pair>::new(pairs.next_multiple_of(SIDE) * COLUMNS);
        let b = |p: usize, j: usize| if p < 2 * pairs && j < columns { small(2, p * columns + j) } else { bf16::ZERO };
        for pair in 0..pairs.next_multiple_of(SIDE) {
            for j in 0..COLUMNS {
                let [low, high] = [b(2 * pair, j), b(2 * pair + 1, j)].map(|x| u32::from(x.to_bits()));
                // SAFETY: there is room for the whole panel.
                unsafe { panel.as_mut_ptr().add(pair * COLUMNS + j).write(low | high << 16) };
            }
        }
        let bias: Vec<f32> = (0..columns).map(|j| j as f32).collect();
        let mut c = vec![f32::NAN; rows * columns];
        let left = Left { start: a.as_ptr(), row_stride: 2 * pairs, pair_stride: 2 };
        let target = Target::F32 { c: c.as_mut_ptr(), row_stride: columns, add: std::ptr::null() };
        // SAFETY: the operands have just been made of this size.
        unsafe { unit.tile((rows, columns), pairs, left, panel.as_ptr(), bias.as_ptr(), target) };
        c.iter().enumerate().all(|(e, &sum)| {
            let (i, j) = (e / columns, e % columns);
            let product: f32 = (0..2 * pairs).map(|p| a[i * 2 * pairs + p].to_f32() * b(p, j).to_f32()).sum();
            sum == product + bias[j]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::bf16::amx::Tiles;
    use crate::gemm::bf16::amx::emulator::Emulator;
    use crate::gemm::bf16::amx::program::{Operands, Runner, Shapes};

    /// What a Xeon of the fourth generation says, with one register of one leaf replaced.
    fn described(change: Option<(u32, u32, [u32; 4])>) -> impl Fn(u32, u32) -> CpuidResult {
        move |leaf, part| {
            let [eax, ebx, ecx, edx] = match (leaf, part, change) {
                (leaf, part, Some((l, p, registers))) if (leaf, part) == (l, p) => registers,
                (0, ..) => [0x20, 0, 0, 0],
                (7, 0, _) => [2, 0, 0, 1 << 22 | 1 << 24 | 1 << 25],
                (0x1d, 0, _) => [1, 0, 0, 0],
                (0x1d, 1, _) => [1024 << 16 | 8192, 8 << 16 | 64, 16, 0],
                (0x1e, 0, _) => [0, 64 << 8 | 16, 0, 0],
                _ => [0; 4],
            };
            CpuidResult { eax, ebx, ecx, edx }
        }
    }

    #[test]
    fn amx_is_found_by_all_that_the_processor_and_the_system_say() {
        let both = || 0x600e7;
        assert_eq!(by(described(None), both, || State::Works), State::Works);
        assert_eq!(by(described(None), both, || State::Refused(Some(28))), State::Refused(Some(28)));
        assert_eq!(by(described(None), || 0xe7, || State::Works), State::Refused(None));
        for change in [
            (0, 0, [0x1d, 0, 0, 0]),
            (7, 0, [2, 0, 0, 1 << 24 | 1 << 25]),
            (7, 0, [2, 0, 0, 1 << 22]),
            (0x1d, 0, [0; 4]),
            (0x1d, 1, [0, 4 << 16 | 64, 16, 0]),
            (0x1d, 1, [0, 8 << 16 | 32, 16, 0]),
            (0x1d, 1, [0, 8 << 16 | 64, 8, 0]),
            (0x1e, 0, [0, 64 << 8 | 8, 0, 0]),
            (0x1e, 0, [0, 32 << 8 | 16, 0, 0]),
        ] {
            assert_eq!(by(described(Some(change)), both, || State::Works), State::Absent, "{change:?}");
        }
    }

    #[test]
    fn amx_that_is_not_used_is_told() {
        assert_eq!([State::Works, State::Absent].map(State::why_not), [None, None]);
        let refused = State::Refused(Some(1)).why_not().unwrap();
        assert!(refused.contains("("), "{refused}");
        assert!(State::Refused(None).why_not().is_some() && State::Wrong.why_not().is_some());
    }

    /// An emulation that does one thing wrong.
    struct Faulty<const FAULT: usize>(Emulator);

    impl<const FAULT: usize> Runner for Faulty<FAULT> {
        unsafe fn new() -> Self {
            // SAFETY: passed on.
            Self(unsafe { Emulator::new() })
        }
        unsafe fn shape(&mut self, shapes: &Shapes) {
            // SAFETY: passed on.
            unsafe { self.0.shape(shapes) }
        }
        unsafe fn wide(&mut self, operands: Operands) {
            let steps = if FAULT == 1 { 1 } else { operands.steps };
            // SAFETY: passed on, or less of it.
            unsafe { self.0.wide(Operands { steps, ..operands }) }
        }
        unsafe fn narrow(&mut self, operands: Operands) {
            if FAULT != 2 {
                // SAFETY: passed on.
                unsafe { self.0.narrow(operands) }
            }
        }
    }

    #[test]
    fn a_first_product_tells_a_unit_that_errs() {
        if !dispatch::has_bf16() {
            return;
        }
        // SAFETY: the emulation needs no AMX, and the processor has AVX512-BF16.
        unsafe {
            assert!(agrees::<Tiles<Faulty<0>>>());
            assert!(!agrees::<Tiles<Faulty<1>>>());
            assert!(!agrees::<Tiles<Faulty<2>>>());
        }
    }
}
