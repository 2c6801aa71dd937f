use std::fs;

use super::*;
use crate::eval::Asked;
use crate::eval::open::Where;

fn question(task: &str, row: &str) -> Result<Question, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let task = Task::find(task)?;
    fs::create_dir(folder.path().join(task.name)).unwrap();
    fs::write(folder.path().join(task.name).join(format!("{}.jsonl", task.split)), row).unwrap();
    Ok(task.load(Some(folder.path()), None, None)?.remove(0))
}

#[track_caller]
fn check(task: &str, row: &str, contexts: &[&str], choices: &[&str], target: usize) {
    let question = question(task, row).unwrap();
    assert_eq!(question.contexts, contexts);
    assert_eq!(question.choices, choices);
    assert_eq!(question.target, target);
}

// The prompts are those that lm-evaluation-harness 0.4.13 builds from the same rows.

#[test]
fn piqa() {
    let row = r#"{"goal": "dry a wet book", "sol1": "freeze it", "sol2": "boil it", "label": 0}"#;
    check("piqa", row, &["Question: dry a wet book\nAnswer:"], &["freeze it", "boil it"], 0);
}

#[test]
fn arc() {
    let row = r#"{"id": "x", "question": "Which is a metal?", "choices": {"text": ["tin", "wood", "air"], "label": ["1", "2", "3"]}, "answerKey": "2"}"#;
    check("arc_easy", row, &["Question: Which is a metal?\nAnswer:"], &["tin", "wood", "air"], 1);
    assert_eq!(question("arc_challenge", row).unwrap(), question("arc_easy", row).unwrap());
    let error = question("arc_easy", &row.replace("\"2\"}", "\"D\"}")).unwrap_err().to_string();
    assert!(error.contains("test.jsonl:1") && error.contains("3 choices"), "{error}");
}

#[test]
fn openbookqa() {
    let row = r#"{"id": "x", "question_stem": "Rain is made of", "choices": {"text": ["sand", "water"], "label": ["A", "B"]}, "answerKey": " B"}"#;
    check("openbookqa", row, &["Rain is made of"], &["sand", "water"], 1);
}

#[test]
fn boolq() {
    let row = r#"{"question": "is tin a metal", "passage": "Tin -- Tin is a metal.", "answer": true}"#;
    let context = "Tin -- Tin is a metal.\nQuestion: is tin a metal?\nAnswer:";
    check("boolq", row, &[context], &["no", "yes"], 1);
    check("boolq", &row.replace(r#""answer": true"#, r#""label": 0"#), &[context], &["no", "yes"], 0);
}

#[test]
fn hellaswag() {
    let row = r#"{"activity_label": "Baking bread", "ctx_a": "[header] A baker kneads. [title] He waits.", "ctx_b": "the Dough", "ctx": "unused",
        "endings": ["rises.", " [step] sings [substeps] a song."], "label": "1"}"#;
    let row = row.replace('\n', " ");
    check("hellaswag", &row, &["Baking bread: A baker kneads.. He waits. The dough"], &["rises.", " sings a song."], 1);
    check(
        "hellaswag",
        r#"{"ctx": "A baker [x] kneads", "endings": ["on", "off"], "label": 0}"#,
        &["A baker kneads"],
        &["on", "off"],
        0,
    );
}

#[test]
fn winogrande() {
    let row = r#"{"sentence": "The bag beat the box since _ was big.", "option1": "the bag", "option2": "the box", "answer": "2"}"#;
    let contexts = ["The bag beat the box since the bag", "The bag beat the box since the box"];
    check("winogrande", row, &contexts, &["was big.", "was big."], 1);
    assert_eq!(question("winogrande", row).unwrap().answered(), (contexts[1], "was big."));
    assert!(question("winogrande", &row.replace('_', "it")).unwrap_err().to_string().contains("`_`"));
    assert!(question("winogrande", &row.replace("\"2\"", "\"0\"")).is_err());
}

#[test]
fn social_i_qa() {
    let row = r#"{"context": "Kim lent a pen.", "question": "How is Kim?", "answerA": "mean", "answerB": "kind", "answerC": "ill", "label": "2"}"#;
    check("social_i_qa", row, &["Q: Kim lent a pen. How is Kim?\nA:"], &["mean", "kind", "ill"], 1);
}

#[test]
fn multiple_choice() {
    let row = r#"{"question": "Which is a metal?", "choices": ["tin", "wood", "2"], "answer": 1}"#;
    let check = |answer: &str, target| {
        let row = row.replace("\"answer\": 1", &format!("\"answer\": {answer}"));
        check("multiple_choice", &row, &["Question: Which is a metal?\nAnswer:"], &["tin", "wood", "2"], target);
    };
    check("1", 1);
    check("\"tin\"", 0);
    // A choice before a place; a place that is written as text.
    check("\"2\"", 2);
    check("\"0\"", 0);
    for (answer, part) in [("3", "3 choices"), ("-1", "3 choices"), ("\"air\"", "3 choices"), ("true", "`answer`")] {
        let row = row.replace("\"answer\": 1", &format!("\"answer\": {answer}"));
        let error = question("multiple_choice", &row).unwrap_err().to_string();
        assert!(error.contains("test.jsonl:1") && error.contains(part), "{error}");
    }
}

#[test]
fn a_file_is_a_task_of_multiple_choice() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.jsonl");
    let row = r#"{"question": "Which?", "choices": ["a", "b"], "answer": "b"}"#;
    fs::write(&file, format!("{row}\n{row}\n{row}\n")).unwrap();
    let open = |name: &str, limit| Asked::find(name, &Where { limit, ..Where::default() });
    let Asked::Choices(task, questions) = open(file.to_str().unwrap(), Some(2)).unwrap() else { panic!("no choices") };
    assert_eq!((task.name, questions.len(), questions[0].target), ("multiple_choice", 2, 1));
    assert!(open("no.jsonl", None).unwrap_err().to_string().contains("no.jsonl"));
    let error = open("multiple_choice", None).unwrap_err().to_string();
    assert!(error.contains("multiple_choice") && error.contains("--data-dir"), "{error}");
}

#[test]
fn an_unknown_task_is_refused_with_the_names() {
    let error = question("piqua", "{}").unwrap_err().to_string();
    assert!(error.contains("`piqua`") && error.contains("piqa") && error.contains("winogrande"), "{error}");
}

#[test]
fn limit_and_split_select_rows() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("piqa")).unwrap();
    let row = |goal: usize| format!("{{\"goal\": \"{goal}\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0}}\n");
    fs::write(folder.path().join("piqa/train.jsonl"), (0..9).map(row).collect::<String>()).unwrap();
    let task = Task::find("piqa").unwrap();
    assert_eq!(task.load(Some(folder.path()), Some("train"), Some(4)).unwrap().len(), 4);
    assert_eq!(
        task.load(Some(folder.path()), Some("train[7:]"), Some(4)).unwrap()[0].contexts,
        ["Question: 7\nAnswer:"]
    );
    let error = task.load(Some(folder.path()), None, None).unwrap_err().to_string();
    assert!(error.contains("`validation`") && error.contains("train.jsonl"), "{error}");
}

/// Every row of the real benchmark files, where GRADES_TEST_DATA names their folder.
#[test]
fn all_rows_of_the_real_sets_are_questions() {
    let Some(folder) = std::env::var_os("GRADES_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: GRADES_TEST_DATA names no folder of benchmark data");
        return;
    };
    let mut files = 0;
    for task in Task::all() {
        for split in ["train", "validation", "test", "train_sample", "validation_sample"] {
            if folder.join(task.name).join(format!("{split}.jsonl")).exists() {
                let questions = task.load(Some(&folder), Some(split), None).unwrap();
                assert!(questions.iter().all(|question| question.target < question.choices.len()));
                files += 1;
            }
        }
    }
    assert!(files > 0, "{} holds no task", folder.display());
}
