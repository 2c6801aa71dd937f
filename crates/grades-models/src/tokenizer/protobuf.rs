//! Reading protobuf messages (<https://protobuf.dev/programming-guides/encoding>), as far as a SentencePiece model needs it: no
//! crate for it comes without code that is generated from a schema.

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    /// An integer, a truth value or one of an enumeration.
    Integer(u64),
    /// A number of four bytes.
    Float(f32),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number of eight bytes, or a group of an old version, which no field here is.
    Other,
}

impl<'a> Field<'a> {
    pub(super) fn integer(self) -> Option<u64> {
        if let Self::Integer(value) = self { Some(value) } else { None }
    }

    pub(super) fn float(self) -> Option<f32> {
        if let Self::Float(value) = self { Some(value) } else { None }
    }

    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(value) = self { Some(value) } else { None }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// The fields of a message in their order, each with its number; `None` where the bytes are no message.
pub(super) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Integer(varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Field::Other)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Field::Bytes(take(&mut message, length)?)
            }
            5 => Field::Float(f32::from_le_bytes(take(&mut message, 4)?.try_into().ok()?)),
            _ => return None,
        };
        found.push((key >> 3, field));
    }
    Some(found)
}

/// Seven bits a byte, the lowest first; all but the last have the highest bit set.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(count)?;
    *message = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read_by_their_kind() {
        // 1: 150 and 2: "testing" are the examples of the specification; 3: 0.5, 16: 1, 4: eight bytes.
        let message = [
            &[0x08, 0x96, 0x01, 0x12, 0x07][..],
            b"testing",
            &[0x1d, 0, 0, 0, 0x3f, 0x80, 0x01, 0x01, 0x21, 1, 2, 3, 4, 5, 6, 7, 8],
        ]
        .concat();
        let found = fields(&message).unwrap();
        let expected = [
            (1, Field::Integer(150)),
            (2, Field::Bytes(b"testing")),
            (3, Field::Float(0.5)),
            (16, Field::Integer(1)),
            (4, Field::Other),
        ];
        assert_eq!(found, expected);
        assert_eq!((found[1].1.text(), found[1].1.integer(), found[2].1.float()), (Some("testing"), None, Some(0.5)));
        assert_eq!(fields(&[]), Some(vec![]));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in
            [&[0x08][..], &[0x12, 5, 1], &[0x1d, 0], &[0x0b], &[0xff; 11], &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]
        {
            assert_eq!(fields(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = fields(&bytes);
        }
    }
}
