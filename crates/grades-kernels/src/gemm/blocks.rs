//! The sizes that products are cut by: for each kind of processor some that are known, and others that were measured on it.
//!
//! They decide what a task packs and how much it computes, never what a sum is made of or in which order: how far the inner dimension is
//! packed at once would change that, and is therefore fixed.

use std::cell::Cell;
use std::sync::OnceLock;

use super::single;

/// The sizes for products of one kind of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Panels of columns that a task of a product with a weight packs at once.
    pub panels: usize,
    /// The fewest rows of the left operand for which panels are packed once more, where there are fewer groups of them than threads.
    pub rows: usize,
    /// Rows of a weight gradient that a task computes: a multiple of [`Sizes::TILES`].
    pub gradient_rows: usize,
}

impl Sizes {
    /// Rows that are whole tiles of every instruction set.
    pub const TILES: usize = 48;
    /// The largest sizes.
    pub const MOST: Self = Self { panels: 16, rows: 4096, gradient_rows: 20 * Self::TILES };

    /// Whether products can be cut so.
    #[must_use]
    pub fn fit(&self) -> bool {
        let Self { panels, rows, gradient_rows } = *self;
        (1..=Self::MOST.panels).contains(&panels)
            && (1..=Self::MOST.rows).contains(&rows)
            && (1..=Self::MOST.gradient_rows).contains(&gradient_rows)
            && gradient_rows.is_multiple_of(Self::TILES)
    }
}

/// The sizes for all products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// For numbers in f32, and in bf16 where the processor does not multiply these itself.
    pub f32: Sizes,
    /// For numbers in bf16 where it does.
    pub bf16: Sizes,
}

/// A kind of processor whose sizes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Whether the sizes were measured on one; else they are what its caches and tiles suggest.
    pub measured: bool,
}

impl Kind {
    /// Any processor that is not in the table.
    const OTHER: Self = Self { name: "other", measured: false };

    /// That of this machine.
    #[must_use]
    pub fn of_processor() -> Self {
        // Miri does not know `cpuid`.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::__cpuid;
            let (vendor, version) = (__cpuid(0), __cpuid(1).eax);
            let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
            Self::described(&vendor, version, super::bf16::runs_on_amx())
        }
        #[cfg(any(not(target_arch = "x86_64"), miri))]
        {
            Self::OTHER
        }
    }

    #[cfg(any(all(target_arch = "x86_64", not(miri)), test))]
    fn described(vendor: &[u8], version: u32, amx: bool) -> Self {
        let base = version >> 8 & 0xf;
        let family = base + if base == 0xf { version >> 20 & 0xff } else { 0 };
        let model = version >> 4 & 0xf | version >> 12 & 0xf0;
        let unmeasured = |name| Self { name, measured: false };
        match (vendor, family, model) {
            (b"AuthenticAMD", 0x1a, _) => Self { name: "Zen 5", measured: true },
            (b"AuthenticAMD", 0x19, 0x10..=0x1f | 0x60..=0xaf) => unmeasured("Zen 4"),
            (b"AuthenticAMD", 0x19, _) => unmeasured("Zen 3"),
            (b"GenuineIntel", ..) if amx => unmeasured("Intel with AMX"),
            (b"GenuineIntel", ..) => unmeasured("Intel without AMX"),
            _ => Self::OTHER,
        }
    }

    /// Its sizes. `panels` is what fills the second-level cache that processors of an instruction set have at least.
    fn blocks(self, panels: usize) -> Blocks {
        let f32 = Sizes { panels, rows: 64, gradient_rows: 96 };
        let bf16 = Sizes { panels: 2, rows: 64, gradient_rows: 48 };
        match self.name {
            // Tiles of 32 rows; 48 would leave half of every second one empty.
            "Intel with AMX" => Blocks { f32, bf16: Sizes { gradient_rows: 96, ..bf16 } },
            _ => Blocks { f32, bf16 },
        }
    }
}

static CHOSEN: OnceLock<Blocks> = OnceLock::new();

thread_local! {
    /// Sizes that are tried on this thread.
    static TRIED: Cell<Option<Blocks>> = const { Cell::new(None) };
}

impl Blocks {
    /// Those that the table has for this processor.
    #[must_use]
    pub fn of_processor() -> Self {
        Kind::of_processor().blocks(single::panels())
    }

    /// Those that products called from this thread are cut by.
    #[must_use]
    pub fn current() -> Self {
        TRIED.get().unwrap_or_else(|| *CHOSEN.get_or_init(Self::of_processor))
    }

    /// Has all products cut by them: before the first one, else it does nothing and says `false`. So it does if they do not fit.
    pub fn choose(self) -> bool {
        self.f32.fit() && self.bf16.fit() && CHOSEN.set(self).is_ok()
    }

    /// Runs `body` with the products that it calls cut by them.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn try_on<R>(self, body: impl FnOnce() -> R) -> R {
        struct Before(Option<Blocks>);
        impl Drop for Before {
            fn drop(&mut self) {
                TRIED.set(self.0);
            }
        }
        assert!(self.f32.fit() && self.bf16.fit(), "sizes of blocks that do not fit");
        let _before = Before(TRIED.replace(Some(self)));
        body()
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::activations::Activation;
    use crate::gemm::bf16::{Rows, gated_new, nn_new, nt_new, tn_new};
    use crate::gemm::{Matrix, MatrixMut, nn, nt, tn};
    use crate::testing::{numbers, on_any_threads, rounded, widened};

    #[test]
    fn processors_are_told_by_family_and_model() {
        let name = |vendor: &[u8], version, amx| Kind::described(vendor, version, amx).name;
        // Milan, Genoa, Turin; Ice Lake and Sapphire Rapids.
        assert_eq!(name(b"AuthenticAMD", 0x00a0_0f11, false), "Zen 3");
        assert_eq!(name(b"AuthenticAMD", 0x00a1_0f11, false), "Zen 4");
        assert_eq!(name(b"AuthenticAMD", 0x00b0_0f21, false), "Zen 5");
        assert_eq!(name(b"AuthenticAMD", 0x0080_0f12, false), "other");
        assert_eq!(name(b"GenuineIntel", 0x0006_06a6, false), "Intel without AMX");
        assert_eq!(name(b"GenuineIntel", 0x0008_06f8, true), "Intel with AMX");
        let blocks = Blocks::of_processor();
        assert!(blocks.f32.fit() && blocks.bf16.fit());
        for sizes in [
            Sizes { panels: 0, ..blocks.f32 },
            Sizes { panels: 17, ..blocks.f32 },
            Sizes { rows: 0, ..blocks.f32 },
            Sizes { gradient_rows: 64, ..blocks.f32 },
            Sizes { gradient_rows: 0, ..blocks.f32 },
        ] {
            assert!(!sizes.fit() && !Blocks { f32: sizes, ..blocks }.choose(), "{sizes:?}");
        }
    }

    /// All products of one size, in f32 and bf16.
    fn products(m: usize, k: usize, n: usize) -> Vec<Vec<f32>> {
        let (x, w, dy) = (numbers(1, m * k), numbers(2, n * k), numbers(3, m * n));
        let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
        let weight = Matrix::new(&w, n, k);
        nt(Matrix::new(&x, m, k), weight, MatrixMut::new(&mut y, m, n), false);
        nn(Matrix::new(&dy, m, n), weight, MatrixMut::new(&mut dx, m, k), false);
        tn(Matrix::new(&dy, m, n), Matrix::new(&x, m, k), MatrixMut::new(&mut dw, n, k), false);
        let (x, dy) = (rounded(&x), rounded(&dy));
        let (x, dy) = (Matrix::new(&x, m, k), Matrix::new(&dy, m, n));
        let rows: [&dyn Rows; 1] = [&weight];
        let (gated, _) = gated_new(x, [&weight, &weight], Activation::Silu, false);
        let mut all = vec![y, dx, dw, widened(&nt_new(x, &rows, &[])), widened(&nn_new(dy, &rows)), widened(&gated)];
        all.extend(tn_new(dy, x, &[0..n / 2, n / 2..n]));
        all
    }

    #[test]
    fn no_sizes_change_a_result() {
        for (m, k, n) in [(1, 7, 3), (70, 130, 201), (300, 64, 1_000), (17, 1_600, 100), (1_100, 20, 99)] {
            let expected = on_any_threads(|| products(m, k, n));
            for (panels, rows, gradient_rows) in [(1, 1, 48), (3, 32, 96), (5, 200, 144), (16, 4096, 960)] {
                let sizes = Sizes { panels, rows, gradient_rows };
                let tried = on_any_threads(|| Blocks { f32: sizes, bf16: sizes }.try_on(|| products(m, k, n)));
                let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                let equal = expected.iter().zip(&tried).all(|(a, b)| same(a, b));
                assert!(equal, "{m}×{k}×{n} cut by {sizes:?}");
            }
        }
    }
}
