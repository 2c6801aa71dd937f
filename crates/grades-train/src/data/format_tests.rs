use std::fs;
use std::path::{Path, PathBuf};

use grades_models::template::{ChatTemplate, Given, Message, Rendered};
use grades_models::tokenizer::SpecialTokens;
use grades_tensor::IGNORE_INDEX;
use serde_json::json;

use super::*;
use crate::data::encode::{Around, Encode, EncodeError, Encoded};
use crate::data::{ExcessLength, OnBadRow, Samples, TokenOptions, load, source};

/// One token a character, 1 at the beginning of a text, 2 at its end; conversations in the manner of ChatML.
pub(in crate::data) struct Characters;

impl Encode for Characters {
    fn encode(&self, text: &str, around: Around) -> Result<Encoded, EncodeError> {
        let mut encoded = Encoded::default();
        let mut push = |id: u32, range| {
            encoded.ids.push(id);
            encoded.ranges.push(range);
        };
        if around != Around::Template {
            push(1, 0..0);
        }
        text.char_indices().for_each(|(at, letter)| push(letter.into(), at..at + letter.len_utf8()));
        if around == Around::Sample {
            push(2, text.len()..text.len());
        }
        Ok(encoded)
    }

    fn bos_id(&self) -> Option<u32> {
        Some(1)
    }

    fn eos_id(&self) -> Option<u32> {
        Some(2)
    }

    fn render(&self, messages: &[Message], given: &Given, prompt: bool) -> Result<Rendered, EncodeError> {
        if messages.iter().any(|message| message.role() == "banned") {
            return Err("banned is not allowed".into());
        }
        let source = "{% for m in messages %}{% set said = m.content or '' %}\
                      <{{ m.role }}>{{ said }}\
                      {% for call in m.tool_calls or [] %}[{{ call }}]{% endfor %}<end>\n{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        Ok(ChatTemplate::new(source, &SpecialTokens::default())?.render(messages, given, prompt)?)
    }
}

struct Fixture {
    _folder: tempfile::TempDir,
    spec: DatasetSpec,
}

fn fixture(kind: &str, rows: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("rows.jsonl");
    fs::write(&path, rows).unwrap();
    let spec = DatasetSpec { path: path.to_string_lossy().into_owned(), kind: kind.to_owned(), ..Default::default() };
    Fixture { _folder: folder, spec }
}

const OPTIONS: TokenOptions = TokenOptions {
    sequence_len: 1000,
    train_on_inputs: false,
    excess_length: ExcessLength::Raise,
    train_on_last_turn_only: false,
    on_bad_row: OnBadRow::Stop,
    max_samples: None,
};

impl Fixture {
    fn load(&self, options: TokenOptions) -> Result<Samples, DataError> {
        load(std::slice::from_ref(&self.spec), &Characters, None, options)
    }

    /// The samples as text, with `⟦…⟧` around what is trained, `^` for the beginning and `$` for the end token.
    fn marked(&self, options: TokenOptions) -> Vec<String> {
        let samples = self.load(options).unwrap().tokens();
        samples
            .iter()
            .map(|sample| {
                let mut text = String::new();
                let mut trained = false;
                for (id, label) in sample.ids.iter().zip(&sample.labels) {
                    assert!(*label == IGNORE_INDEX || *label == i64::from(*id));
                    if trained != (*label != IGNORE_INDEX) {
                        trained = !trained;
                        text.push(if trained { '⟦' } else { '⟧' });
                    }
                    text.push(match id {
                        1 => '^',
                        2 => '$',
                        id => char::from_u32(*id).unwrap(),
                    });
                }
                if trained { text + "⟧" } else { text }
            })
            .collect()
    }

    fn error(&self) -> String {
        let error = self.load(OPTIONS).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

#[test]
fn completion() {
    let rows = r#"{"prompt": "One and one?", "completion": "Two"}
        {"prompt": "Answer:\n", "completion": "yes"}
        {"prompt": "Go", "completion": " on"}"#;
    let fixture = fixture("completion", rows);
    assert_eq!(fixture.marked(OPTIONS), ["^One and one?⟦ Two$⟧", "^Answer:\n⟦yes$⟧", "^Go⟦ on$⟧"]);
    let everything = TokenOptions { train_on_inputs: true, ..OPTIONS };
    assert_eq!(fixture.marked(everything)[0], "⟦^One and one? Two$⟧");
}

#[test]
fn columns_may_have_other_names() {
    let mut fixture = fixture("completion", r#"{"q": "a", "a": "b"}"#);
    assert!(fixture.error().contains("`prompt`") && fixture.error().contains("it has q, a"));
    fixture.spec.field_prompt = Some("q".to_owned());
    fixture.spec.field_completion = Some("a".to_owned());
    assert_eq!(fixture.marked(OPTIONS), ["^a⟦ b$⟧"]);
    fixture.spec.field_output = Some("a".to_owned());
    assert!(fixture.error().contains("field_output") && fixture.error().contains("`completion`"));
}

#[test]
fn alpaca() {
    let rows = r#"{"instruction": "Add.", "input": "1, 2", "output": "3"}
        {"instruction": "Greet.", "input": "", "output": "Hello"}
        {"instruction": "Greet.", "output": "Hello"}"#;
    let marked = fixture("alpaca", rows).marked(OPTIONS);
    assert!(marked[0].starts_with("^Below is an instruction that describes a task, paired with an input"));
    assert!(
        marked[0].ends_with(".\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n⟦3$⟧"),
        "{}",
        marked[0]
    );
    assert!(marked[1].ends_with("a task. Write a response that appropriately completes the request.\n\n### Instruction:\nGreet.\n\n### Response:\n⟦Hello$⟧"));
    assert_eq!(marked[1], marked[2]);
}

#[test]
fn text_is_all_trained() {
    assert_eq!(fixture("text", r#"{"text": "Once."}"#).marked(OPTIONS), ["⟦^Once.$⟧"]);
}

#[test]
fn conversations_train_the_assistant_alone() {
    let wanted =
        "<system>Be kind.<end>\n<user>Hi<end>\n<assistant>⟦Hello<end>⟧\n<user>Bye<end>\n<assistant>⟦Ciao<end>⟧";
    let sharegpt = r#"{"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"}, {"from": "gpt", "value": "Ciao"}]}"#;
    let messages = sharegpt
        .replace("conversations", "messages")
        .replace("from", "role")
        .replace("value", "content")
        .replace("human", "user")
        .replace("gpt", "assistant");
    for (kind, rows) in [("sharegpt", sharegpt), ("messages", &messages), ("chat_template", &messages)] {
        assert_eq!(fixture(kind, &rows.replace('\n', " ")).marked(OPTIONS), [wanted], "{kind}");
    }
    let everything = TokenOptions { train_on_inputs: true, ..OPTIONS };
    let whole = format!("⟦{}\n⟧", wanted.replace(['⟦', '⟧'], ""));
    assert_eq!(fixture("sharegpt", &sharegpt.replace('\n', " ")).marked(everything), [whole]);
}

#[test]
fn a_task_trains_its_right_answer() {
    let piqa = r#"{"goal": "keep tea warm", "sol1": "Use a cup of ice.", "sol2": "Use a lid.", "label": 1}"#;
    assert_eq!(fixture("piqa", piqa).marked(OPTIONS), ["^Question: keep tea warm\nAnswer:⟦ Use a lid.$⟧"]);
    let winogrande =
        r#"{"sentence": "The cat ate as _ was hungry.", "option1": "the cat", "option2": "the bowl", "answer": "1"}"#;
    assert_eq!(fixture("winogrande", winogrande).marked(OPTIONS), ["^The cat ate as the cat⟦ was hungry.$⟧"]);
}

#[test]
fn unusable_rows_are_named() {
    for (kind, rows, wanted) in [
        (
            "completion",
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}",
            vec![":2", "`completion`", "it has prompt"],
        ),
        ("completion", r#"{"prompt": "a", "completion": " "}"#, vec![":1", "`completion` is empty"]),
        ("completion", r#"{"prompt": 1, "completion": "b"}"#, vec![":1", "`prompt`", "text", "a number"]),
        ("messages", r#"{"messages": [{"role": "user", "content": "a"}]}"#, vec![":1", "no message of the assistant"]),
        ("messages", r#"{"messages": [{"role": "user", "text": "a"}]}"#, vec!["message 1", "`content`", "role, text"]),
        ("messages", r#"{"messages": "a"}"#, vec!["`messages`", "list of objects"]),
        (
            "messages",
            r#"{"messages": [{"role": "banned", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            vec![":1", "banned is not allowed"],
        ),
        ("sharegpt", r#"{"conversations": [{"from": "robot", "value": "a"}]}"#, vec!["message 1", "`robot`", "human"]),
        ("piqa", r#"{"goal": "a", "sol1": "b", "sol2": "c", "label": 2}"#, vec![":1", "2 choices"]),
        ("verse", "{}", vec!["`verse`", "alpaca", "arc_easy"]),
    ] {
        let error = fixture(kind, rows).error();
        for wanted in wanted {
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}

/// A row whose messages are a question and `answer`, with `more` beside them.
fn asked(answer: &Value, more: &[(&str, Value)]) -> String {
    let mut row = json!({ "messages": [{ "role": "user", "content": "Hi" }, answer] });
    more.iter().for_each(|(key, value)| row[*key] = value.clone());
    row.to_string()
}

#[test]
fn what_changes_a_conversation_is_honoured_or_refused() {
    let said = |more: Value| {
        let mut answer = json!({ "role": "assistant", "content": "Yes" });
        more.as_object().unwrap().iter().for_each(|(key, value)| answer[key] = value.clone());
        answer
    };
    let plain = said(json!({}));
    for (row, wanted) in [
        (asked(&said(json!({ "content": null, "tool_calls": ["f"] })), &[]), "<user>Hi<end>\n<assistant>⟦[f]<end>⟧"),
        (
            asked(&said(json!({ "tool_call_id": "1", "name": "n", "own": 3, "tool_calls": null })), &[]),
            "<user>Hi<end>\n<assistant>⟦Yes<end>⟧",
        ),
        (
            asked(&said(json!({ "content": [{ "type": "text", "text": "Y" }, "es"] })), &[]),
            "<user>Hi<end>\n<assistant>⟦Yes<end>⟧",
        ),
        (asked(&plain, &[("system", "Be".into())]), "<system>Be<end>\n<user>Hi<end>\n<assistant>⟦Yes<end>⟧"),
        (
            asked(&plain, &[("tools", json!([])), ("history", json!([])), ("note", 1.into()), ("weight", 1.into())]),
            "<user>Hi<end>\n<assistant>⟦Yes<end>⟧",
        ),
    ] {
        assert_eq!(fixture("messages", &row).marked(OPTIONS), [wanted], "{row}");
    }
    let call = json!({ "name": "f" });
    for (row, named) in [
        (asked(&said(json!({ "reasoning_content": "Hm" })), &[]), "`reasoning_content` of message 2 (assistant)"),
        (asked(&said(json!({ "function_call": call })), &[]), "`function_call` of message 2"),
        (asked(&plain, &[("tools", json!([call]))]), "`tools` of the row"),
        (asked(&plain, &[("tools", json!("[{"))]), "`tools` must hold a list"),
        (asked(&plain, &[("history", json!([["a", "b"]]))]), "`history` changes the sample"),
        (asked(&plain, &[("videos", json!(["a.mp4"]))]), "`videos` changes the sample"),
        (asked(&plain, &[("images", json!(["a.png"]))]), "picture a.png is not in the folder"),
        (
            asked(&said(json!({ "content": [{ "type": "image", "image": "data:;base64,AA==" }] })), &[]),
            "has pictures, but the model reads none",
        ),
        (asked(&plain, &[("weight", 0.into())]), "`weight` changes the sample"),
        (asked(&plain, &[("train", false.into())]), "`train` changes the sample"),
        (asked(&plain, &[("loss_mask", json!([0, 1]))]), "`loss_mask` changes the sample"),
        (asked(&said(json!({ "images": ["a.png"] })), &[]), "has `images`"),
        (
            asked(&said(json!({ "content": [{ "type": "image_url", "image_url": {} }] })), &[]),
            "neither bytes nor a path",
        ),
        (asked(&said(json!({ "train_detail": [] })), &[]), "has `train_detail`"),
        (asked(&said(json!({ "weight": 0.5 })), &[]), "`weight: 0.5`"),
        (asked(&said(json!({ "weight": 0 })), &[]), "no token to learn"),
        (asked(&said(json!({ "content": null })), &[]), "no text `content`"),
    ] {
        let error = fixture("messages", &row).error();
        assert!(error.contains(":1: ") && error.contains(named), "{named}: {error}");
    }
    let row =
        r#"{"messages": [{"role": "system", "content": "A"}, {"role": "assistant", "content": "b"}], "system": "B"}"#;
    assert!(fixture("messages", row).error().contains("`system` says something else"));
    for speaker in ["function_call", "observation"] {
        let row = json!({ "conversations": [{ "from": speaker, "value": "x" }] });
        assert!(fixture("sharegpt", &row.to_string()).error().contains("`tool_calls`"));
    }
    assert!(fixture("messages", r#"{"messages": []}"#).error().contains("no messages"));
}

#[test]
fn marked_messages_are_not_learnt() {
    for (no, yes) in [
        ("\"weight\": 0", "\"weight\": 1"),
        ("\"train\": false", "\"train\": true"),
        ("\"training\": false", "\"loss\": 1"),
    ] {
        let row = format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b", {no}}}, {{"role": "user", "content": "c", {no}}}, {{"role": "assistant", "content": "d", {yes}}}]}}"#
        );
        let fixture = fixture("messages", &row);
        let wanted = "<user>a<end>\n<assistant>b<end>\n<user>c<end>\n<assistant>⟦d<end>⟧";
        assert_eq!(fixture.marked(OPTIONS), [wanted], "{no}");
        let everything = TokenOptions { train_on_inputs: true, ..OPTIONS };
        let wanted = "⟦<user>a<end>\n<assistant>⟧b<end>⟦\n<user>c<end>\n<assistant>d<end>\n⟧";
        assert_eq!(fixture.marked(everything), [wanted], "{no}");
    }
}

#[test]
fn columns_that_change_a_sample_are_refused() {
    for (kind, row) in [
        ("completion", json!({ "prompt": "a", "completion": "b" })),
        ("alpaca", json!({ "instruction": "a", "output": "b" })),
    ] {
        for (column, value) in [("system", json!("s")), ("history", json!([["a", "b"]])), ("tools", json!([{}]))] {
            let mut row = row.clone();
            row[column] = value;
            let error = fixture(kind, &row.to_string()).error();
            assert!(
                error.contains(":1: ") && error.contains(&format!("`{column}`")) && error.contains(kind),
                "{error}"
            );
            // Where it says nothing, nothing changes; nor do columns of another meaning.
            row[column] = Value::Null;
            row["own"] = json!(3);
            assert_eq!(fixture(kind, &row.to_string()).marked(OPTIONS).len(), 1);
            row[column] = json!("");
            assert_eq!(fixture(kind, &row.to_string()).marked(OPTIONS).len(), 1);
        }
    }
    let row = r#"{"prompt": "a", "completion": "b", "id": NaN, "system": null}"#;
    let fixture = fixture("completion", row);
    assert_eq!(fixture.marked(OPTIONS), ["^a⟦ b$⟧"]);
    let record = &source::read(Path::new(&fixture.spec.path), None).unwrap()[0];
    let format = fixture.spec.format().unwrap();
    format.sample(record).unwrap();
    assert_eq!(format.unread(record).unwrap(), ["id"]);
}

#[test]
fn long_samples_stop_the_run_unless_told_otherwise() {
    // 5, 14 and 7 tokens; the prompt of the second alone has 9.
    let fixture = fixture(
        "completion",
        "{\"prompt\": \"ab\", \"completion\": \"c\"}\n{\"prompt\": \"abcdefgh\", \"completion\": \"xyz\"}\n{\"prompt\": \"ab\", \"completion\": \"cde\"}",
    );
    let with = |sequence_len, excess_length| TokenOptions { sequence_len, excess_length, ..OPTIONS };
    let error = fixture.load(with(6, ExcessLength::Raise)).unwrap_err().to_string();
    for wanted in ["rows.jsonl:2", "14 tokens", "sequence_len 6", "excess_length_strategy"] {
        assert!(error.contains(wanted), "{error}");
    }
    let dropped = fixture.load(with(6, ExcessLength::Drop)).unwrap();
    assert_eq!((dropped.samples.len(), dropped.dropped, dropped.truncated), (1, 2, 0));
    let cut = fixture.load(with(6, ExcessLength::Truncate)).unwrap();
    assert_eq!((cut.samples.len(), cut.dropped, cut.truncated), (2, 1, 1));
    assert_eq!(cut.samples[1].len(), 6);
    let error = fixture.load(with(2, ExcessLength::Drop)).unwrap_err().to_string();
    assert!(error.contains("all 3 rows"), "{error}");
    assert!(fixture.load(with(14, ExcessLength::Raise)).is_ok());
}

#[test]
fn several_sets_follow_each_other() {
    let (a, b) = (fixture("text", r#"{"text": "a"}"#), fixture("completion", r#"{"prompt": "b", "completion": "c"}"#));
    let samples = load(&[b.spec.clone(), a.spec.clone()], &Characters, None, OPTIONS).unwrap().samples;
    assert_eq!(
        samples.iter().map(|sample| sample.tokens().unwrap().ids[1]).collect::<Vec<_>>(),
        ['b', 'a'].map(u32::from)
    );
    assert_eq!(source::read(PathBuf::from(&a.spec.path).as_path(), None).unwrap().len(), 1);
}

#[test]
fn bad_rows_stop_the_run_or_are_left_out_and_counted() {
    let rows = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{no json\n{\"prompt\": \"c\"}\n{\"prompt\": \"d\", \"completion\": \" \"}\n\
                {\"prompt\": \"e\", \"completion\": \"f\"}";
    let fixture = fixture("completion", rows);
    assert!(fixture.error().contains("rows.jsonl:2") && fixture.error().contains("not one JSON object"));
    let skip = TokenOptions { on_bad_row: OnBadRow::Skip, ..OPTIONS };
    assert_eq!(fixture.marked(skip), ["^a⟦ b$⟧", "^e⟦ f$⟧"]);
    assert_eq!(fixture.load(skip).unwrap().skipped, 3);
    // Too long is not bad: `excess_length_strategy` decides.
    let short = TokenOptions { sequence_len: 2, ..skip };
    assert!(matches!(fixture.load(short), Err(DataError::TooLong { .. })));
}
