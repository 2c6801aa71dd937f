//! `grades assemble`.

use std::path::PathBuf;

use anyhow::Context;
use grades_models::config::HfConfig;
use grades_models::parts::Parts;
use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions};
use grades_models::{registry, saving};
use grades_tensor::device;
use grades_train::hub::Hub;
use serde_json::{Value, json};

use crate::output;

/// The token that a picture leaves in a text, as nanoVLM calls and writes it.
const IMAGE: (&str, &str) = ("image_token", "<|image|>");
/// The file that says what becomes of pictures.
const PROCESSOR: &str = "preprocessor_config.json";

/// Begin a model that reads pictures, as nanoVLM begins: with a vision tower and a language model that were trained apart, and a
/// projector of random values between them.
///
/// The result is a model folder that trains like any other; a SigLIP gives nanoVLM's own layout. Neighbouring patches become one
/// row of the language model, whose vocabulary grows by the token that stands for these rows.
///
/// Example: grades assemble --vision-tower dinov2-small --language-model SmolLM2-135M --image-size 112 --output-dir small-vlm
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tower: a model folder or a model of the Hugging Face Hub (owner/name), a DINOv2 or a SigLIP (also a whole one).
    #[arg(long)]
    vision_tower: PathBuf,
    /// The language model, a llama (SmolLM2, Llama): a folder, a GGUF file, or a model of the Hub.
    #[arg(long)]
    language_model: PathBuf,
    /// Patches along a side of the square that becomes one row of the language model.
    #[arg(long, default_value_t = 2, value_name = "PATCHES")]
    pixel_shuffle_factor: usize,
    /// Pixels along a side of a picture as a DINOv2 reads it; left out, what its processor says.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Seed of the projector and of the new token.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The folder to write; weights in it are never overwritten.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let hub = Hub::from_env();
        let (tower, language) = (hub.model(&self.vision_tower)?, hub.model(&self.language_model)?);
        let [of_tower, of_language] = [Checkpoint::open(&tower)?, Checkpoint::open(&language)?];
        let config = |checkpoint: &Checkpoint| Ok::<_, anyhow::Error>(HfConfig::new(checkpoint.config()?.clone())?);
        let (tower_config, language_config) = (config(&of_tower)?, config(&of_language)?);
        let parts = Parts::new(
            (&tower_config, &of_tower),
            (&language_config, &of_language),
            self.pixel_shuffle_factor,
            &[IMAGE],
            self.seed,
        )?;
        let processor = self.processor(&tower)?;
        let model = registry::load(parts.config(), &parts, LoadOptions::new(device("auto")?))?;
        let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
        saving::save(&self.output_dir, &model, parts.config().value(), &options)?;
        let tokenizer = Tokenizer::from_checkpoint(&language)?.with_special_tokens(&[IMAGE.1.to_owned()])?;
        tokenizer.save(&self.output_dir)?;
        if let Some(processor) = processor {
            grades_fs::create(&self.output_dir.join(PROCESSOR), format!("{processor:#}\n"))?;
        }
        let parameters: usize = model.parameters().iter().map(|parameter| parameter.len()).sum();
        if json {
            return output::print_json(&json!({ "model_dir": self.output_dir, "parameters": parameters }));
        }
        let parameters = output::short(parameters as u64);
        output::print(&format!("model         {}, {parameters} parameters", self.output_dir.display()));
        Ok(())
    }

    /// The tower's processor, with pictures of the size that is asked for.
    fn processor(&self, tower: &std::path::Path) -> anyhow::Result<Option<Value>> {
        let path = tower.join(PROCESSOR);
        let mut processor = match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("{} is not valid JSON", path.display()))?
            }
            // DINOv2's own, as its checkpoints on the Hub have it.
            Err(_) if self.image_size.is_some() => json!({
                "image_processor_type": "BitImageProcessor",
                "do_resize": true, "do_center_crop": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true,
                "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
                "resample": 3, "rescale_factor": 1.0 / 255.0,
            }),
            Err(_) => return Ok(None),
        };
        if let Some(side) = self.image_size {
            processor["size"] = json!({ "shortest_edge": side });
            processor["crop_size"] = json!({ "height": side, "width": side });
        }
        Ok(Some(processor))
    }
}
