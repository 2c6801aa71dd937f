//! Every family against the reference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::parameters::Parameters;
use grades_models::source::{LoadOptions, Source};
use grades_models::{Decoder, Error, registry};
use grades_tensor::{Dtype, Gradients};

use crate::fixture::{Batch, Values, cpu, find, fixtures, json, load};
use crate::steps::{Trained, check_in_bf16, check_steps};

/// A language model with the batch of its fixture.
pub(crate) struct Texts {
    pub(crate) model: Decoder,
    pub(crate) batch: Batch,
}

impl Texts {
    pub(crate) fn load(folder: &Path, config: &str) -> Self {
        let model = load(folder, config);
        let batch = Batch::new(&model, &Values::expected(folder));
        Self { model, batch }
    }
}

impl Trained for Texts {
    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        self.model.parameters_mut()
    }

    fn outputs(&self) -> Vec<f32> {
        self.batch.logits(&self.model)
    }

    fn expected_outputs(&self, expected: &Values) -> Option<Vec<f64>> {
        Some(self.batch.kept_rows(expected.find("logits")?, self.model.sizes().vocab_size))
    }

    fn pass(&self) -> (f32, Gradients) {
        self.batch.pass(&self.model, PassOptions::default())
    }
}

fn check_family(folder: &Path, config: &str) {
    check_steps(folder, &mut Texts::load(folder, config));
}

fn check_family_in_bf16(folder: &Path, config: &str) {
    let mut texts = Texts::load(folder, config);
    texts.model.set_dtype(Dtype::Bf16);
    check_in_bf16(folder, &texts);
}

#[test]
fn families_match_the_reference() {
    let known: BTreeSet<&str> = registry::families().collect();
    let mut checked = 0;
    let within = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = within(fixtures()).chain(within(fixtures().join("vision"))).collect();
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let name = folder.file_name().unwrap().to_string_lossy();
        let config = folder.join("config.json");
        let family = config.exists().then(|| HfConfig::new(json(&config)).unwrap().model_type().ok()).flatten();
        match family {
            Some(family) if known.contains(family.as_str()) => {
                for config in ["config.json", "config.v4.json"] {
                    if folder.join(config).exists() {
                        println!("{name}/{config}: checking");
                        check_family(folder, config);
                        check_family_in_bf16(folder, config);
                    }
                }
                checked += 1;
            }
            Some(family) => println!("{name}: skipped, {family} is not a family of this test"),
            None => println!("{name}: skipped, it holds no model"),
        }
    }
    assert!(checked > 0, "no fixture of a known family in {}", fixtures().display());
}

/// A config that ties the head to the embedding, beside weights whose head is another: transformers then takes the head of the
/// file, so the model is the one whose config says that they are not tied.
#[test]
fn a_head_of_its_own_counts_whatever_the_config_says() {
    let Some(untied) = find("mistral") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "expected.safetensors"] {
        std::fs::copy(untied.join(name), folder.path().join(name)).unwrap();
    }
    let mut config = json(&untied.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], false);
    config["tie_word_embeddings"] = true.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    check_family(folder.path(), "config.json");
    assert!(!load(folder.path(), "config.json").is_tied());
}

/// A head that is written out although it is the embedding stays tied to it.
#[test]
fn a_head_that_is_the_embedding_stays_tied() {
    struct Same(Values);
    impl Source for Same {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.shape(if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name })
        }

        fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
            self.0.load(if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name }, shape)
        }
    }
    let Some(folder) = find("llama") else { return };
    let config = json(&folder.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], true);
    let values = Same(Values::read(&folder.join("model.safetensors")));
    let model = registry::load(&HfConfig::new(config).unwrap(), &values, LoadOptions::new(cpu())).unwrap();
    assert!(model.is_tied() && model.parameters().iter().all(|parameter| parameter.name != "lm_head.weight"));
}
