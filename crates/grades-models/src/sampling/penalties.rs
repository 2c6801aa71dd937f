//! What is done to logits by what was said already, before a token is chosen.

use std::collections::BTreeMap;

/// Changes to logits.
///
/// Reference: `repetition_penalty` as of transformers, over the prompt and what was written; `frequency_penalty`, `presence_penalty`
/// and `logit_bias` as of OpenAI, over what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Divisor of positive logits, and factor of others, of tokens that were there before; 1 does nothing.
    pub repetition: f32,
    /// What is taken from a token's logit each time that it was written.
    pub frequency: f32,
    /// What is taken from it if it was written at all.
    pub presence: f32,
    /// What is added to the logits of some tokens; one that the model does not have is passed over.
    pub bias: Vec<(u32, f32)>,
}

impl Default for Penalties {
    /// Nothing.
    fn default() -> Self {
        Self { repetition: 1.0, frequency: 0.0, presence: 0.0, bias: Vec::new() }
    }
}

impl Penalties {
    /// Whether they do nothing.
    #[must_use]
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes `logits`, `[vocabulary]`, of what follows `written` behind `prompt`.
    pub fn apply(&self, logits: &mut [f32], prompt: &[u32], written: &[u32]) {
        let mut times = BTreeMap::<u32, u32>::new();
        if self.repetition != 1.0 {
            times.extend(prompt.iter().map(|&token| (token, 0)));
        }
        written.iter().for_each(|&token| *times.entry(token).or_default() += 1);
        for (token, times) in times {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            if times > 0 {
                *logit -= self.frequency * times as f32 + self.presence;
            }
        }
        for &(token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }
}
