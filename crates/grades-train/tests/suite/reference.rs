//! `docs/config.md`, the reference of a config's keys, is made from the declarations of the options.

use std::fs;
use std::path::{Path, PathBuf};

/// Where options are declared: the heading of a table, the file, the struct, and what stands before its keys.
const DECLARATIONS: [(&str, &str, &str, &str); 11] = [
    ("A run", "crates/grades-train/src/config/resolved.rs", "Config", ""),
    (
        "The schedule: `lr_scheduler_kwargs`",
        "crates/grades-train/src/schedule.rs",
        "LrSchedulerOptions",
        "lr_scheduler_kwargs.",
    ),
    ("The optimizer: `optim_args`", "crates/grades-train/src/config/optimizer.rs", "OptimArgs", "optim_args."),
    ("A data set", "crates/grades-train/src/data/format.rs", "DatasetSpec", "datasets.0."),
    ("Stopping: `method: grades`", "crates/grades/src/config.rs", "Config", "early_stopping."),
    (
        "Stopping: `method: validation_loss`",
        "crates/grades/src/policy/validation_loss.rs",
        "ValidationLossConfig",
        "early_stopping.",
    ),
    ("Stopping: `method: autofreeze`", "crates/grades/src/policy/autofreeze.rs", "AutoFreezeConfig", "early_stopping."),
    ("Stopping: `method: freezeout`", "crates/grades/src/policy/freezeout.rs", "FreezeOutConfig", "early_stopping."),
    (
        "Stopping: `method: layerwise_decay`",
        "crates/grades/src/policy/layerwise_decay.rs",
        "LayerwiseDecayConfig",
        "early_stopping.",
    ),
    ("Stopping: `method: lisa`", "crates/grades/src/policy/lisa.rs", "LisaConfig", "early_stopping."),
    ("Stopping: `method: budget`", "crates/grades/src/policy/budget.rs", "BudgetConfig", "early_stopping."),
];

const HEAD: &str = "\
# Every key of a config

Made from the declarations of the options, by `GRADES_WRITE_DOCS=1 cargo test --release -p grades-train --test suite \
reference`; a test keeps it true. `key=value` on the command line overrides a key, with dots between nested ones.
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fields of a struct with their documentation: lines `/// text` before `pub name: Type,`.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let start = source.find(&format!("pub struct {name} {{")).unwrap_or_else(|| panic!("there is no struct {name}"));
    let body = &source[start..start + source[start..].find("\n}").unwrap()];
    let (mut fields, mut text) = (Vec::new(), Vec::new());
    for line in body.lines().skip(1).map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            text.push(words.trim().to_owned());
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            assert!(!text.is_empty(), "{field} has no documentation");
            fields.push((field.to_owned(), std::mem::take(&mut text).join(" ")));
        }
    }
    fields
}

/// A link of rustdoc as its words.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let (words, after) = link.split_once("`]").unwrap();
        let after = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').unwrap().1,
            None => after,
        };
        plain += before;
        plain += &format!("`{words}`");
        rest = after;
    }
    plain + rest
}

fn reference() -> String {
    let mut page = HEAD.to_owned();
    for (heading, file, name, before) in DECLARATIONS {
        let source = fs::read_to_string(root().join(file)).unwrap();
        page += &format!("\n## {heading}\n\n| key | what |\n| --- | --- |\n");
        for (field, text) in fields(&source, name) {
            page += &format!("| `{before}{field}` | {} |\n", without_links(&text).replace('|', "\\|"));
        }
    }
    page
}

#[test]
fn the_reference_of_keys_is_that_of_the_declarations() {
    let (path, page) = (root().join("docs/config.md"), reference());
    if std::env::var_os("GRADES_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/config.md is not that of the declarations; its first line says how to write it again");
}
