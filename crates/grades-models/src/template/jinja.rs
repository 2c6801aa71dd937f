//! The Jinja dialect of chat templates: what transformers adds to Jinja2, and where minijinja prints otherwise.

use std::error::Error as _;
use std::io::{self, Write};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Template, Value, escape_formatter};

use super::{generation, json, python};
use crate::calendar;

/// Instructions of a template for one conversation, about a second's worth; depth is bounded by minijinja itself. Long
/// conversations need some thousands.
const FUEL: u64 = 20_000_000;

/// Bytes of a rendered conversation.
const MOST: usize = 1 << 26;

/// Renders a template, up to [`MOST`] bytes.
pub(super) fn render(template: &Template<'_, '_>, variables: Value) -> Result<String, Error> {
    struct Bounded(Vec<u8>);
    impl Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > MOST {
                return Err(io::Error::other(format!("its text is longer than {MOST} bytes")));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut text = Bounded(Vec::new());
    template.render_captured_to(variables, &mut text)?;
    Ok(String::from_utf8_lossy(&text.0).into_owned())
}

/// An environment holding one template under `name`.
pub(super) fn environment(name: &'static str, source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| match python::spelling(value) {
        Some(text) => escape_formatter(out, state, &text.into()),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("string", |value: Value| python::spelling(&value).map_or(value, Value::from));
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    environment.add_function(generation::FUNCTION, generation::said);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", json::tojson);
    add(&mut environment, name, source)?;
    Ok(environment)
}

/// Adds a template to an environment.
pub(super) fn add(environment: &mut Environment<'static>, name: &'static str, source: &str) -> Result<(), Error> {
    environment.add_template_owned(name, generation::as_calls(source))
}

/// What went wrong, with the reasons behind it, in one line.
pub(super) fn describe(error: &Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text += &format!(" (line {line} of the template)");
    }
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// The present date and time in a `strftime` format, in UTC (transformers: the local time zone).
fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, calendar::now().as_secs())
}

/// `seconds` since 1970 in a `strftime` format of the codes that templates use.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    // The first of January 1970 was a Thursday.
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

    let days = seconds / 86_400;
    let [year, month, day, hour, minute, second] = calendar::utc(Duration::from_secs(seconds));
    let month_name = MONTHS[month as usize - 1];
    let weekday = DAYS[(days % 7) as usize];

    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out += &match characters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let code = other.map_or_else(|| "%".to_owned(), |c| format!("%{c}"));
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now does not know {code} in {format:?}"),
                ));
            }
        };
    }
    Ok(out)
}
