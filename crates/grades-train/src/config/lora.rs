//! Training adapters in place of the model's own parameters.

use grades_models::parameters::Group;
use grades_models::{LoraConfig, part_of_target};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, ConfigError};
use crate::train::outputs::Place;

/// The kinds of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// Low-rank adapters (Hu et al. 2021).
    Lora,
}

/// The layers that get an adapter: one name, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct TargetModules(Vec<String>);

impl Default for TargetModules {
    fn default() -> Self {
        Self(vec!["language.*".to_owned()])
    }
}

impl TryFrom<Value> for TargetModules {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let names = match value {
            Value::Array(names) => names,
            name => vec![name],
        };
        let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
        names
            .filter(|names| !names.is_empty())
            .map(Self)
            .ok_or("it must be all-linear, language.*, or a list of names such as [q_proj, v_proj]")
    }
}

impl From<TargetModules> for Value {
    fn from(TargetModules(names): TargetModules) -> Self {
        match <[String; 1]>::try_from(names) {
            Ok([name]) => name.into(),
            Err(names) => names.into(),
        }
    }
}

impl Config {
    /// The adapters that train, if any do.
    pub fn lora(&self) -> Option<LoraConfig> {
        self.adapter.map(|Adapter::Lora| LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.peft_use_rslora,
            target_modules: self.lora_target_modules.0.clone(),
            lora_dropout: self.lora_dropout,
            use_dora: self.peft_use_dora,
        })
    }

    /// Refuses targets in parts of the model that stay as they are.
    fn validate_targets(&self) -> Result<(), ConfigError> {
        let parts = [
            (Group::Vision, self.freeze_vision_tower, "freeze_vision_tower"),
            (Group::Projector, self.freeze_multi_modal_projector, "freeze_multi_modal_projector"),
            (Group::Language, self.freeze_language_model, "freeze_language_model"),
        ];
        for target in &self.lora_target_modules.0 {
            let part = part_of_target(target).0;
            if let Some((.., key)) = parts.iter().find(|(group, held, _)| *held && part == Some(*group)) {
                return Err(ConfigError::Inconsistent(format!(
                    "`lora_target_modules` asks for adapters on {target}, which `{key}: true` leaves as it is; remove one of \
                     them, or name others, such as vision.* or language.*"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn validate_adapter(&self) -> Result<(), ConfigError> {
        if self.lora_dropout > 0.0 && self.prefix_cache != Place::Off {
            return Err(ConfigError::Inconsistent(
                "`prefix_cache` keeps outputs of layers, which `lora_dropout` draws anew at every step; set one of them to \
                 off or 0"
                    .to_owned(),
            ));
        }
        if self.load_in_4bit && self.fold_frozen {
            return Err(ConfigError::Inconsistent(
                "`fold_frozen` adds adapters to dense weights, which `load_in_4bit` leaves in 4 bits; remove one of them"
                    .to_owned(),
            ));
        }
        if self.fold_frozen && self.early_stopping.unfreezes() {
            return Err(ConfigError::Inconsistent(format!(
                "`fold_frozen` makes frozen adapters a part of their weights, but `early_stopping.method: {}` trains some of them again; \
                 remove one of them",
                self.early_stopping.name()
            )));
        }
        if self.load_in_4bit && self.adapter.is_none() {
            return Err(ConfigError::Inconsistent(
                "`load_in_4bit: true` holds matrices in 4 bits, in which they cannot train; set adapter: lora to train \
                 adapters beside them, or remove it"
                    .to_owned(),
            ));
        }
        if self.adapter.is_some() {
            self.validate_targets()?;
        }
        let plain = Self::default();
        let set = [
            ("lora_r", self.lora_r != plain.lora_r),
            ("lora_alpha", self.lora_alpha != plain.lora_alpha),
            ("lora_target_modules", self.lora_target_modules != plain.lora_target_modules),
            ("lora_dropout", self.lora_dropout > 0.0),
            ("peft_use_rslora", self.peft_use_rslora),
            ("peft_use_dora", self.peft_use_dora),
            ("fold_frozen", self.fold_frozen),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio.is_some()),
        ];
        match set.iter().find(|(_, set)| *set) {
            Some((key, _)) if self.adapter.is_none() => Err(ConfigError::Inconsistent(format!(
                "`{key}` has no effect without an adapter; set adapter: lora, or remove it"
            ))),
            _ => Ok(()),
        }
    }
}
