//! Conversations by templates of many kinds, as samples. A token is a character here, and `■` one that ends turns.

use std::fs;

use grades_models::template::{ChatTemplate, Given, Message, Rendered};
use grades_models::tokenizer::SpecialTokens;
use grades_tensor::IGNORE_INDEX;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::encode::{Around, EncodeError, Encoded};
use super::super::{DataError, DatasetSpec, ExcessLength, OnBadRow, Samples, TokenOptions, load};
use super::*;

/// A chat template, with the tokens that are its letters.
struct Letters(ChatTemplate);

impl Letters {
    fn new(source: &str) -> Self {
        Self(ChatTemplate::new(source, &SpecialTokens::default()).unwrap())
    }
}

impl Encode for Letters {
    fn encode(&self, text: &str, _: Around) -> Result<Encoded, EncodeError> {
        let mut encoded = Encoded::default();
        for (at, letter) in text.char_indices() {
            encoded.ids.push(letter.into());
            encoded.ranges.push(at..at + letter.len_utf8());
        }
        Ok(encoded)
    }

    fn bos_id(&self) -> Option<u32> {
        None
    }

    fn eos_id(&self) -> Option<u32> {
        None
    }

    fn is_special(&self, id: u32) -> bool {
        id == u32::from('■')
    }

    fn render(&self, messages: &[Message], given: &Given, prompt: bool) -> Result<Rendered, EncodeError> {
        Ok(self.0.render(messages, given, prompt)?)
    }
}

const OPTIONS: TokenOptions = TokenOptions {
    sequence_len: 10_000,
    train_on_inputs: false,
    excess_length: ExcessLength::Raise,
    train_on_last_turn_only: false,
    on_bad_row: OnBadRow::Stop,
    max_samples: None,
};

fn spec() -> DatasetSpec {
    DatasetSpec { kind: "messages".to_owned(), ..DatasetSpec::default() }
}

fn samples(template: &str, row: &Value, spec: DatasetSpec, options: TokenOptions) -> Result<Samples, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, row.to_string()).unwrap();
    let spec = DatasetSpec { path: path.to_string_lossy().into_owned(), ..spec };
    load(&[spec], &Letters::new(template), None, options)
}

/// The samples as text, with `⟦…⟧` around what is learnt.
fn marked(template: &str, row: &Value, spec: DatasetSpec, options: TokenOptions) -> Vec<String> {
    let mut all = Vec::new();
    for sample in samples(template, row, spec, options).unwrap().tokens() {
        let (mut text, mut inside) = (String::new(), false);
        for (id, label) in sample.ids.iter().zip(&sample.labels) {
            if inside != (*label != IGNORE_INDEX) {
                inside = !inside;
                text.push(if inside { '⟦' } else { '⟧' });
            }
            text.push(char::from_u32(*id).unwrap());
        }
        all.push(if inside { text + "⟧" } else { text });
    }
    all
}

fn row(turns: &[(&str, &str)]) -> Value {
    let message = |(role, content): &(&str, &str)| json!({ "role": role, "content": content });
    json!({ "messages": turns.iter().map(message).collect::<Vec<_>>() })
}

/// Thoughts stand before an answer only behind the last question.
const THINKING: &str = "{% set ns = namespace(asked=-1) %}\
    {% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}\
    {% for m in messages %}<{{ m.role }}>\
    {% if m.role == 'assistant' and loop.index0 > ns.asked %}({{ m.reasoning_content }}){% endif %}{{ m.content }}■\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}■\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

#[test]
fn earlier_turns_are_learnt_as_they_were_written() {
    let thought =
        |thought: &str, said: &str| json!({ "role": "assistant", "content": said, "reasoning_content": thought });
    let asked = |said: &str| json!({ "role": "user", "content": said });
    let told = json!({ "role": "tool", "content": "T" });
    let talk =
        json!({ "messages": [asked("a"), thought("x", "b"), asked("c"), thought("y", "d"), told, thought("z", "e")] });
    let first = "<user>a■\n<assistant>⟦(x)b■⟧";
    let last = "<user>a■\n<assistant>b■\n<user>c■\n<assistant>⟦(y)d■⟧\n<tool>T■\n<assistant>⟦(z)e■⟧";
    // Turns that agree are one sample.
    assert_eq!(marked(THINKING, &talk, spec(), OPTIONS), [first, last]);
    let only_last = TokenOptions { train_on_last_turn_only: true, ..OPTIONS };
    let wanted = last.replacen('⟦', "", 1).replacen('⟧', "", 1);
    assert_eq!(marked(THINKING, &talk, spec(), only_last), [wanted]);
    // What is not learnt needs no sample.
    let mut off = talk.clone();
    off["messages"][1]["weight"] = 0.into();
    assert_eq!(marked(THINKING, &off, spec(), OPTIONS), [last]);
    // All as one text; what is kept out of it is found although it is written otherwise.
    let everything = TokenOptions { train_on_inputs: true, ..OPTIONS };
    let wanted = "⟦<user>a■\n<assistant>⟧b⟦■\n<user>c■\n<assistant>(y)d■\n<tool>T■\n<assistant>(z)e■\n⟧";
    assert_eq!(marked(THINKING, &off, spec(), everything), [wanted]);
}

/// The system's message is in the last question alone, and only while nothing has answered it.
#[test]
fn a_prompt_that_is_written_otherwise_later_stays_the_prompt() {
    let template = "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set said = messages[1:] %}\
        {% else %}{% set said = messages %}{% endif %}\
        {% for m in said %}{% if m.role == 'user' %}[Q]{% if loop.last and s is defined %}{{ s }}: {% endif %}{{ m.content }}[/Q]\
        {% else %} {{ m.content }}■{% endif %}{% endfor %}";
    let talk = row(&[("system", "Be"), ("user", "why"), ("assistant", "so"), ("user", "how"), ("assistant", "thus")]);
    let wanted = ["[Q]Be: why[/Q]⟦ so■⟧", "[Q]why[/Q] so■[Q]Be: how[/Q]⟦ thus■⟧"];
    assert_eq!(marked(template, &talk, spec(), OPTIONS), wanted);
}

#[test]
fn an_end_mark_behind_the_last_turn_alone_parts_nothing() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|e|>\n{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% else %}<|end|>{% endif %}";
    let talk = row(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let wanted = "<|user|>a<|e|>\n<|assistant|>⟦b<|e|>⟧\n<|user|>c<|e|>\n<|assistant|>⟦d<|e|>\n<|end|>⟧";
    assert_eq!(marked(template, &talk, spec(), OPTIONS), [wanted]);
}

#[test]
fn a_generation_prompt_may_say_more_than_the_turn() {
    let template =
        PLAIN.replace("{% if add_generation_prompt %}<assistant>", "{% if add_generation_prompt %}<assistant>(\n");
    let talk = row(&[("user", "a"), ("assistant", "b")]);
    assert_eq!(marked(&template, &talk, spec(), OPTIONS), ["<user>a■\n<assistant>⟦b■⟧"]);
    // And a template may refuse to stop before an answer.
    let template = format!("{{% if messages | length == 1 %}}{{{{ raise_exception('no') }}}}{{% endif %}}{PLAIN}");
    assert_eq!(marked(&template, &talk, spec(), OPTIONS), ["<user>a■\n<assistant>⟦b■⟧"]);
}

#[test]
fn tags_say_what_is_learnt() {
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<{{ m.role }}>{{ m.content }}■{% endgeneration %}\
        {% else %}<{{ m.role }}>{{ m.content }}■{% endif %}{% endfor %}";
    let talk = row(&[("user", "é"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]);
    let wanted = "<user>é■⟦<assistant>b■⟧<user>c■⟦<assistant>d■⟧";
    assert_eq!(marked(template, &talk, spec(), OPTIONS), [wanted]);
    let mut off = talk.clone();
    off["messages"][1]["train"] = false.into();
    assert_eq!(marked(template, &off, spec(), OPTIONS), [wanted.replacen('⟦', "", 1).replacen('⟧', "", 1)]);
    let users = DatasetSpec { roles_to_train: Some(vec!["user".to_owned()]), ..spec() };
    let wanted = "<user>⟦é■⟧<assistant>b■<user>⟦c■⟧<assistant>d■<user>⟦e■⟧";
    assert_eq!(marked(template, &talk, users, OPTIONS), [wanted]);
}

#[test]
fn who_is_learnt_is_chosen_by_role_and_by_mark() {
    let talk = row(&[("system", "s"), ("user", "user"), ("assistant", "b"), ("tool", "t"), ("assistant", "d")]);
    let of = |roles: &[&str]| {
        let roles = roles.iter().map(ToString::to_string).collect();
        DatasetSpec { roles_to_train: Some(roles), ..spec() }
    };
    let wanted = "<system>s■\n<user>⟦user■⟧\n<assistant>b■\n<tool>⟦t■⟧\n<assistant>d■";
    assert_eq!(marked(PLAIN, &talk, of(&["user", "tool"]), OPTIONS), [wanted]);
    let mut by_hand = talk.clone();
    by_hand["messages"][1]["train"] = true.into();
    by_hand["messages"][4]["learn"] = 1.into();
    by_hand["messages"][2]["learn"] = false.into();
    let chosen = DatasetSpec { message_field_training: Some("learn".to_owned()), ..of(&[]) };
    let wanted = "<system>s■\n<user>⟦user■⟧\n<assistant>b■\n<tool>t■\n<assistant>⟦d■⟧";
    assert_eq!(marked(PLAIN, &by_hand, chosen, OPTIONS), [wanted]);
    let error = samples(PLAIN, &talk, of(&["robot"]), OPTIONS).unwrap_err().to_string();
    assert!(error.contains("no message of the robot"), "{error}");
}

#[test]
fn ends_of_turns_are_learnt_as_asked() {
    let talk = row(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    for (choice, wanted) in [
        (TrainOnEos::Turn, "<user>a■\n<assistant>⟦b■⟧\n<user>c■\n<assistant>⟦d■⟧"),
        (TrainOnEos::Last, "<user>a■\n<assistant>⟦b⟧■\n<user>c■\n<assistant>⟦d■⟧"),
        (TrainOnEos::All, "<user>a⟦■⟧\n<assistant>⟦b■⟧\n<user>c⟦■⟧\n<assistant>⟦d■⟧"),
        (TrainOnEos::None, "<user>a■\n<assistant>⟦b⟧■\n<user>c■\n<assistant>⟦d⟧■"),
    ] {
        let chosen = DatasetSpec { train_on_eos: Some(choice), ..spec() };
        assert_eq!(marked(PLAIN, &talk, chosen, OPTIONS), [wanted], "{choice:?}");
    }
}

#[test]
fn columns_and_speakers_may_have_names_of_their_own() {
    let template = format!("{{{{ tools | tojson }}}}{PLAIN}")
        .replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}");
    let talk = json!({ "talk": [{ "who": "human", "what": "a" }, { "who": "bot", "what": "b", "thought": "x" }],
        "functions": "[1]", "preamble": "s" });
    let named = |name: &str| Some(name.to_owned());
    let spec = DatasetSpec {
        field_messages: named("talk"),
        field_tools: named("functions"),
        field_system: named("preamble"),
        roles: [("assistant".to_owned(), vec!["bot".to_owned()])].into(),
        message_property_mappings: [("role", "who"), ("content", "what"), ("reasoning_content", "thought")]
            .map(|(property, key)| (property.to_owned(), key.to_owned()))
            .into(),
        kind: "sharegpt".to_owned(),
        ..DatasetSpec::default()
    };
    assert_eq!(marked(&template, &talk, spec.clone(), OPTIONS), ["[1]<system>s■\n<user>a■\n<assistant>⟦xb■⟧"]);
    let both = DatasetSpec { message_field_role: named("who"), ..spec.clone() };
    assert!(samples(&template, &talk, both, OPTIONS).unwrap_err().to_string().contains("message_property_mappings"));
    let other = DatasetSpec { kind: "completion".to_owned(), roles: spec.roles, ..DatasetSpec::default() };
    assert!(samples(&template, &talk, other, OPTIONS).unwrap_err().to_string().contains("roles of data set"));
}

#[test]
fn arguments_are_written_as_json_whatever_they_are_in_the_data() {
    let object = "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}■\n{% endfor %}";
    let text = object.replace(" | tojson", "");
    for template in [object, &text] {
        for arguments in [json!({ "city": "Rom", "n": [1, 2] }), json!("{\"city\": \"Rom\", \"n\": [1, 2]}")] {
            let call = json!({ "function": { "name": "f", "arguments": arguments } });
            let talk = json!({ "messages": [{ "role": "user", "content": "" },
                { "role": "assistant", "content": null, "tool_calls": [call] }] });
            let marked = marked(template, &talk, spec(), OPTIONS);
            assert!(marked[0].contains("{\"city\": \"Rom\", \"n\": [1, 2]}■"), "{template}: {}", marked[0]);
        }
    }
}

/// What `make_rendered.py` writes; `GRADES_RENDERED` may name a file with other templates.
#[derive(Deserialize)]
struct Reference {
    templates: std::collections::BTreeMap<String, String>,
    conversations: Vec<Talk>,
}

#[derive(Deserialize)]
struct Talk {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Option<Value>,
    #[serde(flatten)]
    variables: serde_json::Map<String, Value>,
}

/// Every answer of every conversation that a template accepts is in a sample as the model would have to write it: behind its prompt, if
/// that is how it begins, and up to its end.
#[test]
fn no_template_is_refused_and_every_answer_is_learnt() {
    let file = std::env::var_os("GRADES_RENDERED");
    let text = match &file {
        Some(file) => fs::read_to_string(file).unwrap(),
        None => include_str!("../../../grades-models/src/template/rendered.json").to_owned(),
    };
    let Reference { templates, conversations } = serde_json::from_str(&text).unwrap();
    let mut problems = Vec::new();
    for (name, source) in &templates {
        let Ok(template) = ChatTemplate::new(source, &SpecialTokens { eos: Some("</s>".into()), ..Default::default() })
        else {
            continue;
        };
        let encoder = Letters(template);
        let (mut found, mut split, mut turns) = (0, 0, 0);
        for (number, Talk { messages, tools, variables }) in conversations.iter().enumerate() {
            let given = Given { tools: tools.clone(), variables: variables.clone() };
            let learnt: Vec<bool> = messages.iter().map(|message| message.role() == ASSISTANT).collect();
            let talk = Conversation { messages: messages.clone(), learnt, given, ..Conversation::default() };
            if !talk.learnt.contains(&true) {
                continue;
            }
            let render = |messages: &[Message], prompt| encoder.render(messages, &talk.given, prompt);
            let whole = render(&talk.messages, false);
            let accepted = whole.is_ok()
                && (0..messages.len()).all(|at| !talk.learnt[at] || render(&messages[..=at], false).is_ok());
            if !accepted {
                continue;
            }
            let rendered = whole.unwrap();
            let parts = match parts(&talk, &rendered, &encoder, Ends::Trimmed) {
                Ok(parts) => parts,
                Err(problem) => {
                    problems.push(format!("{name}, {number}: {problem}"));
                    continue;
                }
            };
            found += 1;
            split += parts.len();
            if rendered.generated.as_ref().is_some_and(|spans| !spans.is_empty()) {
                continue;
            }
            for index in (0..messages.len()).filter(|index| talk.learnt[*index]) {
                let so_far = render(&messages[..=index], false).unwrap().text;
                let so_far = so_far.trim_end();
                let Ok(prompt) = render(&messages[..index], true) else { continue };
                if index == 0 || !so_far.starts_with(&prompt.text) {
                    continue;
                }
                turns += 1;
                let said = (index, prompt.text.len()..so_far.len());
                // Where an end mark stands behind the last turn alone, it is not in later texts.
                let shown = |part: &Part| {
                    let whole = part.text.starts_with(so_far) && part.turns.contains(&said);
                    let begun = |(at, turn): &(usize, Range<usize>)| {
                        *at == index
                            && turn.start == said.1.start
                            && so_far.starts_with(&part.text[..turn.end])
                            && turn.end > turn.start
                    };
                    whole || part.turns.iter().any(begun)
                };
                if !parts.iter().any(shown) {
                    problems.push(format!("{name}, {number}: turn {index} is not learnt"));
                }
            }
        }
        println!("{name}: {found} conversations, {split} samples, {turns} turns behind their prompt");
        assert!(file.is_some() || found > 0, "{name}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
