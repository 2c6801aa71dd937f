//! The tiny vision-language models of the fixtures, asked about pictures.

use std::path::PathBuf;

use grades_models::generate::{Limits, generate};

use super::*;
use crate::data::conversation::Conversation;
use crate::data::record::Place as Row;
use crate::data::{Picture, prompt};
use crate::eval::open::{AskOptions, ask};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision").join(name)
}

fn open(name: &str) -> Loaded {
    open_with(&fixture(name), ImageBackend::Auto).unwrap()
}

fn open_with(path: &Path, image_backend: ImageBackend) -> Result<Loaded, TrainError> {
    let options =
        Loading { adapter: None, fold_adapter: false, load_in_4bit: false, image_backend, precision: Precision::F32 };
    Loaded::open(path, options)
}

fn asked(loaded: &Loaded, text: &str, pictures: &[&str]) -> Tokenized {
    let picture = |name: &&str| Picture::File(fixture("images").join(name).into());
    let mut conversation = Conversation::default();
    conversation.say("user", text, pictures.iter().map(picture).collect()).unwrap();
    prompt(&conversation, &loaded.encoder(), loaded.vision.as_deref(), &Row::named("the prompt")).unwrap()
}

fn alone(loaded: &mut Loaded, prompt: &Tokenized, limits: &Limits) -> Generated {
    let inputs = loaded.inputs(std::slice::from_ref(prompt)).unwrap();
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    generate(&loaded.model, &loaded.tokenizer, &inputs, limits, &mut sampler, |_| {}).unwrap()
}

#[test]
fn pictures_are_resized_as_a_model_was_trained() {
    let logits = |backend| {
        let mut loaded = open_with(&fixture("qwen2_5_vl_rows"), backend).unwrap();
        let prompt = asked(&loaded, "what is it?", &["wide.png"]);
        let inputs = loaded.inputs(std::slice::from_ref(&prompt)).unwrap();
        loaded.model.logits(&inputs).to_host().into_owned()
    };
    let [auto, pillow, torchvision] = [ImageBackend::Auto, ImageBackend::Pillow, ImageBackend::Torchvision].map(logits);
    // The fixture's processor is transformers' own of today, which is torchvision's.
    assert!(auto == torchvision && auto != pillow);
}

const MODELS: [&str; 2] = ["nanovlm_split", "qwen2_5_vl_rows"];

#[test]
fn answers_of_a_batch_are_those_of_each_alone() {
    for name in MODELS {
        let mut loaded = open(name);
        let prompts = [
            asked(&loaded, "what is in the picture?", &["small.png"]),
            asked(&loaded, "no picture", &[]),
            asked(&loaded, "is <image> like <image>? say so", &["wide.png", "small.png"]),
        ];
        let mut limits = Limits { max_new_tokens: 12, stop: Vec::new() };
        let whole: Vec<Generated> = prompts.iter().map(|prompt| alone(&mut loaded, prompt, &limits)).collect();
        assert!(whole.iter().all(|one| one.tokens.len() == 12));
        assert!(whole[0].tokens != whole[1].tokens && whole[1].tokens != whole[2].tokens, "{name}: {whole:?}");
        // A token that ends the texts, each at another place or not at all.
        limits.stop = vec![whole[0].tokens[4], whole[1].tokens[7]];
        let alone: Vec<Generated> = prompts.iter().map(|prompt| alone(&mut loaded, prompt, &limits)).collect();
        assert!(alone[0].finished && alone[0].tokens.len() <= 4);
        let inputs = loaded.inputs(&prompts).unwrap();
        let mut samplers = vec![Sampler::new(SamplingOptions::default()).unwrap(); 3];
        let together = generate_each(&loaded.model, &loaded.tokenizer, &inputs, &limits, &mut samplers).unwrap();
        assert_eq!(together, alone, "{name}");
        let none = Limits { max_new_tokens: 0, stop: Vec::new() };
        let nothing = generate_each(&loaded.model, &loaded.tokenizer, &inputs, &none, &mut samplers).unwrap();
        assert!(nothing.iter().all(|one| one.tokens.is_empty() && !one.finished));
    }
}

/// The first three rows of the fixture, the third without a picture, with the greedy tokens of transformers 5.24.
#[test]
fn qwens_answers_are_those_of_transformers() {
    let mut loaded = open("qwen2_5_vl_rows");
    let prompts = [
        asked(&loaded, "what is in the picture?", &["wide.png"]),
        asked(&loaded, "two images:<image>are they the same?<image>", &["tall.png", "small.png"]),
        asked(&loaded, "which letter comes after b?", &[]),
    ];
    assert_eq!(prompts.each_ref().map(|prompt| prompt.ids.len()), [62, 81, 47]);
    let limits = Limits { max_new_tokens: 12, stop: Vec::new() };
    let inputs = loaded.inputs(&prompts).unwrap();
    let mut samplers = vec![Sampler::new(SamplingOptions::default()).unwrap(); 3];
    let found = generate_each(&loaded.model, &loaded.tokenizer, &inputs, &limits, &mut samplers).unwrap();
    assert_eq!(found[0].tokens, [70, 78, 74, 86, 67, 26, 70, 78, 74, 86, 67, 26]);
    assert_eq!(found[1].tokens, [26, 78, 74, 26, 26, 26, 93, 64, 26, 26, 26, 26]);
    assert_eq!(found[2].tokens, [93, 65, 78, 36, 83, 61, 78, 36, 78, 36, 36, 30]);
}

#[test]
fn batches_of_any_size_give_the_same_answers() {
    for name in MODELS {
        let mut loaded = open(name);
        let texts = ["what is in the picture?", "and now?", "is it red or blue or something else?", "why?"];
        let prompts: Vec<Tokenized> = texts.iter().map(|text| asked(&loaded, text, &["small.png"])).collect();
        let mut answers = |batch_prompts, batch_tokens| {
            let options = AskOptions { max_new_tokens: 6, batch_tokens, batch_prompts };
            ask("own", &prompts, &mut loaded, options, &mut |_| {}).unwrap()
        };
        let one = answers(1, 1000);
        assert_eq!(one.prompt_tokens, prompts.iter().map(|prompt| prompt.ids.len()).sum::<usize>());
        assert!(one.texts.len() == 4 && one == answers(3, 1000) && one == answers(4, 1) && one == answers(9, 60));
    }
}

#[test]
fn a_prompt_is_the_beginning_of_what_is_learnt() {
    for name in MODELS {
        let loaded = open(name);
        let prompt = asked(&loaded, "what is in <image>?", &["wide.png"]);
        let row = r#"{"messages": [{"role": "user", "content": "what is in <image>?"}, {"role": "assistant", "content": "yes"}], "images": ["wide.png"]}"#;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), row).unwrap();
        let spec = crate::data::DatasetSpec {
            path: folder.path().join("rows.jsonl").to_string_lossy().into_owned(),
            kind: "messages".to_owned(),
            image_folder: Some(fixture("images")),
            ..Default::default()
        };
        let options = crate::data::TokenOptions {
            sequence_len: 1000,
            train_on_inputs: false,
            excess_length: crate::data::ExcessLength::Raise,
            max_samples: None,
            train_on_last_turn_only: false,
            on_bad_row: crate::data::OnBadRow::Stop,
        };
        let learnt = crate::data::load(&[spec], &loaded.encoder(), loaded.vision.as_deref(), options).unwrap();
        let sample = &learnt.samples[0];
        let sample = sample.tokens().unwrap();
        let first = sample.labels.iter().position(|label| *label != grades_tensor::IGNORE_INDEX).unwrap();
        assert_eq!(prompt.ids, sample.ids[..first], "{name}");
        assert_eq!(prompt.pictures[0].tokens, sample.pictures[0].tokens, "{name}");
        assert_eq!(prompt.label_count(), 0);
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let loaded = open("qwen2_5_vl_rows");
    let cut = Picture::Bytes([1, 2, 3].as_slice().into());
    let mut conversation = Conversation::default();
    conversation.say("user", "what?", vec![cut]).unwrap();
    let of = |vision: Option<&Vision>| {
        prompt(&conversation, &loaded.encoder(), vision, &Row::named("the prompt")).unwrap_err()
    };
    assert!(of(loaded.vision.as_deref()).contains("a picture of 3 bytes"));
    assert!(of(None).contains("the model reads none"));
    let mut conversation = Conversation::default();
    let picture = || Picture::Bytes([1].as_slice().into());
    let error = conversation.say("user", "<image> <image>", vec![picture()]).unwrap_err();
    assert!(error.contains("2 `<image>`") && error.contains("1 pictures"), "{error}");
}
