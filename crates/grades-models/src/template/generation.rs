//! `{% generation %} … {% endgeneration %}`, with which some templates say what the assistant writes.
//!
//! transformers makes a call of the pair and notes where in the text its result lies (`return_assistant_tokens_mask`). So it is here:
//! the pair becomes `{% call %} … {% endcall %}` of a function that puts a mark on either side, and the marks leave the text again.

use std::collections::BTreeSet;
use std::ops::Range;

use minijinja::value::Kwargs;
use minijinja::{Error, State, Value};

/// The function that the tags call.
pub(super) const FUNCTION: &str = "__generation__";

/// Marks of a beginning and an end: code points that Unicode keeps for use within a program and never makes characters.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Whether a template has such tags.
pub(super) fn is_in(source: &str) -> bool {
    tags(source).any(|(_, word)| word == BEGIN)
}

/// The template with the tags as calls; its text and white space are the same.
///
/// A call's body sees of the variables outside those that it reads; one of which it only sets an attribute it would not see
/// (minijinja 3.1), so each begins with reading them, where nothing is written.
pub(super) fn as_calls(source: &str) -> String {
    let read: String = set_within(source).iter().map(|name| format!("{{{{ {name} }}}}")).collect();
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for (range, word) in tags(source) {
        out += &source[done..range.start];
        done = range.end;
        out += &match (word, read.is_empty()) {
            (END, _) => "endcall".to_owned(),
            (_, true) => format!("call {FUNCTION}()"),
            (_, false) => format!("call {FUNCTION}() %}}{{% if false %}}{read}{{% endif"),
        };
    }
    out + &source[done..]
}

/// The names of which a template sets attributes: `{% set name.attribute = … %}`.
fn set_within(source: &str) -> BTreeSet<&str> {
    let statements = source
        .split("{%")
        .skip(1)
        .filter_map(|inside| inside.trim_start_matches(['-', '+']).trim_start().strip_prefix("set"));
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let targets = statements
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .filter_map(|rest| rest.trim_start().split_once('.'));
    targets.map(|(name, _)| name).filter(|name| is_name(name)).collect()
}

const BEGIN: &str = "generation";
const END: &str = "endgeneration";

/// The words of the tags, and where they stand.
fn tags(source: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let opened = source.match_indices("{%").map(|(at, open)| at + open.len());
    opened.filter_map(|at| {
        let inside = &source[at..at + source[at..].find("%}")?];
        let word = inside.trim_matches(['-', '+']).trim();
        let start = at + inside.find(word)?;
        (word == BEGIN || word == END).then(|| (start..start + word.len(), word))
    })
}

/// What the body of a pair says, with its marks.
pub(super) fn said(state: &mut State, options: Kwargs) -> Result<Value, Error> {
    let body: Value = options.get("caller")?;
    let text = body.call(state, &[])?;
    let [begin, end] = MARKS;
    Ok(format!("{begin}{text}{end}").into())
}

/// Whether a text has a mark of its own, so that it could not be told from those of the tags.
pub(super) fn has_marks(text: &str) -> bool {
    text.contains(MARKS)
}

/// The text without its marks, and what lay between them.
pub(super) fn take(text: &str) -> (String, Option<Vec<Range<usize>>>) {
    let (mut plain, mut spans, mut open) = (String::with_capacity(text.len()), Vec::new(), Vec::new());
    for c in text.chars() {
        if c == MARKS[0] {
            open.push(plain.len());
        } else if c == MARKS[1] {
            spans.extend(open.pop().map(|start| start..plain.len()));
        } else {
            plain.push(c);
        }
    }
    spans.sort_by_key(|span| (span.start, span.end));
    (plain, Some(spans))
}
