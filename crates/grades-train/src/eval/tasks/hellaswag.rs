//! HellaSwag: how a scene goes on (Zellers et al. 2019).

use super::{Question, Record, Result, Task, on_hub};

pub(super) const TASK: Task = Task {
    name: "hellaswag",
    split: "validation",
    hub: Some(on_hub("Rowan/hellaswag", None)),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["activity_label", "ctx", "ctx_a", "ctx_b", "ind", "source_id", "split", "split_type"];

fn question(row: &Record) -> Result<Question> {
    // Copies of the training split often have the joined `ctx` alone.
    let context = if row.has("ctx_a") {
        let start = capitalized(row.text("ctx_b")?);
        format!("{}: {} {start}", row.text("activity_label")?, row.text("ctx_a")?)
    } else {
        row.text("ctx")?.to_owned()
    };
    let choices: Vec<String> = row.texts("endings")?.into_iter().map(cleaned).collect();
    Question::new(row, cleaned(&context), &choices, row.integer("label")?.try_into().ok())
}

/// The first letter large, all others small, as Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase())
}

/// Without the marks in brackets that the WikiHow part has: a title becomes a sentence, all others go.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Without `[…]`, each up to the first closing bracket on its line.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(close) if inside[close..].starts_with(']') => {
                kept.push_str(&rest[..open]);
                rest = &inside[close + 1..];
            }
            _ => {
                kept.push_str(&rest[..=open]);
                rest = inside;
            }
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_in_the_harness() {
        // Values of the harness's `preprocess`.
        assert_eq!(
            cleaned(" [header] How to peel [title] Wash it. [step] Use  cold   water. "),
            " How to peel. Wash it. Use cold  water."
        );
        assert_eq!(cleaned("a [b] c [d"), "a c [d");
        assert_eq!(cleaned("a [b\n] c [[d]] e"), "a [b\n] c ] e");
        assert_eq!(capitalized("éa Bold MAN"), "Éa bold man");
        assert_eq!(capitalized(""), "");
    }
}
