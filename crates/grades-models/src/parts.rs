//! A new model that reads pictures, begun with a vision tower and a language model that were trained apart, as nanoVLM begins: a
//! projector of random values between them.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::config::HfConfig;
use crate::families::{nanovlm, towers};
use crate::random::Random;
use crate::registry;
use crate::source::Source;

/// The names that a llama has for what grows with the vocabulary.
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// What comes before the tensors of a SigLIP's image tower in a whole one.
const WHOLE: &str = "vision_model.";

/// The parts of a new model.
pub struct Parts<'a> {
    /// What kind of tower it is.
    tower: String,
    tower_values: &'a dyn Source,
    /// What comes before the names of its tensors.
    prefix: &'static str,
    language: &'a dyn Source,
    config: HfConfig,
    random: Random,
    /// Rows of the language model's vocabulary; further ones are new.
    vocabulary: usize,
}

impl<'a> Parts<'a> {
    /// A tower and a language model, each a config with the values of its checkpoint. `merge · merge` neighbouring patches become
    /// one row of the language model, whose vocabulary grows by `tokens`: each with the name that nanoVLM's configs have for it, and
    /// its text; that of a picture is `image_token`.
    ///
    /// # Errors
    /// If a config is not sound, or the language model is none that nanoVLM can have: a llama.
    pub fn new(
        (tower, tower_values): (&HfConfig, &'a dyn Source),
        (language, language_values): (&HfConfig, &'a dyn Source),
        merge: usize,
        tokens: &[(&str, &str)],
        seed: u64,
    ) -> Result<Self, Error> {
        let (tower, sizes) = (towers::config(tower)?, registry::sizes(language)?);
        let kind = language.model_type()?;
        if kind != "llama" {
            return Err(Error::Input(format!(
                "a model of parts has a language model of type llama (SmolLM, SmolLM2, Llama), and not {kind}"
            )));
        }
        let extra: Map<String, Value> = tokens.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        let mut config = nanovlm::config_of(&tower, language, &sizes)?;
        config.extend([
            ("mp_pixel_shuffle_factor".to_owned(), json!(merge)),
            ("extra_token_amount".to_owned(), json!(tokens.len())),
            ("lm_vocab_size".to_owned(), json!(sizes.vocab_size + tokens.len())),
            ("vlm_extra_tokens".to_owned(), extra.into()),
        ]);
        Ok(Self {
            tower: tower.model_type()?,
            tower_values,
            prefix: if tower_values.shape(&format!("{WHOLE}post_layernorm.weight")).is_some() { WHOLE } else { "" },
            language: language_values,
            config: HfConfig::from(config),
            random: Random::new(seed),
            vocabulary: sizes.vocab_size,
        })
    }

    /// The config of the whole, in nanoVLM's form.
    #[must_use]
    pub fn config(&self) -> &HfConfig {
        &self.config
    }
}

impl Parts<'_> {
    /// The standard deviation of a projector over so many inputs that makes the rows of pictures as large as those of words; larger ones hide
    /// what the layers of the language model add to them. nanoVLM begins with 0.02, but the last norm of a DINOv2 has scales around 3.
    fn projector_std(&self, width: usize, inputs: usize) -> Result<f32, Error> {
        let mean_square = |source: &dyn Source, name: &str, shape: &[usize]| {
            let values = source.load(name, shape)?;
            let sum: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            Ok::<_, Error>(sum / values.len().max(1) as f64)
        };
        let of_words = mean_square(self.language, EMBEDDING, &[self.vocabulary, width])?;
        // What the norm scales has a mean square of 1.
        let mut of_tower = 0.0;
        for name in nanovlm::LAST_NORM {
            of_tower += mean_square(self.tower_values, name, &self.tower_values.shape(name).unwrap_or_default())?;
        }
        Ok((of_words / (of_tower * inputs as f64)).sqrt() as f32)
    }
}

impl Source for Parts<'_> {
    /// Nothing is known of the whole before it is put together.
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        if let Some(names) = nanovlm::in_tower(name, &self.tower, self.prefix) {
            let load = |name: &String| self.tower_values.load(name, &self.tower_values.shape(name).unwrap_or_default());
            let values = names.iter().map(load).collect::<Result<Vec<_>, _>>()?.concat();
            if values.len() != shape.iter().product::<usize>() {
                let (name, found) = (names.join(", "), vec![values.len()]);
                return Err(Error::Shape { name, found, expected: shape.into() });
            }
            return Ok(values);
        }
        match (nanovlm::in_language(name), shape) {
            (None, &[width, inputs]) if self.tower != nanovlm::SIGLIP_KIND => {
                Random { std: self.projector_std(width, inputs)?, ..self.random }.load(name, shape)
            }
            (None, _) => self.random.load(name, shape),
            (Some(theirs), &[rows, width]) if [EMBEDDING, HEAD].contains(&theirs.as_str()) => {
                let mut values = self.language.load(&theirs, &[self.vocabulary, width])?;
                let new = rows.saturating_sub(self.vocabulary);
                values.extend(self.random.load(&format!("{name} of new tokens"), &[new, width])?);
                Ok(values)
            }
            (Some(theirs), _) => self.language.load(&theirs, shape),
        }
    }
}
