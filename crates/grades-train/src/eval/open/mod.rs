//! Questions whose answers the model writes out: about pictures with the conventions of lmms-eval, and one's own.

mod answer;
mod load;
mod own;
mod score;
mod tasks;
#[cfg(test)]
mod tests;

use grades_report::record::WrittenAnswer;

use crate::data::conversation::Conversation;
use crate::data::error::DataError;
use crate::data::picture::Picture;
use crate::data::record::{Place, Record};
use crate::data::source::Source;
pub use answer::{Answering, AskOptions, Said, ask, prompts};
pub use load::Where;
pub use own::is_own;
pub use score::{Commonest, Metric, OpenScore, Scoring, score};

/// A benchmark of questions with written answers.
#[derive(Debug)]
pub struct OpenTask {
    /// Its name, which is also the name of its folder.
    pub name: &'static str,
    /// The same in lmms-eval, where that is another.
    pub alias: Option<&'static str>,
    /// The split that is scored.
    pub split: &'static str,
    /// Its set on the Hugging Face Hub; none of one's own questions.
    pub hub: Option<Source<'static>>,
    /// The configuration that has the pictures, with the column in which a question names its own; without one, they stand
    /// beside the questions.
    pub pictures: Option<(&'static str, &'static str)>,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Columns that its questions do not need.
    pub unused: &'static [&'static str],
    /// Turns a row with its pictures into a question.
    pub question: fn(&Record, Vec<Picture>) -> Result<OpenQuestion, DataError>,
    /// How answers are scored.
    pub scoring: Scoring,
}

/// A question whose answer is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenQuestion {
    /// What the model is asked, with its pictures.
    pub asked: Conversation,
    /// The question alone.
    pub text: String,
    /// What it may answer, or what people have answered.
    pub answers: Vec<String>,
    /// The category and the kind within it, of benchmarks that have them.
    pub category: Option<(String, String)>,
    /// Where it was read, as messages name it.
    pub place: Place,
}

impl OpenQuestion {
    /// A question to the user's side of a chat, pictures first.
    ///
    /// # Errors
    /// The text has markers for other pictures.
    fn new(
        record: &Record,
        text: &str,
        ending: &str,
        pictures: Vec<Picture>,
        answers: Vec<String>,
    ) -> Result<Self, DataError> {
        let mut asked = Conversation::default();
        asked.say("user", &format!("{text}{ending}"), pictures).map_err(|problem| record.error(problem))?;
        Ok(Self { asked, text: text.to_owned(), answers, category: None, place: record.place.clone() })
    }
}

/// The results of a task.
#[derive(Clone, Debug)]
pub struct Results {
    /// How well it was done.
    pub score: OpenScore,
    /// Each answer.
    pub answers: Vec<WrittenAnswer>,
}
