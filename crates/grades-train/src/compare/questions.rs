//! The benchmarks of a comparison, and how the models answered each question.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use grades_report::record::Answer;

use super::error::CompareError;
use super::job::{Job, ScoredModel, Worker};
use crate::data::DataError;
use crate::eval::Task;

/// Answers by task, in the order of the questions.
pub type Answers = BTreeMap<&'static str, Vec<Answer>>;

/// What counts as right.
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

    /// Whether an answer is right: 1 or 0.
    #[must_use]
    pub fn of(self, answer: &Answer) -> u8 {
        match self {
            Self::Acc => answer.acc,
            Self::AccNorm => answer.acc_norm,
        }
    }

    /// The share of right answers; `None` of no answers.
    #[must_use]
    pub fn accuracy(self, answers: &[Answer]) -> Option<f64> {
        let right: u32 = answers.iter().map(|answer| u32::from(self.of(answer))).sum();
        (!answers.is_empty()).then(|| f64::from(right) / answers.len() as f64)
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

/// The questions of some benchmarks.
#[derive(Clone, Debug)]
pub struct Questions {
    data_dir: Option<PathBuf>,
    limit: Option<usize>,
    /// The right answers by task.
    tasks: Vec<(&'static Task, Vec<usize>)>,
}

impl Questions {
    /// Reads the first `limit` questions of each task from `data_dir/<task>` or where [`Task::load`] finds them, as
    /// `grades eval` does.
    ///
    /// # Errors
    /// If a task is unknown or its data cannot be read.
    pub fn load<T: AsRef<str>>(tasks: &[T], data_dir: Option<&Path>, limit: Option<usize>) -> Result<Self, DataError> {
        let mut questions = Self { data_dir: data_dir.map(Path::to_owned), limit, tasks: Vec::new() };
        for name in tasks {
            let task = Task::find(name.as_ref())?;
            if !questions.names().contains(&task.name) {
                let targets = task.load(data_dir, None, limit)?.iter().map(|question| question.target).collect();
                questions.tasks.push((task, targets));
            }
        }
        Ok(questions)
    }

    /// The names of the tasks, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.tasks.iter().map(|(task, _)| task.name).collect()
    }

    /// The number of questions by task.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        self.tasks.iter().map(|(task, targets)| (task.name, targets.len())).collect()
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
        let missing: Vec<&'static str> =
            self.names().into_iter().filter(|task| !folder.join(self.file(task)).is_file()).collect();
        if !missing.is_empty() {
            self.ask(name, scored, &missing, folder, work)?;
        }
        let mut answers = Answers::new();
        for (task, targets) in &self.tasks {
            let path = folder.join(self.file(task.name));
            let found = read(&path)?;
            let same = |(index, (answer, target)): (usize, (&Answer, &usize))| {
                answer.index == index && answer.target == *target
            };
            if found.len() != targets.len() || !found.iter().zip(targets).enumerate().all(same) {
                return Err(CompareError::OtherQuestions { path });
            }
            answers.insert(task.name, found);
        }
        Ok(answers)
    }

    /// Lets the model answer the questions of some tasks.
    fn ask(
        &self,
        name: &str,
        scored: &ScoredModel,
        tasks: &[&'static str],
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
            tasks: tasks.to_vec(),
            data_dir: self.data_dir.clone(),
            limit: self.limit,
            samples: samples.clone(),
        };
        work(&job).map_err(|message| CompareError::Failed { name: name.to_owned(), message })?;
        let answers = read(&samples)?;
        for task in tasks {
            // What a comparison needs of them.
            let short = |answer: &Answer| Answer { loglikelihoods: Vec::new(), ..answer.clone() };
            let lines = answers.iter().filter(|answer| answer.task == *task).map(short);
            let lines: String =
                lines.filter_map(|answer| serde_json::to_string(&answer).ok()).map(|line| line + "\n").collect();
            grades_fs::write(&folder.join(self.file(task)), lines)?;
        }
        fs::remove_file(&samples).map_err(CompareError::io(&samples))
    }
}

fn read(path: &Path) -> Result<Vec<Answer>, CompareError> {
    let text = fs::read_to_string(path).map_err(CompareError::io(path))?;
    let damaged =
        |error: serde_json::Error| CompareError::Damaged { path: path.to_owned(), problem: error.to_string() };
    text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(damaged)
}
