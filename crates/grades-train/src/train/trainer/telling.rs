//! What a run tells whoever watches it, and its logs.

use std::collections::BTreeMap;
use std::io::Write;

use grades_report::record::{Event, Rewards, RunEvent, Step, main_score};

use super::Trainer;
use crate::train::error::TrainError;

impl Trainer<'_> {
    /// Records something about the run itself, and tells whoever watches it.
    pub(super) fn note(&mut self, event: RunEvent) -> Result<(), TrainError> {
        self.say(&event.to_string());
        self.dir.event(&Event::Run(event))
    }

    /// A line on standard error, above the progress bar.
    pub(super) fn say(&self, line: &str) {
        if self.log_lines {
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            self.progress.println(line);
        }
    }

    /// Records a step, and shows it where it is due.
    pub(super) fn log(&mut self, metrics: &Step) -> Result<(), TrainError> {
        self.dir.metric(metrics)?;
        if metrics.val_loss.is_some() {
            self.validated_at = metrics.step;
        }
        let rate = metrics.tokens as f64 / metrics.seconds.max(1e-9);
        self.progress.set_position(metrics.step as u64);
        let sets = metrics.val_losses.iter().flatten().map(|(set, loss)| format!(" · {set} {loss:.4}"));
        let sets: String = sets.collect();
        let worth = |rewards: &Rewards| {
            let accuracy = rewards.accuracies.map_or(String::new(), |share| format!(", {share:.2} right"));
            rewards.margins.map_or(String::new(), |margin| format!(" (margin {margin:.3}{accuracy})"))
        };
        let [rewards, of_validation] =
            [&metrics.rewards, &metrics.val_rewards].map(|rewards| rewards.as_ref().map_or(String::new(), worth));
        let validation =
            metrics.val_loss.map_or(String::new(), |loss| format!(" · validation {loss:.4}{sets}{of_validation}"));
        let score = |(name, numbers): (&String, &BTreeMap<String, f64>)| {
            main_score(numbers).map_or(String::new(), |(of, value)| format!(" · {name} {of} {:.2}", 100.0 * value))
        };
        let scores: String = metrics.eval_tasks.iter().flatten().map(score).collect();
        let line = format!(
            "loss {:.4}{rewards}{validation}{scores} · {rate:.0} tokens/s · {}/{} frozen",
            metrics.loss.unwrap_or(f64::NAN),
            metrics.frozen_units,
            self.state.units.len()
        );
        let due = metrics.step.is_multiple_of(self.options.logging_steps.max(1))
            || metrics.val_loss.is_some()
            || !scores.is_empty();
        if due && self.log_lines {
            let total = self.options.schedule.total_steps;
            let _ = writeln!(std::io::stderr(), "step {}/{total} · {line}", metrics.step);
        }
        self.progress.set_message(line);
        Ok(())
    }
}
