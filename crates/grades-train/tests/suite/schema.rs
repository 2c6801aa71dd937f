//! The schema of configs accepts the configs that there are, and no others.

use std::fs;
use std::path::{Path, PathBuf};

use grades_train::config::Config;
use grades_train::config::schema::schema;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What is wrong with a value by a schema of the keywords that ours has; each other keyword is an error, so that none is passed over.
fn problem(schema: &Value, value: &Value) -> Option<String> {
    let schema = match schema {
        Value::Bool(allowed) => return (!allowed).then(|| format!("{value} is not allowed")),
        schema => schema.as_object().unwrap(),
    };
    let number = |bound: &Value| (value.as_f64(), bound.as_f64().unwrap());
    schema.iter().find_map(|(keyword, rule)| {
        let holds = match keyword.as_str() {
            "type" => {
                let is = |name: &str| match name {
                    "null" => value.is_null(),
                    "boolean" => value.is_boolean(),
                    "string" => value.is_string(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "number" => value.is_number(),
                    "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
                    other => panic!("{other}"),
                };
                match rule {
                    Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                    name => is(name.as_str().unwrap()),
                }
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "anyOf" => rule.as_array().unwrap().iter().any(|choice| problem(choice, value).is_none()),
            "oneOf" => rule.as_array().unwrap().iter().filter(|choice| problem(choice, value).is_none()).count() == 1,
            "required" => value.as_object().is_none_or(|value| {
                rule.as_array().unwrap().iter().all(|key| value.contains_key(key.as_str().unwrap()))
            }),
            "properties" => {
                let within =
                    |(key, value): (&String, &Value)| problem(rule.get(key)?, value).map(|p| format!("{key}: {p}"));
                return value.as_object().into_iter().flatten().find_map(within);
            }
            "additionalProperties" => {
                let known = |key: &str| schema.get("properties").is_some_and(|known| known.get(key).is_some());
                let others = value.as_object().into_iter().flatten().filter(|(key, _)| !known(key));
                return others.into_iter().find_map(|(key, value)| problem(rule, value).map(|p| format!("{key}: {p}")));
            }
            "items" => {
                return value.as_array().into_iter().flatten().find_map(|item| problem(rule, item));
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "minimum" => matches!(number(rule), (value, bound) if value.is_none_or(|value| value >= bound)),
            "exclusiveMinimum" => matches!(number(rule), (value, bound) if value.is_none_or(|value| value > bound)),
            "maximum" => matches!(number(rule), (value, bound) if value.is_none_or(|value| value <= bound)),
            "exclusiveMaximum" => matches!(number(rule), (value, bound) if value.is_none_or(|value| value < bound)),
            // Of sizes and of numbers that are text: they begin with a digit.
            "pattern" => value.as_str().is_none_or(|text| text.starts_with(|c: char| c.is_ascii_digit())),
            "$schema" | "title" | "description" | "default" => true,
            other => panic!("the test does not know {other}"),
        };
        (!holds).then(|| format!("{value} is not {keyword} {rule}"))
    })
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The configs of the repository: those in `configs/`, and those that its documents show.
fn configs() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for folder in ["configs", "configs/paper"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                let text = fs::read_to_string(&path).unwrap();
                let up = folder.split('/').map(|_| "../").collect::<String>();
                assert!(
                    text.starts_with(&format!("# yaml-language-server: $schema={up}docs/config.schema.json\n")),
                    "{}: the first line tells editors where the schema is",
                    path.display()
                );
                found.push((path.display().to_string(), yaml(&text)));
            }
        }
    }
    let ready = found.len();
    assert!(ready >= 20, "{ready}");
    let documents = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for path in documents.chain([root().join("README.md")]).filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            found.push((path.display().to_string(), yaml(block.split("```").next().unwrap())));
        }
    }
    assert!(found.len() > ready);
    found
}

#[test]
fn the_schema_in_the_documents_is_that_of_the_declarations() {
    let (path, text) =
        (root().join("docs/config.schema.json"), serde_json::to_string_pretty(&schema()).unwrap() + "\n");
    if std::env::var_os("GRADES_WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/config.schema.json is not that of the declarations; write it again with GRADES_WRITE_DOCS=1 cargo test --release \
         -p grades-train --test suite schema"
    );
}

#[test]
fn every_config_that_there_is_is_accepted() {
    let schema = schema();
    for (path, config) in configs() {
        assert_eq!(problem(&schema, &config), None, "{path}");
    }
    // And what a run writes into its directory, with each method.
    for method in grades::EarlyStopping::all() {
        let name = method.name();
        let config = Config { early_stopping: method, ..Config::default() };
        assert_eq!(problem(&schema, &yaml(&config.to_yaml().unwrap())), None, "{name}");
    }
    for accepted in [
        "early_stopping: none",
        "early_stopping: {tau: {default: 1.5, mlp: 3}}",
        "early_stopping: {tau: paper-qwen3-14b-full}",
        "learning_rate: auto",
        "optimizer: paged_adamw_8bit",
        "lr_scheduler: constant_with_warmup",
        "save_strategy: no",
        "save_steps: [1, 10]",
        "prefix_cache: off",
        "prefix_cache_size: 512 MiB",
        "model: {path: a.gguf, mmproj: b.gguf}",
        "weight_average: {kind: ema}",
        "report_to: [tensorboard]",
        "resume_from_checkpoint: true",
        "max_steps:",
        "lora_target_linear: true",
    ] {
        assert_eq!(problem(&schema, &yaml(accepted)), None, "{accepted}");
        let whole =
            format!("model: m\ndatasets: [{{path: d, type: text}}]\nadapter: lora\nval_set_size: 2\n{accepted}");
        let whole = if accepted.starts_with("model") { whole.replacen("model: m\n", "", 1) } else { whole };
        // The program accepts it as well, or refuses it for what stands beside it.
        if let Err(error) = Config::parse(&whole, &[]) {
            assert!(
                error.to_string().contains("remove") || error.to_string().contains("companions"),
                "{accepted}: {error}"
            );
        }
    }
}

#[test]
fn what_is_wrong_is_refused_by_the_schema_as_by_the_program() {
    let schema = schema();
    for wrong in [
        "learning_rat: 1",
        "learning_rate: fast",
        "learning_rate: -1",
        "micro_batch_size: 0",
        "micro_batch_size: 2.5",
        "sample_packing: 3",
        "lr_scheduler: cosin",
        "lr_scheduler_kwargs: {powr: 2}",
        "optimizer: adam",
        "optim_args: {adjust_lr_fn: x}",
        "threads: none",
        "threads: 0",
        "val_set_size: half",
        "early_stopping: magic",
        "early_stopping: {method: magic}",
        "early_stopping: {method: none, tau: 3}",
        "early_stopping: {tau: [1]}",
        "early_stopping: {patience: many}",
        "early_stopping: {method: validation_loss, tau: 3}",
        "early_stopping: 3",
        "datasets: d.jsonl",
        "datasets: [{path: [1], type: text}]",
        "datasets: [{path: d, type: text, splt: train}]",
        "model: {config: c}",
        "model: 3",
        "save_steps: 0",
        "save_steps: often",
        "save_strategy: sometimes",
        "metric_for_best_model: accuracy",
        "report_to: [tensorboard, stone]",
        "adapter: qlora",
        "lora_target_modules: [1]",
        "lora_dropout: 1",
        "num_epochs: 0",
        "adam_beta2: 1",
        "warmup_ratio: 3",
        "prefix_cache_size: lots",
        "weight_average: {kind: median}",
        "precision: f16",
        "flash_attention: true",
    ] {
        assert!(problem(&schema, &yaml(wrong)).is_some(), "{wrong}");
        let whole = format!("model: m\nadapter: lora\ndatasets: [{{path: d, type: text}}]\n{wrong}");
        let key = wrong.split(':').next().unwrap();
        let whole = if key == "adapter" || key == "model" || key == "datasets" {
            whole.lines().filter(|line| !line.starts_with(key) || *line == wrong).collect::<Vec<_>>().join("\n")
        } else {
            whole
        };
        assert!(Config::parse(&whole, &[]).is_err(), "{wrong}");
    }
}
