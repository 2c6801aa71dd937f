//! The benchmarks of a comparison, and how the models answered each question.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use grades_report::record::Answer;

use super::CompareError;
use super::cell::{Call, Caller};
use crate::config::Precision;
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

/// A model that is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// A folder or a GGUF file.
    pub model: PathBuf,
    /// An adapter for it.
    pub adapter: Option<PathBuf>,
    /// Whether its matrices are held in 4 bits, beside which the adapter was trained.
    pub load_in_4bit: bool,
    /// Numbers of the matrix products.
    pub precision: Precision,
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
    /// If the call fails, or stored answers are damaged or those of other questions.
    pub fn answers(
        &self,
        name: &str,
        scored: &Scored,
        folder: &Path,
        call: &mut Caller<'_>,
    ) -> Result<Answers, CompareError> {
        let missing: Vec<&str> =
            self.names().into_iter().filter(|task| !folder.join(self.file(task)).is_file()).collect();
        if !missing.is_empty() {
            self.ask(name, scored, &missing, folder, call)?;
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
        scored: &Scored,
        tasks: &[&str],
        folder: &Path,
        call: &mut Caller<'_>,
    ) -> Result<(), CompareError> {
        fs::create_dir_all(folder).map_err(CompareError::io(folder))?;
        // What an interrupted evaluation left.
        let samples = folder.join("answers.partial");
        if samples.exists() {
            fs::remove_file(&samples).map_err(CompareError::io(&samples))?;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let precision = match scored.precision {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        let mut arguments: Vec<String> = vec!["eval".into(), "--model".into(), text(&scored.model)];
        if let Some(adapter) = &scored.adapter {
            arguments.extend(["--adapter".into(), text(adapter)]);
        }
        if scored.load_in_4bit {
            arguments.push("--load-in-4bit".into());
        }
        arguments.extend(["--tasks".into(), tasks.join(",")]);
        if let Some(data_dir) = &self.data_dir {
            arguments.extend(["--data-dir".into(), text(data_dir)]);
        }
        arguments.extend(["--precision".into(), precision.into(), "--samples".into(), text(&samples)]);
        if let Some(limit) = self.limit {
            arguments.extend(["--limit".into(), limit.to_string()]);
        }
        let title = format!("{name}: scoring {}", tasks.join(", "));
        call(&Call { title, arguments }).map_err(|message| CompareError::Failed { name: name.to_owned(), message })?;
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

#[cfg(test)]
mod tests {
    use super::{Questions, Scored};
    use crate::config::Precision;

    #[test]
    fn an_adapter_is_scored_beside_the_base_that_it_was_trained_on() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data/piqa");
        std::fs::create_dir_all(&data).unwrap();
        let question = r#"{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}"#;
        std::fs::write(data.join("validation.jsonl"), question).unwrap();
        let questions = Questions::load(&["piqa"], Some(&folder.path().join("data")), None).unwrap();
        for load_in_4bit in [false, true] {
            let (model, adapter) = ("model".into(), Some("adapter".into()));
            let scored = Scored { model, adapter, load_in_4bit, precision: Precision::F32 };
            let mut arguments = Vec::new();
            let mut call = |call: &super::Call| {
                arguments.clone_from(&call.arguments);
                Err("no program is called here".to_owned())
            };
            assert!(questions.answers("run", &scored, &folder.path().join("eval"), &mut call).is_err());
            assert_eq!(arguments[..5], ["eval", "--model", "model", "--adapter", "adapter"]);
            assert_eq!(arguments.contains(&"--load-in-4bit".to_owned()), load_in_4bit);
        }
    }
}
