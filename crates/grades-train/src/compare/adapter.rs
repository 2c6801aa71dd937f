//! What a run trains, as comparisons name it.

use crate::config::Config;

/// The name of training the model itself.
pub(super) const FULL: &str = "full";

/// What a config trains.
pub(super) fn adapter_name(config: &Config) -> String {
    let name = config.adapter.and_then(|adapter| serde_json::to_value(adapter).ok());
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_else(|| FULL.to_owned())
}

/// What makes a config train this adapter. `full` lets go of options that only an adapter has.
pub(super) fn adapter_options(adapter: &str) -> Vec<String> {
    if adapter != FULL {
        return vec![format!("adapter={adapter}")];
    }
    let keys = [
        "adapter",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_target_linear",
        "peft_use_rslora",
        "peft_use_dora",
        "loraplus_lr_ratio",
        "fold_frozen",
        "load_in_4bit",
    ];
    keys.iter().map(|key| format!("{key}=null")).collect()
}
