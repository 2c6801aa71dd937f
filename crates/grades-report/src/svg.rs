//! Drawings as SVG that charts have in common, and those that are no charts: a map of cells, and bars. Colours are variables of
//! the page's style, and never the only mark: cells and bars carry their numbers.

use std::fmt::Write as _;

use crate::number;
use crate::page::{self, escape};
use crate::series::Look;

pub(super) const WIDTH: f64 = 480.0;
/// The usual width of a character of the charts' font.
pub(super) const CHARACTER: f64 = 7.7;

pub(super) fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
        escape(title)
    )
}

pub(super) fn empty(title: &str) -> String {
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
    /// Its colour: that of the run or method that it is of.
    pub hue: usize,
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
        let colour = Look::nth(bar.hue).colour();
        let _ = write!(svg, "<rect x=\"4\" y=\"{top:.1}\" width=\"{solid:.1}\" height=\"15\" fill=\"{colour}\"/>");
        if outlined >= 0.5 {
            let start = 4.0 + solid;
            let _ = write!(
                svg,
                "<rect x=\"{start:.1}\" y=\"{top:.1}\" width=\"{outlined:.1}\" height=\"15\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_bars_carry_their_numbers() {
        let svg = map("m", &["0".into(), "1".into()], &["q".into()], &[vec![Some(12.0)], vec![None]]);
        assert!(svg.contains(">12</text>") && svg.contains(">–</text>"));
        let bar = Bar { name: "forward".into(), solid: 3.0, outlined: 1.0, text: "3 of 4".into(), hue: 0 };
        let svg = bars("b", &[bar]);
        // 468 wide in all: 351 and 117.
        assert!(svg.contains("width=\"351.0\"") && svg.contains("width=\"117.0\"") && svg.contains("3 of 4"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(map("m", &[], &[], &[]).contains("nothing was recorded"));
        assert!(bars("b", &[]).contains("nothing was recorded"));
    }
}
