//! Numbers as readers see them.

/// With so many decimals and a true minus sign.
#[must_use]
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        // No "−0.00".
        Some(rest) if rest.bytes().all(|byte| matches!(byte, b'0' | b'.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// With about three digits: `2.976`, `41.2`, `0.0034`, `1.2×10⁻⁵`, `3.4 M`.
#[must_use]
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        s if s < 1e-3 => scientific(value, 2),
        s if s < 1.0 => trimmed(fixed(value, (2.0 - s.log10().floor()) as usize)),
        s if s < 10.0 => trimmed(fixed(value, 3)),
        s if s < 100.0 => trimmed(fixed(value, 2)),
        s if s < 1000.0 => trimmed(fixed(value, 1)),
        s if s < 10_000.0 => fixed(value, 0),
        _ => {
            let (scale, suffix) = si(size);
            format!("{} {suffix}", trimmed(fixed(value / scale, 2)))
        }
    }
}

/// With a prefix and a unit: `6.7 TFLOP`, `2.95 GB`.
#[must_use]
pub fn with_unit(value: f64, unit: &str) -> String {
    let (scale, prefix) = si(value.abs());
    let scaled = value / scale;
    let decimals = if scaled.abs() < 10.0 && !prefix.is_empty() { 2 } else { usize::from(scaled.abs() < 100.0) };
    format!("{} {prefix}{unit}", trimmed(fixed(scaled, decimals)))
}

/// A time: `0.84 s`, `12.4 s`, `3 min 20 s`, `2 h 05 min`.
#[must_use]
pub fn seconds(value: f64) -> String {
    let whole = value.round().max(0.0) as u64;
    match value {
        v if !v.is_finite() => "–".to_owned(),
        v if v < 10.0 => format!("{} s", fixed(v, 2)),
        v if v < 60.0 => format!("{} s", fixed(v, 1)),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A time beside an axis, without parts that are zero: `0`, `0.5 s`, `20 s`, `5 min`, `1 h 30 min`.
#[must_use]
pub fn time(value: f64) -> String {
    let whole = value.round();
    let part = |count: f64, unit: &str| if count > 0.0 { format!(" {count:.0} {unit}") } else { String::new() };
    let text = match value {
        v if !v.is_finite() => "–".to_owned(),
        v if v.abs() < 1e-9 => "0".to_owned(),
        v if v < 60.0 => format!("{} s", short(v)),
        _ if whole < 3600.0 => part((whole / 60.0).floor(), "min") + &part(whole % 60.0, "s"),
        _ => part((whole / 3600.0).floor(), "h") + &part((whole % 3600.0 / 60.0).floor(), "min"),
    };
    text.trim_start().to_owned()
}

/// A share as a percentage.
#[must_use]
pub fn percent(share: f64) -> String {
    let decimals = usize::from(share != 0.0 && share.abs() < 0.1);
    format!("{} %", trimmed(fixed(100.0 * share, decimals)))
}

/// The power of 1000 below a size, and its prefix.
pub(super) fn si(size: f64) -> (f64, &'static str) {
    match size {
        s if s >= 1e18 => (1e18, "E"),
        s if s >= 1e15 => (1e15, "P"),
        s if s >= 1e12 => (1e12, "T"),
        s if s >= 1e9 => (1e9, "G"),
        s if s >= 1e6 => (1e6, "M"),
        s if s >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

/// `2×10⁻⁵`, with at most so many decimals.
pub(super) fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = trimmed(mantissa.replace('-', "−"));
    let raised: String = exponent.chars().map(superscript).collect();
    format!("{mantissa}×10{raised}")
}

fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        _ => '⁰',
    }
}

/// Without zeros after the last digit that counts.
fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (2.9761, "2.976"),
            (41.25, "41.25"),
            (-0.5, "−0.5"),
            (0.0034, "0.0034"),
            (0.51234, "0.512"),
            (1.2e-5, "1.2×10⁻⁵"),
            (1234.6, "1235"),
            (3_400_000.0, "3.4 M"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(fixed(-0.0004, 2), "0.00");
        assert_eq!(fixed(-1.5, 2), "−1.50");
        assert_eq!(with_unit(6.7e12, "FLOP"), "6.7 TFLOP");
        assert_eq!(with_unit(2_948_000_000.0, "B"), "2.95 GB");
        assert_eq!(with_unit(812.0, "B"), "812 B");
        assert_eq!((percent(0.5), percent(0.034), percent(0.0)), ("50 %".into(), "3.4 %".into(), "0 %".into()));
    }

    #[test]
    fn times_are_read_at_a_glance() {
        for (value, text) in [(0.84, "0.84 s"), (12.44, "12.4 s"), (200.2, "3 min 20 s"), (7500.0, "2 h 05 min")] {
            assert_eq!(seconds(value), text);
        }
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5 s"),
            (300.0, "5 min"),
            (90.0, "1 min 30 s"),
            (5400.0, "1 h 30 min"),
            (7200.0, "2 h"),
        ] {
            assert_eq!(time(value), text);
        }
    }
}
