//! The JSON Schema (2020-12) of a config, made of the declarations: for editors, and for `grades schema`.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::raw::{AUTO_RESUME, COMPARE, NOT_YET, TARGET_LINEAR};
use super::{Config, raw};

/// What numbers may be, beside what their types say; `validation` refuses the same.
pub(super) const RANGES: [(&str, &str, f64); 49] = [
    ("sequence_len", "minimum", 1.0),
    ("micro_batch_size", "minimum", 1.0),
    ("gradient_accumulation_steps", "minimum", 1.0),
    ("logging_steps", "minimum", 1.0),
    ("lora_r", "minimum", 1.0),
    ("max_steps", "minimum", 1.0),
    ("max_images_per_row", "minimum", 1.0),
    ("generation_max_new_tokens", "minimum", 1.0),
    ("eval_tasks_limit", "minimum", 1.0),
    ("save_total_limit", "minimum", 1.0),
    ("embedding_lr", "minimum", 0.0),
    ("embedding_lr_scale", "minimum", 0.0),
    ("vision_learning_rate", "minimum", 0.0),
    ("projector_learning_rate", "minimum", 0.0),
    ("weight_decay", "minimum", 0.0),
    ("max_grad_norm", "minimum", 0.0),
    ("learning_rate", "minimum", 0.0),
    ("val_set_size", "minimum", 0.0),
    ("eval_steps", "minimum", 0.0),
    ("rl_beta", "exclusiveMinimum", 0.0),
    ("rpo_alpha", "minimum", 0.0),
    ("simpo_gamma", "minimum", 0.0),
    ("cpo_alpha", "minimum", 0.0),
    ("kto_desirable_weight", "minimum", 0.0),
    ("kto_undesirable_weight", "minimum", 0.0),
    ("dpo_label_smoothing", "minimum", 0.0),
    ("dpo_label_smoothing", "exclusiveMaximum", 0.5),
    ("num_epochs", "exclusiveMinimum", 0.0),
    ("adam_epsilon", "exclusiveMinimum", 0.0),
    ("lora_alpha", "exclusiveMinimum", 0.0),
    ("loraplus_lr_ratio", "exclusiveMinimum", 0.0),
    ("neftune_noise_alpha", "exclusiveMinimum", 0.0),
    ("adam_beta1", "minimum", 0.0),
    ("adam_beta1", "exclusiveMaximum", 1.0),
    ("adam_beta2", "minimum", 0.0),
    ("adam_beta2", "exclusiveMaximum", 1.0),
    ("momentum", "minimum", 0.0),
    ("momentum", "exclusiveMaximum", 1.0),
    ("lora_dropout", "minimum", 0.0),
    ("lora_dropout", "exclusiveMaximum", 1.0),
    ("warmup_ratio", "minimum", 0.0),
    ("warmup_ratio", "maximum", 1.0),
    ("optim_args.ns_steps", "minimum", 1.0),
    ("optim_args.ns_steps", "maximum", 99.0),
    ("lr_scheduler_kwargs.min_lr_ratio", "maximum", 1.0),
    ("lr_scheduler_kwargs.min_lr_rate", "maximum", 1.0),
    ("lr_scheduler_kwargs.num_cycles", "exclusiveMinimum", 0.0),
    ("lr_scheduler_kwargs.power", "exclusiveMinimum", 0.0),
    ("lr_scheduler_kwargs.timescale", "minimum", 1.0),
];

/// What other tools call the options of LISA, as in `lisa.rs`.
const OF_LISA: [(&str, &str, &str); 4] = [
    ("lisa_n_layers", "active_layers", "Axolotl"),
    ("lisa_activated_layers", "active_layers", "LMFlow"),
    ("lisa_step_interval", "interval_steps", "Axolotl"),
    ("lisa_interval_steps", "interval_steps", "LMFlow"),
];

/// A part of the schema, and where it belongs: the method of early stopping whose option it is, if it is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Field<'a> {
    /// The method.
    pub method: Option<&'a str>,
    /// The part.
    pub schema: &'a Value,
}

/// The schema of a config file.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<Config>().to_value();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(COMPARE.to_owned(), json!({
            "description": "What only some runs of `grades compare` have: options by method, adapter, or adapter+method.",
            "type": "object",
            "additionalProperties": { "type": "object" },
        }));
        let alias = |of: &str| json!({ "description": format!("Axolotl's name for {of}."), "type": "boolean" });
        properties.insert(AUTO_RESUME.to_owned(), alias("`resume_from_checkpoint: auto`"));
        properties.insert(TARGET_LINEAR.to_owned(), alias("`lora_target_modules: all-linear`"));
        for key in NOT_YET {
            let description = "Not supported yet.";
            properties.insert(key.to_owned(), json!({ "description": description, "enum": [false, null] }));
        }
    }
    for (key, bound, value) in RANGES {
        let pointer = format!("/properties/{}", key.replace('.', "/properties/"));
        if let Some(Value::Object(field)) = schema.pointer_mut(&pointer) {
            let whole = value as i64;
            field.insert(bound.to_owned(), if whole as f64 == value { whole.into() } else { value.into() });
        }
    }
    tidy(&mut schema);
    schema["title"] = "A config of grades".into();
    schema
}

/// The parts that `key` names, with dots between nested keys: several where methods share a key, none where there is no such key.
/// What a key of a list is of need not be counted: `datasets.path` is `datasets.0.path`.
#[must_use]
pub fn fields<'a>(schema: &'a Value, key: &str) -> Vec<Field<'a>> {
    let mut found = vec![Field { method: None, schema }];
    for part in key.split('.') {
        found = found.iter().flat_map(|field| within(field, part)).collect();
    }
    found
}

/// The keys that a schema has at `key`, without those further in; all of the config where it is empty.
#[must_use]
pub fn keys<'a>(schema: &'a Value, key: &str) -> Vec<&'a str> {
    let of = if key.is_empty() { vec![Field { method: None, schema }] } else { fields(schema, key) };
    let mut keys: Vec<&str> =
        of.iter().flat_map(|field| variants(field)).flat_map(|field| properties(field.schema)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The nearest of some keys, if one is near.
#[must_use]
pub fn nearest<'a>(key: &str, keys: &[&'a str]) -> Option<&'a str> {
    raw::nearest(key, keys)
}

fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str)
}

fn within<'a>(field: &Field<'a>, part: &str) -> Vec<Field<'a>> {
    let mut found = Vec::new();
    for Field { method, schema } in variants(field) {
        if let Some(schema) = schema["properties"].get(part) {
            found.push(Field { method, schema });
        } else if let Some(items) = schema.get("items") {
            let items = Field { method, schema: items };
            found.extend(if part.parse::<usize>().is_ok() { vec![items] } else { within(&items, part) });
        }
    }
    found
}

/// A schema itself, or what it is any of.
fn variants<'a>(field: &Field<'a>) -> Vec<Field<'a>> {
    let method = field.schema.pointer("/properties/method/const").and_then(Value::as_str).or(field.method);
    let this = Field { method, schema: field.schema };
    let choices = ["anyOf", "oneOf"].into_iter().filter_map(|of| field.schema[of].as_array()).flatten();
    let choices = choices.flat_map(|schema| variants(&Field { method, schema }));
    [this.clone()].into_iter().chain(choices).collect()
}

/// Takes the traces of Rust out of a schema: line ends and links of its documentation, names of number types.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            if map.get("format").is_some_and(Value::is_string) {
                map.remove("format");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = without_links(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A link of rustdoc as its words.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((words, after)) = link.split_once("`]") else { break };
        plain += before;
        plain += &format!("`{words}`");
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain + rest
}

/// `early_stopping`: a method by its name, or with its options; those without a method are GradES's.
pub(super) fn early_stopping(generator: &mut SchemaGenerator) -> Schema {
    let mut methods = grades::EarlyStopping::json_schema(generator).to_value();
    let mut choices = Vec::new();
    for of in ["oneOf", "anyOf"] {
        if let Some(Value::Array(methods)) = methods.get_mut(of) {
            choices.append(methods);
        }
    }
    let is_default = |schema: &&mut Value| {
        schema.pointer("/properties/method/const").is_some_and(|name| name == raw::DEFAULT_METHOD)
    };
    if let Some(Value::Object(default)) = choices.iter_mut().find(is_default) {
        default.remove("required");
    }
    let is_lisa = |schema: &&mut Value| schema.pointer("/properties/method/const").is_some_and(|name| name == "lisa");
    if let Some(properties) = choices.iter_mut().find(is_lisa).and_then(|lisa| lisa["properties"].as_object_mut()) {
        for (name, option, tool) in OF_LISA {
            let description = format!("{tool}'s name for `{option}`.");
            properties.insert(name.to_owned(), json!({ "description": description, "type": "integer", "minimum": 1 }));
        }
    }
    let names: Vec<&str> = grades::EarlyStopping::all().iter().map(grades::EarlyStopping::name).collect();
    choices.insert(0, json!({ "description": "A method with its default options.", "enum": names }));
    let mut schema = Schema::default();
    schema.insert("anyOf".to_owned(), choices.into());
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_a_range_are_refused_by_the_program_too() {
        for (key, bound, value) in RANGES {
            let wrong = match bound {
                "minimum" => value - 1.0,
                "maximum" => value + 1.0,
                _ => value,
            };
            let option = match key.split_once('.') {
                Some((section, key)) => format!("{section}: {{{key}: {wrong}}}"),
                None => format!("{key}: {wrong}"),
            };
            let reader = match key {
                "optim_args.ns_steps" => "optimizer: muon",
                "lr_scheduler_kwargs.min_lr_ratio" => "lr_scheduler: warmup_stable_decay",
                "lr_scheduler_kwargs.min_lr_rate" => "lr_scheduler: cosine_with_min_lr",
                "lr_scheduler_kwargs.power" => "lr_scheduler: polynomial",
                "lr_scheduler_kwargs.timescale" => "lr_scheduler: inverse_sqrt",
                "rl_beta" | "rpo_alpha" => "rl: dpo",
                "dpo_label_smoothing" => "rl: dpo\ndpo_loss_type: robust",
                "simpo_gamma" | "cpo_alpha" => "rl: simpo",
                "kto_desirable_weight" | "kto_undesirable_weight" => "rl: kto",
                _ => "adapter: lora",
            };
            let kind = if reader.starts_with("rl:") { "preference" } else { "text" };
            let yaml = format!("model: m\ndatasets: [{{path: d, type: {kind}}}]\n{reader}\n{option}\n");
            let error = Config::parse(&yaml, &[]).unwrap_err().to_string();
            assert!(error.contains(key.rsplit('.').next().unwrap()), "{option}: {error}");
            assert!(!error.contains("is not read by") && !error.contains(" alone"), "{option}: {error}");
            let schema = schema();
            let found = fields(&schema, key);
            assert_eq!(found.len(), 1, "{key}");
            assert_eq!(found[0].schema[bound].as_f64(), Some(value), "{key}");
        }
    }

    /// An editor knows them as the program does.
    #[test]
    fn the_names_of_other_tools_for_lisas_options_are_known() {
        let schema = schema();
        for (name, option, tool) in OF_LISA {
            let found = fields(&schema, &format!("early_stopping.{name}"));
            let [Field { method: Some("lisa"), schema }] = found.as_slice() else { panic!("{name}: {found:?}") };
            assert!(schema["description"].as_str().unwrap().starts_with(tool));
            let yaml = |value| {
                format!(
                    "model: m\ndatasets: [{{path: d, type: text}}]\nearly_stopping: {{method: lisa, {name}: {value}}}\n"
                )
            };
            let config = Config::parse(&yaml(7), &[]).unwrap();
            assert_eq!(serde_json::to_value(&config.early_stopping).unwrap()[option], 7, "{name}");
            assert!(Config::parse(&yaml(0), &[]).unwrap_err().to_string().contains(option), "{name}");
        }
    }

    #[test]
    fn a_key_is_found_with_its_words_its_default_and_its_method() {
        let schema = schema();
        let found = fields(&schema, "early_stopping.patience");
        let methods: Vec<_> = found.iter().filter_map(|field| field.method).collect();
        assert_eq!(methods, ["grades", "validation_loss"]);
        assert_eq!(found[1].schema["default"], 3);
        assert!(found[1].schema["description"].as_str().unwrap().starts_with("How many *checks*"));
        let tau = fields(&schema, "early_stopping.tau");
        assert_eq!((tau.len(), &tau[0].schema["default"]), (1, &json!("auto")));
        let text = tau[0].schema["description"].as_str().unwrap();
        assert!(text.contains("`auto`") && !text.contains('\n') && !text.contains("[`"), "{text}");
        for key in ["datasets.path", "datasets.0.path"] {
            assert_eq!(fields(&schema, key).len(), 1, "{key}");
        }
        assert!(fields(&schema, "early_stopping.taw").is_empty());
        assert_eq!(nearest("taw", &keys(&schema, "early_stopping")), Some("tau"));
        assert!(keys(&schema, "").contains(&"learning_rate") && keys(&schema, "seed").is_empty());
    }
}
