//! The shapes in which rows hold samples: `completion`, `alpaca`, `sharegpt`, `messages`, `text`, those with pictures `cauldron`
//! and `vqa`, and the benchmark tasks by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::conversation::{ASSISTANT, Columns, Conversation, MARKS, is_empty};
use super::eos::TrainOnEos;
use super::error::DataError;
use super::picture::{Picture, PictureColumns};
use super::preference::{Answers, PreferenceColumns};
use super::record::Record;
use super::sample::{Sample, Written};
use super::source::Source;
use crate::eval::task::Task;

/// One entry of `datasets`. The keys for columns are those of Axolotl; each belongs to the types that it names, and where it
/// is left out the column has the name in brackets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSpec {
    /// A jsonl, json, csv or parquet file, a tar file of webdataset, a folder with files for each split, or a data set of the
    /// Hugging Face Hub (`owner/name`), which is fetched once. All but parquet (zstd, snappy, gzip, lz4) may be compressed: `.gz`, `.zst`.
    pub path: String,
    /// The configuration of a set that has several, as in Hugging Face datasets.
    pub name: Option<String>,
    /// A branch, tag or commit of a set of the Hub; left out, the set as parquet that the Hub makes of every public one.
    pub revision: Option<String>,
    /// `completion`, `alpaca`, `sharegpt` (also called `llava`), `messages` (also called `chat_template`), `text`, `cauldron` (also
    /// called `finevision`), `vqa`, `multiple_choice`, or a task such as `piqa`. With `rl`: `preference`, or `unpaired_preference`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As in Hugging Face datasets: `train`, `train[:1000]`, `train[10%:20%]`. Of a single file only the slice counts.
    pub split: Option<String>,
    /// `text`: the text (`text`).
    pub field: Option<String>,
    /// `completion`, `preference`, `unpaired_preference`: the prompt (`prompt`). `vqa`: the question (`question`).
    pub field_prompt: Option<String>,
    /// `completion`, `unpaired_preference`: the answer (`completion`). `vqa`: the answer (`answer`).
    pub field_completion: Option<String>,
    /// `preference`: the better answer (`chosen`).
    pub field_chosen: Option<String>,
    /// `preference`: the worse answer (`rejected`).
    pub field_rejected: Option<String>,
    /// `unpaired_preference`: whether the answer is good (`label`).
    pub field_label: Option<String>,
    /// `alpaca`: the instruction (`instruction`).
    pub field_instruction: Option<String>,
    /// `alpaca`: the input, which a row may lack (`input`).
    pub field_input: Option<String>,
    /// `alpaca`: the answer (`output`).
    pub field_output: Option<String>,
    /// `messages`, `sharegpt`: the list of messages (`messages`, `conversations`).
    pub field_messages: Option<String>,
    /// `messages`, `sharegpt`: who says it (`role`, `from`).
    pub message_field_role: Option<String>,
    /// `messages`, `sharegpt`: what is said (`content`, `value`).
    pub message_field_content: Option<String>,
    /// `messages`, `sharegpt`, `cauldron`, `vqa`: the pictures of a row, one or a list (`images` or `image`). Where they stand in a
    /// conversation, parts of type `image` say, or `<image>` in its texts.
    pub field_images: Option<String>,
    /// `messages`, `sharegpt`: the tools that the assistant may call, a list or its JSON (`tools`).
    pub field_tools: Option<String>,
    /// `messages`, `sharegpt`: the system's message of conversations that do not begin with one (`system`).
    pub field_system: Option<String>,
    /// `messages`, `sharegpt`: for roles the names that the data have for them, such as `{assistant: [bot, narrator]}`, before those that
    /// are known anyway.
    pub roles: BTreeMap<String, Vec<String>>,
    /// `messages`, `sharegpt`: for what the chat template reads of a message the key that it has in the data, such as
    /// `{reasoning_content: thought}`. Other keys keep their names.
    pub message_property_mappings: BTreeMap<String, String>,
    /// `messages`, `sharegpt`: a key of messages that says whether one is learnt, whoever speaks; `train`, `training`, `weight` and
    /// `loss` are read anyway.
    pub message_field_training: Option<String>,
    /// `messages`, `sharegpt`: in place of `roles_to_train` of the run.
    pub roles_to_train: Option<Vec<String>>,
    /// `messages`, `sharegpt`: in place of `train_on_eos` of the run.
    pub train_on_eos: Option<TrainOnEos>,
    /// The folder of pictures that rows give by path, which may not leave it; left out, the folder of the data file.
    pub image_folder: Option<PathBuf>,
}

impl DatasetSpec {
    /// Where the rows are.
    pub fn source(&self) -> Source<'_> {
        Source { path: &self.path, name: self.name.as_deref(), revision: self.revision.as_deref() }
    }

    /// The format that `type` names, with the columns of this entry.
    ///
    /// # Errors
    /// A sentence: the type is unknown, or a column key is set that the type does not use.
    pub fn format(&self) -> Result<Format, String> {
        let mut unused = self.clone();
        let take = |unused: &mut Self, key: fn(&mut Self) -> &mut Option<String>, default: &str| {
            key(unused).take().unwrap_or_else(|| default.to_owned())
        };
        let pictures = PictureColumns { column: self.field_images.clone(), folder: self.image_folder.clone() };
        let shown = ["sharegpt", "llava", "messages", "chat_template", "cauldron", "finevision", "vqa"];
        let format = match self.kind.as_str() {
            "completion" => Format::Completion {
                prompt: take(&mut unused, |spec| &mut spec.field_prompt, "prompt"),
                completion: take(&mut unused, |spec| &mut spec.field_completion, "completion"),
            },
            "alpaca" => Format::Alpaca {
                instruction: take(&mut unused, |spec| &mut spec.field_instruction, "instruction"),
                input: take(&mut unused, |spec| &mut spec.field_input, "input"),
                output: take(&mut unused, |spec| &mut spec.field_output, "output"),
            },
            "cauldron" | "finevision" => Format::Cauldron(pictures),
            "vqa" => Format::Vqa {
                question: take(&mut unused, |spec| &mut spec.field_prompt, "question"),
                answer: take(&mut unused, |spec| &mut spec.field_completion, "answer"),
                pictures,
            },
            "sharegpt" | "llava" => Format::ShareGpt(unused.columns(["conversations", "from", "value"], pictures)?),
            "messages" | "chat_template" => {
                Format::Messages(unused.columns(["messages", "role", "content"], pictures)?)
            }
            "preference" => Format::Preference(PreferenceColumns {
                prompt: take(&mut unused, |spec| &mut spec.field_prompt, "prompt"),
                answers: Answers::Pair([
                    take(&mut unused, |spec| &mut spec.field_chosen, "chosen"),
                    take(&mut unused, |spec| &mut spec.field_rejected, "rejected"),
                ]),
            }),
            "unpaired_preference" => Format::Preference(PreferenceColumns {
                prompt: take(&mut unused, |spec| &mut spec.field_prompt, "prompt"),
                answers: Answers::Judged([
                    take(&mut unused, |spec| &mut spec.field_completion, "completion"),
                    take(&mut unused, |spec| &mut spec.field_label, "label"),
                ]),
            }),
            "text" => Format::Text { field: take(&mut unused, |spec| &mut spec.field, "text") },
            name => match Task::named(name) {
                Some(task) => Format::Task(task),
                None => {
                    return Err(format!(
                        "type `{name}` of data set {} is not known; the types are completion, alpaca, sharegpt, messages, \
                         text, cauldron, vqa, with rl preference and unpaired_preference, and the tasks {}",
                        self.path,
                        Task::names()
                    ));
                }
            },
        };
        if shown.contains(&self.kind.as_str()) {
            unused.field_images = None;
            unused.image_folder = None;
        }
        match unused.column_key() {
            Some(key) => Err(format!("{key} of data set {} is not used by type `{}`; remove it", self.path, self.kind)),
            None => Ok(format),
        }
    }

    /// The columns of conversations, taken out of the entry, with the names that the list of messages, roles and contents have
    /// where it names none.
    fn columns(&mut self, [messages, role, content]: [&str; 3], pictures: PictureColumns) -> Result<Columns, String> {
        let set = self.path.clone();
        let mut properties = std::mem::take(&mut self.message_property_mappings);
        let mut named = |key: &str, field: Option<String>, default: &str| match (properties.remove(key), field) {
            (Some(_), Some(_)) => Err(format!(
                "message_field_{key} and message_property_mappings of data set {set} both name `{key}`; remove one of them"
            )),
            (Some(name), None) | (None, Some(name)) => Ok(name),
            (None, None) => Ok(default.to_owned()),
        };
        let role = named("role", self.message_field_role.take(), role)?;
        let content = named("content", self.message_field_content.take(), content)?;
        Ok(Columns {
            messages: self.field_messages.take().unwrap_or_else(|| messages.to_owned()),
            role,
            content,
            pictures,
            system: self.field_system.take().unwrap_or_else(|| "system".to_owned()),
            tools: self.field_tools.take().unwrap_or_else(|| "tools".to_owned()),
            learnt_roles: self.roles_to_train.take().unwrap_or_else(|| vec![ASSISTANT.to_owned()]),
            training: self.message_field_training.take(),
            properties,
            speakers: std::mem::take(&mut self.roles),
            train_on_eos: self.train_on_eos.take().unwrap_or_default(),
        })
    }

    /// Whether its rows are conversations in messages.
    pub(crate) fn has_messages(&self) -> bool {
        ["sharegpt", "llava", "messages", "chat_template"].contains(&self.kind.as_str())
    }

    /// The first key for a column that is set.
    fn column_key(&self) -> Option<String> {
        let Ok(Value::Object(keys)) = serde_json::to_value(self) else { return None };
        let of_messages = ["roles", "message_property_mappings", "roles_to_train", "train_on_eos"];
        let of_column = |key: &str| key.contains("field") || key == "image_folder" || of_messages.contains(&key);
        keys.into_iter().find(|(key, value)| of_column(key) && !is_empty(value)).map(|(key, _)| key)
    }
}

/// How a row becomes a sample, with the names of the columns.
#[derive(Clone, Debug)]
pub enum Format {
    /// A prompt and its answer.
    Completion {
        /// Column of the prompt.
        prompt: String,
        /// Column of the answer.
        completion: String,
    },
    /// An instruction, perhaps an input, and the answer, in the prompt text of Stanford Alpaca.
    Alpaca {
        /// Column of the instruction.
        instruction: String,
        /// Column of the input.
        input: String,
        /// Column of the answer.
        output: String,
    },
    /// A conversation whose speakers are called `human`, `gpt` and `system`.
    ShareGpt(Columns),
    /// A conversation whose roles are those of the chat template.
    Messages(Columns),
    /// Plain text, all of it to be learnt.
    Text {
        /// Column of the text.
        field: String,
    },
    /// Pictures (`images`) and turns about them (`texts`: user, assistant), as The Cauldron and FineVision have them.
    Cauldron(PictureColumns),
    /// A picture, a question and its answer.
    Vqa {
        /// Column of the question.
        question: String,
        /// Column of the answer.
        answer: String,
        /// Where the picture is.
        pictures: PictureColumns,
    },
    /// Answers of which one is better, or that are good or bad; [`preference::load`](super::preference::load) reads them.
    Preference(PreferenceColumns),
    /// A benchmark: the question as prompt, the right choice as answer.
    Task(&'static Task),
}

/// FineVision's ratings of turns, each a list. A turn with one below 1 is left out, as in nanoVLM.
const RATINGS: [&str; 4] =
    ["relevance_ratings", "image_correspondence_ratings", "visual_dependency_ratings", "formatting_ratings"];

/// Columns that other programs know and that change what is learnt, so that reading past them would learn something else. In
/// a conversation `system` and `tools` are read.
const CHANGING: &[&str] = &[
    "assistant_masks",
    "audios",
    "completion_mask",
    "history",
    "image",
    "images",
    "input_ids",
    "loss_mask",
    "loss_weight",
    "sample_weight",
    "system",
    "system_prompt",
    "tools",
    "videos",
];

impl Format {
    /// The sample that `record` holds.
    ///
    /// # Errors
    /// A column is missing, of the wrong type, or empty.
    pub fn sample(&self, record: &Record) -> Result<Sample, DataError> {
        match self {
            Self::Completion { prompt, completion } => {
                let (prompt, completion) = (filled(record, prompt)?, filled(record, completion)?);
                Ok(Sample::Text(Written::answered(prompt, &separated(prompt, completion))))
            }
            Self::Alpaca { instruction, input, output } => {
                let input = record.optional_text(input)?.unwrap_or_default();
                let prompt = alpaca_prompt(filled(record, instruction)?, input);
                Ok(Sample::Text(Written::answered(&prompt, filled(record, output)?)))
            }
            Self::ShareGpt(columns) => {
                let role_of = |speaker: &str| match speaker {
                    "human" | "user" => Some("user"),
                    "gpt" | "chatgpt" | "assistant" | "model" => Some("assistant"),
                    "system" => Some("system"),
                    "tool" => Some("tool"),
                    _ => None,
                };
                columns.conversation(record, role_of).map(Sample::Conversation)
            }
            Self::Messages(columns) => columns.conversation(record, |role| Some(role)).map(Sample::Conversation),
            Self::Cauldron(pictures) => cauldron(record, pictures),
            Self::Vqa { question, answer, pictures } => {
                let shown = pictures.of(record).map_err(|problem| record.error(problem))?.unwrap_or_default();
                conversation(record, [(filled(record, question)?, filled(record, answer)?)], shown)
            }
            Self::Preference(_) => {
                Err(record.error("the row holds preferences, which `rl` learns from; it is no sample by itself"))
            }
            Self::Text { field } => Ok(Sample::Text(Written::whole(filled(record, field)?.to_owned()))),
            Self::Task(task) => {
                let question = (task.question)(record)?;
                let (context, choice) = question.answered();
                // As it is scored: with a space, whatever the choice begins with.
                Ok(Sample::Text(Written::answered(context, &format!(" {choice}"))))
            }
        }
    }

    /// Refuses a column that the format has not read although it changes what is learnt, and tells which other ones it has not
    /// read.
    ///
    /// # Errors
    /// There is such a column, and it says something.
    pub(crate) fn unread<'a>(&self, record: &'a Record) -> Result<Vec<&'a str>, DataError> {
        let left = record.left();
        let harmless = match self {
            Self::Task(task) => task.unused,
            Self::Cauldron(_) => {
                &["relevance_min", "image_correspondence_min", "visual_dependency_min", "formatting_min"]
            }
            _ => &[],
        };
        // A mark of 1 or true says that the row counts, as all do.
        let counts = |value: &Value| *value == Value::Bool(true) || value.as_f64() == Some(1.0);
        let says =
            |value: &Result<Value, String>| value.as_ref().map_or(true, |value| !is_empty(value) && !counts(value));
        if let Some((name, _)) = left.iter().find(|(name, value)| self.is_changed_by(name) && says(value)) {
            return Err(record.error(format!(
                "column `{name}` changes the sample, but type `{}` does not read it; put what it says into the text or the \
                 messages, or remove the column",
                self.name()
            )));
        }
        Ok(left.into_iter().map(|(name, _)| name).filter(|name| !harmless.contains(name)).collect())
    }

    fn is_changed_by(&self, column: &str) -> bool {
        match self {
            // The text or the question is all there is.
            Self::Text { .. } | Self::Task(_) => false,
            // What marks a message may stand beside all of them, too.
            Self::ShareGpt(_) | Self::Messages(_) => CHANGING.contains(&column) || MARKS.contains(&column),
            Self::Completion { .. }
            | Self::Alpaca { .. }
            | Self::Cauldron(_)
            | Self::Vqa { .. }
            | Self::Preference(_) => CHANGING.contains(&column),
        }
    }

    /// The name as `type` of a data set.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Completion { .. } => "completion",
            Self::Alpaca { .. } => "alpaca",
            Self::ShareGpt(_) => "sharegpt",
            Self::Messages(_) => "messages",
            Self::Preference(PreferenceColumns { answers: Answers::Pair(_), .. }) => "preference",
            Self::Preference(_) => "unpaired_preference",
            Self::Text { .. } => "text",
            Self::Cauldron(_) => "cauldron",
            Self::Vqa { .. } => "vqa",
            Self::Task(task) => task.name,
        }
    }
}

/// The turns of a row that its ratings leave.
fn cauldron(record: &Record, pictures: &PictureColumns) -> Result<Sample, DataError> {
    let texts = record.objects("texts")?;
    let mut turns = Vec::with_capacity(texts.len());
    for (number, text) in texts.iter().enumerate() {
        let said = |key: &str| {
            text.get(key).and_then(Value::as_str).ok_or_else(|| {
                record.error(format!("turn {} in `texts` has no text `{key}`; correct the row", number + 1))
            })
        };
        let mut kept = true;
        for column in RATINGS {
            let rating = record.optional(column)?.and_then(|ratings| ratings.get(number)).and_then(Value::as_f64);
            kept &= rating.is_none_or(|rating| rating >= 1.0);
        }
        if kept {
            turns.push((said("user")?, said("assistant")?));
        }
    }
    if texts.is_empty() {
        return Err(record.error("`texts` holds no turns; remove the row"));
    }
    let shown = pictures.of(record).map_err(|problem| record.error(problem))?.unwrap_or_default();
    if turns.is_empty() { Ok(Sample::LeftOut) } else { conversation(record, turns, shown) }
}

fn conversation<'a>(
    record: &Record,
    turns: impl IntoIterator<Item = (&'a str, &'a str)>,
    pictures: Vec<Picture>,
) -> Result<Sample, DataError> {
    let conversation = Conversation::of_turns(turns, pictures)
        .map_err(|problem| record.error(format!("the row {problem}; make them agree, or remove the row")))?;
    Ok(Sample::Conversation(conversation))
}

/// The answer with a space before it, unless there is white space already: a prompt that ends its line wants its answer
/// at the start of the next.
fn separated(prompt: &str, answer: &str) -> String {
    let separate = prompt.ends_with(char::is_whitespace) || answer.starts_with(char::is_whitespace);
    if separate { answer.to_owned() } else { format!(" {answer}") }
}

fn filled<'a>(record: &'a Record, column: &str) -> Result<&'a str, DataError> {
    let text = record.text(column)?;
    if text.trim().is_empty() {
        return Err(record.error(format!("column `{column}` is empty; fill it in or remove the row")));
    }
    Ok(text)
}

/// The prompt of Stanford Alpaca, with the line end after `### Response:` that Axolotl gives it.
fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.trim().is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    )
}

#[cfg(test)]
#[path = "format_tests.rs"]
pub(super) mod tests;
