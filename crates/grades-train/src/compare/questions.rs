//! The benchmarks of a comparison, and how the models answered each question.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use grades_report::record::{Answer, WrittenAnswer};
use serde::{Deserialize, Serialize};

use super::error::CompareError;
use super::job::{Job, ScoredModel, Worker};
use crate::data::DataError;
use crate::eval::Asked;
use crate::eval::open::Where;

/// Answers by task, in the order of the questions.
pub type Answers = BTreeMap<String, Vec<Given>>;

/// How one question was answered: a line of `eval/<task>.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// By the likelihoods of its choices.
    Choice(Answer),
    /// In writing.
    Written(WrittenAnswer),
}

/// What counts as right of several choices; an answer in writing has one score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// The likeliest choice.
    #[default]
    Acc,
    /// The likeliest choice by character.
    AccNorm,
}

impl Metric {
    /// Its name in lm-evaluation-harness.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
        }
    }

    /// How right an answer is: 1 or 0 of choices, else its score (of captions CIDEr, which may be more than 1).
    #[must_use]
    pub fn of(self, answer: &Given) -> f64 {
        match (self, answer) {
            (Self::Acc, Given::Choice(answer)) => answer.acc.into(),
            (Self::AccNorm, Given::Choice(answer)) => answer.acc_norm.into(),
            (_, Given::Written(answer)) => answer.score,
        }
    }

    /// The mean over the answers; `None` of no answers.
    #[must_use]
    pub fn accuracy(self, answers: &[Given]) -> Option<f64> {
        let right: f64 = answers.iter().map(|answer| self.of(answer)).sum();
        (!answers.is_empty()).then(|| right / answers.len() as f64)
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "acc" => Ok(Self::Acc),
            "acc_norm" => Ok(Self::AccNorm),
            _ => Err(format!("{text} is no measure; known are acc and acc_norm")),
        }
    }
}

/// What a stored answer must be an answer to.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// The place of the right choice.
    Choice(usize),
    /// A question with all that may be answered.
    Written(String, Vec<String>),
}

impl Wanted {
    fn of(asked: Asked) -> Vec<Self> {
        match asked {
            Asked::Choices(_, questions) => questions.iter().map(|question| Self::Choice(question.target)).collect(),
            Asked::Open(_, questions) => {
                questions.into_iter().map(|question| Self::Written(question.text, question.answers)).collect()
            }
        }
    }

    /// Whether `given` answers the question at `index`, which is this one.
    fn is_answered_by(&self, index: usize, given: &Given) -> bool {
        match (self, given) {
            (Self::Choice(target), Given::Choice(answer)) => answer.index == index && answer.target == *target,
            (Self::Written(question, answers), Given::Written(answer)) => {
                answer.index == index && answer.question == *question && answer.answers == *answers
            }
            _ => false,
        }
    }
}

/// The questions of one task.
#[derive(Clone, Debug)]
struct Asking {
    /// The benchmark, or the file of one's own questions, as `grades eval` takes it.
    task: String,
    /// What it is called in tables and files.
    name: String,
    questions: Vec<Wanted>,
}

/// The questions of some benchmarks.
#[derive(Clone, Debug)]
pub struct Questions {
    data_dir: Option<PathBuf>,
    image_folder: Option<PathBuf>,
    limit: Option<usize>,
    tasks: Vec<Asking>,
}

impl Questions {
    /// Reads the questions of each task, a benchmark or a file of one's own, where `grades eval` finds them.
    ///
    /// # Errors
    /// If a task is unknown, its data cannot be read, or two files have one name.
    pub fn load<T: AsRef<str>>(tasks: &[T], at: &Where<'_>) -> Result<Self, DataError> {
        let (data_dir, image_folder) = (at.data_dir.map(Path::to_owned), at.image_folder.map(Path::to_owned));
        let mut questions = Self { data_dir, image_folder, limit: at.limit, tasks: Vec::new() };
        for task in tasks {
            let asked = Asked::find(task.as_ref(), at)?;
            let (task, name) = (task.as_ref().to_owned(), asked.name(task.as_ref()));
            match questions.tasks.iter().find(|other| other.name == name) {
                Some(other) if other.task == task || Path::new(&task).extension().is_none() => continue,
                Some(other) => return Err(DataError::SameName { name, tasks: [other.task.clone(), task] }),
                None => questions.tasks.push(Asking { task, name, questions: Wanted::of(asked) }),
            }
        }
        Ok(questions)
    }

    /// The number of questions by the names of the tasks, in their order.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, usize)> {
        self.tasks.iter().map(|asking| (asking.name.clone(), asking.questions.len())).collect()
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    fn file(&self, task: &str) -> String {
        self.limit.map_or_else(|| format!("{task}.jsonl"), |limit| format!("{task}-{limit}.jsonl"))
    }

    /// How a model answers, from `folder` or by asking it; what it answers is kept there, a file a task.
    ///
    /// # Errors
    /// If asking fails, or stored answers are damaged or those of other questions.
    pub fn answers(
        &self,
        name: &str,
        scored: &ScoredModel,
        folder: &Path,
        work: &mut Worker<'_>,
    ) -> Result<Answers, CompareError> {
        let is_missing = |asking: &&Asking| !folder.join(self.file(&asking.name)).is_file();
        let missing: Vec<&Asking> = self.tasks.iter().filter(is_missing).collect();
        if !missing.is_empty() {
            self.ask(name, scored, &missing, folder, work)?;
        }
        let mut answers = Answers::new();
        for Asking { name, questions, .. } in &self.tasks {
            let path = folder.join(self.file(name));
            let found = read(&path)?;
            let mut both = questions.iter().zip(&found).enumerate();
            if found.len() != questions.len()
                || !both.all(|(index, (wanted, given))| wanted.is_answered_by(index, given))
            {
                return Err(CompareError::OtherQuestions { path });
            }
            answers.insert(name.clone(), found);
        }
        Ok(answers)
    }

    /// Lets the model answer the questions of some tasks.
    fn ask(
        &self,
        name: &str,
        scored: &ScoredModel,
        tasks: &[&Asking],
        folder: &Path,
        work: &mut Worker<'_>,
    ) -> Result<(), CompareError> {
        fs::create_dir_all(folder).map_err(CompareError::io(folder))?;
        // What an interrupted evaluation left.
        let samples = folder.join("answers.partial");
        if samples.exists() {
            fs::remove_file(&samples).map_err(CompareError::io(&samples))?;
        }
        let job = Job::Eval {
            name: name.to_owned(),
            model: scored.clone(),
            tasks: tasks.iter().map(|asking| asking.task.clone()).collect(),
            data_dir: self.data_dir.clone(),
            image_folder: self.image_folder.clone(),
            limit: self.limit,
            samples: samples.clone(),
        };
        work(&job).map_err(|message| CompareError::Failed { name: name.to_owned(), message })?;
        // Task by task, as they were asked.
        let mut answers = read(&samples)?.into_iter().map(short);
        for asking in tasks {
            let of_task = answers.by_ref().take(asking.questions.len());
            let lines: String =
                of_task.filter_map(|answer| serde_json::to_string(&answer).ok()).map(|line| line + "\n").collect();
            grades_fs::write(&folder.join(self.file(&asking.name)), lines)?;
        }
        fs::remove_file(&samples).map_err(CompareError::io(&samples))
    }
}

/// What a comparison needs of an answer.
fn short(given: Given) -> Given {
    match given {
        Given::Choice(answer) => Given::Choice(Answer { loglikelihoods: Vec::new(), ..answer }),
        written => written,
    }
}

fn read(path: &Path) -> Result<Vec<Given>, CompareError> {
    let text = fs::read_to_string(path).map_err(CompareError::io(path))?;
    let damaged =
        |error: serde_json::Error| CompareError::Damaged { path: path.to_owned(), problem: error.to_string() };
    text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(damaged)
}
