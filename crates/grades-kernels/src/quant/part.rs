//! What all block types share: the part of a block that is decoded at a time, and the f16 of scales.

/// Values that are decoded at a time: the smallest count that every block type holds a multiple of.
pub(super) const PART: usize = 32;

/// The little-endian f16 at byte `at`.
#[inline(always)]
pub(super) fn half_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The f16 of these bits. By one multiplication, which is exact for denormal numbers too; `half` asks the processor for its
/// features each time.
#[inline(always)]
pub(super) fn half(bits: u16) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    const SPECIAL: u32 = 0x7c00;
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    let finite = (f32::from_bits(magnitude << 13) * BIAS).to_bits();
    f32::from_bits(sign | if magnitude < SPECIAL { finite } else { 0x7f80_0000 | magnitude << 13 })
}
