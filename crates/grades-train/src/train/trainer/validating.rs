//! Losses without a record: over the validation set, or any batches.

use std::time::Instant;

use grades_tensor::{Tensor, executed, labels_of};

use super::Trainer;
use crate::data::Batch;
use crate::train::error::TrainError;
use crate::train::preference::{Judgement, Objective, RewardSums};
use crate::train::prefix_cache::Set;

/// The mean loss per row of preferences over batches, each with what it comes to and its rows; `None` without rows.
pub(super) fn mean_of_rows(
    judged: impl Iterator<Item = Result<(Judgement, usize), TrainError>>,
) -> Result<Option<(f64, RewardSums)>, TrainError> {
    let (mut sum, mut rows, mut rewards) = (0.0, 0, RewardSums::default());
    for judged in judged {
        let (judgement, of_batch) = judged?;
        sum += judgement.loss * of_batch as f64;
        rows += of_batch;
        rewards.add(&judgement.rewards);
    }
    Ok((rows > 0).then(|| (sum / rows as f64, rewards)))
}

/// The sum of negative log-likelihoods.
pub(super) fn loss_of(scores: &Tensor) -> f64 {
    -scores.to_host().iter().map(|&score| f64::from(score)).sum::<f64>()
}

impl Trainer<'_> {
    /// The mean loss over the validation set, per predicted token or row of preferences; `None` where there is none.
    pub(super) fn validate(&mut self) -> Result<Option<f64>, TrainError> {
        let (clock, before) = (Instant::now(), executed());
        let layers = self.cached_layers();
        let keep = self.state.ledger.steps < self.options.schedule.total_steps;
        let (model, cache, reader) = (&self.state.model, &mut self.cache, &mut self.reader);
        reader.begin(model, self.validation.batches.iter());
        let mut read = |batch: &Batch| -> Result<_, TrainError> {
            let inputs = reader.read(model, batch)?;
            Ok((cache.prefix(model, layers, Set::Validation, batch, keep), inputs))
        };
        let (loss, rewards) = match &self.objective {
            Objective::Preference(preferences) => {
                let judged = mean_of_rows(self.validation.batches.iter().map(|batch| {
                    let (prefix, inputs) = read(batch)?;
                    let rows = preferences.rows(Set::Validation, batch);
                    Ok((preferences.evaluate(model, Set::Validation, batch, prefix, &inputs), rows))
                }))?;
                judged.unzip()
            }
            Objective::Tokens => {
                let losses = self.validation.losses(|batch| {
                    let ((prefix, inputs), asked) = (read(batch)?, labels_of(&batch.targets));
                    Ok(loss_of(&match prefix {
                        Some(prefix) => model.log_likelihoods_from(prefix, &inputs, &asked),
                        None => model.log_likelihoods(&inputs, &asked),
                    }))
                })?;
                self.val_losses = losses.by_set;
                (losses.all, None)
            }
        };
        self.val_rewards = rewards;
        self.state.ledger.validation_seconds += clock.elapsed().as_secs_f64();
        self.state.ledger.validation_flops += executed().since(&before).total();
        Ok(loss)
    }
}
