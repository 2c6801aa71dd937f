//! The options of models that read pictures: what of them trains, and how fast.

use grades_images::Backend;
use grades_models::parameters::Group;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, LearningRate};
use crate::data::Vision;

/// Whose resize pictures go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageBackend {
    /// What the model's processor says.
    #[default]
    Auto,
    /// Pillow's.
    Pillow,
    /// Torchvision's.
    Torchvision,
}

impl std::str::FromStr for ImageBackend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "pillow" => Ok(Self::Pillow),
            "torchvision" => Ok(Self::Torchvision),
            _ => Err(format!("{text} is no backend; known are auto, pillow and torchvision")),
        }
    }
}

impl std::fmt::Display for ImageBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Pillow => "pillow",
            Self::Torchvision => "torchvision",
        })
    }
}

impl ImageBackend {
    /// `vision` with this backend.
    pub(crate) fn of(self, vision: Vision) -> Vision {
        match self.backend() {
            None => vision,
            Some(backend) => Vision { processor: vision.processor.with_backend(backend), ..vision },
        }
    }

    /// The backend, if it is another than the processor says.
    #[must_use]
    pub fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Pillow => Some(Backend::Pillow),
            Self::Torchvision => Some(Backend::Torchvision),
        }
    }
}

impl Config {
    pub(super) fn validate_pictures(&self) -> Result<(), ConfigError> {
        let groups = [
            ("vision_learning_rate", self.vision_learning_rate, "freeze_vision_tower", self.freeze_vision_tower),
            (
                "projector_learning_rate",
                self.projector_learning_rate,
                "freeze_multi_modal_projector",
                self.freeze_multi_modal_projector,
            ),
        ];
        for (rate, value, freeze, frozen) in groups {
            if value.is_some() && frozen {
                return Err(ConfigError::Inconsistent(format!(
                    "`{rate}` has no effect with `{freeze}: true`; remove one of them"
                )));
            }
            if value.is_some() && self.learning_rate == LearningRate::At(0.0) {
                return Err(ConfigError::Inconsistent(format!(
                    "`{rate}` cannot be told from `learning_rate: 0`, whose schedule it follows; set a rate above 0"
                )));
            }
        }
        if self.max_images_per_row.is_some() && !self.sample_packing {
            let problem = "`max_images_per_row` bounds packed rows; set sample_packing: true, or remove it";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        if self.held().len() == 3 {
            let problem = "`freeze_vision_tower`, `freeze_multi_modal_projector` and `freeze_language_model` leave nothing to \
                           train; remove one of them";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        Ok(())
    }

    /// What the learning rates of a vision tower and of its projector are multiplied by.
    pub fn picture_lr_ratios(&self) -> [f64; 2] {
        let ratio = |rate: Option<f64>| rate.zip(self.learning_rate.number()).map_or(1.0, |(rate, of)| rate / of);
        [self.vision_learning_rate, self.projector_learning_rate].map(ratio)
    }

    /// What of a model stays as it is.
    pub fn held(&self) -> Vec<Group> {
        let groups = [
            (self.freeze_vision_tower, Group::Vision),
            (self.freeze_multi_modal_projector, Group::Projector),
            (self.freeze_language_model, Group::Language),
        ];
        groups.into_iter().filter(|(held, _)| *held).map(|(_, group)| group).collect()
    }

    /// A key that only a model that reads pictures gives a meaning.
    pub fn key_of_pictures(&self) -> Option<&'static str> {
        let set = [
            (self.image_backend != ImageBackend::Auto, "image_backend"),
            (self.max_images_per_row.is_some(), "max_images_per_row"),
            (self.vision_learning_rate.is_some(), "vision_learning_rate"),
            (self.projector_learning_rate.is_some(), "projector_learning_rate"),
            (self.freeze_vision_tower, "freeze_vision_tower"),
            (self.freeze_multi_modal_projector, "freeze_multi_modal_projector"),
            (self.freeze_language_model, "freeze_language_model"),
        ];
        set.into_iter().find(|(set, _)| *set).map(|(_, key)| key)
    }
}
