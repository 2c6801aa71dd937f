//! A comparison as one HTML file, in the style of a run's report.

use std::fmt::Write as _;
use std::path::Path;

use super::outcome::Comparison;
use grades_report::Figure;
use grades_report::page::{escape, page};

/// The page of a comparison in `folder`, with `maps` of a sweep.
pub(super) fn html(title: &str, comparison: &Comparison, folder: &Path, maps: &[Figure]) -> String {
    let mut body = format!("<h1>{title}</h1>\n");
    let made: usize = comparison.rows.iter().map(|row| row.runs.len()).sum();
    if made < comparison.planned {
        let _ = writeln!(body, "<p>{made} of {} runs so far.</p>", comparison.planned);
    }
    // The settings of a sweep are too many for one figure, and its maps say the same.
    let against = if maps.is_empty() { comparison.against_cost() } else { Vec::new() };
    group(&mut body, "Maps", maps);
    group(&mut body, "What each method came to, and what it cost", &against);
    let _ = write!(body, "<h2>Summary</h2>\n{}", comparison.summary().sortable_html());
    body.push_str("<h2>What was found</h2>\n<ul>\n");
    for finding in comparison.findings() {
        let _ = writeln!(body, "<li>{}</li>", escape(&finding));
    }
    body.push_str("</ul>\n");
    for (title, mut table) in comparison.tables() {
        // A caption would be as wide as its table, which scrolls.
        let caption = std::mem::replace(&mut table.caption, title.to_owned());
        let _ = write!(body, "<h2>{title}</h2>\n<p>{}.</p>\n{}", escape(&caption), table.sortable_html());
    }
    // The runs of a sweep begin where they fork.
    let (clocks, overlays) = if maps.is_empty() { comparison.overlays() } else { Default::default() };
    body.push_str(&clocks);
    let figures: Vec<Figure> = [comparison.time()].into_iter().chain(overlays).collect();
    group(&mut body, "Figures", &figures);
    body.push_str("<h2>Runs</h2>\n<ul>\n");
    for (_, run) in comparison.rows.iter().flat_map(|row| &row.runs) {
        let name = run.run.strip_prefix(folder).unwrap_or(&run.run).to_string_lossy();
        let name = escape(&name);
        let _ = writeln!(body, "<li><a href=\"{name}/report.html\">{name}</a></li>");
    }
    body.push_str("</ul>\n");
    page(&format!("{title} · GradES"), &body, None)
}

/// Figures under a heading; nothing where there are none.
fn group(body: &mut String, title: &str, figures: &[Figure]) {
    if !figures.is_empty() {
        let _ = write!(body, "<h2>{title}</h2>\n<div class=\"figures\">\n");
        figures.iter().for_each(|figure| body.push_str(&figure.html()));
        body.push_str("</div>\n");
    }
}
