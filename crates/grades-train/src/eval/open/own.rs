//! Questions of one's own: rows with a question, pictures and an answer, or conversations that end with the answer.

use serde_json::Value;

use super::{OpenQuestion, OpenTask, Scoring};
use crate::data::conversation::Conversation;
use crate::data::error::DataError;
use crate::data::format::DatasetSpec;
use crate::data::picture::Picture;
use crate::data::record::Record;
use crate::data::sample::Sample;

/// One's own questions; they come from a file.
pub(super) const TASK: OpenTask = OpenTask {
    name: "own",
    alias: None,
    split: "test",
    hub: None,
    pictures: None,
    max_new_tokens: 16,
    unused: &["id"],
    question,
    scoring: Scoring::Exact,
};

/// The columns that a conversation may be in, with the type that it then has.
const CONVERSATIONS: [(&str, &str); 2] = [("conversations", "sharegpt"), ("messages", "messages")];

/// Whether a row is a question with a written answer, and not one with choices.
pub fn is_own(row: &Record) -> bool {
    !row.has("choices")
}

fn question(row: &Record, pictures: Vec<Picture>) -> Result<OpenQuestion, DataError> {
    OpenQuestion::new(row, row.text("question")?, "", pictures, answers(row)?)
}

/// `answer`, or each of `answers`: texts, or objects that have one as VQA v2 has them.
fn answers(row: &Record) -> Result<Vec<String>, DataError> {
    let wrong = || row.error("there must be a text `answer`, or a list of texts `answers`; correct the row");
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Object(fields) => fields.get("answer").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let found: Option<Vec<String>> = match (row.optional("answers")?, row.optional("answer")?) {
        (Some(Value::Array(all)), _) | (None, Some(Value::Array(all))) => all.iter().map(text).collect(),
        (None, Some(one)) => text(one).map(|one| vec![one]),
        _ => None,
    };
    found.filter(|answers| !answers.is_empty()).ok_or_else(wrong)
}

/// The question of a row that is a conversation: its last answer is what is asked for. `None` of another row.
pub(super) fn of_conversation(row: &Record, spec: &DatasetSpec) -> Option<Result<OpenQuestion, DataError>> {
    let (_, kind) = CONVERSATIONS.into_iter().find(|(column, _)| row.has(column) && !row.has("question"))?;
    let spec = DatasetSpec { kind: kind.to_owned(), ..spec.clone() };
    let question = |mut asked: Conversation| {
        let answer = asked.take_answer();
        let answer = answer.filter(|answer| !answer.trim().is_empty());
        let answer = answer.ok_or_else(|| row.error("the conversation does not end with an answer; remove the row"))?;
        let text = asked.messages.last().map(crate::data::vision::text_of).unwrap_or_default();
        Ok(OpenQuestion { asked, text, answers: vec![answer], category: None, place: row.place.clone() })
    };
    Some(spec.format().map_err(DataError::Format).and_then(|format| match format.sample(row)? {
        Sample::Conversation(conversation) => question(conversation),
        _ => Err(row.error("the row holds no conversation; correct it")),
    }))
}
