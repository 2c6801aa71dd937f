//! Drawings as SVG: lines and points over axes, a map of cells, and bars. Colours are variables of the page's style, and
//! never the only mark: series differ in dashes, markers and labels, cells and bars carry their numbers.

use std::fmt::Write as _;

use crate::number;
use crate::page::{self, escape};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
/// The usual width of a character of the charts' font.
const CHARACTER: f64 = 7.7;
/// The most points of a line: more do not show at the width of a chart.
const POINTS: usize = 320;
/// The characters of a name that stands beside its line.
const LABEL: usize = 16;
/// The height of a line of the legend.
const LEGEND: f64 = 19.0;
const DASHES: [&str; 8] = ["", "7 3", "2 3", "9 3 2 3", "14 4", "4 4", "9 3 2 3 2 3", "1 4"];

/// How the values of a series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line with some markers.
    Line,
    /// A marker for every value.
    Points,
}

/// Values under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// Its values from left to right; a line is interrupted where there is none.
    pub points: Vec<(f64, Option<f64>)>,
    /// Bars from a low to a high value, at their places.
    pub bars: Vec<(f64, [f64; 2])>,
}

impl Series {
    /// A line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { name: name.into(), mark: Mark::Line, points, bars: Vec::new() }
    }

    /// Points that no line joins.
    pub fn points(name: impl Into<String>, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { name: name.into(), mark: Mark::Points, points, bars: Vec::new() }
    }

    /// With bars.
    #[must_use]
    pub fn with_bars(self, bars: Vec<(f64, [f64; 2])>) -> Self {
        Self { bars, ..self }
    }
}

/// Series over two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: String,
    /// What the vertical axis counts.
    pub y: String,
    /// The series.
    pub series: Vec<Series>,
    /// Horizontal lines with their labels.
    pub guides: Vec<(f64, String)>,
    /// Whether the vertical axis begins at 0.
    pub from_zero: bool,
    /// How values of the vertical axis are written.
    pub format: fn(f64) -> String,
}

impl Chart {
    /// The drawing.
    #[must_use]
    pub fn svg(&self) -> String {
        let values = || self.series.iter().flat_map(|s| &s.points).filter_map(|(x, y)| Some((*x, y.filter(finite)?)));
        if values().next().is_none() {
            return empty(&self.title);
        }
        let x = Axis::linear(values().map(|(x, _)| x), false);
        let ends = self.series.iter().flat_map(|series| &series.bars).flat_map(|(_, ends)| *ends).filter(finite);
        let heights = values().map(|(_, y)| y).chain(ends).chain(self.guides.iter().map(|(y, _)| *y).filter(finite));
        let y = Axis::fitting(heights, self.from_zero);
        let several = self.series.len() > 1;
        // Long names stand below the plot, short ones beside their lines.
        let below = several && self.series.iter().any(|series| series.name.chars().count() > LABEL);
        let labelled = several && !below;
        let ticks: Vec<(f64, String)> = y.ticks().into_iter().map(|tick| (tick, (self.format)(tick))).collect();
        let longest = ticks.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0) as f64;
        let names = self.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0) as f64;
        let right = if labelled { WIDTH - names * CHARACTER - 22.0 } else { WIDTH - 14.0 };
        let frame = Frame { left: longest * CHARACTER + 12.0, right, top: 26.0, bottom: HEIGHT - 40.0, x, y };
        let legend = if below { 4.0 + LEGEND * self.series.len() as f64 } else { 0.0 };
        let mut svg = open(&self.title, HEIGHT + legend);
        frame.draw(&mut svg, &ticks, &self.x, &self.y);
        for (value, label) in self.guides.iter().filter(|(value, _)| value.is_finite()) {
            let (at, left, right) = (frame.y(*value), frame.left, frame.right);
            let text = if at < frame.top + 16.0 { at + 14.0 } else { at - 4.0 };
            let _ = write!(svg, "<path class=\"guide\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>");
            let _ =
                write!(svg, "<text class=\"halo\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>", left + 4.0, escape(label));
        }
        for (index, series) in self.series.iter().enumerate() {
            frame.series(&mut svg, index, series);
        }
        if labelled {
            frame.labels(&mut svg, &self.series);
        }
        for (index, series) in self.series.iter().enumerate().filter(|_| below) {
            key(&mut svg, index, series);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn finite(value: &f64) -> bool {
    value.is_finite()
}

/// A line of the legend: how a series is drawn, and its name.
fn key(svg: &mut String, index: usize, series: &Series) {
    let at = HEIGHT + 8.0 + LEGEND * index as f64;
    if series.mark == Mark::Line {
        stroke(svg, index, &format!("M12 {at:.1}H52"));
    }
    let mut shape = String::new();
    marker(&mut shape, index, 32.0, at);
    outline(svg, index, &shape);
    let _ = write!(svg, "<text x=\"62\" y=\"{:.1}\">{}</text>", at + 4.5, escape(&series.name));
}

/// A line in the colour and dashes of a series.
fn stroke(svg: &mut String, index: usize, path: &str) {
    let (colour, dashes) = (index % 8, DASHES[index % DASHES.len()]);
    let dashes = if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
    let _ = write!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"var(--s{colour})\" stroke-width=\"2\" stroke-linejoin=\"round\"{dashes}/>"
    );
}

/// Markers in the colour of a series.
fn outline(svg: &mut String, index: usize, path: &str) {
    let colour = index % 8;
    let _ = write!(svg, "<path d=\"{path}\" fill=\"var(--paper)\" stroke=\"var(--s{colour})\" stroke-width=\"1.6\"/>");
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
        escape(title)
    )
}

fn empty(title: &str) -> String {
    let text = "nothing was recorded yet";
    format!("{}<text class=\"soft\" x=\"12\" y=\"30\">{text}</text></svg>\n", open(title, 48.0))
}

/// A drawing with its styles, as a file of its own.
#[must_use]
pub fn standalone(svg: &str) -> String {
    let end = svg.find('>').map_or(0, |end| end + 1);
    let (head, rest) = svg.split_at(end);
    let head = head.replacen("<svg ", &format!("<svg width=\"{}\" ", 2.0 * WIDTH), 1);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{head}<style>{}{}</style>{rest}", page::COLOURS, page::FIGURES)
}

/// The range of values of one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    fn linear(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
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

    /// Logarithmic where positive values span more than a factor of 50; with a little room around them.
    fn fitting(values: impl Iterator<Item = f64> + Clone, from_zero: bool) -> Self {
        let plain = Self::linear(values.clone(), from_zero);
        if !from_zero && plain.low > 0.0 && plain.high / plain.low > 50.0 {
            return Self { low: plain.low / 1.2, high: plain.high * 1.2, logarithmic: true };
        }
        let room = 0.05 * (plain.high - plain.low);
        let low = if from_zero && plain.low == 0.0 { 0.0 } else { plain.low - room };
        Self { low, high: plain.high + room, logarithmic: false }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Round values inside the range.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let every = (decades.clone().count() / 6).max(1);
            let inside = |tick: &f64| (self.low..=self.high).contains(tick);
            return decades.step_by(every).map(|power| 10f64.powi(power)).filter(inside).collect();
        }
        let rough = (self.high - self.low) / 4.5;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        // Multiples, so that rounding does not add up.
        let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last.min(first.saturating_add(20))).map(|multiple| multiple as f64 * step).collect()
    }
}

/// The plot's place and scales.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        self.left + (self.right - self.left) * self.x.place(value)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y.place(value)
    }

    fn draw(&self, svg: &mut String, ticks: &[(f64, String)], x: &str, y: &str) {
        let Self { left, right, bottom, .. } = self;
        for (tick, text) in ticks {
            let at = self.y(*tick);
            let _ = write!(svg, "<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>");
            let (x, y) = (left - 6.0, at + 4.5);
            let _ = write!(svg, "<text class=\"soft\" text-anchor=\"end\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
        }
        let _ = write!(svg, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>");
        // There is no step between two steps.
        let ticks = self.x.ticks().into_iter().filter(|tick| x != "step" || tick.fract() == 0.0);
        for tick in ticks {
            let (at, low, text) = (self.x(tick), bottom + 17.0, number::short(tick));
            let _ = write!(svg, "<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/>");
            let _ =
                write!(svg, "<text class=\"soft\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{low:.1}\">{text}</text>");
        }
        let (middle, low) = (0.5 * (left + right), bottom + 35.0);
        let scale = if self.y.logarithmic { " (logarithmic)" } else { "" };
        let _ = write!(svg, "<text text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{low:.1}\">{}</text>", escape(x));
        let _ = write!(svg, "<text x=\"2\" y=\"14\">{}{scale}</text>", escape(y));
    }

    fn series(&self, svg: &mut String, index: usize, series: &Series) {
        let place = |(x, y): &(f64, Option<f64>)| Some((self.x(*x), self.y(y.filter(finite)?)));
        let points: Vec<Option<(f64, f64)>> = thinned(&series.points).iter().map(place).collect();
        let drawn: Vec<(f64, f64)> = points.iter().flatten().copied().collect();
        if series.mark == Mark::Line {
            let (mut path, mut pen_down) = (String::new(), false);
            for point in &points {
                if let Some((x, y)) = point {
                    let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
                }
                pen_down = point.is_some();
            }
            stroke(svg, index, &path);
        }
        // Few enough on a line to tell lines apart without hiding them, the last one always.
        let every = if series.mark == Mark::Points { 1 } else { drawn.len().div_ceil(5).max(1) };
        let mut marks = String::new();
        for (x, y) in drawn.iter().rev().step_by(every) {
            marker(&mut marks, index, *x, *y);
        }
        let mut bars = String::new();
        for (x, [low, high]) in series.bars.iter().filter(|(_, ends)| ends.iter().all(finite)) {
            let (x, low, high) = (self.x(*x), self.y(*low), self.y(*high));
            let _ = write!(bars, "M{:.1} {low:.1}h6m-3 0V{high:.1}m-3 0h6", x - 3.0);
        }
        outline(svg, index, &bars);
        outline(svg, index, &marks);
    }

    /// Names at the right, beside the ends of their series, moved apart where they would overlap.
    fn labels(&self, svg: &mut String, series: &[Series]) {
        const LINE: f64 = 15.0;
        let mut labels: Vec<(f64, (f64, f64), usize)> = series
            .iter()
            .enumerate()
            .filter_map(|(index, series)| {
                let (x, y) = series.points.iter().rev().find_map(|(x, y)| Some((*x, y.filter(finite)?)))?;
                Some((self.y(y), (self.x(x), self.y(y)), index))
            })
            .collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut least = self.top;
        for label in &mut labels {
            label.0 = label.0.max(least);
            least = label.0 + LINE;
        }
        let mut most = self.bottom + 4.0;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(most);
            most = label.0 - LINE;
        }
        for (at, (x, y), index) in labels {
            let (colour, start, name) = (index % 8, self.right + 14.0, escape(&series[index].name));
            let _ = write!(
                svg,
                "<path d=\"M{:.1} {y:.1}L{:.1} {at:.1}\" stroke=\"var(--s{colour})\" stroke-width=\".8\" opacity=\".6\"/>",
                x + 4.0,
                start - 3.0
            );
            let _ = write!(
                svg,
                "<text class=\"halo\" style=\"fill:var(--s{colour})\" x=\"{start:.1}\" y=\"{:.1}\">{name}</text>",
                at + 4.5
            );
        }
    }
}

/// At most [`POINTS`] points: of each stretch the lowest and the highest, so that peaks stay.
fn thinned(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(POINTS + 1);
    for stretch in points.chunks(points.len().div_ceil(POINTS / 2)) {
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

/// A small shape, another for each series.
fn marker(path: &mut String, index: usize, x: f64, y: f64) {
    let _ = match index % 8 {
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

/// Rows × columns of numbers, darker the larger; `None` is left blank with a dash.
#[must_use]
pub fn map(title: &str, rows: &[String], columns: &[String], cells: &[Vec<Option<f64>>]) -> String {
    const ROW: f64 = 21.0;
    const LAST: f64 = 7.0;
    if rows.is_empty() || columns.is_empty() {
        return empty(title);
    }
    let names = rows.iter().map(|row| row.chars().count()).max().unwrap_or(0) as f64;
    let (left, top) = (names * CHARACTER + 14.0, 26.0);
    let width = (WIDTH - left - 4.0) / columns.len() as f64;
    let known = || cells.iter().flatten().flatten().copied();
    let (low, high) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let mut svg = open(title, top + ROW * rows.len() as f64 + LAST);
    for (index, column) in columns.iter().enumerate() {
        let x = left + (index as f64 + 0.5) * width;
        let _ = write!(svg, "<text text-anchor=\"middle\" x=\"{x:.1}\" y=\"18\">{}</text>", escape(column));
    }
    for (index, row) in rows.iter().enumerate() {
        let y = top + index as f64 * ROW;
        let (end, base) = (left - 6.0, y + 15.0);
        let _ = write!(svg, "<text text-anchor=\"end\" x=\"{end:.1}\" y=\"{base:.1}\">{}</text>", escape(row));
        for (column, cell) in cells.get(index).into_iter().flatten().enumerate().take(columns.len()) {
            let (x, middle) = (left + column as f64 * width, left + (column as f64 + 0.5) * width);
            let share = cell.map(|value| if high > low { (value - low) / (high - low) } else { 1.0 });
            let shade = share.map_or(0.0, |share| 0.08 + 0.42 * share);
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--s0)\" fill-opacity=\"{shade:.2}\" stroke=\"var(--line)\"/>",
                x + 1.0,
                y + 1.0,
                width - 2.0,
                ROW - 2.0
            );
            let (class, text) = cell.map_or((" class=\"soft\"", "–".to_owned()), |value| ("", number::short(value)));
            let _ = write!(svg, "<text{class} text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{base:.1}\">{text}</text>");
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A bar of two lengths, the second hatched by its outline alone, with what is written beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// The solid length.
    pub solid: f64,
    /// The outlined length that follows it.
    pub outlined: f64,
    /// Its numbers.
    pub text: String,
}

/// Bars over one scale from 0.
#[must_use]
pub fn bars(title: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 44.0;
    let longest = bars.iter().map(|bar| bar.solid.max(0.0) + bar.outlined.max(0.0)).fold(0.0, f64::max);
    if longest <= 0.0 || !longest.is_finite() {
        return empty(title);
    }
    let mut svg = open(title, ROW * bars.len() as f64 + 6.0);
    for (index, bar) in bars.iter().enumerate() {
        let y = index as f64 * ROW;
        let scale = (WIDTH - 12.0) / longest;
        let (solid, outlined) = (bar.solid.max(0.0) * scale, bar.outlined.max(0.0) * scale);
        let (base, top) = (y + 15.0, y + 21.0);
        let _ = write!(svg, "<text x=\"4\" y=\"{base:.1}\">{}</text>", escape(&bar.name));
        let end = WIDTH - 6.0;
        let _ = write!(
            svg,
            "<text class=\"soft\" text-anchor=\"end\" x=\"{end:.1}\" y=\"{base:.1}\">{}</text>",
            escape(&bar.text)
        );
        let _ = write!(svg, "<rect x=\"4\" y=\"{top:.1}\" width=\"{solid:.1}\" height=\"15\" fill=\"var(--s0)\"/>");
        if outlined >= 0.5 {
            let start = 4.0 + solid;
            let _ = write!(
                svg,
                "<rect x=\"{start:.1}\" y=\"{top:.1}\" width=\"{outlined:.1}\" height=\"15\" fill=\"none\" stroke=\"var(--s0)\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>) -> Chart {
        Chart {
            title: "a < b".to_owned(),
            x: "step".to_owned(),
            y: "loss".to_owned(),
            series: vec![Series::line("run", points)],
            guides: Vec::new(),
            from_zero: false,
            format: number::short,
        }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(Axis::linear([0.0, 9.0].into_iter(), false).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(Axis::linear([2.9, 3.4].into_iter(), false).ticks().len(), 3);
        assert_eq!(Axis::fitting([0.002, 5.0].into_iter(), false).ticks(), [0.01, 0.1, 1.0]);
        // A single value has room around it.
        let one = Axis::linear([4.0].into_iter(), false);
        assert_eq!((one.low, one.high), (3.6, 4.4));
        assert!((one.place(4.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn values_lie_where_the_axes_say() {
        // Values 0 … 1 have 5 % room, so that 0 lies 1/22 of the height above the axis: 230 − 204/22 = 220.7.
        let svg = chart(vec![(1.0, Some(0.0)), (2.0, None), (3.0, Some(1.0))]).svg();
        // Interrupted where there is no value: two moves, no line.
        assert!(svg.contains(" 220.7M466.0 35.3\""), "{svg}");
        let svg = chart(vec![(1.0, Some(0.0)), (3.0, Some(1.0))]).svg();
        assert!(svg.contains(" 220.7L466.0 35.3\""), "{svg}");
        assert!(svg.contains("aria-label=\"a &lt; b\""));
    }

    #[test]
    fn nothing_and_no_numbers_are_drawn_as_nothing() {
        for points in [vec![], vec![(1.0, None)], vec![(1.0, Some(f64::NAN))]] {
            assert!(chart(points).svg().contains("nothing was recorded"));
        }
        assert!(chart(vec![(1.0, Some(2.0))]).svg().contains("m-3 0a3"));
        assert!(map("m", &[], &[], &[]).contains("nothing was recorded"));
        assert!(bars("b", &[]).contains("nothing was recorded"));
    }

    #[test]
    fn long_series_keep_their_peaks() {
        let mut points: Vec<_> = (0..10_000).map(|x| (f64::from(x), Some(1.0))).collect();
        points[5_432].1 = Some(7.0);
        points[7_777].1 = None;
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS + 1, "{}", thin.len());
        assert!(thin.contains(&(5_432.0, Some(7.0))) && thin.contains(&(9_999.0, Some(1.0))));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn labels_do_not_overlap() {
        let mut chart = chart(Vec::new());
        chart.series =
            (0..7).map(|i| Series::line(format!("r{i}"), vec![(1.0, Some(1.0)), (2.0, Some(1.0))])).collect();
        let svg = chart.svg();
        let mut heights: Vec<f64> = svg
            .split("<text class=\"halo\"")
            .skip(1)
            .map(|text| text.split(" y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        heights.sort_by(f64::total_cmp);
        assert_eq!(heights.len(), 7);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] > 14.0), "{heights:?}");
    }

    #[test]
    fn long_names_stand_in_a_legend() {
        let mut chart = chart(Vec::new());
        let points = vec![(1.0, Some(1.0)), (2.0, Some(1.5))];
        chart.series = ["short", "a name of twenty-four <s"].map(|name| Series::line(name, points.clone())).into();
        let svg = chart.svg();
        assert!(
            svg.contains("viewBox=\"0 0 480 312\"")
                && svg.contains("x=\"62\" y=\"301.5\">a name of twenty-four &lt;s<"),
            "{svg}"
        );
        assert!(!svg.contains("class=\"halo\""));
    }

    #[test]
    fn steps_are_whole() {
        let ticks = |x: &str| {
            let chart = Chart { x: x.to_owned(), ..chart(vec![(6.0, Some(1.0)), (7.0, Some(1.0))]) };
            chart.svg().contains(">6.5<")
        };
        assert!(ticks("share") && !ticks("step"));
    }

    #[test]
    fn cells_and_bars_carry_their_numbers() {
        let svg = map("m", &["0".into(), "1".into()], &["q".into()], &[vec![Some(12.0)], vec![None]]);
        assert!(svg.contains(">12</text>") && svg.contains(">–</text>"));
        let bar = Bar { name: "forward".into(), solid: 3.0, outlined: 1.0, text: "3 of 4".into() };
        let svg = bars("b", &[bar]);
        // 468 wide in all: 351 and 117.
        assert!(svg.contains("width=\"351.0\"") && svg.contains("width=\"117.0\"") && svg.contains("3 of 4"), "{svg}");
    }

    #[test]
    fn a_file_of_its_own_has_its_styles() {
        let svg = standalone(&chart(vec![(1.0, Some(2.0))]).svg());
        assert!(svg.starts_with("<?xml") && svg.contains("--s0:") && svg.contains("<title>a &lt; b</title>"));
        assert!(svg.find("<style>").unwrap() < svg.find("<title>").unwrap());
    }
}
