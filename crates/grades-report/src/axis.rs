//! The range of values of one direction, its ticks, and how values are written beside them.

use crate::number;

/// What the values of an axis are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Numbers.
    #[default]
    Number,
    /// Steps, of which there is none between two.
    Steps,
    /// Shares from 0 to 1, written as percentages.
    Share,
    /// Bytes.
    Bytes,
    /// Seconds, written as minutes and hours where they are many.
    Seconds,
    /// Operations.
    Flops,
}

/// Lengths of time that a reader divides by.
const TIMES: [f64; 22] = [
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    900.0,
    1800.0,
    3600.0,
    7200.0,
    10_800.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    432_000.0,
    864_000.0,
    1_728_000.0,
];

impl Unit {
    /// A value as it is written beside an axis.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Number | Self::Steps => number::short(value),
            Self::Share => number::percent(value),
            Self::Bytes => number::with_unit(value, "B"),
            Self::Seconds => number::time(value),
            Self::Flops => number::with_unit(value, "FLOP"),
        }
    }

    /// Its name for the script of a page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Steps => "steps",
            Self::Share => "share",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Flops => "flops",
        }
    }
}

/// From its lowest to its highest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) logarithmic: bool,
}

impl Axis {
    pub(super) fn linear(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if from_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if low >= high {
            let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = (if from_zero { low } else { low - room }, high + room);
        }
        Self { low, high, logarithmic: false }
    }

    /// Logarithmic where positive values span more than a factor of `ratio`; with a little room around them.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone, from_zero: bool, ratio: f64) -> Self {
        let plain = Self::linear(values, from_zero);
        if !from_zero && plain.low > 0.0 && plain.high / plain.low > ratio {
            return Self { low: plain.low / 1.2, high: plain.high * 1.2, logarithmic: true };
        }
        let room = 0.05 * (plain.high - plain.low);
        let low = if from_zero && plain.low == 0.0 { 0.0 } else { plain.low - room };
        Self { low, high: plain.high + room, logarithmic: false }
    }

    /// Where a value lies, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Round values inside the range.
    pub(super) fn ticks(&self, unit: Unit) -> Vec<f64> {
        if self.logarithmic {
            return self.decades();
        }
        let rough = (self.high - self.low) / 4.5;
        let power = 10f64.powf(rough.log10().floor());
        let decimal = || [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = match unit {
            // There is no step between two steps.
            Unit::Steps => decimal().map(|step| step.max(1.0)),
            Unit::Seconds if rough > 0.5 => TIMES.into_iter().find(|step| *step >= rough).or_else(decimal),
            _ => decimal(),
        };
        let step = step.unwrap_or(rough);
        // Multiples, so that rounding does not add up.
        let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last.min(first.saturating_add(20))).map(|multiple| multiple as f64 * step).collect()
    }

    /// Powers of ten; where there are few of them, their doubles and fivefolds too.
    fn decades(&self) -> Vec<f64> {
        let powers = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let inside = |tick: &f64| (self.low..=self.high).contains(tick);
        if self.high / self.low < 300.0 {
            let of_power = |power: i32| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power));
            return powers.flat_map(of_power).filter(inside).collect();
        }
        let every = (powers.clone().count() / 6).max(1);
        powers.step_by(every).map(|power| 10f64.powi(power)).filter(inside).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let ticks = |low: f64, high: f64, unit| Axis::linear([low, high].into_iter(), false).ticks(unit);
        assert_eq!(ticks(0.0, 9.0, Unit::Number), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(2.9, 3.4, Unit::Number).len(), 3);
        assert_eq!(ticks(6.0, 7.0, Unit::Steps), [6.0, 7.0]);
        // Minutes and hours, not hundreds of seconds.
        assert_eq!(ticks(0.0, 1000.0, Unit::Seconds), [0.0, 300.0, 600.0, 900.0]);
        assert_eq!(ticks(0.0, 20_000.0, Unit::Seconds), [0.0, 7200.0, 14_400.0]);
        assert_eq!(ticks(0.0, 1.0, Unit::Seconds), [0.0, 0.5, 1.0]);
        let logarithmic = |low: f64, high: f64| Axis::fitting([low, high].into_iter(), false, 8.0).ticks(Unit::Number);
        assert_eq!(logarithmic(0.002, 5.0), [0.01, 0.1, 1.0]);
        assert_eq!(logarithmic(18.0, 500.0), [20.0, 50.0, 100.0, 200.0, 500.0]);
        // A single value has room around it.
        let one = Axis::linear([4.0].into_iter(), false);
        assert_eq!((one.low, one.high), (3.6, 4.4));
        assert!((one.place(4.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn values_have_their_units() {
        for (unit, value, text) in [
            (Unit::Steps, 1500.0, "1500"),
            (Unit::Share, 0.5, "50 %"),
            (Unit::Bytes, 3.42e9, "3.42 GB"),
            (Unit::Seconds, 5400.0, "1 h 30 min"),
            (Unit::Flops, 33.7e12, "33.7 TFLOP"),
        ] {
            assert_eq!(unit.text(value), text);
        }
    }
}
