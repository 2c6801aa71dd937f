//! What is refused of a config: values out of their range, and options that do not go together.

use grades::EarlyStopping;
use serde_json::Value;

use super::averaging::Averaging;
use super::learning_rate::LearningRate;
use super::model::{Init, Model};
use super::optimizer::Optimizer;
use super::{Config, ConfigError};
use crate::train::outputs;

impl Config {
    /// Checks every value by itself and against the others. What depends on the model or the data is checked there.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.model.is_empty() {
            return Err(ConfigError::Missing { key: "model", hint: "give a model folder or a GGUF file" });
        }
        if self.datasets.is_empty() {
            return Err(ConfigError::Missing {
                key: "datasets",
                hint: "give at least one entry, such as {path: data.jsonl, type: completion}",
            });
        }
        for (list, specs) in [("datasets", &self.datasets), ("test_datasets", &self.test_datasets)] {
            for (index, spec) in specs.iter().enumerate() {
                for (key, value) in [("path", &spec.path), ("type", &spec.kind)] {
                    if value.is_empty() {
                        return Err(ConfigError::Inconsistent(format!(
                            "`{list}.{index}.{key}` is missing; each data set needs a path and a type"
                        )));
                    }
                }
                spec.format().map_err(ConfigError::Inconsistent)?;
            }
        }
        self.validate_sources()?;
        if matches!(self.model, Model::New { .. }) && self.init != Init::Random {
            return Err(ConfigError::Inconsistent(
                "`model: {config, tokenizer}` has no weights to begin with; set init: random, or give a checkpoint"
                    .to_owned(),
            ));
        }
        grades_tensor::device(&self.device).map_err(|error| ConfigError::Inconsistent(error.to_string()))?;
        self.validate_numbers()?;
        self.validate_adapter()?;
        self.validate_auto_rate()?;
        self.validate_embeddings()?;
        self.validate_pictures()?;
        self.validate_checkpoints()?;
        self.validate_preferences()?;
        self.validate_trackers()?;
        self.validate_hub()?;
        self.validate_evaluation()?;
        self.validate_chat()?;
        if self.warmup_ratio.is_some() && self.warmup_steps.is_some() {
            return Err(ConfigError::Inconsistent(
                "`warmup_ratio` and `warmup_steps` are both set; remove one of them".to_owned(),
            ));
        }
        self.validate_early_stopping()
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        const FROM_ONE: &str = "a whole number from 1";
        const COUNT_OR_SHARE: &str = "a whole number from 1 or a share between 0 and 1";
        let number = |fits: bool, key: &'static str, value: f64, allowed: &'static str| {
            // Debug writes small and large numbers with an exponent, and whole ones with a point.
            let written = || format!("{value:?}").trim_end_matches(".0").to_owned();
            if fits { Ok(()) } else { Err(ConfigError::OutOfRange { key, value: written(), allowed }) }
        };
        for (key, value) in [
            ("sequence_len", Some(self.sequence_len)),
            ("micro_batch_size", Some(self.micro_batch_size)),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps)),
            ("logging_steps", Some(self.logging_steps)),
            ("lora_r", Some(self.lora_r)),
            ("max_steps", self.max_steps),
            ("max_images_per_row", self.max_images_per_row),
            ("generation_max_new_tokens", self.generation_max_new_tokens),
            ("eval_tasks_limit", self.eval_tasks_limit),
        ] {
            number(value.is_none_or(|value| value >= 1), key, value.unwrap_or(1) as f64, FROM_ONE)?;
        }
        let finite = |value: f64| value >= 0.0 && value.is_finite();
        for (key, value) in [
            ("learning_rate", self.learning_rate.number().unwrap_or(0.0)),
            ("embedding_lr", self.embedding_lr.unwrap_or(0.0)),
            ("embedding_lr_scale", self.embedding_lr_scale.unwrap_or(0.0)),
            ("vision_learning_rate", self.vision_learning_rate.unwrap_or(0.0)),
            ("projector_learning_rate", self.projector_learning_rate.unwrap_or(0.0)),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
        ] {
            number(finite(value), key, value, "a number from 0")?;
        }
        for (key, value) in [
            ("num_epochs", self.num_epochs),
            ("adam_epsilon", self.adam_epsilon),
            ("lora_alpha", self.lora_alpha),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio.unwrap_or(1.0)),
            ("neftune_noise_alpha", self.neftune_noise_alpha.unwrap_or(1.0)),
        ] {
            number(finite(value) && value > 0.0, key, value, "a number above 0")?;
        }
        for (key, value) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2.unwrap_or(0.0)),
            ("momentum", self.momentum.unwrap_or(0.0)),
            ("lora_dropout", self.lora_dropout),
        ] {
            number((0.0..1.0).contains(&value), key, value, "a number from 0 up to, but not including, 1")?;
        }
        if let Some(ratio) = self.warmup_ratio {
            number((0.0..=1.0).contains(&ratio), "warmup_ratio", ratio, "a share from 0 to 1")?;
        }
        let share = self.val_set_size;
        number(share.is_valid(), "val_set_size", share.value(), "a whole number or a share between 0 and 1")?;
        if let Some(every) = self.eval_steps {
            number(every.is_valid() && every.value() >= 0.0, "eval_steps", every.value(), COUNT_OR_SHARE)?;
        }
        if let Some(steps) = self.save_steps.as_ref().filter(|steps| !steps.is_valid()) {
            let value = Value::from(steps.clone()).to_string();
            return Err(ConfigError::OutOfRange { key: "save_steps", value, allowed: COUNT_OR_SHARE });
        }
        if let Some(limit @ 0) = self.save_total_limit {
            number(false, "save_total_limit", limit as f64, "a whole number from 1")?;
        }
        let rate = self.learning_rate.number().unwrap_or(f64::INFINITY);
        let schedule = self.lr_scheduler_kwargs.problem(self.lr_scheduler, rate);
        if let Some(problem) = schedule.or_else(|| self.optim_args.problem(self.optimizer)) {
            return Err(ConfigError::Inconsistent(problem));
        }
        if let Averaging::Kind(kind) = self.weight_average
            && let Some(problem) = kind.problem()
        {
            return Err(ConfigError::Inconsistent(problem));
        }
        if self.save_both_averages && self.weight_average().is_none() {
            let problem = "`save_both_averages` needs an average: give `weight_average`, such as {kind: polynomial}";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        Ok(())
    }

    fn validate_embeddings(&self) -> Result<(), ConfigError> {
        let problem = if self.neftune_noise_alpha.is_some() && self.prefix_cache != outputs::Place::Off {
            "`prefix_cache` keeps outputs of layers, which the noise of `neftune_noise_alpha` changes at every step; set one of \
             them to off, or remove it"
        } else if self.embedding_lr.is_some() && self.embedding_lr_scale.is_some() {
            "`embedding_lr` and `embedding_lr_scale` are both set; remove one of them"
        } else if self.embedding_lr.is_some() && self.learning_rate == LearningRate::At(0.0) {
            "`embedding_lr` cannot be told from `learning_rate: 0`, whose schedule it follows; set a rate above 0"
        } else if self.adapter.is_some() && (self.embedding_lr.is_some() || self.embedding_lr_scale.is_some()) {
            "`embedding_lr` has no effect with an adapter, beside which embeddings do not train; remove one of them"
        } else {
            return Ok(());
        };
        Err(ConfigError::Inconsistent(problem.to_owned()))
    }

    fn validate_early_stopping(&self) -> Result<(), ConfigError> {
        let method = &self.early_stopping;
        if method.needs_lora() && self.adapter.is_none() {
            return Err(ConfigError::Inconsistent(format!(
                "`early_stopping.method: {}` freezes the A and B of adapters, and there are none; set adapter: lora, or \
                 choose another method",
                method.name()
            )));
        }
        if method.needs_validation() && !self.validates() {
            return Err(ConfigError::Inconsistent(format!(
                "`early_stopping.method: {}` needs samples to validate on; set val_set_size or test_datasets",
                method.name()
            )));
        }
        if matches!(method, EarlyStopping::Budget(budget) if budget.weighs()) && self.optimizer != Optimizer::AdamW {
            let problem = "`early_stopping.freeze: true` and `early_stopping.memory` ask for the gains of updates, which only \
                           `optimizer: adamw` tells; remove them";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        // Its thresholds are checked against the units once the model is known.
        method.validate()?;
        Ok(())
    }
}
