use std::path::{Path, PathBuf};

use serde_json::Value;

use super::captions::{self, words};
use super::gqa;
use super::mmstar::{Categories, begins_with, by_category, letter, mentions};
use super::vqa::{Cleaning, accuracy, clean};

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision/scorers")
}

/// What lmms-eval and pycocoevalcap gave, in the repository or where `GRADES_FIXTURES` says.
fn recorded(name: &str) -> Value {
    let folder = std::env::var_os("GRADES_FIXTURES").map_or_else(own, |other| Path::new(&other).join("vision/scorers"));
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(text).collect()
}

#[track_caller]
fn near(got: f64, wanted: &Value) {
    let wanted = wanted.as_f64().unwrap();
    assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
}

#[test]
fn vqa_accuracies_are_those_of_both_cleanings() {
    let answers = recorded("answers.json");
    for pair in answers["vqav2_clean"].as_array().unwrap() {
        assert_eq!(clean(text(&pair[0])), text(&pair[1]), "{pair}");
    }
    let mut parted = 0;
    for row in answers["vqav2"].as_array().unwrap() {
        let score = |cleaning| accuracy(text(&row["prediction"]), &texts(&row["answers"]), cleaning);
        near(score(Cleaning::UnlessUnanimous), &row["accuracy_official"]);
        near(score(Cleaning::Always), &row["accuracy_since_0.4.1"]);
        parted += usize::from(row["accuracy_official"] != row["accuracy_since_0.4.1"]);
    }
    assert!(parted > 2);
}

#[test]
fn apostrophes_are_put_back_as_the_official_list_has_them() {
    for (said, wanted) in [
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("y'alldve", "y'alldve"),
        ("yall'd've", "y'all'd've"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("ow's'at", "'ow's'at"),
        ("lets", "lets"),
        ("Im", "im"),
        ("wed", "wed"),
        (&"a.".repeat(20), "aaaaaaaaaaaaaaaaaaaa"),
    ] {
        assert_eq!(clean(said), wanted);
    }
    // thirty-two full stops go, and the others stay
    assert_eq!(clean(&".".repeat(40)), "........");
    assert_eq!(accuracy("yes", &[], Cleaning::Always), 0.0);
}

#[test]
fn gqa_compares_but_for_case_and_punctuation() {
    for row in recorded("answers.json")["gqa"].as_array().unwrap() {
        let right = gqa::is_right(text(&row["prediction"]), text(&row["answer"]));
        near(f64::from(u8::from(right)), &row["exact_match"]);
    }
}

#[test]
fn mmstar_letters_are_those_of_both_versions() {
    for row in recorded("answers.json")["mmstar"].as_array().unwrap() {
        let (said, answer) = (text(&row["prediction"]), text(&row["answer"]).chars().next().unwrap());
        let found = letter(said);
        assert_eq!(found.map_or(String::new(), String::from), text(&row["letter_since_0.7.2"]), "{row}");
        near(f64::from(u8::from(found == Some(answer))), &row["score_since_0.7.2"]);
        near(f64::from(u8::from(begins_with(said, answer))), &row["score_until_0.7.1"]);
    }
    // by hand from lmms-eval 0.7.3: of two phrases, of two letters in brackets, of the surer shape
    for (said, wanted) in [
        ("the answer is A or B; no, the correct answer is A?", Some('A')),
        ("(A) is wrong, so (C) it must be", Some('C')),
        ("Perhaps D. The rest is noise", Some('D')),
        ("正确答案是C", Some('C')),
        ("İİ the answer is B", Some('B')),
        ("Cat", Some('C')),
        ("nothing", None),
    ] {
        assert_eq!(letter(said), wanted, "{said}");
    }
}

#[test]
fn nanovlm_wants_the_letter_alone_or_in_brackets() {
    // Python's \bB\b, \bB[.,)] and \(.*B.*\)
    for (said, wanted) in [
        ("B", true),
        (" B.", true),
        ("answer: B)", true),
        ("(it is Bob)", true),
        ("b", false),
        ("Bob", false),
        ("_B", false),
        ("(it is\nBob)", false),
        (")Bob(", false),
        ("", false),
    ] {
        assert_eq!(mentions(said, 'B'), wanted, "{said}");
    }
}

#[test]
fn categories_are_means_of_the_means_of_their_kinds() {
    let answers = [("math", "geometry", 1.0), ("math", "geometry", 0.0), ("math", "sums", 0.0), ("logic", "code", 1.0)];
    let categories = vec![("math".to_owned(), 0.25), ("logic".to_owned(), 1.0)];
    assert_eq!(by_category(&answers), Categories { categories, average: 0.5 });
    assert_eq!(by_category(&[]).average, 0.0);
}

#[test]
fn captions_are_cut_and_scored_as_pycocoevalcap_does_it() {
    let recorded = recorded("captions.json");
    let (references, said) = (&recorded["references"], &recorded["captions"]);
    let mut items = Vec::new();
    for (name, own) in references.as_object().unwrap() {
        for (text, tokens) in texts(own).iter().zip(texts(&recorded["tokenized_references"][name])) {
            assert_eq!(words(text).join(" "), tokens);
        }
        assert_eq!(words(text(&said[name])).join(" "), text(&recorded["tokenized_captions"][name][0]));
        items.push((text(&said[name]), texts(own)));
    }
    let got = captions::score(&items).unwrap();
    let scores = &recorded["scores"];
    for n in 0..4 {
        let wanted = &scores[format!("Bleu_{}", n + 1)];
        near(got.bleu[n], &wanted["score"]);
        got.each.iter().zip(wanted["each"].as_array().unwrap()).for_each(|(one, wanted)| near(one.bleu[n], wanted));
    }
    near(got.rouge_l, &scores["ROUGE_L"]["score"]);
    near(got.cider, &scores["CIDEr"]["score"]);
    for (i, one) in got.each.iter().enumerate() {
        near(one.rouge_l, &scores["ROUGE_L"]["each"][i]);
        near(one.cider, &scores["CIDEr"]["each"][i]);
    }
}

/// Captions with what captions have, cut by Stanford CoreNLP 3.4.1 (`fixtures/vision/make_words.py`).
#[test]
fn words_are_those_of_the_penn_treebank() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(own().join("words.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for pair in recorded.as_array().unwrap() {
        let got = words(text(&pair[0])).join(" ");
        if got != text(&pair[1]) {
            wrong.push(format!("{}\n  {got}\n  {}", pair[0], pair[1]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn empty_captions_have_scores_of_zero() {
    assert_eq!(captions::score(&[]), None);
    let got = captions::score(&[("", vec!["a dog", ""]), ("a cat", vec![])]).unwrap();
    assert!(got.rouge_l == 0.0 && got.cider == 0.0 && got.bleu[3] < 1e-3, "{got:?}");
}
