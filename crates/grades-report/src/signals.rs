//! The figures of one run's matrices: their signals layer by layer, and when they froze.

use std::collections::BTreeMap;

use grades::{Role, Tower, UnitId};

use crate::axis::Unit;
use crate::chart::POINTS;
use crate::figure::Figure;
use crate::figures::{chart, distinct, over_steps};
use crate::number;
use crate::record::{Signals, UnitThreshold};
use crate::run::Run;
use crate::series::Series;
use crate::svg;
use crate::table::{Cell, Table};

/// What the signals are and what they are compared with.
pub(super) fn note(run: &Run) -> String {
    let units = &run.units;
    let signal = units.signal.as_deref().unwrap_or("signal").replace('_', " ");
    let norm = units.norm.as_ref().map_or(String::new(), |norm| format!(" in the {norm} norm"));
    let freezes = units.freezes.as_deref().map_or(String::new(), |side| {
        format!(" A matrix freezes when its signal is {side} its threshold τ (dotted); its line ends there.")
    });
    format!("The {signal} of each matrix{norm}.{freezes}")
}

/// A figure for each layer of the run at this place with its label; none where nothing was measured.
pub(super) fn layers(run: &Run, place: usize, prefix: &str) -> Vec<(String, Figure)> {
    if run.signals.is_empty() {
        return Vec::new();
    }
    let towers = distinct(run.units.units.iter().map(|unit| unit.unit.tower)).len();
    let mut layers: BTreeMap<(Tower, usize), Vec<UnitThreshold>> = BTreeMap::new();
    for unit in &run.units.units {
        layers.entry((unit.unit.tower, unit.unit.layer)).or_default().push(*unit);
    }
    let figure = |((tower, layer), units): ((Tower, usize), Vec<UnitThreshold>)| {
        let label = if towers > 1 { format!("{} {layer}", tower.name()) } else { layer.to_string() };
        let points = |unit: UnitId| {
            let at = |line: &Signals| Some((line.step as f64, *line.signals.get(&unit)?));
            run.signals.iter().filter_map(at).collect()
        };
        let line = |of: &UnitThreshold| Series::line(of.unit.role.name(), points(of.unit));
        let series = units.iter().map(|of| Series { runs: vec![place], ..line(of) }).collect();
        let title = format!("{} layer {layer}", tower.name());
        let mut chart = chart(&title, "signal", series, false, Unit::Number);
        (chart.guides, chart.detail) = (guides(&units), POINTS);
        let figure = over_steps(format!("{prefix}signals-{}-{layer:02}", tower.name()), "", chart);
        // There are many of them.
        (label, Figure { shown_rows: 50, ..figure })
    };
    layers.into_iter().map(figure).collect()
}

/// The thresholds of a layer, each once, with the roles that it is of where there are several.
fn guides(units: &[UnitThreshold]) -> Vec<(f64, String)> {
    let mut guides: Vec<(f64, Vec<&str>)> = Vec::new();
    for UnitThreshold { unit, threshold } in units {
        let Some(threshold) = threshold else { continue };
        match guides.iter_mut().find(|(value, _)| value == threshold) {
            Some((_, roles)) => roles.push(unit.role.name()),
            None => guides.push((*threshold, vec![unit.role.name()])),
        }
    }
    let single = guides.len() == 1;
    let label = |(value, roles): (f64, Vec<&str>)| {
        let of = if single { String::new() } else { format!(" of {}", roles.join(", ")) };
        (value, format!("τ{of} = {}", number::short(value)))
    };
    guides.into_iter().map(label).collect()
}

/// The step at which each matrix froze, layers × roles.
pub(super) fn map(run: &Run, prefix: &str) -> Figure {
    let units = || run.units.units.iter().map(|unit| unit.unit);
    let mut roles = distinct(units().map(|unit| unit.role));
    roles.sort();
    let rows = distinct(units().map(|unit| (unit.tower, unit.layer)));
    let towers = distinct(units().map(|unit| unit.tower)).len();
    let frozen = run.frozen_at();
    let cell = |(tower, layer): (Tower, usize), role: Role| {
        frozen.get(&UnitId { tower, layer, role }).map(|step| *step as f64)
    };
    let cells: Vec<Vec<Option<f64>>> =
        rows.iter().map(|row| roles.iter().map(|role| cell(*row, *role)).collect()).collect();
    let label = |(tower, layer): &(Tower, usize)| match towers {
        1 => layer.to_string(),
        _ => format!("{} {layer}", tower.name()),
    };
    let labels: Vec<String> = rows.iter().map(label).collect();
    let names: Vec<String> = roles.iter().map(|role| role.name().to_owned()).collect();
    let title = "Step at which each matrix froze";
    let columns = names.iter().map(|name| (name.clone(), name.clone()));
    let mut table = Table::new(title, [("layer".to_owned(), "Layer".to_owned())].into_iter().chain(columns));
    for (label, row) in labels.iter().zip(&cells) {
        table.row([Cell::text(label)].into_iter().chain(row.iter().map(|step| Cell::number(*step, 0))));
    }
    let note = "A row is a layer, a column a kind of matrix; the stronger the shade, the later; – trains to the end."
        .to_owned();
    let svg = svg::map(title, &labels, &names, &cells);
    Figure::fixed(format!("{prefix}freeze-map"), title, note, svg, table)
}
