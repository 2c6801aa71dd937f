//! Scores of written answers, and of always writing the same one.

use std::collections::BTreeMap;

use grades_report::record::WrittenAnswer;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::answer::Said;
use super::{OpenQuestion, OpenTask, Results};
use crate::eval::scorers::vqa::{Cleaning, clean};
use crate::eval::scorers::{captions, gqa, mmstar, vqa};

/// How answers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Agreement with ten people.
    Vqa,
    /// The one right answer, but for case and punctuation.
    Gqa,
    /// One of the answers, after VQA's normalisation.
    Exact,
    /// A letter, by category.
    Letters,
    /// Agreement of captions with people's.
    Captions,
}

/// One number of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name in lmms-eval.
    pub name: String,
    /// A fraction; of CIDEr up to 10.
    pub value: f64,
    /// Its standard error, of means over several questions.
    pub stderr: Option<f64>,
}

/// What is always answered without looking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Commonest {
    /// The commonest right answer.
    pub answer: String,
    /// The score of it for every question.
    pub value: f64,
}

/// How well a task was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpenScore {
    /// The scores, the first of which is what questions are scored by; each is written as a key of its own.
    #[serde(flatten, serialize_with = "by_name")]
    pub metrics: Vec<Metric>,
    /// The score of always giving the commonest answer, where answers are not captions.
    pub commonest: Option<Commonest>,
    /// Number of questions.
    pub n: usize,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of the answers.
    pub written_tokens: usize,
}

fn by_name<S: Serializer>(metrics: &[Metric], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for Metric { name, value, stderr } in metrics {
        map.serialize_entry(name, value)?;
        if let Some(stderr) = stderr {
            map.serialize_entry(&format!("{name}_stderr"), stderr)?;
        }
    }
    map.end()
}

/// Scores what a model has said to `questions`.
pub fn score(task: &OpenTask, questions: &[OpenQuestion], said: Said) -> Results {
    let (metrics, each) = match task.scoring {
        Scoring::Captions => of_captions(questions, &said.texts),
        scoring => {
            let each: Vec<f64> =
                questions.iter().zip(&said.texts).map(|(question, text)| right(scoring, text, question)).collect();
            let metrics = match scoring {
                Scoring::Letters => of_categories(questions, &each),
                _ => vec![mean("exact_match", &each)],
            };
            (metrics, each)
        }
    };
    let answer = |(index, ((question, text), score)): (usize, ((&OpenQuestion, &String), &f64))| WrittenAnswer {
        task: task.name.to_owned(),
        index,
        question: question.text.clone(),
        answer: text.clone(),
        answers: question.answers.clone(),
        score: *score,
    };
    let answers = questions.iter().zip(&said.texts).zip(&each).enumerate().map(answer).collect();
    let score = OpenScore {
        metrics,
        commonest: commonest(task.scoring, questions),
        n: questions.len(),
        prompt_tokens: said.prompt_tokens,
        written_tokens: said.written_tokens,
    };
    Results { score, answers }
}

/// The score of one answer.
fn right(scoring: Scoring, text: &str, question: &OpenQuestion) -> f64 {
    let answers: Vec<&str> = question.answers.iter().map(String::as_str).collect();
    let any = |right: &dyn Fn(&str) -> bool| f64::from(u8::from(answers.iter().any(|answer| right(answer))));
    match scoring {
        Scoring::Vqa => vqa::accuracy(text, &answers, Cleaning::Always),
        Scoring::Gqa => any(&|answer| gqa::is_right(text, answer)),
        Scoring::Exact => any(&|answer| normal(text) == normal(answer)),
        Scoring::Letters => {
            let letter = mmstar::letter(text);
            any(&|answer| letter.is_some_and(|letter| answer.starts_with(letter) && answer.len() == 1))
        }
        Scoring::Captions => 0.0,
    }
}

/// An answer as it is compared: cleaned as VQA does, unless that leaves nothing, as of the letter `a`.
fn normal(answer: &str) -> String {
    let cleaned = clean(answer);
    if cleaned.is_empty() { answer.trim().to_lowercase() } else { cleaned }
}

/// The mean and its standard error, from the sample's deviation (n − 1).
fn mean(name: &str, values: &[f64]) -> Metric {
    let n = values.len() as f64;
    let value = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|one| (one - value).powi(2)).sum();
    let stderr = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    Metric { name: name.to_owned(), value, stderr }
}

fn of_categories(questions: &[OpenQuestion], each: &[f64]) -> Vec<Metric> {
    let answers: Vec<(&str, &str, f64)> = questions
        .iter()
        .zip(each)
        .filter_map(|(question, score)| {
            question.category.as_ref().map(|(category, kind)| (category.as_str(), kind.as_str(), *score))
        })
        .collect();
    let mmstar::Categories { categories, average } = mmstar::by_category(&answers);
    let average = [("average".to_owned(), average)];
    let all = average.into_iter().chain(categories);
    all.map(|(name, value)| Metric { name, value, stderr: None }).collect()
}

fn of_captions(questions: &[OpenQuestion], texts: &[String]) -> (Vec<Metric>, Vec<f64>) {
    let captions: Vec<(&str, Vec<&str>)> = questions
        .iter()
        .zip(texts)
        .map(|(question, text)| (text.as_str(), question.answers.iter().map(String::as_str).collect()))
        .collect();
    let Some(scores) = captions::score(&captions) else { return (Vec::new(), Vec::new()) };
    let metric = |name: &str, value: f64| Metric { name: format!("coco_{name}"), value, stderr: None };
    let mut metrics = vec![metric("CIDEr", scores.cider), metric("ROUGE_L", scores.rouge_l)];
    metrics.extend((1..).zip(scores.bleu).map(|(n, value)| metric(&format!("Bleu_{n}"), value)));
    (metrics, scores.each.iter().map(|one| one.cider).collect())
}

/// The answer that is right most often, and its score for every question.
fn commonest(scoring: Scoring, questions: &[OpenQuestion]) -> Option<Commonest> {
    if scoring == Scoring::Captions {
        return None;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in questions.iter().flat_map(|question| &question.answers) {
        let answer = if scoring == Scoring::Letters { answer.clone() } else { normal(answer) };
        *counts.entry(answer).or_default() += 1;
    }
    // Of several the first of the alphabet.
    let (answer, _) = counts.into_iter().rev().max_by_key(|(_, count)| *count)?;
    let each: Vec<f64> = questions.iter().map(|question| right(scoring, &answer, question)).collect();
    Some(Commonest { value: mean("", &each).value, answer })
}
