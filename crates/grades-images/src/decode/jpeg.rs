//! Whether a JPEG file is whole. Its decoder fills what is missing with grey, in silence; Pillow refuses such a file.

/// Whether the end-of-image marker comes after the first scan. Within a scan's data the two bytes cannot stand otherwise.
pub(super) fn ends(file: &[u8]) -> bool {
    first_scan(file).is_some_and(|scan| file[scan..].windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// The place of the first start-of-scan marker, found by going from segment to segment: what cameras embed before it
/// may hold whole pictures.
fn first_scan(file: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        let marker = *file.get(at + 1)?;
        match (file[at], marker) {
            (0xff, 0xff) => at += 1,
            (0xff, 0xda) => return Some(at),
            (0xff, 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, 2..) => at += 2 + usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?])),
            // bytes between segments, which decoders pass over
            _ => at += 1,
        }
    }
}
