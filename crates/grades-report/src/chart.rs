//! Series over two axes as SVG, readable as it stands: series differ in colour, marker and dashes, and carry their names.

use std::fmt::Write as _;

use crate::axis::{Axis, Unit};
use crate::page::escape;
use crate::series::{Look, Mark, Series, Weight, marker, outline, stroke, thinned};
use crate::svg::{CHARACTER, WIDTH, empty, open};

const HEIGHT: f64 = 270.0;
/// The most points of a line: more do not show at the width of a chart.
pub(super) const POINTS: usize = 320;
/// The characters of a name that stands beside its line.
const LABEL: usize = 16;
/// The height of a line of the legend.
const LEGEND: f64 = 19.0;
/// Vertical axes are logarithmic from this ratio of their values on, horizontal ones of costs from this.
pub(super) const RATIOS: [f64; 2] = [50.0, 8.0];

/// Series over two axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: String,
    /// What the vertical axis counts.
    pub y: String,
    /// The unit of the horizontal axis.
    pub x_unit: Unit,
    /// The unit of the vertical axis.
    pub unit: Unit,
    /// The series.
    pub series: Vec<Series>,
    /// Horizontal lines with their labels.
    pub guides: Vec<(f64, String)>,
    /// Whether the vertical axis begins at 0.
    pub from_zero: bool,
    /// Whether a page offers to smooth its lines.
    pub smooth: bool,
    /// How many points of a line a page holds, to show more of them where a reader looks closer.
    pub detail: usize,
}

/// An entry of the legend.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) look: Look,
    pub(super) mark: Mark,
    pub(super) width: f64,
}

impl Chart {
    /// The drawing as a file of its own: its legend stands below it, where names are too long to stand beside their lines.
    #[must_use]
    pub fn svg(&self) -> String {
        self.draw(true)
    }

    /// The drawing on a page, which has the legend beside it.
    pub(super) fn drawn(&self) -> String {
        self.draw(false)
    }

    /// Whether there is anything to draw.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    fn values(&self) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
        self.series.iter().flat_map(|s| &s.points).filter_map(|(x, y)| Some((*x, y.filter(finite)?)))
    }

    /// The points of a series that a page holds. Those that are drawn are some of them, so that the script of the page, which has
    /// no others, draws the same.
    pub(super) fn kept(&self, series: &Series) -> Vec<(f64, Option<f64>)> {
        thinned(&series.points, self.detail.max(POINTS))
    }

    /// Whether each series is a few named points, as those of runs by what they cost.
    pub(super) fn is_scatter(&self) -> bool {
        let single = |series: &Series| series.mark == Mark::Points && series.points.len() == 1;
        self.series.iter().any(single)
    }

    /// The look of the series at a place.
    pub(super) fn look(&self, place: usize) -> Look {
        self.series[place].look.unwrap_or_else(|| Look::nth(place))
    }

    /// What the legend has, in the order of the series.
    pub(super) fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries: Vec<Entry<'_>> = Vec::new();
        for (place, series) in self.series.iter().enumerate() {
            let (name, look, mark, width) = (series.entry(), self.look(place), series.mark, series.width());
            match entries.iter_mut().find(|entry| entry.name == name) {
                Some(entry) => entry.width = entry.width.max(width),
                None => entries.push(Entry { name, look, mark, width }),
            }
        }
        entries
    }

    /// The axes.
    pub(super) fn axes(&self) -> [Axis; 2] {
        let spreads = || self.series.iter().flat_map(|series| &series.spreads);
        let across = self.values().map(|(x, _)| x).chain(spreads().filter_map(|of| of.x).flatten().filter(finite));
        let x = if self.is_scatter() { Axis::fitting(across, false, RATIOS[1]) } else { Axis::linear(across, false) };
        let guides = self.guides.iter().map(|(y, _)| *y).filter(finite);
        let heights = self.values().map(|(_, y)| y).chain(guides);
        let ends = spreads().filter_map(|of| of.y).flatten().filter(finite);
        [x, Axis::fitting(heights.chain(ends), self.from_zero, RATIOS[0])]
    }

    /// The plot's place; `labelled`: with room for names at its right.
    pub(super) fn frame(&self) -> Frame {
        let [x, y] = self.axes();
        let ticks = y.ticks(self.unit).into_iter().map(|tick| self.unit.text(tick).chars().count());
        let left = ticks.max().unwrap_or(0) as f64 * CHARACTER + 12.0;
        let names = self.entries().iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0) as f64;
        let right = if self.has_end_labels() { WIDTH - names * CHARACTER - 22.0 } else { WIDTH - 14.0 };
        Frame { left, right, top: 26.0, bottom: HEIGHT - 40.0, x, y }
    }

    /// Whether names stand at the ends of the lines: where there are several, and all are short.
    pub(super) fn has_end_labels(&self) -> bool {
        let entries = self.entries();
        !self.is_scatter() && entries.len() > 1 && entries.iter().all(|entry| entry.name.chars().count() <= LABEL)
    }

    fn draw(&self, alone: bool) -> String {
        if self.is_empty() {
            return empty(&self.title);
        }
        let (frame, entries) = (self.frame(), self.entries());
        let below = alone && entries.len() > 1 && !self.has_end_labels();
        let legend = if below { 4.0 + LEGEND * entries.len() as f64 } else { 0.0 };
        let mut svg = open(&self.title, HEIGHT + legend);
        frame.draw(&mut svg, self);
        for (value, label) in self.guides.iter().filter(|(value, _)| value.is_finite()) {
            let (at, left, right) = (frame.y(*value), frame.left, frame.right);
            let text = if at < frame.top + 16.0 { at + 14.0 } else { at - 4.0 };
            let _ = write!(svg, "<path class=\"guide\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>");
            let _ =
                write!(svg, "<text class=\"halo\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>", left + 4.0, escape(label));
        }
        svg.push_str("</g><g class=\"lines\">");
        // The faint ones lie below.
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by_key(|place| self.series[*place].weight != Weight::Seed);
        for place in order {
            let series = &self.series[place];
            frame.series(&mut svg, place, self.look(place), series, &thinned(&self.kept(series), POINTS));
        }
        svg.push_str("</g><g class=\"names\">");
        if self.is_scatter() {
            frame.names(&mut svg, self, &entries);
        } else if self.has_end_labels() {
            frame.ends(&mut svg, self, &entries);
        }
        svg.push_str("</g>");
        for (place, entry) in entries.iter().enumerate().filter(|_| below) {
            let at = HEIGHT + 8.0 + LEGEND * place as f64;
            entry.key(&mut svg, at);
            let _ = write!(svg, "<text x=\"62\" y=\"{:.1}\">{}</text>", at + 4.5, escape(entry.name));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Entry<'_> {
    /// How its series are drawn, over 40 units from 12 on.
    pub(super) fn key(&self, svg: &mut String, at: f64) {
        if self.mark == Mark::Line {
            stroke(svg, self.look, self.width, &format!("M12 {at:.1}H52"));
        }
        let mut shape = String::new();
        marker(&mut shape, self.look.hue, 32.0, at);
        outline(svg, self.look, &shape);
    }
}

fn finite(value: &f64) -> bool {
    value.is_finite()
}

/// The plot's place and scales.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    pub(super) x: Axis,
    pub(super) y: Axis,
}

/// A rectangle: left, top, right, bottom.
type Box4 = [f64; 4];

impl Frame {
    fn x(&self, value: f64) -> f64 {
        self.left + (self.right - self.left) * self.x.place(value)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y.place(value)
    }

    /// Axes and grid, in a group that stays open for the guides.
    fn draw(&self, svg: &mut String, chart: &Chart) {
        let Self { left, right, bottom, .. } = self;
        svg.push_str("<g class=\"axes\">");
        for tick in self.y.ticks(chart.unit) {
            let (at, text) = (self.y(tick), chart.unit.text(tick));
            let _ = write!(svg, "<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>");
            let (x, y) = (left - 6.0, at + 4.5);
            let _ = write!(svg, "<text class=\"soft\" text-anchor=\"end\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
        }
        let _ = write!(svg, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>");
        let mut free = 0.0;
        for tick in self.x.ticks(chart.x_unit) {
            let (at, low, text) = (self.x(tick), bottom + 17.0, chart.x_unit.text(tick));
            let _ = write!(svg, "<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/>");
            // A number that would touch the one before is left out, or one that would not be whole.
            let half = 0.5 * CHARACTER * text.chars().count() as f64;
            if at - half < free || at + half > WIDTH {
                continue;
            }
            free = at + half + 12.0;
            let _ =
                write!(svg, "<text class=\"soft\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{low:.1}\">{text}</text>");
        }
        let (middle, low) = (0.5 * (left + right), bottom + 35.0);
        let scale = |axis: &Axis| if axis.logarithmic { " (logarithmic)" } else { "" };
        let (x, y) = (escape(&chart.x), escape(&chart.y));
        let of = scale(&self.x);
        let _ = write!(svg, "<text text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{low:.1}\">{x}{of}</text>");
        let _ = write!(svg, "<text x=\"2\" y=\"14\">{y}{}</text>", scale(&self.y));
    }

    fn series(&self, svg: &mut String, place: usize, look: Look, series: &Series, points: &[(f64, Option<f64>)]) {
        let at = |(x, y): &(f64, Option<f64>)| Some((self.x(*x), self.y(y.filter(finite)?)));
        let points: Vec<Option<(f64, f64)>> = points.iter().map(at).collect();
        let drawn: Vec<(f64, f64)> = points.iter().flatten().copied().collect();
        let faint = if series.weight == Weight::Seed { " opacity=\".5\"" } else { "" };
        let _ = write!(svg, "<g data-s=\"{place}\"{faint}>");
        if series.mark == Mark::Line {
            let (mut path, mut pen_down) = (String::new(), false);
            for point in &points {
                if let Some((x, y)) = point {
                    let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
                }
                pen_down = point.is_some();
            }
            stroke(svg, look, series.width(), &path);
        }
        // Few enough on a line to tell lines apart without hiding them, the last one always.
        let every = if series.mark == Mark::Points { 1 } else { drawn.len().div_ceil(5).max(1) };
        let mut marks = String::new();
        let marked = drawn.iter().rev().step_by(every).filter(|_| series.weight != Weight::Seed);
        marked.for_each(|(x, y)| marker(&mut marks, look.hue, *x, *y));
        let mut bars = String::new();
        for spread in &series.spreads {
            let (x, y) = (self.x(spread.at.0), self.y(spread.at.1));
            if let Some([low, high]) = spread.y.filter(|ends| ends.iter().all(finite)) {
                let (low, high) = (self.y(low), self.y(high));
                let _ = write!(bars, "M{:.1} {low:.1}h6m-3 0V{high:.1}m-3 0h6", x - 3.0);
            }
            if let Some([low, high]) = spread.x.filter(|ends| ends.iter().all(finite)) {
                // On a logarithmic axis there is no 0 to reach down to.
                let low = if self.x.logarithmic { low.max(self.x.low) } else { low };
                let (low, high) = (self.x(low), self.x(high));
                let _ = write!(bars, "M{low:.1} {:.1}v6m0 -3H{high:.1}m0 -3v6", y - 3.0);
            }
        }
        outline(svg, look, &bars);
        outline(svg, look, &marks);
        svg.push_str("</g>");
    }

    /// Names at the right, beside the ends of their series, moved apart where they would overlap.
    fn ends(&self, svg: &mut String, chart: &Chart, entries: &[Entry<'_>]) {
        const LINE: f64 = 15.0;
        let end = |entry: &Entry<'_>| {
            let of = |series: &&Series| series.entry() == entry.name;
            let means = |series: &&Series| series.weight != Weight::Seed;
            let ends = |series: &Series| series.points.iter().rev().find_map(|(x, y)| Some((*x, y.filter(finite)?)));
            let mut shown = chart.series.iter().filter(of).filter(means).chain(chart.series.iter().filter(of));
            shown.find_map(ends)
        };
        let place = |entry| end(entry).map(|(x, y)| (self.y(y), (self.x(x), self.y(y)), entry));
        let mut labels: Vec<(f64, (f64, f64), &Entry<'_>)> = entries.iter().filter_map(place).collect();
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
        for (at, (x, y), entry) in labels {
            let (colour, start, name) = (entry.look.colour(), self.right + 14.0, escape(entry.name));
            let _ = write!(
                svg,
                "<path d=\"M{:.1} {y:.1}L{:.1} {at:.1}\" stroke=\"{colour}\" stroke-width=\".8\" opacity=\".6\"/>",
                x + 4.0,
                start - 3.0
            );
            let _ = write!(
                svg,
                "<text class=\"halo\" style=\"fill:{colour}\" x=\"{start:.1}\" y=\"{:.1}\">{name}</text>",
                at + 4.5
            );
        }
    }

    /// Names beside the last points of their series, where there is room; the legend has all.
    fn names(&self, svg: &mut String, chart: &Chart, entries: &[Entry<'_>]) {
        let last = |series: &Series| {
            series.points.iter().rev().find_map(|(x, y)| Some((self.x(*x), self.y(y.filter(finite)?))))
        };
        let around = |x: f64, y: f64| [x - 5.0, y - 5.0, x + 5.0, y + 5.0];
        let mut taken: Vec<Box4> = Vec::new();
        for (x, y) in chart.values() {
            taken.push(around(self.x(x), self.y(y)));
        }
        for (place, entry) in entries.iter().enumerate() {
            let Some((x, y)) = chart.series.iter().rev().filter(|of| of.entry() == entry.name).find_map(last) else {
                continue;
            };
            let width = CHARACTER * entry.name.chars().count() as f64;
            // Left end and baseline of the places that are tried.
            let (right, left, middle) = (x + 9.0, x - 9.0 - width, x - 0.5 * width);
            let places = [(right, y + 4.5), (left, y + 4.5), (middle, y - 9.0), (middle, y + 19.0)];
            let further = (1..6).flat_map(|line| [-15.0, 15.0].map(|down| f64::from(line) * down));
            let further = further.flat_map(|down| [(right + 8.0, y + 4.5 + down), (left - 8.0, y + 4.5 + down)]);
            let area = |(start, base): (f64, f64)| [start, base - 12.0, start + width, base + 3.0];
            let is_free = |at: &(f64, f64)| {
                let [l, t, r, b] = area(*at);
                let inside = l >= self.left && r <= WIDTH && t >= self.top - 8.0 && b <= self.bottom;
                inside && taken.iter().all(|[tl, tt, tr, tb]| r <= *tl || l >= *tr || b <= *tt || t >= *tb)
            };
            if let Some(at) = places.into_iter().chain(further).find(is_free) {
                taken.push(area(at));
                let (colour, name) = (entry.look.colour(), escape(entry.name));
                let edge = if at.0 > x { at.0 - 2.0 } else { at.0 + width + 2.0 };
                if (at.1 - 4.5 - y).abs() > 20.0 {
                    let _ = write!(
                        svg,
                        "<path data-e=\"{place}\" d=\"M{x:.1} {y:.1}L{edge:.1} {:.1}\" stroke=\"{colour}\" stroke-width=\".8\" opacity=\".6\"/>",
                        at.1 - 4.5
                    );
                }
                let _ = write!(
                    svg,
                    "<text class=\"halo\" data-e=\"{place}\" style=\"fill:{colour}\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                    at.0, at.1
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg;

    fn chart(points: Vec<(f64, Option<f64>)>) -> Chart {
        Chart {
            title: "a < b".to_owned(),
            x: "step".to_owned(),
            x_unit: Unit::Steps,
            y: "loss".to_owned(),
            series: vec![Series::line("run", points)],
            ..Chart::default()
        }
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
    fn a_file_of_its_own_has_its_styles() {
        let svg = svg::standalone(&chart(vec![(1.0, Some(2.0))]).svg());
        assert!(svg.starts_with("<?xml") && svg.contains("--s0:") && svg.contains("<title>a &lt; b</title>"));
        assert!(svg.find("<style>").unwrap() < svg.find("<title>").unwrap());
    }
}
