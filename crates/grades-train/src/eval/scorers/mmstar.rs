//! MMStar (Chen et al. 2024): one of four letters, in six categories of three kinds of question each.

/// The letter that an answer chooses among A to D, as lmms-eval 0.7.2 and 0.7.3 find it; none where there is none.
///
/// Letters are looked for in several shapes, of which the surest that occurs decides, and in it the letter that stands last.
/// Small letters are no choices.
pub fn letter(said: &str) -> Option<char> {
    let mut text = said.trim();
    for sign in [',', '.', '!', '?', ';', ':', '\'', '"'] {
        text = text.trim_matches(sign);
    }
    // a space around it, so that its ends are ends of words
    let padded = format!(" {text} ");
    let text = text.trim();
    let last = |pattern: String| padded.rfind(&pattern);
    let shapes: [&dyn Fn(char) -> Option<usize>; 8] = [
        &|letter| first_alone(text, letter).then_some(0),
        &|letter| last_alone(text, letter).then_some(0),
        &|letter| after_phrase(&padded, letter),
        &|letter| last(format!("({letter})")),
        &|letter| last(format!("{letter}.")),
        &|letter| last(format!("{letter}:")),
        &|letter| last(format!("{letter})")),
        &|letter| last(format!("{letter} ")),
    ];
    let latest = |shape: &dyn Fn(char) -> Option<usize>| {
        let found = ('A'..='D').filter_map(|letter| Some((shape(letter)?, letter)));
        found.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, letter)| letter)
    };
    let anywhere = |letter: char| padded.rfind(letter);
    shapes.iter().find_map(|shape| latest(shape)).or_else(|| latest(&anywhere))
}

/// What announces an answer. Of each the first place counts, so longer ones are not the same as what they end with.
const PHRASES: [&str; 27] = [
    "answer is",
    "the answer is",
    "correct answer is",
    "the correct answer is",
    "best answer is",
    "the best answer is",
    "my answer is",
    "correct option is",
    "the correct option is",
    "best option is",
    "the best option is",
    "choice is",
    "the choice is",
    "correct choice is",
    "the correct choice is",
    "my choice is",
    "i choose",
    "i select",
    "i pick",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
];

/// The last place at which the letter comes first after a phrase.
fn after_phrase(text: &str, letter: char) -> Option<usize> {
    let lower = text.to_lowercase();
    let place = |phrase: &&str| {
        let after = lower.find(*phrase)? + phrase.len();
        Some(after + text.get(after..)?.find(letter)?)
    };
    PHRASES.iter().filter_map(place).max()
}

fn first_alone(text: &str, letter: char) -> bool {
    text.strip_prefix(letter).is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
}

fn last_alone(text: &str, letter: char) -> bool {
    text.strip_suffix(letter).is_some_and(|rest| !rest.ends_with(char::is_alphabetic))
}

/// Whether lmms-eval up to 0.7.1 counts an answer: its first character is the letter, or the one after `(`, `option ` or
/// `the answer is `, whatever their case.
pub fn begins_with(said: &str, letter: char) -> bool {
    let said = said.to_lowercase();
    let said = said.trim();
    let is_next = |rest: &str| rest.chars().next().is_some_and(|first| letter.to_lowercase().eq([first]));
    ["", "(", "option ", "the answer is "].iter().any(|opening| said.strip_prefix(opening).is_some_and(is_next))
}

/// Whether nanoVLM's own evaluation counts an answer: the letter stands alone in it, or within brackets of one line.
pub fn mentions(said: &str, letter: char) -> bool {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    let alone = said
        .match_indices(letter)
        .any(|(at, found)| !said[..at].ends_with(of_word) && !said[at + found.len()..].starts_with(of_word));
    let in_brackets = |line: &str| {
        let between = line.find('(').zip(line.rfind(')')).and_then(|(open, close)| line.get(open..close));
        between.is_some_and(|inside| inside.contains(letter))
    };
    alone || said.lines().any(in_brackets)
}

/// The scores of categories, and the mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Categories {
    /// Each category, in the order in which they occur, and the mean of its kinds' means.
    pub categories: Vec<(String, f64)>,
    /// The mean over the kinds of all categories.
    pub average: f64,
}

/// Answers scored 0 or 1, each with its category and its kind (`category` and `l2_category` of the set).
pub fn by_category(answers: &[(&str, &str, f64)]) -> Categories {
    let mut names: Vec<&str> = Vec::new();
    answers.iter().for_each(|(name, ..)| {
        if !names.contains(name) {
            names.push(name);
        }
    });
    let of = |name: &str| {
        let own: Vec<_> = answers.iter().filter(|(category, ..)| *category == name).copied().collect();
        (name.to_owned(), mean_of_kinds(&own))
    };
    Categories { categories: names.into_iter().map(of).collect(), average: mean_of_kinds(answers) }
}

fn mean_of_kinds(answers: &[(&str, &str, f64)]) -> f64 {
    let mut kinds: Vec<(&str, f64, usize)> = Vec::new();
    for &(_, kind, score) in answers {
        match kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, sum, count)) => (*sum, *count) = (*sum + score, *count + 1),
            None => kinds.push((kind, score, 1)),
        }
    }
    kinds.iter().map(|(_, sum, count)| sum / *count as f64).sum::<f64>() / kinds.len().max(1) as f64
}
