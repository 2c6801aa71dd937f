//! Values under a name, and how they are drawn.

use std::fmt::Write as _;

/// The patterns of lines; a number is a dash or a gap.
pub(super) const DASHES: [&str; 8] = ["", "7 3", "2 3", "9 3 2 3", "14 4", "4 4", "9 3 2 3 2 3", "1 4"];

/// How the values of a series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line with some markers.
    Line,
    /// A marker for every value.
    Points,
}

/// How much a line stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// As any.
    #[default]
    Plain,
    /// One of several that have a mean: thin and faint.
    Seed,
    /// Their mean: thick.
    Mean,
}

/// What tells series apart: colour and marker, and the dashes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colour and marker; from 8 on they come again, with other dashes.
    pub hue: usize,
    /// Dashes.
    pub dash: usize,
}

impl Look {
    /// The usual look of the series, run or method at this place.
    #[must_use]
    pub fn nth(place: usize) -> Self {
        Self { hue: place, dash: place + place / 8 }
    }

    /// The colour's variable.
    pub(super) fn colour(self) -> String {
        format!("var(--s{})", self.hue % 8)
    }

    pub(super) fn dashes(self) -> &'static str {
        DASHES[self.dash % 8]
    }
}

/// A mean with bars from a low to a high value, in either direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Where the bars cross.
    pub at: (f64, f64),
    /// The horizontal bar.
    pub x: Option<[f64; 2]>,
    /// The vertical bar.
    pub y: Option<[f64; 2]>,
}

/// Values under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What they are.
    pub name: String,
    /// The entry of the legend that they belong to, where that is not their name: seeds and their mean share one.
    pub entry: Option<String>,
    /// How it is drawn.
    pub mark: Mark,
    /// How much it stands out.
    pub weight: Weight,
    /// Colour, marker and dashes, where they do not follow from its place in the figure.
    pub look: Option<Look>,
    /// Its values from left to right; a line is interrupted where there is none.
    pub points: Vec<(f64, Option<f64>)>,
    /// Bars at some of its values.
    pub spreads: Vec<Spread>,
    /// The runs that it is of, by their places on the page.
    pub runs: Vec<usize>,
}

impl Series {
    /// A line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, Option<f64>)>) -> Self {
        let (name, mark, weight) = (name.into(), Mark::Line, Weight::Plain);
        Self { name, entry: None, mark, weight, look: None, points, spreads: Vec::new(), runs: Vec::new() }
    }

    /// Points that no line joins.
    pub fn points(name: impl Into<String>, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { mark: Mark::Points, ..Self::line(name, points) }
    }

    /// With bars.
    #[must_use]
    pub fn with_spreads(self, spreads: Vec<Spread>) -> Self {
        Self { spreads, ..self }
    }

    /// With a look that does not follow from its place.
    #[must_use]
    pub fn with_look(self, look: Look) -> Self {
        Self { look: Some(look), ..self }
    }

    /// The entry of the legend that it belongs to.
    pub(super) fn entry(&self) -> &str {
        self.entry.as_ref().unwrap_or(&self.name)
    }

    /// Width of its line.
    pub(super) fn width(&self) -> f64 {
        match self.weight {
            Weight::Plain => 2.0,
            Weight::Seed => 1.0,
            Weight::Mean => 3.0,
        }
    }
}

/// At most about `most` points: of each stretch the lowest and the highest, so that peaks stay.
pub(super) fn thinned(points: &[(f64, Option<f64>)], most: usize) -> Vec<(f64, Option<f64>)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(most + 1);
    for stretch in points.chunks(points.len().div_ceil(most / 2)) {
        let value = |index: &usize| stretch[*index].1.unwrap_or(f64::NAN);
        let by_value = |a: &usize, b: &usize| value(a).total_cmp(&value(b));
        let known = || (0..stretch.len()).filter(|index| value(index).is_finite());
        match (known().min_by(by_value), known().max_by(by_value)) {
            (Some(low), Some(high)) if low != high => kept.extend([stretch[low.min(high)], stretch[low.max(high)]]),
            (Some(only), _) => kept.push(stretch[only]),
            _ => kept.push(stretch[0]),
        }
    }
    kept.extend(points.last().filter(|last| kept.last() != Some(*last)));
    kept
}

/// A small shape, another for each hue.
pub(super) fn marker(path: &mut String, hue: usize, x: f64, y: f64) {
    let _ = match hue % 8 {
        0 => write!(path, "M{x:.1} {y:.1}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"),
        1 => write!(path, "M{x:.1} {y:.1}m-3 -3h6v6h-6z"),
        2 => write!(path, "M{x:.1} {y:.1}m0 -4l4 7h-8z"),
        3 => write!(path, "M{x:.1} {y:.1}m0 -4l4 4l-4 4l-4 -4z"),
        4 => write!(path, "M{x:.1} {y:.1}m-3.5 -3.5l7 7m0 -7l-7 7"),
        5 => write!(path, "M{x:.1} {y:.1}m0 4l4 -7h-8z"),
        6 => write!(path, "M{x:.1} {y:.1}m-4 0h8m-4 -4v8"),
        _ => write!(path, "M{x:.1} {y:.1}m-4 -1.5h8v3h-8z"),
    };
}

/// A line in the colour and dashes of a series.
pub(super) fn stroke(svg: &mut String, look: Look, width: f64, path: &str) {
    let dashes = match look.dashes() {
        "" => String::new(),
        dashes => format!(" stroke-dasharray=\"{dashes}\""),
    };
    let colour = look.colour();
    let _ = write!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dashes}/>"
    );
}

/// Markers or bars in the colour of a series.
pub(super) fn outline(svg: &mut String, look: Look, path: &str) {
    if !path.is_empty() {
        let colour = look.colour();
        let _ = write!(svg, "<path d=\"{path}\" fill=\"var(--paper)\" stroke=\"{colour}\" stroke-width=\"1.6\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_series_keep_their_peaks() {
        let mut points: Vec<_> = (0..10_000).map(|x| (f64::from(x), Some(1.0))).collect();
        points[5_432].1 = Some(7.0);
        points[5_440].1 = Some(-7.0);
        points[7_777].1 = None;
        for most in [320, 2000] {
            let thin = thinned(&points, most);
            assert!(thin.len() <= most + 1, "{}", thin.len());
            for kept in [points[5_432], points[5_440], points[9_999]] {
                assert!(thin.contains(&kept), "{kept:?}");
            }
            assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn no_two_looks_are_alike() {
        let looks: std::collections::BTreeSet<_> =
            (0..64).map(Look::nth).map(|look| (look.colour(), look.dashes())).collect();
        assert_eq!(looks.len(), 64);
    }
}
