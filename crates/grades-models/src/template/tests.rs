//! Templates in the styles of well-known families, written for these tests; `rendered.json` holds what transformers
//! makes of them (`make_rendered.py`).

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::jinja::strftime;
use super::{ChatTemplate, Given, Message, TemplateError, Unread};
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// What `make_rendered.py` writes.
#[derive(Deserialize)]
struct Reference {
    templates: BTreeMap<String, String>,
    conversations: Vec<Asked>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Asked {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Option<Value>,
    #[serde(flatten)]
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: usize,
    /// Whether what begins the next answer is appended.
    prompt: bool,
    /// What transformers renders; nothing if the template refuses.
    text: Option<String>,
    #[serde(default)]
    generated: Option<Vec<(usize, usize)>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("rendered.json")).unwrap()
}

impl Reference {
    /// What one template makes of the conversations otherwise than transformers, and how many it makes the same of.
    fn compare(&self, name: &str, lenient: bool) -> (Vec<String>, usize) {
        let template = ChatTemplate::new(&self.templates[name], &special());
        let (mut wrong, mut right) = (Vec::new(), 0);
        for case in self.cases.iter().filter(|case| case.template == name) {
            let Asked { messages, tools, variables } = &self.conversations[case.conversation];
            let given = Given { tools: tools.clone(), variables: variables.clone() };
            let rendered = match &template {
                Ok(template) => template.render(messages, &given, case.prompt).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let spans = |all: &Vec<Range<usize>>| all.iter().map(|span| (span.start, span.end)).collect::<Vec<_>>();
            let found = rendered.as_ref().ok().map(|found| (&found.text, found.generated.as_ref().map(spans)));
            let wanted = case.text.as_ref().map(|text| (text, case.generated.clone()));
            match (found, wanted) {
                (found, wanted) if found == wanted => right += 1,
                // What only transformers refuses is no loss.
                (Some(_), None) if lenient => {}
                (found, wanted) => wrong.push(format!(
                    "{name}, {}, {}:\n{found:?} ({:?})\n{wanted:?}",
                    case.conversation,
                    case.prompt,
                    rendered.as_ref().err()
                )),
            }
        }
        (wrong, right)
    }
}

fn special() -> SpecialTokens {
    SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &special()).unwrap()
}

fn text(template: &ChatTemplate, messages: &[Message], prompt: bool) -> Result<String, TemplateError> {
    template.render(messages, &Given::default(), prompt).map(|rendered| rendered.text)
}

fn conversation(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

#[test]
fn every_template_renders_as_in_transformers() {
    let reference = reference();
    assert!(reference.cases.len() >= 140);
    for name in reference.templates.keys() {
        let (wrong, right) = reference.compare(name, false);
        assert!(wrong.is_empty() && right > 10, "{}", wrong.join("\n"));
    }
}

/// Other people's templates, which are not in this repository; `make_rendered.py` says how.
#[test]
fn templates_of_others_render_as_in_transformers() {
    let Some(path) = std::env::var_os("GRADES_RENDERED") else {
        println!("skipped: GRADES_RENDERED does not name a file that make_rendered.py wrote");
        return;
    };
    let reference: Reference = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut all_wrong = Vec::new();
    for name in reference.templates.keys() {
        let (wrong, right) = reference.compare(name, true);
        let refused = reference.cases.iter().filter(|case| case.template == *name && case.text.is_none()).count();
        println!("{name}: {right} alike, {} not; transformers refuses {refused}", wrong.len());
        all_wrong.extend(wrong.into_iter().take(1));
    }
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
}

#[test]
fn what_is_no_character_cannot_stand_for_a_tag() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let said = conversation(&[("assistant", "a\u{fdd0}b")]);
    assert!(text(&template(source), &said, false).unwrap_err().to_string().contains("U+FDD0"));
    // Where there is no tag it is text as any.
    assert_eq!(text(&template("{{ messages[0].content }}"), &said, false).unwrap(), "a\u{fdd0}b");
}

#[test]
fn a_template_may_refuse() {
    let source = &reference().templates["bracketed"];
    let twice = conversation(&[("user", "a"), ("user", "b")]);
    let error = text(&template(source), &twice, false).unwrap_err().to_string();
    assert!(error.contains("user and assistant must alternate") && error.contains("2 messages"), "{error}");
    assert!(matches!(text(&template("{{ missing.attribute }}"), &[], false), Err(TemplateError::Render { .. })));
    let error = ChatTemplate::new("{% for x in %}", &special()).unwrap_err();
    assert!(matches!(error, TemplateError::Syntax(_)), "{error}");
}

#[test]
fn dates_are_those_of_the_calendar() {
    // From `date -u -d @…`.
    let format = "%A %a %d %B %b %m %Y %y %H:%M:%S %I %p %%";
    let date = |seconds| strftime(format, seconds).unwrap();
    assert_eq!(date(0), "Thursday Thu 01 January Jan 01 1970 70 00:00:00 12 AM %");
    assert_eq!(date(951_827_696), "Tuesday Tue 29 February Feb 02 2000 00 12:34:56 12 PM %");
    assert_eq!(date(1_735_689_599), "Tuesday Tue 31 December Dec 12 2024 24 23:59:59 11 PM %");
    assert_eq!(date(4_107_542_400), "Monday Mon 01 March Mar 03 2100 00 00:00:00 12 AM %");
    assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
    assert!(strftime("%", 0).is_err());
    let year = text(&template("{{ strftime_now('%Y') }}"), &[], false).unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024);
}

#[test]
fn json_is_pythons() {
    let render = |source: &str| text(&template(source), &[], false).unwrap();
    assert_eq!(render(r#"{{ {"b": [1, 2.5, true], "a": {}} | tojson }}"#), r#"{"b": [1, 2.5, true], "a": {}}"#);
    assert_eq!(render(r#"{{ {"b": 1, "a": "<\n>"} | tojson(sort_keys=true) }}"#), r#"{"a": "<\n>", "b": 1}"#);
    assert_eq!(render(r#"{{ [[], [1, "é"]] | tojson(indent=1) }}"#), "[\n [],\n [\n  1,\n  \"é\"\n ]\n]");
}

/// The template of SmolLM2-Instruct, rendered and tokenized by transformers 5.23.
#[test]
fn the_real_template_agrees_with_transformers() {
    let Some(path) = std::env::var_os("GRADES_TEST_MODEL") else {
        println!("skipped: GRADES_TEST_MODEL does not name a checkpoint of SmolLM2-Instruct");
        return;
    };
    let tokenizer = Tokenizer::from_checkpoint(path).unwrap();
    let template = ChatTemplate::of(&tokenizer).unwrap().unwrap();
    let encode =
        |messages: &[Message], prompt| tokenizer.encode(&text(&template, messages, prompt).unwrap(), false).unwrap();
    let question = conversation(&[("user", "How warm is it?")]);
    let mut expected = vec![
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
        198, 1, 4093, 198, 2020, 3091, 314, 357, 47, 2, 198,
    ];
    assert_eq!(encode(&question, false), expected);
    expected.extend([1, 520, 9531, 198]);
    assert_eq!(encode(&question, true), expected);

    let messages = conversation(&[("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "And 3?")]);
    let expected = [
        1, 9690, 198, 6077, 5453, 30, 2, 198, 1, 4093, 198, 34, 27, 34, 47, 2, 198, 1, 520, 9531, 198, 36, 2, 198, 1,
        4093, 198, 3528, 216, 35, 47, 2, 198,
    ];
    assert_eq!(encode(&messages, false), expected);
}

#[test]
fn what_a_template_does_not_read_is_told() {
    let source = "{% for m in messages %}<{{ m.role }}>{% if m['content'] %}{{ m.content }}{% endif %}\
                  {% if 'calls' in m %}{{ m.calls | tojson }}{% endif %}{% endfor %}{% if style %}{{ style }}{% endif %}";
    let call =
        serde_json::json!({ "role": "assistant", "calls": [{ "b": 1.0, "a": "é" }], "name": "x", "content": null });
    let messages = [Message::new("user", "Hi"), serde_json::from_value(call).unwrap()];
    let mut given = Given { tools: Some(serde_json::json!([])), ..Given::default() };
    given.variables.insert("style".into(), "short".into());
    let rendered = template(source).render(&messages, &given, false).unwrap();
    assert_eq!(rendered.text, "<user>Hi<assistant>[{\"b\": 1.0, \"a\": \"é\"}]short");
    let unread = |message, key: &str| Unread { message, key: key.to_owned() };
    assert_eq!(rendered.unread, [unread(None, "tools"), unread(Some(1), "name")]);
    // What is taken as a whole is read.
    let rendered = template("{{ messages | tojson }}{{ tools }}{{ style }}").render(&messages, &given, false).unwrap();
    assert_eq!(rendered.unread, []);
}

#[test]
fn a_template_is_bounded_in_time_depth_and_output() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let long = "{% for a in range(9999) %}{% for b in range(99) %}{{ 'x' * 9999 }}{% endfor %}{% endfor %}";
    let deep = "{% macro down() %}{{ down() }}{% endmacro %}{{ down() }}";
    for (source, reason) in [
        ("{{ messages | tojson(indent=9223372036854775807) }}", "indents"),
        (nested, "fuel"),
        (long, "longer than"),
        (deep, "recursion"),
    ] {
        let error = text(&template(source), &conversation(&[("user", "Hi")]), false).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
