//! Numbers of bytes.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A number of bytes, or one with a unit such as `2GB` or `512MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct ByteSize(pub u64);

const UNITS: [(&str, f64); 8] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("GiB", 1024.0 * 1024.0 * 1024.0),
];

impl TryFrom<Value> for ByteSize {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let with_unit = |text: &str| {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
            Some((number * factor).round() as u64)
        };
        let bytes = value.as_u64().or_else(|| with_unit(value.as_str()?));
        bytes.map(Self).ok_or("it must be a number of bytes, or one with a unit, such as 2GB or 512MiB")
    }
}

impl FromStr for ByteSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map_or_else(|_| Value::from(text), |bytes: u64| Value::from(bytes)).try_into()
    }
}

impl From<ByteSize> for Value {
    fn from(size: ByteSize) -> Self {
        size.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |value: Value| ByteSize::try_from(value).map(|size| size.0).ok();
        for (text, expected) in [("2GB", 2_000_000_000), ("12.8kB", 12_800), ("512 MiB", 1 << 29), ("0B", 0)] {
            assert_eq!(bytes(text.into()), Some(expected), "{text}");
        }
        assert_eq!(bytes(4096.into()), Some(4096));
        for wrong in ["", "GB", "2", "2 potatoes", "-1GB", "1.2.3GB"] {
            assert_eq!(bytes(wrong.into()), None, "{wrong}");
        }
        assert_eq!((bytes((-1).into()), bytes(true.into())), (None, None));
        assert_eq!(Value::from(ByteSize(7)), 7);
        assert_eq!(("5GB".parse(), "7".parse()), (Ok(ByteSize(5_000_000_000)), Ok(ByteSize(7))));
        assert!("5 lots".parse::<ByteSize>().is_err());
    }
}
