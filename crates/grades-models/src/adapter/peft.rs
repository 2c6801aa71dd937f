//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::config::LoraConfig;
use super::names::{MAGNITUDE, PREFIX};
use crate::Error;
use crate::fields::{self, Fields, Rest};
use crate::model::Decoder;
use crate::parameters::Parameter;
use crate::weights::{Checkpoint, TensorToSave, save_adapter};

/// The name of an adapter's options.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The file of an adapter's values in its folder.
pub const TENSORS: &str = "adapter_model.safetensors";

/// Keys of PEFT's `LoraConfig`, to version 0.21, that say nothing of a saved adapter: where it comes from, how it was begun
/// and trained, and which modules it has, which its tensors show.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "velora_config",
];

/// Keys that must be off or empty: they change what an adapter computes, or what it belongs to.
const OFF: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "enable_lora",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Ways to begin an adapter that leave the base as it is. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ move a part of it over.
const BEGINNINGS: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];

fn refuse(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Input(format!("{}: {problem}", path.display()))
}

/// The name of a tensor of a module's adapter, `lora_A` or `lora_B`.
pub(crate) fn tensor(module: &str, part: &str) -> String {
    format!("{PREFIX}{module}.{part}.weight")
}

/// The module of an adapter's tensor, `model.layers.0.self_attn.q_proj`.
fn module(tensor: &str) -> Option<&str> {
    let name = tensor.strip_prefix(PREFIX)?;
    [".lora_A.weight", ".lora_B.weight", MAGNITUDE].iter().find_map(|end| name.strip_suffix(end))
}

/// The adapter in the folder `dir`: its options, with the modules that it has tensors for as targets, and its values.
///
/// # Errors
/// If a file is missing or damaged, or the adapter is of a kind that is not supported.
pub fn open(dir: &Path) -> Result<(LoraConfig, Checkpoint), Error> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(refuse(dir, format!("there is no adapter here; its folder holds {CONFIG} and {TENSORS}")));
    }
    let text = fs::read_to_string(&path).map_err(|source| refuse(&path, format!("it cannot be read ({source})")))?;
    let config: Value =
        serde_json::from_str(&text).map_err(|e| refuse(&path, format!("it is not valid JSON ({e})")))?;
    let options =
        fields::read(CONFIG, &config, Rest::Refuse, read).map_err(|problem: String| refuse(&path, problem))?;
    let values = Checkpoint::open(dir.join(TENSORS))?;
    let mut modules = BTreeSet::new();
    for name in values.names() {
        let Some(module) = module(name).filter(|_| options.use_dora || !name.ends_with(MAGNITUDE)) else {
            let path = dir.join(TENSORS);
            return Err(refuse(&path, format!("the tensor {name} is not the A or B of a linear layer's adapter")));
        };
        modules.insert(module.to_owned());
    }
    Ok((LoraConfig { target_modules: modules.into_iter().collect(), ..options }, values))
}

/// The options of an adapter without its modules; what of them cannot be honoured is refused.
fn read(config: &Fields<'_>) -> Result<LoraConfig, String> {
    let kind = config.get("peft_type").map_or_else(|| "missing".to_owned(), Value::to_string);
    if kind != "\"LORA\"" {
        return Err(format!("`peft_type` is {kind}; only adapters of type \"LORA\" can be used"));
    }
    config.harmless(HARMLESS);
    for key in OFF {
        config.only(key, &[false.into(), json!({})])?;
    }
    config.only("bias", &["none".into()])?;
    config.only("task_type", &["CAUSAL_LM".into()])?;
    let beginning = config.get("init_lora_weights");
    let plain = |value: &Value| {
        value.is_boolean() || value.as_str().is_some_and(|name| BEGINNINGS.contains(&name.to_lowercase().as_str()))
    };
    if let Some(value) = beginning.filter(|value| !plain(value)) {
        return Err(format!(
            "`init_lora_weights: {value}` belongs to a base that PEFT changed when the training began, and would be wrong on \
             this one; save the adapter again with path_initial_model_for_weight_conversion, which makes a plain one of it, or \
             merge it in PEFT"
        ));
    }
    let r: usize = config.required("r")?;
    let lora_alpha: f64 = config.required("lora_alpha")?;
    if r == 0 || lora_alpha <= 0.0 {
        return Err(format!("`r: {r}` and `lora_alpha: {lora_alpha}` must be above 0"));
    }
    Ok(LoraConfig {
        r,
        lora_alpha,
        use_rslora: config.flag("use_rslora")?,
        target_modules: Vec::new(),
        lora_dropout: config.optional("lora_dropout")?.unwrap_or(0.0),
        use_dora: config.flag("use_dora")?,
    })
}

/// The model with the adapter in the folder `dir`.
///
/// # Errors
/// As [`open`], and if the adapter does not fit the model.
pub fn attach(model: Decoder, dir: &Path) -> Result<Decoder, Error> {
    let (config, values) = open(dir)?;
    let names = model.names();
    let named = |p: &Parameter, module: &str| {
        let file = p.name.strip_suffix(".weight");
        file.is_some_and(|file| file == module || (names.module)(file) == module)
    };
    let has = |module: &str| model.parameters().iter().any(|p| named(p, module));
    if let Some(module) = config.target_modules.iter().find(|module| !has(module)) {
        let problem =
            format!("the adapter does not fit: the model has no layer {module}; give the base that it was trained on");
        return Err(refuse(dir, problem));
    }
    model.with_adapter(config, &values).map_err(|error| refuse(dir, format!("the adapter does not fit: {error}")))
}

/// Writes the model's adapter into the folder `dir`, which must not hold one. `base` is where its base is.
///
/// # Errors
/// If the model has no adapter, something is in the way, or the disk refuses.
pub fn save(dir: &Path, model: &Decoder, base: Option<&str>) -> Result<(), Error> {
    let Some(adapter) = model.adapter() else {
        return Err(refuse(dir, "the model has no adapter to save"));
    };
    let pairs = model.parameters().iter().filter(|parameter| !parameter.is_base());
    let tensors = pairs
        .map(|parameter| TensorToSave::deferred(&parameter.name, &parameter.shape, move || Ok(parameter.to_host())));
    Ok(save_adapter(dir, (CONFIG, &config(model, adapter, base)), (TENSORS, tensors.collect()))?)
}

fn config(model: &Decoder, adapter: &LoraConfig, base: Option<&str>) -> Value {
    let whole = adapter.lora_alpha.fract() == 0.0 && adapter.lora_alpha < 1e9;
    let alpha = if whole { json!(adapter.lora_alpha as u64) } else { json!(adapter.lora_alpha) };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.r,
        "lora_alpha": alpha,
        "lora_dropout": adapter.lora_dropout,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        "target_modules": targets(model),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

/// The adapted modules as PEFT matches them: the last part of their names where it means no others, else all of it.
fn targets(model: &Decoder) -> BTreeSet<&str> {
    let (names, in_memory) = (|| model.parameters().iter().map(|parameter| parameter.name.as_str()), model.names());
    let adapted: BTreeSet<&str> = names().filter_map(module).collect();
    let last = |module: &&str| module.rsplit('.').next().map(str::to_owned);
    let others: BTreeSet<String> = names()
        .filter_map(|name| name.strip_suffix(".weight"))
        .filter(|name| !name.starts_with(PREFIX) && !adapted.contains((in_memory.module)(name).as_str()))
        .filter_map(|name| last(&name))
        .collect();
    let shorten = |module: &'_ str| module.rsplit('.').next().is_some_and(|last| !others.contains(last));
    adapted
        .iter()
        .map(|module| if shorten(module) { module.rsplit('.').next().unwrap_or(module) } else { module })
        .collect()
}
