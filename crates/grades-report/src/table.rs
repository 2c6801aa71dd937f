//! A table of figures, written as Markdown, CSV, JSON or HTML.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::axis::Unit;
use crate::number;
use crate::page::escape;

/// A mean over several runs with its deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The arithmetic mean.
    pub mean: f64,
    /// The sample standard deviation (n − 1); `None` of a single value.
    pub deviation: Option<f64>,
}

impl Mean {
    /// Of some values; `None` of no value.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, deviation })
    }
}

/// What stands in one place of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing, shown as a dash.
    Empty,
    /// Words.
    Text(String),
    /// A number, shown with so many decimals.
    Number(f64, usize),
    /// A number, shown with the few digits that count.
    Short(f64),
    /// A number, shown with its unit.
    Quantity(f64, Unit),
    /// A mean ± deviation, shown with so many decimals.
    Mean(Mean, usize),
    /// A mean ± deviation of shares from 0 to 1, shown as percentages with so many decimals.
    Share(Mean, usize),
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A whole number.
    #[must_use]
    pub fn count(count: u64) -> Self {
        Self::Number(count as f64, 0)
    }

    /// A number that may be missing.
    #[must_use]
    pub fn number(value: Option<f64>, decimals: usize) -> Self {
        value.map_or(Self::Empty, |value| Self::Number(value, decimals))
    }

    /// A number that may be missing, shown with the few digits that count.
    #[must_use]
    pub fn short(value: Option<f64>) -> Self {
        value.map_or(Self::Empty, Self::Short)
    }

    /// A number that may be missing, shown with its unit.
    #[must_use]
    pub fn quantity(value: Option<f64>, unit: Unit) -> Self {
        value.map_or(Self::Empty, |value| Self::Quantity(value, unit))
    }

    /// Mean ± deviation of some values; empty of none.
    #[must_use]
    pub fn mean(values: &[f64], decimals: usize) -> Self {
        Mean::of(values).map_or(Self::Empty, |mean| Self::Mean(mean, decimals))
    }

    /// As a reader sees it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Empty => "–".to_owned(),
            Self::Text(text) => text.clone(),
            Self::Number(value, decimals) => number::fixed(*value, *decimals),
            Self::Short(value) => number::short(*value),
            Self::Quantity(value, Unit::Seconds) => number::seconds(*value),
            Self::Quantity(value, unit) => unit.text(*value),
            Self::Share(Mean { mean, deviation }, decimals) => {
                let percent = Mean { mean: 100.0 * mean, deviation: deviation.map(|deviation| 100.0 * deviation) };
                Self::Mean(percent, *decimals).shown()
            }
            Self::Mean(Mean { mean, deviation: None }, decimals) => number::fixed(*mean, *decimals),
            Self::Mean(Mean { mean, deviation: Some(deviation) }, decimals) => {
                format!("{} ± {}", number::fixed(*mean, *decimals), number::fixed(*deviation, *decimals))
            }
        }
    }

    /// As a program reads it: numbers in full, a mean as `{mean, std}`.
    #[must_use]
    pub fn value(&self) -> Value {
        match self {
            Self::Empty => Value::Null,
            Self::Text(text) => json!(text),
            Self::Number(value, 0) if value.fract() == 0.0 && value.abs() < 9e15 => json!(*value as i64),
            Self::Number(value, _) | Self::Short(value) | Self::Quantity(value, _) => json!(value),
            Self::Mean(Mean { mean, deviation }, _) | Self::Share(Mean { mean, deviation }, _) => {
                json!({ "mean": mean, "std": deviation })
            }
        }
    }

    /// The number by which a reader sorts it.
    fn sorted_by(&self) -> Option<f64> {
        match self {
            Self::Empty | Self::Text(_) => None,
            Self::Number(value, _) | Self::Short(value) | Self::Quantity(value, _) => Some(*value),
            Self::Mean(of, _) | Self::Share(of, _) => Some(of.mean),
        }
    }

    fn is_words(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// A column: its key for programs and its title for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The key in CSV and JSON. Dots nest in JSON: `accuracy.piqa` is `{"accuracy": {"piqa": …}}`.
    pub key: String,
    /// The title in Markdown and HTML.
    pub title: String,
}

/// Rows of cells under named columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What the table shows, in one phrase.
    pub caption: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows. Columns are `(key, title)`.
    pub fn new<K: Into<String>, T: Into<String>>(
        caption: impl Into<String>,
        columns: impl IntoIterator<Item = (K, T)>,
    ) -> Self {
        let column = |(key, title): (K, T)| Column { key: key.into(), title: title.into() };
        Self { caption: caption.into(), columns: columns.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells that are missing are empty, and those beyond the last column are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().take(self.columns.len()).collect();
        row.resize(self.columns.len(), Cell::Empty);
        self.rows.push(row);
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows, each with a cell for every column.
    #[must_use]
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// With the columns of another table after its own. The first `shared` columns of both name the rows; where the other
    /// table has no such row, its columns are empty.
    #[must_use]
    pub fn beside(&self, other: &Self, shared: usize) -> Self {
        let columns = self.columns.iter().chain(other.columns.iter().skip(shared)).cloned().collect();
        let rows = self.rows.iter().map(|row| {
            let same = other.rows.iter().find(|of| of.iter().zip(row).take(shared).all(|(a, b)| a == b));
            let rest = same.map_or_else(Vec::new, |same| same.iter().skip(shared).cloned().collect());
            row.iter().cloned().chain(rest).collect::<Vec<_>>()
        });
        let mut table = Self { caption: self.caption.clone(), columns, rows: Vec::new() };
        rows.for_each(|row| table.row(row));
        table
    }

    /// With at most about `most` rows: every so many, and the last.
    #[must_use]
    pub fn thinned(&self, most: usize) -> Self {
        let every = self.rows.len().div_ceil(most.max(1)).max(1);
        if every == 1 {
            return self.clone();
        }
        let last = self.rows.len() - 1;
        let kept = self.rows.iter().enumerate().filter(|(index, _)| index % every == 0 || *index == last);
        Self {
            caption: format!("{} (one of {every} rows; --csv writes all)", self.caption),
            columns: self.columns.clone(),
            rows: kept.map(|(_, row)| row.clone()).collect(),
        }
    }

    /// Whether a column holds words, and so is aligned to the left.
    fn is_words(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row[column].is_words())
    }

    /// As a GitHub table, its columns padded so that the text reads well too.
    #[must_use]
    pub fn markdown(&self) -> String {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
        let mut lines: Vec<Vec<String>> = vec![self.columns.iter().map(|column| escaped(&column.title)).collect()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(|cell| escaped(&cell.shown())).collect()));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for (index, line) in lines.iter().enumerate() {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let _ = match self.is_words(column) {
                    true => write!(text, "| {cell:<width$} "),
                    false => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if index == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let rule = "-".repeat(width - 1);
                    text.push_str(&if self.is_words(column) { format!("| {rule}- ") } else { format!("| {rule}: ") });
                }
                text.push_str("|\n");
            }
        }
        text
    }

    /// As CSV with numbers in full. A mean takes two columns, `key` and `key_std`.
    #[must_use]
    pub fn csv(&self) -> String {
        let means: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().any(|row| matches!(row[column], Cell::Mean(..) | Cell::Share(..))))
            .collect();
        let mut header = Vec::new();
        for (column, &mean) in self.columns.iter().zip(&means) {
            header.push(column.key.clone());
            header.extend(mean.then(|| format!("{}_std", column.key)));
        }
        let mut lines = vec![header];
        for row in &self.rows {
            let mut line = Vec::new();
            for (cell, &mean) in row.iter().zip(&means) {
                let deviation = match cell {
                    Cell::Mean(of, _) | Cell::Share(of, _) => of.deviation.map(|deviation| deviation.to_string()),
                    _ => None,
                };
                line.push(match cell {
                    Cell::Empty => String::new(),
                    Cell::Text(text) => text.clone(),
                    Cell::Number(value, _) | Cell::Short(value) | Cell::Quantity(value, _) => value.to_string(),
                    Cell::Mean(of, _) | Cell::Share(of, _) => of.mean.to_string(),
                });
                line.extend(mean.then(|| deviation.unwrap_or_default()));
            }
            lines.push(line);
        }
        crate::csv::text(lines)
    }

    /// As a list of objects with numbers in full.
    #[must_use]
    pub fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let mut object = Map::new();
            for (column, cell) in self.columns.iter().zip(row) {
                let path: Vec<&str> = column.key.split('.').collect();
                insert(&mut object, &path, cell.value());
            }
            Value::Object(object)
        };
        self.rows.iter().map(object).collect()
    }

    /// With these columns alone, in this order; those that there are not are left out.
    #[must_use]
    pub fn select(&self, keys: &[&str]) -> Self {
        let place = |key: &&str| self.columns.iter().position(|column| column.key == **key);
        let places: Vec<usize> = keys.iter().filter_map(place).collect();
        let columns = places.iter().map(|place| self.columns[*place].clone()).collect();
        let rows = self.rows.iter().map(|row| places.iter().map(|place| row[*place].clone()).collect()).collect();
        Self { caption: self.caption.clone(), columns, rows }
    }

    /// As an HTML table that scrolls sideways where it does not fit. A column of words heads the row if it is the first.
    #[must_use]
    pub fn html(&self) -> String {
        self.markup(false)
    }

    /// The same, which the script of a page lets its reader sort by any column.
    #[must_use]
    pub fn sortable_html(&self) -> String {
        self.markup(true)
    }

    fn markup(&self, sortable: bool) -> String {
        let caption = escape(&self.caption);
        let kind = if sortable { " class=\"sortable\"" } else { "" };
        let mut html = format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table{kind}><caption>{caption}</caption>\n<thead><tr>"
        );
        // Numbers are the rule, of which there may be many.
        let class = |column: usize| if self.is_words(column) { " class=\"w\"" } else { "" };
        for (index, column) in self.columns.iter().enumerate() {
            let _ = write!(html, "<th scope=\"col\"{}>{}</th>", class(index), escape(&column.title));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let shown = escape(&cell.shown());
                let value = match cell.sorted_by().filter(|_| sortable) {
                    Some(value) => format!(" data-v=\"{value}\""),
                    None => String::new(),
                };
                let _ = match (index, cell.is_words()) {
                    (0, true) => write!(html, "<th scope=\"row\">{shown}</th>"),
                    _ => write!(html, "<td{}{value}>{shown}</td>", class(index)),
                };
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
        html
    }
}

/// Puts a value where the path leads. A part of the path that is a value already is replaced.
fn insert(object: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        object.insert((*first).to_owned(), value);
        return;
    }
    let inner = object.entry(*first).or_insert_with(|| json!({}));
    if !inner.is_object() {
        *inner = json!({});
    }
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(
            "Methods",
            [("method", "Method"), ("accuracy.piqa", "PIQA"), ("seconds", "Time (s)"), ("steps", "Steps")],
        );
        // Mean 0.5, deviations ±0.1 around it: the sample deviation is √(0.02 / 2) = 0.1.
        table.row([
            Cell::text("grades | <b>"),
            Cell::mean(&[0.4, 0.5, 0.6], 3),
            Cell::mean(&[2.0], 1),
            Cell::count(60),
        ]);
        table.row([Cell::text("none"), Cell::Empty, Cell::Number(-1.26, 1)]);
        table
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let Mean { mean, deviation } = Mean::of(&[1.0, 2.0, 6.0]).unwrap();
        // (4 + 1 + 9) / 2 = 7.
        assert_eq!((mean, deviation), (3.0, Some(7f64.sqrt())));
        assert_eq!(Mean::of(&[4.0]), Some(Mean { mean: 4.0, deviation: None }));
        assert_eq!(Mean::of(&[]), None);
    }

    #[test]
    fn markdown_is_padded_and_escaped() {
        let expected = "\
| Method        |          PIQA | Time (s) | Steps |\n\
| ------------- | ------------: | -------: | ----: |\n\
| grades \\| <b> | 0.500 ± 0.100 |      2.0 |    60 |\n\
| none          |             – |     −1.3 |     – |\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn csv_has_full_numbers_and_deviations_in_columns_of_their_own() {
        let csv = table().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "method,accuracy.piqa,accuracy.piqa_std,seconds,seconds_std,steps");
        assert_eq!(lines[2], "none,,,-1.26,,");
        let first: Vec<&str> = lines[1].split(',').collect();
        assert_eq!((first[0], first[1], first[3], first[5]), ("grades | <b>", "0.5", "2", "60"));
        assert!((first[2].parse::<f64>().unwrap() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn json_nests_dotted_keys() {
        let rows = table().json();
        assert_eq!(rows[0]["accuracy"]["piqa"]["mean"], 0.5);
        assert_eq!(rows[0]["seconds"], json!({ "mean": 2.0, "std": null }));
        assert_eq!(rows[0]["steps"], 60);
        assert_eq!(rows[1], json!({ "method": "none", "accuracy": { "piqa": null }, "seconds": -1.26, "steps": null }));
    }

    #[test]
    fn shares_are_shown_as_percentages_and_tables_join_by_their_first_columns() {
        let share = Cell::Share(Mean { mean: 0.6125, deviation: Some(0.01) }, 1);
        assert_eq!((share.shown(), share.value()), ("61.3 ± 1.0".to_owned(), json!({ "mean": 0.6125, "std": 0.01 })));
        let mut other = Table::new("Cost", [("method", "Method"), ("bytes", "Bytes")]);
        other.row([Cell::text("none"), Cell::count(7)]);
        let joined = table().beside(&other, 1);
        let bytes: Vec<_> = joined.json().as_array().unwrap().iter().map(|row| row["bytes"].clone()).collect();
        assert_eq!(bytes, [Value::Null, 7.into()]);
        assert_eq!(joined.columns().len(), 5);
    }

    #[test]
    fn columns_are_chosen_by_their_keys() {
        let chosen = table().select(&["steps", "no such", "method"]);
        assert_eq!(chosen.csv(), "steps,method\n60,grades | <b>\n,none\n");
    }

    #[test]
    fn a_thinned_table_keeps_its_ends() {
        let mut table = Table::new("t", [("n", "n")]);
        (0..10).for_each(|n| table.row([Cell::count(n)]));
        assert_eq!(table.thinned(10), table);
        let thin: Vec<String> = table.thinned(4).rows().iter().map(|row| row[0].shown()).collect();
        assert_eq!(thin, ["0", "3", "6", "9"]);
        let thin: Vec<String> = table.thinned(5).rows().iter().map(|row| row[0].shown()).collect();
        assert_eq!(thin, ["0", "2", "4", "6", "8", "9"]);
    }

    #[test]
    fn html_is_escaped_and_rows_have_heads() {
        let html = table().html();
        assert!(html.contains("<th scope=\"row\">grades | &lt;b&gt;</th><td>0.500 ± 0.100</td>"), "{html}");
        assert!(!html.contains("<b>"));
        assert_eq!(html.matches("<tr>").count(), 3);
        // What it is sorted by is the number in full.
        assert!(table().sortable_html().contains("<td data-v=\"-1.26\">−1.3</td>"));
        assert!(!html.contains("data-v"));
    }
}
