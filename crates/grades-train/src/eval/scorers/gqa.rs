//! GQA (Hudson & Manning 2019): the one right answer, but for letter case and punctuation.

/// Whether `said` is `answer`, as lmms-eval compares them.
pub fn is_right(said: &str, answer: &str) -> bool {
    bare(said.trim()) == bare(answer)
}

fn bare(text: &str) -> String {
    text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect()
}
