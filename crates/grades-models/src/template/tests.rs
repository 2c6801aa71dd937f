//! Templates in the styles of well-known families, written for these tests; `rendered.json` holds what transformers
//! makes of them (`make_rendered.py`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::jinja::strftime;
use super::{ChatTemplate, Message, TemplateError};
use crate::tokenizer::{SpecialTokens, Tokenizer};

#[derive(Deserialize)]
struct Rendered {
    templates: BTreeMap<String, String>,
    conversations: Vec<Vec<Message>>,
    /// By `template.conversation.add_generation_prompt`.
    rendered: BTreeMap<String, String>,
}

fn reference() -> Rendered {
    serde_json::from_str(include_str!("rendered.json")).unwrap()
}

fn special() -> SpecialTokens {
    SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), unk: None, pad: None }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &special()).unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

#[test]
fn every_template_renders_as_in_transformers() {
    let reference = reference();
    assert!(reference.rendered.len() >= 30);
    for (case, expected) in &reference.rendered {
        let parts: Vec<&str> = case.split('.').collect();
        let messages = &reference.conversations[parts[1].parse::<usize>().unwrap()];
        let text = template(&reference.templates[parts[0]]).render(messages, parts[2] == "1").unwrap();
        assert_eq!(&text, expected, "{case}");
    }
}

#[test]
fn a_template_may_refuse() {
    let source = &reference().templates["bracketed"];
    let twice = conversation(&[("user", "a"), ("user", "b")]);
    let error = template(source).render(&twice, false).unwrap_err().to_string();
    assert!(error.contains("user and assistant must alternate") && error.contains("2 messages"), "{error}");
    assert!(matches!(template("{{ missing.attribute }}").render(&[], false), Err(TemplateError::Render { .. })));
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
    let year = template("{{ strftime_now('%Y') }}").render(&[], false).unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024);
}

#[test]
fn json_is_pythons() {
    let render = |source: &str| template(source).render(&[], false).unwrap();
    assert_eq!(render(r#"{{ {"b": [1, 2.5, true], "a": {}} | tojson }}"#), r#"{"b": [1, 2.5, true], "a": {}}"#);
    assert_eq!(render(r#"{{ {"b": 1, "a": "<\n>"} | tojson(sort_keys=true) }}"#), r#"{"a": "<\n>", "b": 1}"#);
    assert_eq!(render(r#"{{ [[], [1, "é"]] | tojson(indent=1) }}"#), "[\n [],\n [\n  1,\n  \"é\"\n ]\n]");
}

/// The pieces of the text that the assistant produces.
fn spoken(source: &str, messages: &[Message]) -> Vec<String> {
    let template = template(source);
    let (text, spans) = template.render_with_assistant_spans(messages).unwrap();
    assert_eq!(text, template.render(messages, false).unwrap());
    spans.into_iter().map(|span| text[span].to_owned()).collect()
}

#[test]
fn the_assistants_parts_begin_behind_the_prompt_and_end_with_the_turn() {
    let reference = reference();
    let messages = conversation(&[
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "assistant"),
        ("assistant", "Yes?"),
    ]);
    let spoken = |name: &str| spoken(&reference.templates[name], &messages);
    assert_eq!(spoken("marked_lines"), ["Hello!<|end|>\n", "Yes?<|end|>\n"]);
    assert_eq!(spoken("bracketed"), [" Hello! </s>", " Yes? </s>"]);
    assert_eq!(spoken("headers"), ["Hello!<<end>>\n", "Yes?<<end>>\n"]);
    let no_answer = conversation(&[("user", "Hi")]);
    assert_eq!(self::spoken(&reference.templates["headers"], &no_answer), [""; 0]);
}

#[test]
fn a_prompt_that_opens_a_thought_still_ends_before_the_answer() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}\
                  {% if add_generation_prompt %}<assistant><think>{% endif %}";
    let messages = conversation(&[("user", "Hi"), ("assistant", "Hello")]);
    assert_eq!(spoken(source, &messages), ["Hello</>"]);
    // The assistant may begin, too.
    assert_eq!(spoken(source, &messages[1..]), ["Hello</>"]);
}

#[test]
fn turns_that_change_afterwards_are_refused() {
    // Earlier answers lose their thought, as reasoning templates do.
    let source = "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<a>{{ m.content.split('</think>')[-1] }}\
                  {% else %}<{{ m.role[0] }}>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let template = template(source);
    let thought =
        conversation(&[("user", "Hi"), ("assistant", "hm</think>Hello"), ("user", "Bye"), ("assistant", "Bye")]);
    let error = template.render_with_assistant_spans(&thought).unwrap_err();
    assert!(matches!(error, TemplateError::NotIncremental { message: 1 }), "{error}");
    // Without a thought nothing changes.
    let plain = conversation(&[("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Bye")]);
    assert_eq!(spoken(source, &plain), ["Hello", "Bye"]);
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
        |messages: &[Message], prompt| tokenizer.encode(&template.render(messages, prompt).unwrap(), false).unwrap();
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
    let (text, spans) = template.render_with_assistant_spans(&messages).unwrap();
    assert_eq!(spans.len(), 1);
    assert_eq!(&text[spans[0].clone()], "4<|im_end|>\n");
}
