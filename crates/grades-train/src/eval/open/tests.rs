use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::data::DataError;
use crate::eval::Asked;

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision/images")
}

/// A folder with a task's questions.
fn folder(task: &str, file: &str, rows: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(task).join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    for picture in ["small.png", "wide.png"] {
        fs::copy(pictures().join(picture), folder.path().join(task).join(picture)).unwrap();
    }
    folder
}

fn load(task: &str, folder: &Path) -> Result<(&'static OpenTask, Vec<OpenQuestion>), DataError> {
    let at = Where { data_dir: Some(folder), ..Where::default() };
    match Asked::find(task, &at)? {
        Asked::Open(task, questions) => Ok((task, questions)),
        Asked::Choices(..) => panic!("{task} has choices"),
    }
}

/// What the user says, as the chat template reads it.
fn content(question: &OpenQuestion) -> &Value {
    &question.asked.messages[0].fields()["content"]
}

fn said(texts: &[&str]) -> Said {
    Said { texts: texts.iter().map(|text| (*text).to_owned()).collect(), ..Said::default() }
}

fn values(results: &Results) -> Vec<(&str, f64)> {
    results.score.metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect()
}

#[track_caller]
fn close(found: &[(&str, f64)], wanted: &[(&str, f64)]) {
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.0 == wanted.0 && (found.1 - wanted.1).abs() < 1e-12, "{found:?}, {wanted:?}");
    }
}

// The prompts are those that lmms-eval 0.7.3 builds from the same rows.

#[test]
fn vqa_v2_counts_who_agrees() {
    let answers: Vec<Value> = (1..=10)
        .map(|id| json!({"answer": if id <= 3 { "red" } else { "blue" }, "answer_confidence": "yes", "answer_id": id}))
        .collect();
    let row = json!({"image": "small.png", "question": "What hue is the box?", "answers": answers, "question_id": 1});
    let folder = folder("vqav2", "validation.jsonl", &[row.clone(), row]);
    let (task, questions) = load("vqav2_val", folder.path()).unwrap();
    let text = "What hue is the box?\nAnswer the question using a single word or phrase.";
    assert_eq!(content(&questions[0]), &json!([{"type": "image"}, {"type": "text", "text": text}]));
    assert_eq!((task.max_new_tokens, questions[0].asked.pictures.len()), (16, 1));
    // Of ten, three say red: seven of them have three others that do, three have two.
    let results = score(task, &questions, said(&["Red.", "blue"]));
    close(&values(&results), &[("exact_match", f64::midpoint((7.0 + 3.0 * 2.0 / 3.0) / 10.0, 1.0))]);
    let Commonest { answer, value } = results.score.commonest.clone().unwrap();
    assert_eq!((answer.as_str(), value), ("blue", 1.0));
    assert_eq!(results.answers[1].score, 1.0);
    let written = serde_json::to_value(&results.score).unwrap();
    assert!((written["exact_match_stderr"].as_f64().unwrap() - 0.05).abs() < 1e-12, "{written}");
}

#[test]
fn gqa_finds_its_pictures_by_their_id() {
    let row =
        |image: &str| json!({"id": "7", "imageId": image, "question": "Is it wide?", "answer": "yes", "types": {}});
    let own = folder("gqa", "testdev_balanced_instructions/testdev.jsonl", &[row("n1"), row("n2"), row("n1")]);
    let images = own.path().join("gqa/testdev_balanced_images");
    fs::create_dir(&images).unwrap();
    let image = |id: &str, file: &str| json!({"id": id, "image": file}).to_string();
    fs::write(images.join("testdev.jsonl"), [image("n1", "wide.png"), image("n2", "small.png")].join("\n")).unwrap();
    for picture in ["small.png", "wide.png"] {
        fs::copy(pictures().join(picture), images.join(picture)).unwrap();
    }
    let (task, questions) = load("gqa", own.path()).unwrap();
    let ends = |question: &OpenQuestion, name: &str| question.asked.pictures[0].to_string().ends_with(name);
    assert!(ends(&questions[0], "wide.png") && ends(&questions[1], "small.png") && ends(&questions[2], "wide.png"));
    let text = "Is it wide?\nAnswer the question using a single word or phrase.";
    assert_eq!(content(&questions[0])[1]["text"], text);
    let results = score(task, &questions, said(&["Yes.", "yes it is", "no"]));
    close(&values(&results), &[("exact_match", 1.0 / 3.0)]);
    fs::write(images.join("testdev.jsonl"), image("n1", "wide.png")).unwrap();
    let error = load("gqa", own.path()).unwrap_err().to_string();
    assert!(error.contains("testdev.jsonl:2") && error.contains("n2"), "{error}");
    // With the pictures beside the questions nothing has to be joined.
    let beside = json!({"question": "Is it wide?", "answer": "yes", "image": "wide.png"});
    let (_, questions) = load("gqa", folder("gqa", "testdev.jsonl", &[beside]).path()).unwrap();
    assert!(ends(&questions[0], "wide.png"));
}

#[test]
fn captions_are_scored_together() {
    let row = |first: &str| json!({"image": "small.png", "question": "unused", "answer": [first, "a cat on a red mat"], "id": 1});
    let rows = [row("the cat sits on a mat"), row("a dog runs far away")];
    let (task, questions) = load("coco_cap", folder("coco_cap", "val.jsonl", &rows).path()).unwrap();
    assert_eq!(content(&questions[0])[1]["text"], "Provide a one-sentence caption for the provided image.");
    let results = score(task, &questions, said(&["A cat on a red mat.", "nothing here"]));
    let names: Vec<&str> = values(&results).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["coco_CIDEr", "coco_ROUGE_L", "coco_Bleu_1", "coco_Bleu_2", "coco_Bleu_3", "coco_Bleu_4"]);
    let captions = [
        ("A cat on a red mat.", vec!["the cat sits on a mat", "a cat on a red mat"]),
        ("nothing here", vec!["a dog runs far away", "a cat on a red mat"]),
    ];
    let wanted = crate::eval::scorers::captions::score(&captions).unwrap();
    assert_eq!((values(&results)[0].1, results.answers[0].score), (wanted.cider, wanted.each[0].cider));
    assert!((values(&results)[1].1 - 0.5).abs() < 1e-12 && results.score.commonest.is_none());
}

#[test]
fn mm_star_has_categories() {
    let row = |category: &str, kind: &str, answer: &str| {
        json!({"index": 0, "image": "small.png", "question": " Which one?\nOptions: A: x, B: y ", "answer": answer,
            "category": category, "l2_category": kind, "meta_info": {}})
    };
    let rows = [
        row("math", "geometry", "A"),
        row("math", "geometry", "B"),
        row("math", "numbers", "A"),
        row("art", "style", "B"),
    ];
    let (task, questions) = load("mmstar", folder("mmstar", "val.jsonl", &rows).path()).unwrap();
    let text = "Which one?\nOptions: A: x, B: y\nAnswer with the option's letter from the given choices directly";
    assert_eq!(content(&questions[0])[1]["text"], text);
    let results = score(task, &questions, said(&["A", "The answer is C.", "(A)", "D"]));
    close(&values(&results), &[("average", 0.5), ("math", 0.75), ("art", 0.0)]);
    assert_eq!(results.score.commonest.unwrap().answer, "A");
}

#[test]
fn ones_own_questions_are_rows_or_conversations() {
    let rows = [
        json!({"image": "small.png", "question": "What is it?", "answer": "The box"}),
        json!({"images": ["wide.png", "small.png"], "question": "Is <image> like <image>?", "answers": ["no", "not at all"]}),
        json!({"question": "Without a picture?", "answer": 2}),
        json!({"image": "small.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a box"}]}),
    ];
    let folder = folder("own", "mine.jsonl", &rows);
    let file = folder.path().join("own/mine.jsonl");
    let (task, questions) = load(file.to_str().unwrap(), folder.path()).unwrap();
    assert_eq!(content(&questions[0]), &json!([{"type": "image"}, {"type": "text", "text": "What is it?"}]));
    assert_eq!(content(&questions[1])[4], json!({"type": "text", "text": "?"}));
    assert_eq!(
        (questions[2].answers.as_slice(), content(&questions[2])),
        (["2".to_owned()].as_slice(), &json!("Without a picture?"))
    );
    assert_eq!((questions[3].asked.messages.len(), questions[3].asked.pictures.len()), (1, 1));
    assert_eq!((questions[3].text.as_str(), questions[3].answers[0].as_str()), ("What?", "a box"));
    let results = score(task, &questions, said(&["box.", "No", "two", "a ball"]));
    close(&values(&results), &[("exact_match", 0.75)]);
    // `box` is the answer of two of them.
    assert_eq!(results.score.commonest, Some(Commonest { answer: "box".to_owned(), value: 0.5 }));
    assert_eq!(results.answers[3].answers, ["a box"]);
}

#[test]
fn an_answer_that_cleaning_would_empty_is_compared_as_it_is() {
    let rows =
        [json!({"question": "Which letter?", "answer": "A"}), json!({"question": "Which word?", "answer": "the"})];
    let folder = folder("own", "mine.jsonl", &rows);
    let (task, questions) = load(folder.path().join("own/mine.jsonl").to_str().unwrap(), folder.path()).unwrap();
    close(&values(&score(task, &questions, said(&["the", "The"]))), &[("exact_match", 0.5)]);
}

#[test]
fn a_row_that_is_no_question_is_told() {
    let refused = |row: Value| {
        let folder = folder("own", "mine.jsonl", &[row]);
        load(folder.path().join("own/mine.jsonl").to_str().unwrap(), folder.path()).unwrap_err().to_string()
    };
    let error = refused(json!({"question": "What?", "answers": []}));
    assert!(error.contains("mine.jsonl:1") && error.contains("`answers`"), "{error}");
    let error = refused(json!({"question": "<image> or <image>?", "image": "small.png", "answer": "x"}));
    assert!(error.contains("2 `<image>`") && error.contains("1 pictures"), "{error}");
    let error = refused(json!({"question": "What?", "image": "none.png", "answer": "x"}));
    assert!(error.contains("none.png"), "{error}");
    let error = Asked::find("vqav3", &Where::default()).unwrap_err().to_string();
    assert!(error.contains("`vqav3`") && error.contains("vqav2") && error.contains("piqa"), "{error}");
}
