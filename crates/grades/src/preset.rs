//! The thresholds that the paper published (Tables 9 and 10), with their grace ratios.
//!
//! They were found with the authors' Python package, whose signal is the change of the weights: they mean nothing for
//! the other signals.

use crate::unit::Tower;

/// One row of Table 9 or 10.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    name: &'static str,
    vision: f64,
    language: f64,
    alpha: f64,
}

const fn language(name: &'static str, tau: f64) -> Preset {
    Preset { name, vision: tau, language: tau, alpha: 0.55 }
}

const fn multimodal(name: &'static str, vision: f64, language: f64, alpha: f64) -> Preset {
    Preset { name, vision, language, alpha }
}

impl Preset {
    /// Every preset: the ten rows of Table 9, then the four of Table 10.
    pub const ALL: [Self; 14] = [
        language("paper-qwen3-14b-full", 6.387926),
        language("paper-qwen3-14b-lora", 0.025181),
        language("paper-phi4-14b-full", 3.512882),
        language("paper-phi4-14b-lora", 0.025181),
        language("paper-qwen3-0.6b-full", 1.804456),
        language("paper-qwen3-0.6b-lora", 0.001183),
        language("paper-llama-3.1-8b-full", 2.404167),
        language("paper-llama-3.1-8b-lora", 0.021637),
        language("paper-mistral-7b-full", 2.726866),
        language("paper-mistral-7b-lora", 0.029591),
        multimodal("paper-qwen2.5-vl-7b-lora", 3.3, 33.0, 0.30),
        multimodal("paper-qwen2.5-vl-7b-full-4bit", 0.13, 0.09, 0.30),
        multimodal("paper-nanovlm-full", 0.30, 6.00, 0.28),
        multimodal("paper-nanovlm-full-alt", 6.30, 3.90, 0.28),
    ];

    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name == name)
    }

    /// The name that a config writes: `paper-`, the model, the way of training.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The threshold of a tower's units; the paper has none for other towers than these two.
    pub fn tau(&self, tower: Tower) -> Option<f64> {
        match tower {
            Tower::Vision => Some(self.vision),
            Tower::Language => Some(self.language),
            _ => None,
        }
    }

    /// The grace ratio that was published with it.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }
}
