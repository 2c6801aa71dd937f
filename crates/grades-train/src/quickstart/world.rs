//! A small made-up world: things that differ in weight, speed, height and age, sentences that compare them, and
//! questions about them. The same seed gives the same world.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Each quality with its opposite.
const QUALITIES: [[&str; 2]; 4] =
    [["heavier", "lighter"], ["faster", "slower"], ["taller", "shorter"], ["older", "younger"]];
/// The qualities that the sentences ask about, too; about the others they only tell.
const ASKED: usize = 2;
const BEGINNINGS: [&str; 12] = ["b", "d", "f", "gl", "k", "l", "m", "p", "sn", "t", "v", "z"];
const MIDDLES: [&str; 5] = ["a", "e", "i", "o", "u"];
const ENDS: [&str; 8] = ["bo", "gu", "lki", "mu", "ne", "rti", "sko", "xa"];

/// A multiple-choice question, in the columns of the task `multiple_choice`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// What may be the answer.
    pub choices: Vec<String>,
    /// Which choice is right, counted from 0.
    pub answer: usize,
}

/// The things and how they compare.
#[derive(Debug)]
pub struct World {
    names: Vec<String>,
    /// By quality, the place of each thing when all are put in order.
    ranks: Vec<Vec<usize>>,
    random: ChaCha8Rng,
}

/// Two things of which the first has more of a quality, or with `opposite` less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fact {
    quality: usize,
    opposite: bool,
    more: usize,
    less: usize,
}

impl World {
    /// A world of so many things.
    #[must_use]
    pub fn new(things: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut names: Vec<String> = Vec::new();
        for beginning in BEGINNINGS {
            for middle in MIDDLES {
                names.extend(ENDS.iter().map(|end| format!("{beginning}{middle}{end}")));
            }
        }
        names.shuffle(&mut random);
        names.truncate(things);
        let ranks = QUALITIES.iter().map(|_| {
            let mut ranks: Vec<usize> = (0..names.len()).collect();
            ranks.shuffle(&mut random);
            ranks
        });
        Self { ranks: ranks.collect(), names, random }
    }

    /// Every word and sign that sentences and questions are made of, as they stand at the beginning of a text or a line,
    /// or after a space.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let first = ["The", "Of", "Which", "Between", "Question", "Answer"].map(str::to_owned);
        let inner = ["the", "is", "than", "and", "or", "which", "Which", "It"].map(|word| format!(" {word}"));
        let qualities = QUALITIES.iter().flatten().map(|word| format!(" {word}"));
        let names = self.names.iter().map(|name| format!(" {name}"));
        first.into_iter().chain(inner).chain(qualities).chain(names).collect()
    }

    /// Sentences that are true in this world.
    pub fn sentences(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.sentence()).collect()
    }

    fn sentence(&mut self) -> String {
        let fact = self.fact();
        let Fact { quality, more, less, .. } = fact;
        let word = fact.word();
        let [first, second] = self.in_any_order(more, less);
        let [more, less] = [more, less].map(|thing| &self.names[thing]);
        let [first, second] = [first, second].map(|thing| &self.names[thing]);
        let form = if quality < ASKED { self.random.random_range(0..4) } else { self.random.random_range(0..2) };
        match form {
            0 => format!("The {more} is {word} than the {less}."),
            1 => format!("Of the {first} and the {second}, the {more} is {word}."),
            2 => format!("Which is {word}, the {first} or the {second}? It is the {more}."),
            _ => format!("Between the {first} and the {second}, which is {word}? It is the {more}."),
        }
    }

    /// Questions about `train + test` different pairs, of all qualities alike. Of the answers of the first `train` the
    /// share `wrong` is wrong; those of the others are all right.
    pub fn questions(&mut self, train: usize, test: usize, wrong: f64) -> (Vec<Question>, Vec<Question>) {
        let things = self.names.len();
        let mut pairs: Vec<(usize, usize, usize)> = (0..QUALITIES.len())
            .flat_map(|quality| (0..things).flat_map(move |a| (a + 1..things).map(move |b| (quality, a, b))))
            .collect();
        pairs.shuffle(&mut self.random);
        pairs.truncate(train + test);
        let mut questions: Vec<Question> = pairs
            .into_iter()
            .map(|(quality, a, b)| {
                let opposite = self.random.random_bool(0.5);
                let fact = self.compared(quality, opposite, a, b);
                self.question(fact)
            })
            .collect();
        let test = questions.split_off(train.min(questions.len()));
        let mistakes = (wrong * questions.len() as f64).round() as usize;
        for question in questions.iter_mut().take(mistakes) {
            question.answer = 1 - question.answer;
        }
        questions.shuffle(&mut self.random);
        (questions, test)
    }

    fn question(&mut self, fact: Fact) -> Question {
        let pair = self.in_any_order(fact.more, fact.less);
        let [first, second] = pair.map(|thing| &self.names[thing]);
        Question {
            question: format!("Which is {}, the {first} or the {second}?", fact.word()),
            choices: vec![format!("the {first}"), format!("the {second}")],
            answer: usize::from(pair[1] == fact.more),
        }
    }

    fn fact(&mut self) -> Fact {
        let things: Vec<usize> = (0..self.names.len()).collect();
        let pair: Vec<usize> = things.sample(&mut self.random, 2).copied().collect();
        let quality = self.random.random_range(0..QUALITIES.len());
        let opposite = self.random.random_bool(0.5);
        self.compared(quality, opposite, pair[0], pair[1])
    }

    fn compared(&self, quality: usize, opposite: bool, a: usize, b: usize) -> Fact {
        let rank = |thing: usize| self.ranks[quality][thing];
        let (more, less) = if (rank(a) > rank(b)) != opposite { (a, b) } else { (b, a) };
        Fact { quality, opposite, more, less }
    }

    fn in_any_order(&mut self, a: usize, b: usize) -> [usize; 2] {
        if self.random.random_bool(0.5) { [a, b] } else { [b, a] }
    }
}

impl Fact {
    fn word(&self) -> &'static str {
        QUALITIES[self.quality][usize::from(self.opposite)]
    }
}
