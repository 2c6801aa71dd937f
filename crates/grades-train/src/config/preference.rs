//! `rl`: learning from preferences, under the names of Axolotl and TRL.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};
use crate::data::MixStrategy;
use crate::train::preference::PreferenceLoss;

/// How preferences are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rl {
    /// Direct preference optimisation (Rafailov et al. 2023).
    Dpo,
    /// The same with `dpo_loss_type: ipo` (Azar et al. 2023).
    Ipo,
    /// Odds ratio preference optimisation (Hong et al. 2024).
    Orpo,
    /// Simple preference optimisation (Meng et al. 2024).
    Simpo,
    /// Kahneman-Tversky optimisation (Ethayarajh et al. 2024).
    Kto,
}

impl Rl {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpo => "dpo",
            Self::Ipo => "ipo",
            Self::Orpo => "orpo",
            Self::Simpo => "simpo",
            Self::Kto => "kto",
        }
    }
}

/// `dpo_loss_type`, TRL's `loss_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DpoLossType {
    /// −ln σ of the margin.
    #[default]
    Sigmoid,
    /// What the margin lacks to 1 (Zhao et al. 2023).
    Hinge,
    /// The squared distance of the mean margin of a token from 1/(2β).
    Ipo,
    /// The sigmoid loss where a share of the rows prefers the wrong answer (Chowdhury et al. 2024).
    Robust,
}

/// The types of data sets that hold preferences.
const PAIRED: &str = "preference";
const UNPAIRED: &str = "unpaired_preference";

impl Config {
    /// The loss of `rl`, where it is set. What is left out has TRL's defaults.
    #[must_use]
    pub fn preference_loss(&self) -> Option<PreferenceLoss> {
        let beta = self.rl_beta.unwrap_or(0.1);
        Some(match self.rl? {
            rl @ (Rl::Dpo | Rl::Ipo) => PreferenceLoss::Dpo {
                kind: if rl == Rl::Ipo { DpoLossType::Ipo } else { self.dpo_loss_type.unwrap_or_default() },
                beta,
                label_smoothing: self.dpo_label_smoothing.unwrap_or(0.0),
                rpo_alpha: self.rpo_alpha.unwrap_or(0.0),
            },
            Rl::Orpo => PreferenceLoss::Orpo { beta },
            Rl::Simpo => PreferenceLoss::SimPo {
                beta,
                gamma: self.simpo_gamma.unwrap_or(0.5),
                cpo_alpha: self.cpo_alpha.unwrap_or(1.0),
            },
            Rl::Kto => PreferenceLoss::Kto {
                beta,
                desirable_weight: self.kto_desirable_weight.unwrap_or(1.0),
                undesirable_weight: self.kto_undesirable_weight.unwrap_or(1.0),
            },
        })
    }

    pub(super) fn validate_preferences(&self) -> Result<(), ConfigError> {
        use Rl::{Dpo, Ipo, Kto, Orpo, Simpo};
        let refuse = |problem: String| Err(ConfigError::Inconsistent(problem));
        for (index, spec) in self.datasets.iter().enumerate() {
            let wanted = match (spec.kind.as_str(), self.rl) {
                (PAIRED | UNPAIRED, None) => {
                    return refuse(format!(
                        "`datasets.{index}.type: {}` holds preferences; set rl: dpo, orpo, simpo or kto",
                        spec.kind
                    ));
                }
                (PAIRED, _) | (UNPAIRED, Some(Kto)) | (_, None) => continue,
                (_, Some(Kto)) => "unpaired_preference, or preference",
                (_, Some(_)) => PAIRED,
            };
            return refuse(format!(
                "`rl` learns from preferences, and `datasets.{index}.type: {}` holds none of the kind that it needs; give a data \
                 set of type {wanted}",
                spec.kind
            ));
        }
        let read_by: [(&'static str, Option<f64>, &[Rl]); 6] = [
            ("rl_beta", self.rl_beta, &[Dpo, Ipo, Orpo, Simpo, Kto]),
            ("rpo_alpha", self.rpo_alpha, &[Dpo, Ipo]),
            ("simpo_gamma", self.simpo_gamma, &[Simpo]),
            ("cpo_alpha", self.cpo_alpha, &[Simpo]),
            ("kto_desirable_weight", self.kto_desirable_weight, &[Kto]),
            ("kto_undesirable_weight", self.kto_undesirable_weight, &[Kto]),
        ];
        for (key, value, methods) in read_by {
            let Some(value) = value else { continue };
            self.refuse_unread(key, methods)?;
            let above = key == "rl_beta";
            if !value.is_finite() || value < 0.0 || (above && value == 0.0) {
                let allowed = if above { "a number above 0" } else { "a number from 0" };
                return Err(ConfigError::OutOfRange { key, value: value.to_string(), allowed });
            }
        }
        if self.dpo_loss_type.is_some() {
            self.refuse_unread("dpo_loss_type", &[Dpo])?;
        }
        if let Some(smoothing) = self.dpo_label_smoothing {
            if self.dpo_loss_type != Some(DpoLossType::Robust) {
                let problem =
                    "`dpo_label_smoothing` is read by `dpo_loss_type: robust` alone, as in TRL; set that, or remove it";
                return refuse(problem.to_owned());
            }
            if !(0.0..0.5).contains(&smoothing) {
                let (key, allowed) = ("dpo_label_smoothing", "a number from 0 up to, but not including, 0.5");
                return Err(ConfigError::OutOfRange { key, value: smoothing.to_string(), allowed });
            }
        }
        let Some(rl) = self.rl else { return Ok(()) };
        let problem = if self.sample_packing {
            "`sample_packing` fills rows with samples, and with `rl` the answers of a row are judged together, already without padding; \
             remove it"
        } else if self.streaming {
            "`streaming` reads rows while training goes on, and what the model makes of their answers is asked before; remove it"
        } else if !self.test_datasets.is_empty() {
            "`test_datasets` are not read with `rl`; keep rows back by `val_set_size`"
        } else if self.mix_strategy != MixStrategy::Concat {
            "`mix_strategy` is of samples, and with `rl` rows are put behind one another; remove it"
        } else if self.dataset_exact_deduplication || !self.contamination.is_empty() {
            "`dataset_exact_deduplication` and `contamination` look at samples, which preferences are not; remove them"
        } else if self.dataset_prepared_path.is_some() {
            "`dataset_prepared_path` keeps samples, which preferences are not; remove it"
        } else if self.train_on_last_turn_only {
            "`train_on_last_turn_only` is of conversations, and with `rl` the answers are what is learnt; remove it"
        } else if self.train_on_inputs {
            "`train_on_inputs` has no meaning with `rl`, which compares answers; remove it"
        } else {
            return Ok(());
        };
        refuse(format!("{problem} (rl: {})", rl.name()))
    }

    fn refuse_unread(&self, key: &str, methods: &[Rl]) -> Result<(), ConfigError> {
        if self.rl.is_some_and(|rl| methods.contains(&rl)) {
            return Ok(());
        }
        let methods: Vec<&str> = methods.iter().map(|rl| rl.name()).collect();
        Err(ConfigError::Inconsistent(format!(
            "`{key}` is read with `rl: {}` alone; remove it, or set that",
            methods.join("|")
        )))
    }
}
