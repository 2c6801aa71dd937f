//! `grades preprocess`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use grades_report::record::{Piece, ShownSample};
use grades_report::table::{Cell, Table};
use grades_report::{page, samples};
use grades_train::config::Config;
use grades_train::train::Preview;

use crate::output;

/// Ranges of the histogram of lengths.
const BINS: usize = 12;

/// Characters of its longest bar.
const BAR: usize = 40;

/// Show what a run trains on: samples as the model reads them, their lengths, and what is left out.
///
/// What has a loss stands in [brackets], on a terminal also in colour (unless NO_COLOR is set). Neither are weights read nor
/// is anything trained. With dataset_prepared_path in the config the encoded samples are kept there, for runs to find.
///
/// Example: grades preprocess configs/vqa.yaml model=small-vlm --debug 3 --html samples.html
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The config, a YAML file.
    config: PathBuf,
    /// Options that replace those of the file: key=value, dotted for nested keys.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Show so many samples.
    #[arg(long, value_name = "N", default_value_t = 0)]
    debug: usize,
    /// Write the same to this file, with small copies of the pictures. Only an older report is replaced.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        if let Some(path) = &self.html {
            page::check_free(path)?;
        }
        let preview = Preview::of(&Config::load(&self.config, &self.overrides)?, self.debug)?;
        if let Some(path) = &self.html {
            page::save(path, &html(&preview, &self.config.display().to_string()))?;
            output::log(&format!("written to {}", path.display()));
        }
        if json {
            return output::print_json(&preview);
        }
        let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        for (number, sample) in (1..).zip(&preview.shown) {
            output::print(&format!("── sample {number}: {} tokens, {} learnt", sample.tokens, sample.learnt));
            output::print(&format!("{}\n", text(sample, coloured)));
        }
        for (what, value) in facts(&preview) {
            output::print(&format!("{what:<12} {value}"));
        }
        output::print("");
        let histogram = preview.histogram(BINS);
        let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        for (range, count) in histogram {
            let bar = "█".repeat((count * BAR).div_ceil(most));
            let line = format!("{:>6} … {:<6} {count:>7} {bar}", range.start, range.end - 1);
            output::print(line.trim_end());
        }
        Ok(())
    }
}

/// A sample in a terminal; what is not text or colour in it is shown, so that it cannot steer the terminal.
fn text(sample: &ShownSample, coloured: bool) -> String {
    let plain = |text: &str| -> String {
        let shown = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
        text.chars().map(shown).collect()
    };
    let piece = |piece: &Piece| match piece {
        Piece::Read(text) => plain(text),
        Piece::Learnt(text) if coloured => format!("\u{1b}[1;32m[{}]\u{1b}[0m", plain(text)),
        Piece::Learnt(text) => format!("[{}]", plain(text)),
        Piece::Picture { number, tokens } => format!("⟨picture {}: {tokens} tokens⟩", number + 1),
    };
    sample.pieces.iter().map(piece).collect()
}

/// What is known of the whole.
fn facts(preview: &Preview) -> Vec<(&'static str, String)> {
    let Preview { samples, tokens, learnt, sequence_len, .. } = preview;
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    let packing = match preview.packing {
        None => "none; rows are as long as their samples, so nothing is padded".to_owned(),
        Some(packed) => {
            format!("{} rows of {sequence_len} tokens, {:.1} % of them filled", packed.rows, 100.0 * packed.efficiency)
        }
    };
    let first = if preview.streaming { "of a stream the first " } else { "" };
    let duplicates = match (preview.duplicates, preview.deduplicated) {
        (0, _) => "none".to_owned(),
        (count, true) => format!("{count} samples that equal an earlier one are left out"),
        (count, false) => {
            format!("{count} samples equal an earlier one (`dataset_exact_deduplication: true` leaves them out)")
        }
    };
    let mut facts = vec![
        ("samples", format!("{first}{samples}, and {} kept for validation", preview.validation_samples)),
        ("tokens", format!("{tokens}, of them {learnt} learnt ({:.1} %)", share(*learnt, *tokens))),
        (
            "too long",
            format!(
                "{} left out and {} cut at {sequence_len} tokens",
                preview.dropped_samples, preview.truncated_samples
            ),
        ),
        ("duplicates", duplicates),
        ("bad rows", format!("{} left out (on_bad_row)", preview.bad_rows)),
        ("packing", packing),
    ];
    facts.extend(preview.contamination.iter().map(|found| ("benchmarks", found.to_string())));
    facts
}

fn html(preview: &Preview, config: &str) -> String {
    let mut body = format!("<h1>{}</h1>\n", page::escape(config));
    let mut table = Table::new("What is trained on", [("what", "What"), ("value", "Value")]);
    facts(preview).into_iter().for_each(|(what, value)| table.row([Cell::text(what), Cell::text(value)]));
    body.push_str(&table.html());
    body.push_str("<h2>Lengths</h2>\n");
    let mut lengths =
        Table::new("Samples by their tokens", [("tokens", "Tokens"), ("samples", "Samples"), ("bar", "")]);
    let histogram = preview.histogram(BINS);
    let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (range, count) in histogram {
        let bar = "█".repeat((count * BAR).div_ceil(most));
        let of = format!("{} … {}", range.start, range.end - 1);
        lengths.row([Cell::text(of), Cell::count(count as u64), Cell::text(bar)]);
    }
    body.push_str(&lengths.html());
    body.push_str(&samples::html("Samples", &preview.shown));
    page::page(&format!("{config} · GradES"), &body, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_stands_in_brackets_and_nothing_steers_the_terminal() {
        let pieces = vec![
            Piece::Picture { number: 0, tokens: 4 },
            Piece::Read("what?\u{1b}[2J\n".into()),
            Piece::Learnt("a box".into()),
        ];
        let sample = ShownSample { pieces, ..ShownSample::default() };
        assert_eq!(text(&sample, false), "⟨picture 1: 4 tokens⟩what?\u{fffd}[2J\n[a box]");
        assert!(text(&sample, true).ends_with("\n\u{1b}[1;32m[a box]\u{1b}[0m"));
    }
}
