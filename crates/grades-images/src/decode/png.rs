//! What the header of a PNG file tells beside what its decoder says.

/// Whether the file is grey with 16 bits and nothing else.
pub(super) fn is_grey16(file: &[u8]) -> bool {
    file.get(24..26) == Some(&[16, 0])
}

/// Whether the pixels are places in a palette that is not of 1 to 256 whole colours, which the decoder (`png` 0.18) reads beyond the end of.
pub(super) fn has_cut_palette(file: &[u8]) -> bool {
    if file.get(25) != Some(&3) {
        return false;
    }
    let mut rest = file.get(8..).unwrap_or_default();
    // Each chunk has its length, its kind, so many bytes, and a checksum.
    while let Some((length, kind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        match kind.first_chunk::<4>() {
            Some(b"PLTE") if length == 0 || length > 768 || !length.is_multiple_of(3) => return true,
            Some(b"IDAT") | None => return false,
            Some(_) => rest = rest.get(length.saturating_add(12)..).unwrap_or_default(),
        }
    }
    false
}
