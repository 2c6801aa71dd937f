//! The benchmarks. Prompts, lengths of answers, splits and scores are those of lmms-eval 0.7.3.

use super::{OpenQuestion, OpenTask, Scoring};
use crate::data::error::DataError;
use crate::data::picture::Picture;
use crate::data::record::Record;
use crate::eval::task::on_hub;

/// VQA v2 (Goyal et al. 2017).
const VQA_V2: OpenTask = OpenTask {
    name: "vqav2",
    alias: Some("vqav2_val"),
    split: "validation",
    hub: Some(on_hub("lmms-lab/VQAv2", None)),
    pictures: None,
    max_new_tokens: 16,
    unused: &["question_type", "multiple_choice_answer", "image_id", "answer_type", "question_id"],
    question: vqa_v2,
    scoring: Scoring::Vqa,
};

/// GQA (Hudson & Manning 2019).
const GQA: OpenTask = OpenTask {
    name: "gqa",
    alias: None,
    split: "testdev",
    hub: Some(on_hub("lmms-lab/GQA", Some("testdev_balanced_instructions"))),
    pictures: Some(("testdev_balanced_images", "imageId")),
    max_new_tokens: 16,
    unused: &[
        "id",
        "fullAnswer",
        "isBalanced",
        "groups",
        "entailed",
        "equivalent",
        "types",
        "annotations",
        "semantic",
        "semanticStr",
    ],
    question: gqa,
    scoring: Scoring::Gqa,
};

/// Captions of COCO (Chen et al. 2015), the validation of 2014.
const COCO_CAP: OpenTask = OpenTask {
    name: "coco_cap",
    alias: Some("coco2014_cap_val"),
    split: "val",
    hub: Some(on_hub("lmms-lab/COCO-Caption", None)),
    pictures: None,
    max_new_tokens: 64,
    unused: CAPTION_COLUMNS,
    question: caption,
    scoring: Scoring::Captions,
};

/// The same of 2017.
const COCO_2017: OpenTask = OpenTask {
    name: "coco2017_cap_val",
    alias: None,
    hub: Some(on_hub("lmms-lab/COCO-Caption2017", None)),
    ..COCO_CAP
};

const CAPTION_COLUMNS: &[&str] =
    &["question", "question_id", "id", "license", "file_name", "coco_url", "height", "width", "date_captured"];

/// MMStar (Chen et al. 2024). lmms-eval leaves the length to the model's wrapper, which for nanoVLM is this.
const MM_STAR: OpenTask = OpenTask {
    name: "mmstar",
    alias: None,
    split: "val",
    hub: Some(on_hub("Lin-Chen/MMStar", None)),
    pictures: None,
    max_new_tokens: 16,
    unused: &["index", "meta_info"],
    question: mm_star,
    scoring: Scoring::Letters,
};

const TASKS: &[&OpenTask] = &[&VQA_V2, &GQA, &COCO_CAP, &COCO_2017, &MM_STAR];

const SHORT: &str = "\nAnswer the question using a single word or phrase.";
const CAPTION: &str = "Provide a one-sentence caption for the provided image.";
const LETTER: &str = "\nAnswer with the option's letter from the given choices directly";

impl OpenTask {
    /// The task with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TASKS.iter().copied().find(|task| task.name == name || task.alias == Some(name))
    }

    /// All names, for messages.
    pub fn names() -> String {
        TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ")
    }
}

fn vqa_v2(row: &Record, pictures: Vec<Picture>) -> Result<OpenQuestion, DataError> {
    let said = row.objects("answers")?;
    let answer = |answer: &serde_json::Map<String, serde_json::Value>| {
        let text = answer.get("answer").and_then(serde_json::Value::as_str);
        text.map(str::to_owned).ok_or_else(|| row.error("one of the `answers` has no text `answer`; correct the row"))
    };
    let answers = said.into_iter().map(answer).collect::<Result<_, _>>()?;
    OpenQuestion::new(row, row.text("question")?, SHORT, pictures, answers)
}

fn gqa(row: &Record, pictures: Vec<Picture>) -> Result<OpenQuestion, DataError> {
    OpenQuestion::new(row, row.text("question")?, SHORT, pictures, vec![row.text("answer")?.to_owned()])
}

fn caption(row: &Record, pictures: Vec<Picture>) -> Result<OpenQuestion, DataError> {
    let answers = row.texts("answer")?.into_iter().map(str::to_owned).collect();
    OpenQuestion::new(row, CAPTION, "", pictures, answers)
}

fn mm_star(row: &Record, pictures: Vec<Picture>) -> Result<OpenQuestion, DataError> {
    let question = row.text("question")?.trim().replace(" Please answer yes or no.", "");
    let answer = row.text("answer")?.trim().to_uppercase();
    let category = Some((row.text("category")?.to_owned(), row.text("l2_category")?.to_owned()));
    Ok(OpenQuestion { category, ..OpenQuestion::new(row, &question, LETTER, pictures, vec![answer])? })
}
