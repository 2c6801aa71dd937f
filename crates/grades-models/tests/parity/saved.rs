//! Models that read pictures in their own layouts: written, read again, and begun from a tower and a language model.

use std::collections::BTreeMap;
use std::path::Path;

use grades::{Role, Tower};
use grades_models::config::HfConfig;
use grades_models::parts::Parts;
use grades_models::random::Random;
use grades_models::source::{LoadOptions, Source};
use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions};
use grades_models::{Decoder, registry, saving};

use crate::fixture::{Batch, Values, assert_close, base, cpu, find, find_each, in_f64, json, pictures};

const OPTIONS: SaveOptions<'_> =
    SaveOptions { dtype: SaveDtype::F32, max_shard_size: 1 << 40, generation_config: None, quantization_config: None };

fn open(folder: &Path) -> Decoder {
    registry::open(&Checkpoint::open(folder).unwrap(), LoadOptions::new(cpu())).unwrap()
}

/// The tensors of a file with their shapes.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let values = Values::read(&folder.join("model.safetensors"));
    values.names().map(|name| (name.to_owned(), values.shape(name).unwrap())).collect()
}

#[test]
fn a_model_is_written_as_its_own_program_writes_it() {
    for (name, folder) in find_each(&["nanovlm", "vision/nanovlm_split", "qwen2_5_vl", "vision/qwen2_5_vl_rows"]) {
        let (model, to) = (open(&folder), tempfile::tempdir().unwrap());
        let (to, config) = (to.path().join("model"), json(&folder.join("config.json")));
        saving::save(&to, &model, &config, &OPTIONS).unwrap();
        assert_eq!(json(&to.join("config.json")), config, "{name}");
        // Of a head that is the embedding nanoVLM's files have either name, and its loader takes both.
        let one_name = |tensors: BTreeMap<String, Vec<usize>>| -> BTreeMap<String, Vec<usize>> {
            let head = ("decoder.head.weight", "decoder.token_embedding.weight");
            tensors.into_iter().map(|(name, shape)| (name.replace(head.0, head.1), shape)).collect()
        };
        assert_eq!(one_name(tensors(&to)), one_name(tensors(&folder)), "{name}");
        let written = Values::read(&to.join("model.safetensors"));
        if let (Some(found), Some(theirs)) = (
            written.find("decoder.rotary_embd.inv_freq"),
            Values::read(&folder.join("model.safetensors")).find("decoder.rotary_embd.inv_freq"),
        ) {
            assert_close("rotary frequencies", &found.iter().map(|&v| v as f32).collect::<Vec<_>>(), theirs);
        }
        let batch = Batch::new(&model, &Values::expected(&folder));
        assert!(batch.logits(&open(&to)) == batch.logits(&model), "{name}");
        // A head that has parted is one of its own there.
        let (mut parted, to) = (open(&folder), to.with_extension("parted"));
        if parted.untie().is_some() {
            saving::save(&to, &parted, &config, &OPTIONS).unwrap();
            assert!(!open(&to).is_tied(), "{name}");
            assert!(batch.logits(&open(&to)) == batch.logits(&model), "{name}");
        }
    }
}

/// The names of trainers that write what transformers has in memory.
#[test]
fn both_namings_of_qwen_are_read() {
    struct InMemory(Values);
    impl InMemory {
        fn own(name: &str) -> String {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        }
    }
    impl Source for InMemory {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            let in_memory = name.starts_with("model.visual.") || name.starts_with("model.language_model.");
            self.0.shape(&Self::own(name)).filter(|_| in_memory || name == "lm_head.weight")
        }

        fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, grades_models::Error> {
            assert!(self.shape(name).is_some(), "{name}");
            self.0.load(&Self::own(name), shape)
        }
    }
    let Some(folder) = find("vision/qwen2_5_vl_rows") else { return };
    let config = HfConfig::new(json(&folder.join("config.json"))).unwrap();
    let values = InMemory(Values::read(&folder.join("model.safetensors")));
    let model = registry::load(&config, &values, LoadOptions::new(cpu())).unwrap();
    let batch = Batch::new(&model, &Values::expected(&folder));
    assert!(batch.logits(&model) == batch.logits(&base(&folder, "config.json")));
    assert!(model.parameters().iter().any(|parameter| parameter.name == "visual.merger.ln_q.weight"));
}

/// A tower and a language model of two checkpoints as one model: each computes what it did.
#[test]
fn a_model_begins_with_a_tower_and_a_language_model() {
    let Some(llama) = find("llama") else { return };
    let language = HfConfig::new(json(&llama.join("config.json"))).unwrap();
    let language_values = Values::read(&llama.join("model.safetensors"));
    let texts = open(&llama);
    let vocabulary = texts.sizes().vocab_size;
    for (name, folder) in find_each(&["siglip", "vision/siglip_full", "dinov2"]) {
        let tower = HfConfig::new(json(&folder.join("config.json"))).unwrap();
        let values = Values::read(&folder.join("model.safetensors"));
        let tokens = [("image_token", "<|image|>"), ("global_image_token", "<|global_image|>")];
        let merge = if name == "dinov2" { 1 } else { 2 };
        let parts = Parts::new((&tower, &values), (&language, &language_values), merge, &tokens, 7).unwrap();
        let model = registry::load(parts.config(), &parts, LoadOptions::new(cpu())).unwrap();
        let (vision, expected) = (model.vision().unwrap(), Values::expected(&folder));
        assert_eq!(vision.token(), Some(vocabulary as u32), "{name}");
        assert_eq!(model.sizes().vocab_size, vocabulary + 2);
        let units = model.parameters().pieces().filter_map(|(_, piece)| piece.place.unit());
        assert!(units.into_iter().any(|unit| unit.tower == Tower::Vision && unit.role == Role::Q), "{name}");
        // Texts are what they were; the new tokens are further columns.
        let ids: Vec<u32> = (0..9).map(|id| id * 7 % vocabulary as u32).collect();
        let logits = |model: &Decoder| {
            let inputs = model.read(ids.clone(), std::slice::from_ref(&(0..ids.len())), None).unwrap();
            model.logits(&inputs).to_host().into_owned()
        };
        let found: Vec<f32> =
            logits(&model).chunks(vocabulary + 2).flat_map(|row| row[..vocabulary].to_vec()).collect();
        assert_close(name, &found, &in_f64(&logits(&texts)));
        // Pictures become what the projector makes of the tower's own output, without its class tokens.
        let shown = pictures(vision, &expected, "");
        let hidden = expected.find("hidden_state").unwrap_or_else(|| expected.get("logits"));
        let (grid, count) = (shown.grids()[0], shown.grids().len());
        let rows = grid.patches() + usize::from(name == "dinov2");
        let width = hidden.len() / (count * rows);
        let projector = model.parameters().iter().find(|parameter| parameter.name == "MP.proj.weight").unwrap();
        let mean_square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        if name == "dinov2" {
            // The rows of pictures begin as large as those of words.
            let words = language_values.get("model.embed_tokens.weight");
            let [scale, bias] = ["layernorm.weight", "layernorm.bias"].map(|name| mean_square(values.get(name)));
            let std = (mean_square(words) / (width as f64 * (scale + bias))).sqrt();
            let plain = Random { seed: 7, std: 1.0 }.load(&projector.name, &[32, width]).unwrap();
            let expected: Vec<f64> = plain.iter().map(|value| std * f64::from(*value)).collect();
            assert_close(name, &projector.to_host(), &expected);
        }
        let mut by_hand = Vec::new();
        for picture in hidden.chunks(rows * width) {
            let patches = &picture[(rows - grid.patches()) * width..];
            let blocks = |sides: usize| (0..sides / merge).map(|block| block * merge);
            for (down, across) in
                blocks(grid.rows).flat_map(|down| blocks(grid.columns).map(move |across| (down, across)))
            {
                let inside = (0..merge).flat_map(|y| (0..merge).map(move |x| (down + y) * grid.columns + across + x));
                let x: Vec<f64> = inside.flat_map(|at| &patches[at * width..][..width]).copied().collect();
                let of_row = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
                by_hand.extend(projector.to_host().chunks(x.len()).map(of_row));
            }
        }
        let found = model.picture_rows(&shown).unwrap().to_host().into_owned();
        assert_close(name, &found, &by_hand);
        // It is saved and read again, with any tower.
        let to = tempfile::tempdir().unwrap();
        let to = to.path().join("model");
        saving::save(&to, &model, parts.config().value(), &OPTIONS).unwrap();
        let again = open(&to);
        assert!(*again.picture_rows(&shown).unwrap().to_host() == found, "{name}");
        assert!(logits(&again) == logits(&model));
    }
    let Some(other) = find("qwen2") else { return };
    let (config, values) =
        (HfConfig::new(json(&other.join("config.json"))).unwrap(), Values::read(&other.join("model.safetensors")));
    let Some(siglip) = find("siglip") else { return };
    let tower = HfConfig::new(json(&siglip.join("config.json"))).unwrap();
    let refused = Parts::new((&tower, &values), (&config, &values), 2, &[], 7).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("and not qwen2"), "{refused}");
}
