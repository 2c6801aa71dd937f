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
use grades_train::data::Vision;
use grades_train::hub::Hub;
use serde_json::{Value, json};

use crate::output;

/// The token that a picture leaves in a text, as nanoVLM calls and writes it.
const IMAGE: (&str, &str) = ("image_token", "<|image|>");
/// The one before a whole picture, likewise.
const GLOBAL: (&str, &str) = ("global_image_token", "<|global_image|>");
/// The most tiles along a side.
const MOST_TILES: usize = 8;
/// How nanoVLM writes turns: none that nobody has given.
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
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
    /// Pixels along a side of a picture as a DINOv2 reads it; left out, what its processor says, or 224.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// With a SigLIP: pixels of the longest side of a picture, which is cut into tiles of the tower's size; each tile's place has a token of
    /// its own. Left out, a picture is one tile.
    #[arg(long, value_name = "PIXELS")]
    max_image_size: Option<usize>,
    /// Seed of the projector and of the new tokens.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The folder to write; weights in it are never overwritten.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

/// How pictures are cut.
struct Tiles {
    /// Pixels of the longest side.
    longest: usize,
    /// The token of each place, with its name.
    tokens: Vec<(String, String)>,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let hub = Hub::from_env();
        let (tower, language) = (hub.model(&self.vision_tower)?, hub.model(&self.language_model)?);
        let [of_tower, of_language] = [Checkpoint::open(&tower)?, Checkpoint::open(&language)?];
        let config = |checkpoint: &Checkpoint| Ok::<_, anyhow::Error>(HfConfig::new(checkpoint.config()?.clone())?);
        let (tower_config, language_config) = (config(&of_tower)?, config(&of_language)?);
        let is_siglip = tower_config.model_type()?.starts_with("siglip");
        let tiles = self.tiles(&tower_config, is_siglip)?;
        let tokens: Vec<(&str, &str)> = std::iter::once(IMAGE)
            .chain((!is_siglip).then_some(GLOBAL))
            .chain(tiles.iter().flat_map(|tiles| &tiles.tokens).map(|(name, token)| (name.as_str(), token.as_str())))
            .collect();
        let parts = Parts::new(
            (&tower_config, &of_tower),
            (&language_config, &of_language),
            self.pixel_shuffle_factor,
            &tokens,
            self.seed,
        )?;
        let mut config = parts.config().value().clone();
        let processor = self.processor(&tower, &config)?;
        if let Some(Tiles { longest, .. }) = &tiles {
            config["max_img_size"] = json!(longest);
        }
        let model = registry::load(parts.config(), &parts, LoadOptions::new(device("auto")?))?;
        let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
        saving::save(&self.output_dir, &model, &config, &options)?;
        let texts: Vec<String> = tokens.iter().map(|(_, token)| (*token).to_owned()).collect();
        let mut tokenizer = Tokenizer::from_checkpoint(&language)?.with_special_tokens(&texts)?;
        if tiles.is_some() || (!is_siglip && tokenizer.chat_template().is_none()) {
            tokenizer = tokenizer.with_chat_template(TEMPLATE.to_owned());
        }
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

    /// The tiles that pictures are cut into.
    fn tiles(&self, tower: &HfConfig, is_siglip: bool) -> anyhow::Result<Option<Tiles>> {
        let Some(longest) = self.max_image_size else { return Ok(None) };
        let of_image = |value: &Value| value.get("image_size").and_then(Value::as_u64);
        let value = tower.value();
        let side = value.get("vision_config").and_then(of_image).or_else(|| of_image(value)).unwrap_or(224) as usize;
        if !is_siglip || longest == 0 || longest % side != 0 || longest / side > MOST_TILES {
            anyhow::bail!(
                "--max-image-size {longest} does not fit; pictures are cut into tiles before a SigLIP alone, and it must be 1 to \
                 {MOST_TILES} times the size of one, {side}"
            );
        }
        let tiles = longest / side;
        let places = (1..=tiles).flat_map(|row| (1..=tiles).map(move |column| (row, column)));
        let token = |(row, column)| (format!("r{row}c{column}"), format!("<row_{row}_col_{column}>"));
        Ok(Some(Tiles { longest, tokens: places.map(token).collect() }))
    }

    /// The tower's processor, with pictures of the size that is asked for; none for a SigLIP, which reads one size.
    fn processor(&self, tower: &std::path::Path, config: &Value) -> anyhow::Result<Option<Value>> {
        let Some(of_tower) = config.get("vision_config") else {
            if let Some(side) = self.image_size {
                anyhow::bail!(
                    "--image-size {side} is of a DINOv2; a SigLIP reads pictures of {} pixels alone, so leave it out",
                    config["vit_img_size"]
                );
            }
            return Ok(None);
        };
        let path = tower.join(PROCESSOR);
        let mut processor = match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("{} is not valid JSON", path.display()))?
            }
            // DINOv2's own, as its checkpoints on the Hub have it.
            Err(_) => json!({
                "image_processor_type": "BitImageProcessor",
                "do_resize": true, "do_center_crop": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true,
                "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
                "resample": 3, "rescale_factor": 1.0 / 255.0,
                "size": { "shortest_edge": 256 }, "crop_size": { "height": 224, "width": 224 },
            }),
        };
        if let Some(side) = self.image_size {
            processor["size"] = json!({ "shortest_edge": side });
            processor["crop_size"] = json!({ "height": side, "width": side });
        }
        let patch = of_tower["patch_size"].as_u64().unwrap_or(14) as usize;
        let of_row = patch * self.pixel_shuffle_factor;
        Vision::squares(&processor, IMAGE.1, Some(GLOBAL.1), of_row).with_context(|| {
            format!(
                "pictures must be squares of whole rows of the language model, each {of_row}·{of_row} pixels ({} patches of {patch} \
                 along a side); give --image-size a multiple of {of_row}",
                self.pixel_shuffle_factor
            )
        })?;
        Ok(Some(processor))
    }
}
