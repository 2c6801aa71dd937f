//! What is asked of the model between steps, and where it is told. Its cost is counted by itself, and none of it reaches the training.

use std::path::PathBuf;
use std::time::Instant;

use grades_report::record::{self, Event, Generated, RunEvent, TaskScores};
use grades_tensor::executed;

use super::Trainer;
use crate::train::error::TrainError;
use crate::train::evaluation::Evaluated;

/// Characters of a prompt and of an answer that a line of the log shows.
const SHOWN: usize = 80;

impl Trainer<'_> {
    /// Asks the model as it is after `step`; the scores of benchmarks, if there are any, and the seconds that it took. Where it fails,
    /// an event says so.
    pub(super) fn evaluate(&mut self, step: usize) -> Result<Option<(Option<TaskScores>, f64)>, TrainError> {
        let Some(evaluation) = &mut self.evaluation else { return Ok(None) };
        let (clock, before) = (Instant::now(), executed());
        let evaluated = evaluation.ask(step, &mut self.state.model);
        let seconds = clock.elapsed().as_secs_f64();
        self.state.ledger.evaluation_seconds += seconds;
        self.state.ledger.evaluation_flops += executed().since(&before).total();
        let Evaluated { generated, scores } = match evaluated {
            Ok(evaluated) => evaluated,
            Err(error) => {
                self.note(RunEvent::EvaluationFailed { step, reason: error.to_string() })?;
                Evaluated::default()
            }
        };
        for line in &generated {
            self.say(&shown(line));
            self.dir.generated(line)?;
        }
        if !generated.is_empty() {
            let (samples, path) = (generated.len(), PathBuf::from(record::GENERATED));
            self.dir.event(&Event::Run(RunEvent::Generated { step, samples, path }))?;
        }
        Ok(Some((scores, seconds)))
    }
}

/// An answer in a line: the end of the prompt, and the beginning of what the model wrote.
fn shown(Generated { step, prompt, answer, .. }: &Generated) -> String {
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (prompt, answer) = (line(prompt), line(answer));
    let excess = prompt.chars().count().saturating_sub(SHOWN);
    let dots = |is_cut: bool| if is_cut { "…" } else { "" };
    let begin: String = prompt.chars().skip(excess).collect();
    let end: String = answer.chars().take(SHOWN).collect();
    let is_long = answer.chars().count() > SHOWN;
    format!("step {step} · {}{begin} → {end}{}", dots(excess > 0), dots(is_long))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_in_a_line() {
        let line = |prompt: &str, answer: &str| {
            let (prompt, answer) = (prompt.to_owned(), answer.to_owned());
            shown(&Generated { step: 3, prompt, answer, ..Generated::default() })
        };
        assert_eq!(line("Why?\n Answer:", "so\nit is"), "step 3 · Why? Answer: → so it is");
        let long = line(&format!("ä{}", "b".repeat(SHOWN)), &"é".repeat(SHOWN + 1));
        assert_eq!(long, format!("step 3 · …{} → {}…", "b".repeat(SHOWN), "é".repeat(SHOWN)));
    }
}
