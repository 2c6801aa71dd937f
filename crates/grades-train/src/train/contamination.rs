//! Whether training rows hold questions of benchmarks that the model will be scored on.
//!
//! As for GPT-3 (Brown et al. 2020, appendix C) a question counts as found where a row has 13 words behind one another that it has too,
//! and one of 8 to 12 words where a row has all of it; shorter ones cannot be told from chance. Words are compared in small letters
//! without punctuation, and labels such as `Question:` at the beginning of a line do not count, as prompts differ in them.
//! Nothing is left out of the data.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use rayon::prelude::*;
use serde::Serialize;
use twox_hash::XxHash3_64;

use crate::config::Config;
use crate::data::format::DatasetSpec;
use crate::data::sample::Sample;
use crate::data::{DataError, Record};
use crate::eval::Asked;
use crate::eval::open::Where;
use crate::hub::Hub;

/// Words that must be the same.
const WORDS: usize = 13;
/// Words of the shortest question that is looked for.
const FEWEST: usize = 8;
/// Rows that are looked through at a time, by all threads.
const AT_ONCE: usize = 1 << 10;
/// Rows that are named.
const NAMED: usize = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Contamination {
    /// By benchmark.
    pub benchmarks: Vec<Found>,
    /// Training rows that hold a question of any of them.
    pub rows: usize,
    /// The first of these rows.
    pub first: Vec<String>,
}

/// Of one benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its questions.
    pub questions: usize,
    /// Those of them that are too short to be looked for.
    pub short: usize,
    /// Those that were found.
    pub found: usize,
}

impl fmt::Display for Contamination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |found: &Found| {
            let short = if found.short > 0 { format!(" ({} too short to tell)", found.short) } else { String::new() };
            format!("{} of {} questions of {}{short}", found.found, found.questions, found.name)
        };
        let all: Vec<String> = self.benchmarks.iter().map(of).collect();
        write!(f, "{} are in {} training rows", all.join(" and "), self.rows)?;
        if self.rows > 0 {
            let more = if self.rows > self.first.len() { ", …" } else { "" };
            write!(f, ": {}{more}", self.first.join(", "))?;
        }
        Ok(())
    }
}

/// A question: its benchmark, and its number in it.
type Asks = (usize, usize);

/// A row that holds questions: its place, and which.
type Hit = (String, BTreeSet<Asks>);

/// The word sequences of questions, each with the questions that have it.
#[derive(Debug, Default)]
struct Questions {
    benchmarks: Vec<Found>,
    grams: HashMap<u64, Vec<Asks>>,
    lengths: BTreeSet<usize>,
}

/// Looks for the questions of `contamination` in the training data; `None` where none are named.
///
/// # Errors
/// The questions or the data cannot be read.
pub(super) fn look(config: &Config) -> Result<Option<Contamination>, DataError> {
    if config.contamination.is_empty() {
        return Ok(None);
    }
    let mut questions = Questions::default();
    for name in &config.contamination {
        let texts: Vec<String> = match Asked::find(name, &Where::default())? {
            Asked::Choices(_, asked) => asked.iter().map(|one| one.answered().0.to_owned()).collect(),
            Asked::Open(_, asked) => asked.into_iter().map(|one| one.text).collect(),
        };
        questions.add(name, &texts);
    }
    let (mut found, mut result) = (BTreeSet::new(), Contamination::default());
    for spec in &config.datasets {
        for (place, hits) in hits_of(spec, config, &questions)? {
            result.rows += 1;
            if result.first.len() < NAMED {
                result.first.push(place);
            }
            found.extend(hits);
        }
    }
    result.benchmarks = questions.benchmarks;
    for (benchmark, _) in found {
        result.benchmarks[benchmark].found += 1;
    }
    Ok(Some(result))
}

/// The rows of a set that hold questions, and which.
fn hits_of(spec: &DatasetSpec, config: &Config, questions: &Questions) -> Result<Vec<Hit>, DataError> {
    let format = spec.format().map_err(DataError::Format)?;
    let rows = spec.source().rows(spec.split.as_deref(), Hub::from_env())?;
    let mut rows = rows.take(config.max_samples.unwrap_or(usize::MAX));
    let hits = |record: &Record| {
        // What is wrong with a row is told where it is encoded.
        let text = match format.sample(record).ok()? {
            Sample::Text(written) => written.text,
            Sample::Conversation(conversation) => {
                conversation.messages.iter().map(|message| message.content()).collect::<Vec<_>>().join("\n")
            }
            Sample::LeftOut => return None,
        };
        Some((record.place.to_string(), questions.within(&text))).filter(|(_, hits)| !hits.is_empty())
    };
    let mut all = Vec::new();
    loop {
        let some: Vec<Result<Record, DataError>> = rows.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            return Ok(all);
        }
        let found = some.into_par_iter().map(|record| match record {
            Ok(record) => Ok(hits(&record)),
            Err(DataError::Row { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        all.extend(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten());
    }
}

impl Questions {
    fn add(&mut self, name: &str, texts: &[String]) {
        let benchmark = self.benchmarks.len();
        let mut short = 0;
        for (number, text) in texts.iter().enumerate() {
            let words = words(text);
            if words.len() < FEWEST {
                short += 1;
                continue;
            }
            let length = words.len().min(WORDS);
            self.lengths.insert(length);
            for gram in words.windows(length) {
                let of = self.grams.entry(hash(gram)).or_default();
                if of.last() != Some(&(benchmark, number)) {
                    of.push((benchmark, number));
                }
            }
        }
        self.benchmarks.push(Found { name: name.to_owned(), questions: texts.len(), short, found: 0 });
    }

    fn within(&self, text: &str) -> BTreeSet<Asks> {
        let words = words(text);
        let grams = self.lengths.iter().flat_map(|&length| words.windows(length));
        grams.filter_map(|gram| self.grams.get(&hash(gram))).flatten().copied().collect()
    }
}

/// The words of a text, each as a hash.
fn words(text: &str) -> Vec<u64> {
    let unlabelled = |line: &str| -> String {
        match line.split_once(':') {
            Some((label, rest)) if label.chars().all(char::is_alphabetic) => rest.to_lowercase(),
            _ => line.to_lowercase(),
        }
    };
    let of_line = |line: &str| -> Vec<u64> {
        let line = unlabelled(line);
        let words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(|word| XxHash3_64::oneshot(word.as_bytes())).collect()
    };
    text.lines().flat_map(of_line).collect()
}

/// The hash of a sequence of words.
fn hash(words: &[u64]) -> u64 {
    // Of the golden ratio, as usual.
    words
        .iter()
        .fold(words.len() as u64, |hash, word| (hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(texts: &[&str]) -> Questions {
        let mut questions = Questions::default();
        questions.add("own", &texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        questions
    }

    fn found(questions: &Questions, text: &str) -> Vec<usize> {
        questions.within(text).into_iter().map(|(_, number)| number).collect()
    }

    /// 13 words of a long question, all of one that has 8 to 12, and none of a shorter one.
    #[test]
    fn as_many_words_must_be_the_same_as_are_said() {
        let long =
            "Question: One two three four five six seven eight nine ten eleven twelve thirteen, fourteen?\nAnswer:";
        let questions = questions(&[long, "how do you keep a boat dry in rain", "what is a boat"]);
        assert_eq!((questions.benchmarks[0].questions, questions.benchmarks[0].short), (3, 1));
        let words = "one TWO three; four five six seven eight nine ten eleven twelve thirteen";
        assert_eq!(found(&questions, words), [0]);
        assert_eq!(found(&questions, &format!("so: it is that {words} and more")), [0]);
        assert!(found(&questions, &words.replace("seven", "7")).is_empty());
        assert!(found(&questions, words.strip_suffix("thirteen").unwrap()).is_empty());
        // Also over the ends of lines, behind whatever label.
        assert_eq!(found(&questions, "Prompt: How do you keep\na boat dry in rain?\nAnswer: what is a boat"), [1]);
        assert!(found(&questions, "how do you keep a boat dry in").is_empty());
    }

    #[test]
    fn a_sequence_that_several_questions_have_is_of_all_of_them() {
        let passage = "the old bell in the garden by the river rings when the wind is high";
        let (one, two) = (format!("{passage} is it old"), format!("{passage} is it red"));
        let questions = questions(&[&one, &two]);
        assert_eq!(found(&questions, passage), [0, 1]);
        assert_eq!(found(&questions, "garden by the river rings when the wind is high is it red"), [1]);
        let text = Contamination {
            benchmarks: vec![Found { name: "piqa".into(), questions: 9, short: 2, found: 1 }],
            rows: 3,
            first: vec!["a.jsonl:1".into(), "a.jsonl:7".into()],
        };
        assert_eq!(
            text.to_string(),
            "1 of 9 questions of piqa (2 too short to tell) are in 3 training rows: a.jsonl:1, a.jsonl:7, …"
        );
    }
}
