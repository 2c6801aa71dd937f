use std::fs;
use std::path::PathBuf;

use super::*;
use crate::data::{DataError, Encode, ExcessLength, NO_LOSS, Samples, TokenOptions, load, source, tokens};

/// One token a character, 1 at the beginning of a text, 2 at its end; conversations in the manner of ChatML.
struct Characters;

impl Encode for Characters {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, tokens::EncodeError> {
        Ok(add_special_tokens.then_some(1).into_iter().chain(text.chars().map(u32::from)).collect())
    }

    fn bos_id(&self) -> Option<u32> {
        Some(1)
    }

    fn eos_id(&self) -> Option<u32> {
        Some(2)
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, tokens::EncodeError> {
        if messages.iter().any(|message| message.role == "tool") {
            return Err("tool is not allowed".into());
        }
        let forget = messages.iter().any(|message| message.content == "forget");
        let mut text: String = messages
            .iter()
            .map(|Message { role, content }| {
                let content = if forget { "…" } else { content };
                format!("<{role}>{content}<end>\n")
            })
            .collect();
        if add_generation_prompt {
            text += "<assistant>";
        }
        Ok(text)
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

const OPTIONS: TokenOptions =
    TokenOptions { sequence_len: 1000, train_on_inputs: false, excess_length: ExcessLength::Raise };

impl Fixture {
    fn load(&self, options: TokenOptions) -> Result<Samples, DataError> {
        load(std::slice::from_ref(&self.spec), &Characters, options)
    }

    /// The samples as text, with `⟦…⟧` around what is trained, `^` for the beginning and `$` for the end token.
    fn marked(&self, options: TokenOptions) -> Vec<String> {
        let samples = self.load(options).unwrap().samples;
        samples
            .iter()
            .map(|sample| {
                let mut text = String::new();
                let mut trained = false;
                for (id, label) in sample.ids.iter().zip(&sample.labels) {
                    assert!(*label == NO_LOSS || *label == i64::from(*id));
                    if trained != (*label != NO_LOSS) {
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
            r#"{"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            vec![":1", "tool is not allowed"],
        ),
        (
            "messages",
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "forget"}]}"#,
            vec![":1", "message 4", "train_on_inputs"],
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
    assert_eq!(cut.samples[1].ids.len(), 6);
    let error = fixture.load(with(2, ExcessLength::Drop)).unwrap_err().to_string();
    assert!(error.contains("all 3 rows"), "{error}");
    assert!(fixture.load(with(14, ExcessLength::Raise)).is_ok());
}

#[test]
fn several_sets_follow_each_other() {
    let (a, b) = (fixture("text", r#"{"text": "a"}"#), fixture("completion", r#"{"prompt": "b", "completion": "c"}"#));
    let samples = load(&[b.spec.clone(), a.spec.clone()], &Characters, OPTIONS).unwrap().samples;
    assert_eq!(samples.iter().map(|sample| sample.ids[1]).collect::<Vec<_>>(), ['b', 'a'].map(u32::from));
    assert_eq!(source::read(PathBuf::from(&a.spec.path).as_path(), None).unwrap().len(), 1);
}
