//! `grades configs`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::output;

/// The files of `configs/` by name, without their ending. A test of this crate makes it of them.
const CONFIGS: &str = include_str!("configs.json");

/// What tells editors where a config's schema is.
const SCHEMA_LINE: &str = "# yaml-language-server: $schema=";

/// List the ready configs, which the program brings along, or copy one.
///
/// Example: grades configs first --out my.yaml, and then grades train my.yaml model=HuggingFaceTB/SmolLM2-135M
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A config of the list, such as first or paper/qwen3-0.6b-lora: it is printed.
    name: Option<String>,
    /// Write it into this new file instead.
    #[arg(long, value_name = "FILE.yaml", requires = "name")]
    out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let configs: Map<String, Value> = serde_json::from_str(CONFIGS).context("the configs are damaged")?;
        let text = |name: &str| configs.get(name).and_then(Value::as_str);
        let Some(name) = &self.name else {
            let lines = || configs.iter().filter_map(|(name, text)| Some((name, about(text.as_str()?))));
            if json {
                let list: Vec<Value> = lines().map(|(name, about)| json!({ "name": name, "about": about })).collect();
                return output::print_json(&json!({ "configs": list }));
            }
            let width = configs.keys().map(String::len).max().unwrap_or(0);
            lines().for_each(|(name, about)| output::print(&format!("{name:width$}  {about}")));
            return Ok(());
        };
        let Some(text) = text(name.trim_end_matches(".yaml")) else {
            let names: Vec<&str> = configs.keys().map(String::as_str).collect();
            bail!("there is no config `{name}`; there are {}", names.join(", "));
        };
        let text = as_copied(text);
        if let Some(out) = &self.out {
            grades_fs::create(out, &text)?;
        }
        match (json, &self.out) {
            (true, out) => output::print_json(&json!({ "name": name, "out": out, "yaml": text }))?,
            (false, Some(out)) => output::print(&format!("{} is there; next: grades train {0}", out.display())),
            (false, None) => output::print_piece(&text),
        }
        Ok(())
    }
}

/// The first sentence of a config.
fn about(text: &str) -> &str {
    let first = text.lines().find(|line| line.starts_with("# ") && !line.starts_with(SCHEMA_LINE));
    first.unwrap_or_default().trim_start_matches("# ")
}

/// A config as it is for another folder, where no schema lies beside it.
fn as_copied(text: &str) -> String {
    match text.strip_prefix(SCHEMA_LINE).and_then(|rest| rest.split_once('\n')) {
        Some((_, rest)) => {
            format!("{SCHEMA_LINE}grades.schema.json\n# For editors: grades schema > grades.schema.json\n{rest}")
        }
        None => text.to_owned(),
    }
}
