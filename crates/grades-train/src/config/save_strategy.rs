//! `save_strategy` and `metric_for_best_model`: when a run writes checkpoints, and which of them is the best.

use grades::EarlyStopping;
use serde::{Deserialize, Serialize};

use super::averaging::Averaging;
use super::save_steps::SaveSteps;
use super::{Config, ConfigError};

/// When checkpoints are written, under the names of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveStrategy {
    /// After the steps that `save_steps` says.
    Steps,
    /// After each epoch.
    Epoch,
    /// After each validation that is better than all before.
    Best,
    /// Never, but where a signal ends the run.
    No,
}

/// What checkpoints are judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestMetric {
    /// The loss on the validation set.
    #[default]
    #[serde(alias = "loss", alias = "val_loss")]
    EvalLoss,
    /// The mean loss of the training steps since the last time that it was asked for.
    TrainLoss,
}

impl BestMetric {
    /// The name used in configs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EvalLoss => "eval_loss",
            Self::TrainLoss => "train_loss",
        }
    }
}

/// When a run whose epochs are known writes checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum Saves {
    /// Never.
    Never,
    /// As `save_steps` says.
    At(SaveSteps),
    /// After every so many steps, which are an epoch.
    Epochs(usize),
    /// Where a validation is the best so far.
    Best,
}

impl Saves {
    /// Whether a checkpoint is due after step `step` of `planned`, whatever was measured there.
    #[must_use]
    pub fn due(&self, step: usize, planned: usize) -> bool {
        match self {
            Self::Never | Self::Best => false,
            Self::At(steps) => steps.due(step, planned),
            Self::Epochs(steps) => step.is_multiple_of(*steps),
        }
    }
}

/// How the best checkpoint is found, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BestModel {
    /// What is measured.
    pub metric: BestMetric,
    /// Whether more of it is better.
    pub greater_is_better: bool,
    /// Whether the run ends with it.
    pub load_at_end: bool,
}

impl BestModel {
    /// Whether a checkpoint of this value is better than one of the value `than`.
    #[must_use]
    pub fn is_better(&self, value: f64, than: f64) -> bool {
        if self.greater_is_better { value > than } else { value < than }
    }
}

impl Config {
    /// When checkpoints are written.
    #[must_use]
    pub fn save_strategy(&self) -> SaveStrategy {
        let without = if self.save_steps.is_some() { SaveStrategy::Steps } else { SaveStrategy::No };
        self.save_strategy.unwrap_or(without)
    }

    /// The same over epochs of so many steps.
    #[must_use]
    pub fn saves(&self, steps_per_epoch: usize) -> Saves {
        match (self.save_strategy(), &self.save_steps) {
            (SaveStrategy::Steps, Some(steps)) => Saves::At(steps.clone()),
            (SaveStrategy::Epoch, _) => Saves::Epochs(steps_per_epoch.max(1)),
            (SaveStrategy::Best, _) => Saves::Best,
            (SaveStrategy::Steps | SaveStrategy::No, _) => Saves::Never,
        }
    }

    /// Steps between validations that the config asks for; `None` where there are none before the end.
    #[must_use]
    pub fn validates_every(&self, steps_per_epoch: usize, planned_steps: usize) -> Option<usize> {
        match self.eval_steps.map(|every| every.of(planned_steps)) {
            None => Some(steps_per_epoch.max(1)),
            Some(every) => Some(every).filter(|every| *every > 0),
        }
    }

    /// How the best checkpoint is found, where one is asked for.
    #[must_use]
    pub fn best_model(&self) -> Option<BestModel> {
        let asked = self.load_best_model_at_end
            || self.metric_for_best_model.is_some()
            || self.save_strategy() == SaveStrategy::Best;
        asked.then(|| BestModel {
            metric: self.metric_for_best_model.unwrap_or_default(),
            greater_is_better: self.greater_is_better.unwrap_or(false),
            load_at_end: self.load_best_model_at_end,
        })
    }

    pub(super) fn validate_checkpoints(&self) -> Result<(), ConfigError> {
        let strategy = self.save_strategy();
        let validates = self.validates();
        let best = self.best_model();
        let problem = if self.save_steps.is_some() && strategy != SaveStrategy::Steps {
            "`save_steps` is read by `save_strategy: steps` alone; remove one of them"
        } else if self.save_steps.is_none() && strategy == SaveStrategy::Steps {
            "`save_strategy: steps` needs the steps; set save_steps"
        } else if self.save_only_model && strategy == SaveStrategy::No {
            "`save_only_model` says what checkpoints hold, and none are written; set save_steps or save_strategy"
        } else if self.greater_is_better.is_some() && best.is_none() {
            "`greater_is_better` has no effect without a best model; set load_best_model_at_end or metric_for_best_model"
        } else if best.is_some() && strategy == SaveStrategy::No {
            "`load_best_model_at_end` and `metric_for_best_model` choose among checkpoints, and none are written; set save_steps or \
             save_strategy"
        } else if best.is_some_and(|best| best.metric == BestMetric::EvalLoss) && !validates {
            "the best model is that of the lowest `eval_loss`, which needs samples to validate on; set val_set_size or \
             test_datasets, or metric_for_best_model: train_loss"
        } else if strategy == SaveStrategy::Best && self.eval_steps.is_some_and(|every| every.value() == 0.0) {
            "`save_strategy: best` judges at each validation, and `eval_steps: 0` leaves out all before the end; remove one of them"
        } else if self.load_best_model_at_end && matches!(self.early_stopping, EarlyStopping::ValidationLoss(_)) {
            "`early_stopping.method: validation_loss` ends with the best weights of its own checks, without any checkpoint; remove \
             load_best_model_at_end, or choose another method"
        } else if self.load_best_model_at_end && matches!(self.weight_average, Averaging::Kind(_)) {
            "a run ends with its best checkpoint (`load_best_model_at_end`) or with `weight_average`, not with both; remove one of \
             them"
        } else if self.streaming && strategy == SaveStrategy::Epoch {
            "`save_strategy: epoch` has no epochs with `streaming`; set save_steps"
        } else if self.load_best_model_at_end && self.fold_frozen {
            "`fold_frozen` adds frozen adapters to weights that no checkpoint holds, so `load_best_model_at_end` could not take them \
             back; remove one of them"
        } else {
            return Ok(());
        };
        Err(ConfigError::Inconsistent(problem.to_owned()))
    }
}
