//! `grades schema`.

use anyhow::bail;
use grades_train::config::schema::{self, Field};
use serde_json::{Value, json};

use crate::output;

/// Print the JSON Schema (2020-12) of a config, or look one of its keys up.
///
/// Editors with a YAML language server complete and check a config whose first line is
/// `# yaml-language-server: $schema=grades.schema.json`.
///
/// Example: grades schema > grades.schema.json
/// Example: grades schema --field early_stopping.tau
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A key, dotted for nested ones: what it is for, what it accepts, what holds where it is left out.
    #[arg(long, value_name = "KEY")]
    field: Option<String>,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let whole = schema::schema();
        let Some(key) = &self.field else {
            return if json { output::print_json(&whole) } else { print_pretty(&whole) };
        };
        let found = schema::fields(&whole, key);
        if found.is_empty() {
            let (parent, last) = key.rsplit_once('.').unwrap_or(("", key));
            let known = schema::keys(&whole, parent);
            match schema::nearest(last, &known) {
                _ if known.is_empty() => bail!("there is no key `{key}`, nor keys in `{parent}`"),
                Some(near) if parent.is_empty() => bail!("there is no key `{key}`; did you mean `{near}`?"),
                Some(near) => bail!("there is no key `{key}`; did you mean `{parent}.{near}`?"),
                None => bail!("there is no key `{key}`; there are {}", known.join(", ")),
            }
        }
        if json {
            let parts: Vec<Value> =
                found.iter().map(|part| json!({ "method": part.method, "schema": part.schema })).collect();
            return output::print_json(&json!({ "key": key, "found": parts }));
        }
        for (index, part) in found.iter().enumerate() {
            if index > 0 {
                output::print("");
            }
            print_field(key, part);
        }
        let within = schema::keys(&whole, key);
        if !within.is_empty() {
            output::print(&format!("  keys:    {}", within.join(", ")));
        }
        Ok(())
    }
}

fn print_pretty(value: &Value) -> anyhow::Result<()> {
    output::print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

fn print_field(key: &str, Field { method, schema }: &Field<'_>) {
    let method = method.map_or(String::new(), |method| format!(" (method: {method})"));
    output::print(&format!("{key}{method}"));
    if let Some(text) = schema["description"].as_str() {
        output::print(&format!("  {text}"));
    }
    output::print(&format!("  accepts: {}", accepts(schema)));
    if let Some(default) = schema.get("default") {
        output::print(&format!("  default: {default}"));
    }
}

/// What a schema accepts, in words.
fn accepts(schema: &Value) -> String {
    for of in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[of].as_array() {
            let mut words: Vec<String> = choices.iter().map(accepts).collect();
            words.dedup();
            return words.join("; or ");
        }
    }
    if let Some(value) = schema.get("const") {
        return plain(value);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(plain).collect::<Vec<_>>().join(", ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return "anything".to_owned(),
    };
    let word = |name: &&str| match *name {
        "integer" => format!("a whole number{}", bounds(schema)),
        "number" => format!("a number{}", bounds(schema)),
        "boolean" => "true or false".to_owned(),
        "string" => "text".to_owned(),
        "array" => format!("a list of: {}", accepts(&schema["items"])),
        "object" => match schema.pointer("/properties/method/const").and_then(Value::as_str) {
            Some(method) => format!("the options of method: {method}"),
            None => "keys of its own".to_owned(),
        },
        other => other.to_owned(),
    };
    types.iter().filter(|name| **name != "null").map(word).collect::<Vec<_>>().join(", or ")
}

fn bounds(schema: &Value) -> String {
    let bound = |key: &str, words: &str| schema.get(key).map(|bound| format!(" {words} {bound}"));
    let all = [
        bound("minimum", "from"),
        bound("exclusiveMinimum", "above"),
        bound("maximum", "up to"),
        bound("exclusiveMaximum", "below"),
    ];
    all.into_iter().flatten().collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
