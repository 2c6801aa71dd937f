//! Captions in words, as the Penn Treebank's tokenizer cuts them (Stanford CoreNLP 3.4.1, which pycocoevalcap runs): clitics and
//! punctuation come off, acronyms and what hyphens join stay. What captions hardly have, such as smileys, it may cut otherwise.

use std::collections::VecDeque;

/// The words of a caption in small letters, without the punctuation that pycocoevalcap leaves out. Brackets stay, as there.
pub fn words(caption: &str) -> Vec<String> {
    const LEFT_OUT: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];
    let mut lexer = Lexer::new(caption);
    let mut words = Vec::new();
    while let Some(token) = lexer.next_token() {
        if !LEFT_OUT.contains(&token.as_str()) {
            words.push(token);
        }
    }
    words
}

/// Abbreviations whose full stop is theirs.
const ABBREVIATIONS: &str = "mr mrs ms dr messrs prof rev hon pres gov sen rep gen col lt sgt capt jr sr st rd mt ft jan feb mar \
    apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun etc vs co ph.d";

/// Those that keep it unless a capital follows, which would begin a sentence.
const INNER_ABBREVIATIONS: &str = "inc ltd corp ave blvd";

/// Words with an apostrophe that stay whole.
const WHOLE: [&str; 14] = [
    "c'mon",
    "s'mores",
    "li'l",
    "e'er",
    "ne'er",
    "o'er",
    "ev'ry",
    "nat'l",
    "nor'easter",
    "ol'",
    "somethin'",
    "'em",
    "'cause",
    "'til",
];

/// Words that are two.
const JOINED: [(&str, usize); 6] =
    [("cannot", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("gimme", 3), ("wanna", 3)];

const CLITICS: [&str; 6] = ["s", "m", "d", "ll", "re", "ve"];

struct Lexer {
    /// The text with plain quotes and dashes.
    text: Vec<char>,
    at: usize,
    /// Tokens that were found together with one before.
    pending: VecDeque<String>,
}

impl Lexer {
    fn new(text: &str) -> Self {
        let mut plain = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '’' => plain.push('\''),
                '‘' => plain.push('`'),
                '“' | '”' => plain.push('"'),
                '–' | '—' => plain += "--",
                '…' => plain += "...",
                '½' => plain += "1/2",
                '¼' => plain += "1/4",
                '¾' => plain += "3/4",
                '⅓' => plain += "1/3",
                '⅔' => plain += "2/3",
                '€' => plain.push('$'),
                '£' => plain.push('#'),
                _ => plain.push(c),
            }
        }
        Self { text: plain.chars().collect(), at: 0, pending: VecDeque::new() }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn is_word(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(char::is_alphanumeric)
    }

    fn is_digit(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(|c| c.is_ascii_digit())
    }

    /// Whether the text goes on with `word`, in whatever case, and then ends as a word.
    fn goes_on(&self, word: &str) -> bool {
        let length = word.chars().count();
        let same = word.chars().enumerate().all(|(i, c)| self.peek(i).is_some_and(|d| d.to_ascii_lowercase() == c));
        same && !self.is_word(length)
    }

    /// The next `count` characters in small letters.
    fn take(&mut self, count: usize) -> String {
        let end = (self.at + count).min(self.text.len());
        let taken = self.text[self.at..end].iter().collect::<String>().to_lowercase();
        self.at = end;
        taken
    }

    fn next_token(&mut self) -> Option<String> {
        if let Some(token) = self.pending.pop_front() {
            return Some(token);
        }
        while self.peek(0)?.is_whitespace() {
            self.at += 1;
        }
        let first = self.peek(0)?;
        let begins = self.at == 0 || self.text[self.at - 1].is_whitespace();
        Some(match first {
            '(' => self.instead("-lrb-"),
            ')' => self.instead("-rrb-"),
            '[' => self.instead("-lsb-"),
            ']' => self.instead("-rsb-"),
            '{' => self.instead("-lcb-"),
            '}' => self.instead("-rcb-"),
            '"' => self.instead("''"),
            '¢' => self.instead("cents"),
            '\'' => self.apostrophe(),
            '!' | '?' => self.run(|c| c == '!' || c == '?'),
            '`' => self.run(|c| c == '`'),
            '.' | '-' | '+' if begins && self.is_digit(1) => {
                let sign = self.take(1);
                sign + &self.word()
            }
            '-' => {
                let dashes = self.run(|c| c == '-');
                if dashes.len() > 1 { "--".to_owned() } else { dashes }
            }
            '.' => match self.run(|c| c == '.').len() {
                1 | 2 => ".".to_owned(),
                _ => "...".to_owned(),
            },
            '#' | '@' if begins && self.peek(1).is_some_and(char::is_alphabetic) => {
                let sign = self.take(1);
                sign + &self.run(|c| c.is_alphanumeric() || c == '_')
            }
            '<' => self.tag(),
            c if c.is_alphanumeric() => self.word(),
            _ => self.take(1),
        })
    }

    fn instead(&mut self, token: &str) -> String {
        self.at += 1;
        token.to_owned()
    }

    fn run(&mut self, of: impl Fn(char) -> bool) -> String {
        let length = self.text[self.at..].iter().take_while(|c| of(**c)).count();
        self.take(length)
    }

    /// `<b>`, or the sign alone.
    fn tag(&mut self) -> String {
        let name = if self.peek(1) == Some('/') { 2 } else { 1 };
        let end = self.text[self.at + 1..].iter().position(|c| *c == '>' || *c == '<');
        match end.filter(|end| self.text[self.at + 1 + end] == '>') {
            Some(end) if self.peek(name).is_some_and(|c| c.is_ascii_alphabetic()) => self.take(end + 2),
            _ => self.take(1),
        }
    }

    /// What begins with an apostrophe: a clitic, a word without its beginning, or a quote.
    fn apostrophe(&mut self) -> String {
        for (word, rest) in [("'tis", 2), ("'twas", 3)] {
            if self.goes_on(word) {
                self.pending.push_back(word[2..2 + rest].to_owned());
                self.at += word.len();
                return "'t".to_owned();
            }
        }
        if self.peek(2) == Some('\'') && self.peek(1).is_some_and(|c| c == 'n' || c == 'N') {
            return self.take(3);
        }
        let whole = WHOLE.iter().filter(|word| word.starts_with('\'')).find(|word| self.goes_on(word));
        if let Some(word) = whole {
            return self.take(word.len());
        }
        if let Some(clitic) = CLITICS.iter().find(|clitic| self.goes_on(&format!("'{clitic}"))) {
            return self.take(1 + clitic.len());
        }
        let decade = self.is_digit(1) && self.peek(2) == Some('0') && self.peek(3) == Some('s') && !self.is_word(4);
        if decade {
            return self.take(4);
        }
        match self.run(|c| c == '\'').len() {
            1 => "'".to_owned(),
            _ => "''".to_owned(),
        }
    }

    /// A word with what belongs to it; clitics and second halves are pending.
    fn word(&mut self) -> String {
        if let Some(word) = WHOLE.iter().find(|word| self.goes_on(word)) {
            return self.take(word.chars().count());
        }
        let begin = self.at;
        let mut timed = false;
        loop {
            while self.is_word(0) && (!timed || self.is_digit(0)) {
                self.at += 1;
            }
            let before = self.text[self.at - 1];
            let both = |of: fn(char) -> bool| of(before) && self.peek(1).is_some_and(of);
            let joins = match self.peek(0) {
                Some('-' | '/' | '_' | '@') => self.is_word(1),
                Some('.') => both(char::is_alphabetic) || both(|c| c.is_ascii_digit()),
                Some(',' | ':') => both(|c| c.is_ascii_digit()),
                Some('&') => both(char::is_uppercase),
                Some('\'') => self.apostrophe_joins(begin),
                _ => false,
            };
            if joins {
                timed |= self.peek(0) == Some(':');
                self.at += 1;
                continue;
            }
            if self.peek(0) == Some('.') && self.owns_stop(begin) {
                self.at += 1;
                if self.peek(0) == Some('-') && self.is_word(1) {
                    self.at += 1;
                    continue;
                }
            }
            break;
        }
        let word: String = self.text[begin..self.at].iter().collect::<String>().to_lowercase();
        self.parts(word)
    }

    /// Whether the apostrophe here stands within a word: `o'neil`, `ma'am`, but no clitic.
    fn apostrophe_joins(&self, begin: usize) -> bool {
        let before: String = self.text[begin..self.at].iter().collect::<String>().to_lowercase();
        let after: String = self.text[self.at + 1..].iter().take_while(|c| c.is_alphabetic()).collect();
        let vowel = |c: char| "aeiou".contains(c);
        let elided = ["d", "o", "l"].contains(&before.as_str());
        let between = before.ends_with(|c| vowel(c) || c == 'y') && after.starts_with(vowel);
        !after.is_empty() && !CLITICS.contains(&after.as_str()) && (elided || between) && before != "y"
    }

    /// Whether the full stop here is the word's: of an acronym, a single letter, or an abbreviation.
    fn owns_stop(&self, begin: usize) -> bool {
        let word: String = self.text[begin..self.at].iter().collect::<String>().to_lowercase();
        let last = word.rsplit(['.', '-']).next().unwrap_or_default();
        let letter = last.chars().count() == 1 && last.chars().all(char::is_alphabetic);
        let rest = || self.text[self.at + 1..].iter().skip_while(|c| c.is_whitespace());
        let among = |all: &str| all.split_whitespace().any(|known| known == word);
        letter && !word.contains('-')
            || among(ABBREVIATIONS)
            || among(INNER_ABBREVIATIONS) && rest().next().is_none_or(|c| !c.is_uppercase())
            || word == "no" && rest().next().is_some_and(char::is_ascii_digit)
    }

    /// The word's first part; the others are pending.
    fn parts(&mut self, word: String) -> String {
        if let Some((_, second)) = JOINED.iter().find(|(joined, _)| *joined == word) {
            self.pending.push_back(word[*second..].to_owned());
            return word[..*second].to_owned();
        }
        if word == "y" && self.peek(0) == Some('\'') && self.is_word(1) {
            self.at += 1;
            return "y'".to_owned();
        }
        // n't, of which the n was read with the word
        if let Some(stem) = word.strip_suffix('n').filter(|_| self.goes_on("'t")) {
            self.at += 2;
            if stem.is_empty() {
                return "n't".to_owned();
            }
            self.pending.push_back("n't".to_owned());
            return stem.to_owned();
        }
        word
    }
}
