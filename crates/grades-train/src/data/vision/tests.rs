//! Rows with pictures as the tokens that nanoVLM and Qwen2.5-VL make of them.

use std::fs;
use std::path::{Path, PathBuf};

use grades_models::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::super::batch::Batch;
use super::super::encode::Tokenized;
use super::super::{DataError, DatasetSpec, ExcessLength, OnBadRow, Samples, TokenOptions, load};
use super::*;
use crate::encoder::Encoder;

fn vision() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision");
    std::env::var_os("GRADES_FIXTURES").map_or_else(own, |other| Path::new(&other).join("vision"))
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Calls with the numbers of a tensor.
fn tensor<T>(file: &Path, name: &str, read: impl Fn(&[u8]) -> Vec<T>) -> Vec<T> {
    let bytes = fs::read(file).unwrap();
    read(SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data())
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

const OPTIONS: TokenOptions = TokenOptions {
    sequence_len: 4000,
    train_on_inputs: false,
    excess_length: ExcessLength::Raise,
    train_on_last_turn_only: false,
    on_bad_row: OnBadRow::Stop,
    max_samples: None,
};

/// The runs of tokens that the first picture of a sample takes.
fn runs(sample: &Tokenized) -> Vec<(usize, usize)> {
    sample.pictures[0].tokens.iter().map(|run| (run.start, run.end)).collect()
}

/// A model's tokenizer, and how it sees.
struct Model {
    tokenizer: Tokenizer,
    vision: Vision,
}

impl Model {
    /// The nanoVLM of the fixtures, with its tokens for pictures in its tokenizer and its own chat template.
    fn nanovlm(change: impl Fn(&mut Value)) -> Self {
        let folder = vision().join("nanovlm_split");
        let mut config = json_of(&folder.join("config.json"));
        change(&mut config);
        let mut tokenizer = json_of(&folder.join("tokenizer/tokenizer.json"));
        let base = config["lm_base_vocab_size"].as_u64().unwrap();
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for (number, token) in
            config["vlm_extra_tokens"].as_object().into_iter().flatten().map(|(_, token)| token).enumerate()
        {
            added.push(json!({"id": base + number as u64, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}));
        }
        let made = tempfile::tempdir().unwrap();
        fs::write(made.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::copy(folder.join("tokenizer/tokenizer_config.json"), made.path().join("tokenizer_config.json")).unwrap();
        fs::write(made.path().join("chat_template.jinja"), config["lm_chat_template"].as_str().unwrap()).unwrap();
        Self {
            tokenizer: Tokenizer::from_checkpoint(made.path()).unwrap(),
            vision: Vision::nanovlm(&config).unwrap().unwrap(),
        }
    }

    fn qwen(file: &str) -> Self {
        let folder = vision().join("qwen2_5_vl_rows");
        Self {
            tokenizer: Tokenizer::from_checkpoint(&folder).unwrap(),
            vision: Vision::qwen(&json_of(&folder.join(file)), "<|image_pad|>", None).unwrap(),
        }
    }

    fn load(&self, path: &Path, kind: &str, options: TokenOptions) -> Result<Samples, DataError> {
        let path = path.to_string_lossy().into_owned();
        let spec = DatasetSpec {
            path,
            kind: kind.to_owned(),
            image_folder: Some(vision().join("images")),
            ..Default::default()
        };
        let encoder = Encoder::new(&self.tokenizer, self.tokenizer.vocab_size());
        load(&[spec], &encoder, Some(&self.vision), options)
    }

    /// The samples of rows.
    fn rows(&self, kind: &str, rows: &[Value], options: TokenOptions) -> Result<Samples, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        self.load(&file, kind, options)
    }

    fn text(&self, sample: &Tokenized) -> String {
        self.tokenizer.decode(&sample.ids, false)
    }

    /// What of a sample is learnt.
    fn learnt(&self, sample: &Tokenized) -> String {
        let ids: Vec<u32> = sample.labels.iter().filter_map(|label| u32::try_from(*label).ok()).collect();
        self.tokenizer.decode(&ids, false)
    }
}

/// Tokens and targets are nanoVLM's; so are, batch by batch, the tiles and where their features go.
#[test]
fn nanovlms_samples_are_its_own() {
    let folder = vision().join("nanovlm_split");
    let model = Model::nanovlm(|_| {});
    let expected = folder.join("expected.safetensors");
    let texts = json_of(&folder.join("samples.json"));
    let samples = model.load(&folder.join("rows.jsonl"), "cauldron", OPTIONS).unwrap().tokens();
    let image = model.tokenizer.id("<|image|>").unwrap();
    let mut batch = Batch::default();
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(model.text(sample), texts[i]["text"].as_str().unwrap());
        let ids: Vec<i64> = sample.ids.iter().map(|&id| id.into()).collect();
        assert_eq!(ids, tensor(&expected, &format!("sample.{i}.input_ids"), integers));
        // theirs are shifted, with nothing to come after the last
        let mut targets: Vec<i64> = sample.labels[1..].to_vec();
        targets.push(-100);
        assert_eq!(targets, tensor(&expected, &format!("sample.{i}.targets"), integers), "sample {i}");
        let tiles: Vec<usize> = sample.pictures.iter().map(|picture| picture.layout.tiles()).collect();
        assert_eq!(json!(tiles), texts[i]["tiles_of_each_image"]);
        batch.push(i, sample);
    }
    let of_pictures: Vec<usize> = batch.pictures.iter().flat_map(|one| one.tokens.iter().cloned().flatten()).collect();
    let tokens: Vec<usize> = (0..batch.ids.len()).filter(|&at| batch.ids[at] == image).collect();
    assert_eq!(of_pictures, tokens);
    let wanted = tensor(&expected, "tiles", floats);
    let mut got = Vec::new();
    for pixels in model.vision.pixels_of(&batch.pictures.iter().collect::<Vec<_>>()).unwrap() {
        let Pixels::Tiles(tiles) = pixels else { panic!("no tiles") };
        got.extend(tiles.values);
    }
    assert_eq!(got.len(), wanted.len());
    assert!(got.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6));
}

/// By hand from nanoVLM v0.2 and v0.1: a run of tokens, or rows that no token stands for; one question, learnt with its end.
#[test]
fn the_first_generations_read_a_question_and_an_answer() {
    let turns = json!([{"user": "what is in the picture?", "assistant": "yes"}, {"user": "and?", "assistant": "no"}]);
    let rows = [json!({"images": ["square.png", "wide.png"], "texts": turns}), json!({"images": [], "texts": turns})];
    let run = Model::nanovlm(|config| config["vlm_extra_tokens"] = json!({"image_token": "<|image|>"}));
    let PictureText::Run { tokens: 4, .. } = run.vision.text else { panic!("{:?}", run.vision.text) };
    let said = "Question: what is in the picture? Answer:yes<|im_end|>";
    // the answer joins the colon without a space, and a token may lie across
    let found = run.rows("cauldron", &rows, OPTIONS).unwrap().tokens();
    assert_eq!(run.text(&found[0]), format!("<|image|><|image|><|image|><|image|>{said}"));
    assert_eq!((run.learnt(&found[0]).as_str(), runs(&found[0])), ("yes<|im_end|>", vec![(0, 4)]));
    assert_eq!((run.text(&found[1]).as_str(), found[1].pictures.len()), (said, 0));

    let before = Model::nanovlm(|config| config["vlm_extra_tokens"] = Value::Null);
    let found = before.rows("cauldron", &rows, OPTIONS).unwrap().tokens();
    assert_eq!(before.text(&Tokenized { ids: found[0].ids[4..].to_vec(), ..Tokenized::default() }), said);
    assert_eq!((before.learnt(&found[0]).as_str(), found[0].pictures.len()), ("yes<|im_end|>", 1));
    assert_eq!(runs(&found[0]), [(0, 4)]);
    assert_eq!(before.text(&found[1]), said);
    let Pixels::Tiles(tiles) = before.vision.pixels(&found[0].pictures[0].picture).unwrap() else { panic!("no tiles") };
    let side = json_of(&vision().join("nanovlm_split/config.json"))["vit_img_size"].as_u64().unwrap() as usize;
    assert_eq!((tiles.count, tiles.height, tiles.width), (1, side, side));
}

/// With a tower of another kind a picture is one square; a token for whole pictures says that all turns are read, as since August 2025.
#[test]
fn another_tower_reads_all_turns_where_whole_pictures_have_a_token() {
    let tokens = json!({"image_token": "<|image|>", "global_image_token": "<|global_image|>"});
    let mut model = Model::nanovlm(|config| config["vlm_extra_tokens"] = tokens.clone());
    let processor = json!({
        "image_processor_type": "BitImageProcessor",
        "do_resize": true, "do_center_crop": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3, "rescale_factor": 1.0 / 255.0,
        "size": { "shortest_edge": 16 }, "crop_size": { "height": 16, "width": 16 },
    });
    let turns = json!([{"user": "what is in the picture?", "assistant": "yes"}, {"user": "and?", "assistant": "no"}]);
    let rows = [json!({"images": ["wide.png"], "texts": turns})];
    model.vision = Vision::squares(&processor, "<|image|>", Some("<|global_image|>"), 8).unwrap();
    let found = model.rows("cauldron", &rows, OPTIONS).unwrap().tokens();
    let shown = "user\n<|global_image|><|image|><|image|><|image|><|image|>what is in the picture?";
    assert!(model.text(&found[0]).contains(shown), "{}", model.text(&found[0]));
    let learnt = model.learnt(&found[0]);
    assert!(learnt.starts_with("yes") && learnt.contains("no"), "{learnt}");
    assert_eq!((found[0].pictures.len(), runs(&found[0]).len()), (1, 1));
    let Pixels::Tiles(pixels) = model.vision.pixels(&found[0].pictures[0].picture).unwrap() else { panic!("patches") };
    assert_eq!((pixels.height, pixels.width), (16, 16));
    // Without that token it is May's layout.
    model.vision = Vision::squares(&processor, "<|image|>", None, 8).unwrap();
    let found = model.rows("cauldron", &rows, OPTIONS).unwrap().tokens();
    assert_eq!(model.learnt(&found[0]), "yes<|im_end|>");
}

/// Texts, tokens, labels, pixels and grids are those of transformers' processor.
#[test]
fn qwens_samples_are_those_of_transformers() {
    let folder = vision().join("qwen2_5_vl_rows");
    let expected = folder.join("expected.safetensors");
    let texts = json_of(&folder.join("texts.json"));
    for file in ["preprocessor_config.json", "processor_config.json"] {
        let model = Model::qwen(file);
        let samples = model.load(&folder.join("rows.jsonl"), "messages", OPTIONS).unwrap().tokens();
        let width = tensor(&expected, "input_ids", integers).len() / samples.len();
        let of_row = |name: &str, row: usize| tensor(&expected, name, integers)[row * width..][..width].to_vec();
        let mut batch = Batch::default();
        for (i, sample) in samples.iter().enumerate() {
            // ours end with the last end mark: nothing depends on the line break behind it
            let wanted = texts["with_image_tokens"][i].as_str().unwrap();
            assert_eq!(model.text(sample), wanted.trim_end());
            let (ids, labels) = (of_row("input_ids", i), of_row("labels", i));
            let own: Vec<i64> = sample.ids.iter().map(|&id| id.into()).collect();
            assert_eq!(own, ids[..own.len()]);
            assert_eq!(sample.labels, labels[..own.len()]);
            assert!(labels[own.len()..].iter().all(|label| *label == -100));
            assert_eq!(json!(sample.pictures.len()), texts["images_of_each_row"][i]);
            batch.push(i, sample);
        }
        let (wanted, mut got, mut grids) = (tensor(&expected, "pixel_values", floats), Vec::new(), Vec::new());
        for pixels in model.vision.pixels_of(&batch.pictures.iter().collect::<Vec<_>>()).unwrap() {
            let Pixels::Patches(patches) = pixels else { panic!("no patches") };
            grids.extend(patches.grid.map(|side| side as i64));
            got.extend(patches.values);
        }
        assert_eq!(grids, tensor(&expected, "image_grid_thw", integers));
        assert!(got.len() == wanted.len() && got == wanted);
    }
}

#[test]
fn pictures_are_numbered_where_the_template_is_asked_to() {
    let folder = vision().join("qwen2_5_vl_rows");
    let model = Model::qwen("processor_config.json");
    let encoder = Encoder::new(&model.tokenizer, model.tokenizer.vocab_size());
    let texts = json_of(&folder.join("texts.json"));
    let rows = fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    for (wanted, row) in texts["numbered"].as_array().unwrap().iter().zip(rows.lines()) {
        let row: Value = serde_json::from_str(row).unwrap();
        let messages: Vec<grades_models::template::Message> = serde_json::from_value(row["messages"].clone()).unwrap();
        let variables = [("add_vision_id".to_owned(), true.into())].into_iter().collect();
        let given = grades_models::template::Given { tools: None, variables };
        assert_eq!(encoder.render(&messages, &given, true).unwrap().text, wanted.as_str().unwrap());
    }
}

#[test]
fn what_is_learnt_has_no_tokens_of_pictures() {
    let row = json!({"messages": [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "yes"}], "images": ["small.png"]});
    let everything = TokenOptions { train_on_inputs: true, ..OPTIONS };
    let model = Model::qwen("processor_config.json");
    let sample = model.rows("messages", std::slice::from_ref(&row), everything).unwrap().tokens().remove(0);
    assert!(model.learnt(&sample).starts_with("<|im_start|>system\n"));
    assert!(!model.learnt(&sample).contains("<|image_pad|>") && model.text(&sample).contains("<|image_pad|>"));
    // a picture after the last answer is not read, as the answer does not depend on it
    let mut longer = row.clone();
    longer["messages"].as_array_mut().unwrap().push(json!({"role": "user", "content": "<image>and this?"}));
    longer["images"] = json!(["small.png", "wide.png"]);
    let (short, long) = (
        model.rows("messages", std::slice::from_ref(&row), OPTIONS).unwrap(),
        model.rows("messages", std::slice::from_ref(&longer), OPTIONS).unwrap(),
    );
    assert_eq!(
        short.tokens(),
        long.tokens()
            .into_iter()
            .map(|mut sample| {
                sample.pictures[0].place = short.tokens()[0].pictures[0].place.clone();
                sample
            })
            .collect::<Vec<_>>()
    );
    assert_eq!(model.rows("messages", &[longer], everything).unwrap().tokens()[0].pictures.len(), 2);
}

#[test]
fn a_sample_never_loses_a_part_of_a_picture() {
    let row = json!({"messages": [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "yes yes yes"}], "images": ["small.png"]});
    let model = Model::qwen("processor_config.json");
    let whole = model.rows("messages", std::slice::from_ref(&row), OPTIONS).unwrap().tokens().remove(0);
    let end = whole.pictures[0].tokens[0].end;
    let cut = |sequence_len| {
        let options = TokenOptions { sequence_len, excess_length: ExcessLength::Truncate, ..OPTIONS };
        model.rows("messages", &[row.clone(), row.clone()], options)
    };
    let kept = cut(whole.ids.len() - 1).unwrap();
    assert_eq!((kept.samples.len(), kept.dropped, kept.truncated), (2, 0, 2));
    assert_eq!(kept.tokens()[0].pictures[0].tokens, whole.pictures[0].tokens);
    assert!(matches!(cut(end - 1), Err(DataError::NothingLeft { dropped: 2, .. })));
    // packing counts what stands for the picture
    assert!(end > 8 && whole.ids.len() > end);
}

#[test]
fn what_cannot_be_seen_is_told_with_the_row() {
    let row = |text: &str, image: &str| json!({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}], "images": [image]});
    let qwen = Model::qwen("processor_config.json");
    let refused = |model: &Model, row: Value| model.rows("messages", &[row], OPTIONS).unwrap_err().to_string();
    let error = refused(&qwen, row("<image><|image_pad|>", "small.png"));
    assert!(error.contains("rows.jsonl:1: ") && error.contains("2 times for 1 pictures"), "{error}");
    let error = refused(&qwen, row("<image>", "data:image/png;base64,iVBORw0KGgoAAAA="));
    assert!(error.contains("rows.jsonl:1: a picture of 11 bytes: the PNG picture ends too early"), "{error}");
    let nanovlm = Model::nanovlm(|_| {});
    let error = refused(&nanovlm, row("<image>is <|image|> it?", "small.png"));
    assert!(error.contains("5 tokens `<|image|>`, but its pictures take 4"), "{error}");
    let few = Model::nanovlm(|config| drop(config["vlm_extra_tokens"].as_object_mut().unwrap().remove("r2c3")));
    let error = refused(&few, row("<image>", "wide.png"));
    assert!(error.contains("2×3 tiles") && error.contains("row 2, column 3"), "{error}");
    let odd = json!({"vit_hidden_dim": 8, "lm_hidden_dim": 8, "vit_img_size": 0});
    assert!(Vision::nanovlm(&odd).unwrap_err().to_string().contains("`vit_img_size` is 0"));
    assert_eq!(Vision::nanovlm(&json!({"model_type": "llama"})), Ok(None));
    // damage that the header does not show comes out where the batch is made, with the row
    let whole = fs::read(vision().join("images/small.png")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let file = folder.path().join("rows.jsonl");
    fs::write(&file, row("<image>", "cut.png").to_string()).unwrap();
    let spec =
        DatasetSpec { path: file.to_string_lossy().into_owned(), kind: "messages".to_owned(), ..Default::default() };
    let encoder = Encoder::new(&qwen.tokenizer, qwen.tokenizer.vocab_size());
    let sample = load(&[spec], &encoder, Some(&qwen.vision), OPTIONS).unwrap().tokens().remove(0);
    let mut batch = Batch::default();
    batch.push(0, &sample);
    let error = qwen.vision.pixels_of(&batch.pictures.iter().collect::<Vec<_>>()).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:1: ") && error.contains("cut.png: the PNG picture ends too early"), "{error}");
}
