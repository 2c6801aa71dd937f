//! Rows of preferences, in TRL's columns: pairs of a chosen and a rejected answer to a prompt, or answers that are good or bad.

use std::collections::{BTreeMap, BTreeSet};

use grades_models::fields::warn_once;
use grades_tensor::IGNORE_INDEX;
use serde_json::{Map, Value};

use super::bad_rows::BadRows;
use super::conversation::{ASSISTANT, Columns};
use super::encode::{Encode, Tokenized};
use super::eos::TrainOnEos;
use super::error::DataError;
use super::format::{DatasetSpec, Format};
use super::picture::PictureColumns;
use super::record::Record;
use super::sample::{Sample, Written};
use super::samples::{Outcome, TokenOptions, tell_unread};
use super::tokens;
use crate::hub::Hub;

/// Names of the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferenceColumns {
    /// The prompt, which pairs may lack that begin with it.
    pub prompt: String,
    /// The two answers of a pair, or the one answer with its label.
    pub answers: Answers,
}

/// What a row says of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The better and the worse one.
    Pair([String; 2]),
    /// One, and whether it is good.
    Judged([String; 2]),
}

/// A row as tokens. The labels are those of its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preference {
    /// The chosen and the rejected answer, each behind the prompt.
    Pair(Box<[Tokenized; 2]>),
    /// An answer behind its prompt, and whether it is desirable.
    Judged(Tokenized, bool),
}

/// The rows of all data sets, in the order of the configuration and of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preferences {
    /// The rows.
    pub rows: Vec<Preference>,
    /// How many were left out because of their length.
    pub dropped: usize,
    /// How many have an answer that was cut.
    pub truncated: usize,
    /// How many were left out because they cannot be used.
    pub skipped: usize,
}

/// Reads data sets of preferences; with `unpaired` each pair becomes two answers, the chosen one desirable.
///
/// # Errors
/// A file cannot be read, a row does not fit its type, an answer is too long, or nothing is left.
pub fn load(
    specs: &[DatasetSpec],
    encoder: &dyn Encode,
    options: TokenOptions,
    unpaired: bool,
) -> Result<Preferences, DataError> {
    let mut all = Preferences::default();
    let hub = Hub::from_env();
    for spec in specs {
        let format = spec.format().map_err(DataError::Format)?;
        let Format::Preference(columns) = &format else {
            let kind = format.name();
            return Err(DataError::Format(format!("type `{kind}` of data set {} holds no preferences", spec.path)));
        };
        let (mut unread, mut bad) = (BTreeSet::<String>::new(), BadRows::new(options.on_bad_row));
        let mut read = |record: &Record, all: &mut Preferences| {
            let (samples, desirable) = columns.samples(record)?;
            unread.extend(format.unread(record)?.into_iter().map(str::to_owned));
            Ok(encode(&samples, record, encoder, options, all)?.map(|answers| (answers, desirable)))
        };
        let mut records = spec.source().read(spec.split.as_deref(), &hub)?;
        records.truncate(options.max_samples.unwrap_or(usize::MAX));
        for record in records {
            let Some((mut answers, desirable)) = bad.pass(read(&record, &mut all))?.flatten() else { continue };
            match (desirable, answers.len()) {
                (Some(desirable), _) => {
                    all.rows.extend(answers.pop().map(|answer| Preference::Judged(answer, desirable)));
                }
                (None, _) if unpaired => {
                    let judged = answers.into_iter().zip([true, false]);
                    all.rows.extend(judged.map(|(answer, desirable)| Preference::Judged(answer, desirable)));
                }
                (None, _) => {
                    let pair = answers.try_into().map(|pair: [Tokenized; 2]| Preference::Pair(Box::new(pair)));
                    all.rows.extend(pair);
                }
            }
        }
        all.skipped += bad.count;
        bad.sentences(&spec.path).into_iter().for_each(warn_once);
        tell_unread(&spec.path, format.name(), unread);
    }
    if all.rows.is_empty() {
        return Err(DataError::NothingLeft { dropped: all.dropped, sequence_len: options.sequence_len });
    }
    Ok(all)
}

/// The answers of a row as tokens; `None` if it is left out because of its length.
fn encode(
    samples: &[Sample],
    record: &Record,
    encoder: &dyn Encode,
    options: TokenOptions,
    all: &mut Preferences,
) -> Result<Option<Vec<Tokenized>>, DataError> {
    let (mut answers, mut cut) = (Vec::with_capacity(samples.len()), false);
    for sample in samples {
        let texts =
            tokens::tokenize(sample, encoder, None, false, &record.place).map_err(|message| record.error(message))?;
        let Ok([tokens]) = <[Tokenized; 1]>::try_from(texts) else {
            return Err(record.error(
                "an answer has several turns, and the chat template writes the earlier ones otherwise once another follows, so they are \
                 not one text; give answers of one turn",
            ));
        };
        match Outcome::of(tokens, record, options)? {
            Outcome::Whole(tokens) => answers.push(tokens),
            Outcome::Cut(tokens) => {
                cut = true;
                answers.push(tokens);
            }
            Outcome::TooLong | Outcome::Torn | Outcome::RatedOut => {
                all.dropped += 1;
                return Ok(None);
            }
        }
    }
    if answers.len() == 2 && answers[0].ids == answers[1].ids {
        // They differ behind the cut.
        all.dropped += 1;
        return Ok(None);
    }
    all.truncated += usize::from(cut);
    Ok(Some(answers))
}

/// The prompt of one row with the answer of another, as TRL puts them together to estimate how far a model has moved.
#[must_use]
pub fn mismatched(prompt: &Tokenized, answer: &Tokenized, sequence_len: usize) -> Tokenized {
    let begin = |of: &Tokenized| of.labels.iter().position(|label| *label != IGNORE_INDEX).unwrap_or(of.ids.len());
    let (before, from) = (begin(prompt), begin(answer));
    let mut mixed = Tokenized {
        ids: [&prompt.ids[..before], &answer.ids[from..]].concat(),
        labels: [&prompt.labels[..before], &answer.labels[from..]].concat(),
        pictures: Vec::new(),
    };
    mixed.truncate(sequence_len);
    mixed
}

impl PreferenceColumns {
    /// The answers of a row, each with its prompt, and whether the one is desirable.
    fn samples(&self, record: &Record) -> Result<(Vec<Sample>, Option<bool>), DataError> {
        let prompt = record.optional(&self.prompt)?;
        match &self.answers {
            Answers::Pair([chosen, rejected]) => {
                let (better, worse) = (said(record, chosen)?, said(record, rejected)?);
                if better == worse {
                    return Err(record.error(format!(
                        "columns `{chosen}` and `{rejected}` say the same, so there is nothing to prefer; remove the row"
                    )));
                }
                let (prompt, [better, worse]) = match prompt {
                    Some(prompt) => (Said::of(prompt).ok_or_else(|| neither(record, &self.prompt))?, [better, worse]),
                    None => Said::common_beginning(better, worse),
                };
                let samples = [(chosen, better), (rejected, worse)]
                    .map(|(column, answer)| self.sample(record, prompt.clone(), column, answer));
                let [chosen, rejected] = samples;
                Ok((vec![chosen?, rejected?], None))
            }
            Answers::Judged([column, label]) => {
                let prompt = prompt.ok_or_else(|| record.error(format!("the row has no column `{}`", self.prompt)))?;
                let prompt = Said::of(prompt).ok_or_else(|| neither(record, &self.prompt))?;
                let sample = self.sample(record, prompt, column, said(record, column)?)?;
                Ok((vec![sample], Some(is_desirable(record, label)?)))
            }
        }
    }

    /// An answer with its prompt.
    fn sample(&self, record: &Record, prompt: Said, column: &str, answer: Said) -> Result<Sample, DataError> {
        let empty = |what: &str| record.error(format!("the {what} is empty; fill it in or remove the row"));
        match (prompt, answer) {
            (Said::Text(prompt), Said::Text(answer)) => {
                if prompt.trim().is_empty() {
                    return Err(empty("prompt"));
                }
                if answer.trim().is_empty() {
                    return Err(empty(&format!("answer in `{column}`")));
                }
                Ok(Sample::Text(Written::answered(&prompt, &answer)))
            }
            (prompt, Said::Messages(answer)) => {
                let prompt = match prompt {
                    Said::Messages(prompt) => prompt,
                    Said::Text(text) => vec![message("user", &text)],
                };
                // Some sets have the prompt by itself and once more at the beginning of each conversation.
                let repeated =
                    answer.len() > prompt.len() && answer.iter().zip(&prompt).all(|(one, other)| one == other);
                let own = if repeated { answer[prompt.len()..].to_vec() } else { answer };
                if prompt.is_empty() || prompt.iter().all(is_empty) {
                    return Err(empty("prompt"));
                }
                if own.is_empty() {
                    return Err(empty(&format!("answer in `{column}`")));
                }
                self.conversation(record, column, prompt, own)
            }
            (Said::Messages(_), Said::Text(_)) => Err(record.error(format!(
                "`{}` holds messages and `{column}` text; give both as text, or both as lists of messages",
                self.prompt
            ))),
        }
    }

    /// A conversation of which the assistant's words behind the prompt are the answer.
    fn conversation(
        &self,
        record: &Record,
        column: &str,
        prompt: Vec<Value>,
        answer: Vec<Value>,
    ) -> Result<Sample, DataError> {
        let (count, messages) = (answer.len(), format!("{} + {column}", self.prompt));
        let columns = Columns {
            messages: messages.clone(),
            role: "role".to_owned(),
            content: "content".to_owned(),
            pictures: PictureColumns { column: None, folder: None },
            system: "system".to_owned(),
            tools: "tools".to_owned(),
            learnt_roles: vec![ASSISTANT.to_owned()],
            training: None,
            properties: BTreeMap::new(),
            speakers: BTreeMap::new(),
            train_on_eos: TrainOnEos::default(),
        };
        let whole = record.with_column(&messages, Value::Array([prompt, answer].concat()));
        let mut conversation = columns.conversation(&whole, |role| Some(role))?;
        record.take_as(&whole);
        let before = conversation.messages.len().saturating_sub(count);
        conversation.learnt.iter_mut().take(before).for_each(|learnt| *learnt = false);
        if !conversation.learnt.contains(&true) {
            return Err(record.error(format!(
                "`{column}` has no message of the assistant behind the prompt, so there is nothing to learn; remove the row"
            )));
        }
        Ok(Sample::Conversation(conversation))
    }
}

/// What a column says: a text, or messages.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Text(String),
    Messages(Vec<Value>),
}

impl Said {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Object(_) => Some(Self::Messages(vec![value.clone()])),
            Value::Array(messages) if messages.iter().all(Value::is_object) => Some(Self::Messages(messages.clone())),
            _ => None,
        }
    }

    /// What two begin with in common, and the rest of each, as TRL parts them: a space at the end of a text's beginning belongs
    /// to the rest.
    fn common_beginning(one: Self, other: Self) -> (Self, [Self; 2]) {
        match (one, other) {
            (Self::Text(one), Self::Text(other)) => {
                let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
                let mut end = same.unwrap_or(one.len().min(other.len()));
                if one[..end].ends_with(' ') {
                    end -= 1;
                }
                let rests = [&one, &other].map(|text| Self::Text(text[end..].to_owned()));
                (Self::Text(one[..end].to_owned()), rests)
            }
            (Self::Messages(one), Self::Messages(other)) => {
                let end = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
                let rests = [&one, &other].map(|all| Self::Messages(all[end..].to_vec()));
                (Self::Messages(one[..end].to_vec()), rests)
            }
            (one, other) => (Self::Text(String::new()), [one, other]),
        }
    }
}

fn said(record: &Record, column: &str) -> Result<Said, DataError> {
    let Some(value) = record.optional(column)? else {
        return Err(record.error(format!("the row has no column `{column}`, or nothing in it; remove the row")));
    };
    Said::of(value).ok_or_else(|| neither(record, column))
}

fn neither(record: &Record, column: &str) -> DataError {
    record.error(format!("column `{column}` must hold a text or a list of messages"))
}

fn message(role: &str, text: &str) -> Value {
    let fields = [("role", role), ("content", text)].map(|(key, value)| (key.to_owned(), Value::from(value)));
    Value::Object(Map::from_iter(fields))
}

fn is_empty(message: &Value) -> bool {
    super::conversation::is_empty(&message["content"])
}

/// Whether a label says that an answer is desirable: true or false, 1 or 0, also as text.
fn is_desirable(record: &Record, label: &str) -> Result<bool, DataError> {
    match record.optional(label)?.map(|value| (value, value.as_f64())) {
        Some((_, Some(1.0))) => Ok(true),
        Some((_, Some(0.0))) => Ok(false),
        _ => record.boolean(label),
    }
}

#[cfg(test)]
#[path = "preference_tests.rs"]
mod tests;
