//! What preferences come to: the losses of TRL 1.16, of log-probabilities of answers, with their gradients in these.
//!
//! All of it is in f64, of one micro-batch, and a mean over its rows.

use grades_report::record::{AnswerLogps, Rewards};

use crate::config::DpoLossType;

/// A loss with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PreferenceLoss {
    /// Direct preference optimisation (Rafailov et al. 2023).
    Dpo {
        /// How far a margin counts.
        kind: DpoLossType,
        /// How much the model may move away from its reference.
        beta: f64,
        /// With [`DpoLossType::Robust`] the share of rows that prefer the wrong answer.
        label_smoothing: f64,
        /// What the mean cross-entropy of the chosen answers counts beside it.
        rpo_alpha: f64,
    },
    /// Odds ratio preference optimisation (Hong et al. 2024): the cross-entropy of the chosen text, and the odds ratio.
    Orpo {
        /// What the odds ratio counts, λ in the paper.
        beta: f64,
    },
    /// Simple preference optimisation (Meng et al. 2024), as TRL has it in CPO.
    SimPo {
        /// What mean log-probabilities are multiplied by.
        beta: f64,
        /// The margin that is wanted, of them.
        gamma: f64,
        /// What the mean cross-entropy of the chosen answers counts beside it.
        cpo_alpha: f64,
    },
    /// Kahneman-Tversky optimisation (Ethayarajh et al. 2024), of single answers.
    Kto {
        /// How much the model may move away from its reference.
        beta: f64,
        /// What a desirable answer counts.
        desirable_weight: f64,
        /// What an undesirable one counts.
        undesirable_weight: f64,
    },
}

/// What the model, and its reference, say of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    /// Σ log p of its tokens.
    pub log_probability: f64,
    /// The same by the reference; 0 where there is none.
    pub reference: f64,
    /// Its tokens.
    pub tokens: usize,
    /// Σ log p of the tokens of its prompt, where they are learnt too.
    pub prompt: f64,
    /// How many these are.
    pub prompt_tokens: usize,
}

impl Answer {
    /// How much likelier it is to the model than to the reference.
    fn ratio(&self) -> f64 {
        self.log_probability - self.reference
    }

    fn mean(&self) -> f64 {
        self.log_probability / self.tokens.max(1) as f64
    }
}

/// What a micro-batch comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The loss.
    pub loss: f64,
    /// Its gradient in the log-probability of each token of each answer, `[answers]`, in the order of the rows, of a pair the
    /// chosen one first.
    pub slopes: Vec<f64>,
    /// The same of each token of the prompts that are learnt.
    pub prompt_slope: f64,
    /// What is told of it.
    pub rewards: RewardSums,
}

/// Sums of rewards: what a row's answers are worth to the model, in the units of β.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardSums {
    /// Of chosen or desirable answers: their number, rewards, log-probabilities.
    pub chosen: [f64; 3],
    /// Of the others.
    pub rejected: [f64; 3],
    /// Pairs, and those of them whose chosen answer is worth more.
    pub pairs: [f64; 2],
    /// Micro-batches with an estimate of how far the model has moved, and its sum.
    pub kl: [f64; 2],
}

impl RewardSums {
    fn count(&mut self, is_chosen: bool, reward: f64, log_probability: f64) {
        let sums = if is_chosen { &mut self.chosen } else { &mut self.rejected };
        sums.iter_mut().zip([1.0, reward, log_probability]).for_each(|(sum, term)| *sum += term);
    }

    /// Their means, as they are logged.
    #[must_use]
    pub fn means(&self) -> (Rewards, AnswerLogps, Option<f64>) {
        let mean = |count: f64, sum: f64| (count > 0.0).then(|| sum / count);
        let [chosen, rejected] = [self.chosen, self.rejected].map(|[count, reward, _]| mean(count, reward));
        let margins = chosen.zip(rejected).map(|(chosen, rejected)| chosen - rejected);
        let rewards = Rewards { chosen, rejected, accuracies: mean(self.pairs[0], self.pairs[1]), margins };
        let [chosen, rejected] = [self.chosen, self.rejected].map(|[count, _, sum]| mean(count, sum));
        (rewards, AnswerLogps { chosen, rejected }, mean(self.kl[0], self.kl[1]))
    }

    /// Adds those of another micro-batch.
    pub fn add(&mut self, other: &Self) {
        let of = |sums: &mut [f64], more: &[f64]| sums.iter_mut().zip(more).for_each(|(sum, term)| *sum += term);
        of(&mut self.chosen, &other.chosen);
        of(&mut self.rejected, &other.rejected);
        of(&mut self.pairs, &other.pairs);
        of(&mut self.kl, &other.kl);
    }
}

/// σ(x).
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// ln σ(x).
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

impl PreferenceLoss {
    /// Whether it compares the model with what it was at the beginning.
    #[must_use]
    pub fn needs_reference(&self) -> bool {
        matches!(self, Self::Dpo { .. } | Self::Kto { .. })
    }

    /// Whether it learns the prompts of chosen answers, too.
    #[must_use]
    pub fn learns_prompts(&self) -> bool {
        matches!(self, Self::Orpo { .. })
    }

    /// Of pairs of a chosen and a rejected answer.
    #[must_use]
    pub fn of_pairs(&self, pairs: &[[Answer; 2]]) -> Judgement {
        let rows = pairs.len().max(1) as f64;
        let mut judgement = Judgement::default();
        for pair in pairs {
            let (loss, slopes, rewards) = self.of_pair(pair);
            judgement.loss += loss / rows;
            judgement.slopes.extend(slopes.map(|slope| slope / rows));
            for ((answer, reward), is_chosen) in pair.iter().zip(rewards).zip([true, false]) {
                judgement.rewards.count(is_chosen, reward, answer.log_probability);
            }
            judgement.rewards.pairs[0] += 1.0;
            judgement.rewards.pairs[1] += f64::from(u8::from(rewards[0] > rewards[1]));
        }
        let of_chosen = match self {
            Self::Dpo { rpo_alpha, .. } => *rpo_alpha,
            Self::SimPo { cpo_alpha, .. } => *cpo_alpha,
            Self::Orpo { .. } => 1.0,
            Self::Kto { .. } => 0.0,
        };
        if of_chosen != 0.0 {
            let learnt = |[chosen, _]: &[Answer; 2]| {
                (chosen.log_probability + chosen.prompt, chosen.tokens + chosen.prompt_tokens)
            };
            let (sums, tokens): (Vec<f64>, Vec<usize>) = pairs.iter().map(learnt).unzip();
            let slope = -of_chosen / tokens.iter().sum::<usize>().max(1) as f64;
            judgement.loss += slope * sums.iter().sum::<f64>();
            judgement.slopes.iter_mut().step_by(2).for_each(|of_answer| *of_answer += slope);
            judgement.prompt_slope = slope;
        }
        judgement
    }

    /// The loss of a pair without what its chosen answer counts by itself, its gradients in the log-probability of a token of
    /// either answer, and their rewards.
    fn of_pair(&self, pair: &[Answer; 2]) -> (f64, [f64; 2], [f64; 2]) {
        let [chosen, rejected] = pair;
        let both = |slope: f64| [slope, -slope];
        match *self {
            Self::Dpo { kind, beta, label_smoothing, .. } => {
                let margin = beta * (chosen.ratio() - rejected.ratio());
                let rewards = pair.map(|answer| beta * answer.ratio());
                let (loss, slopes) = match kind {
                    DpoLossType::Sigmoid => (-log_sigmoid(margin), both(-beta * sigmoid(-margin))),
                    DpoLossType::Hinge => ((1.0 - margin).max(0.0), both(if margin < 1.0 { -beta } else { 0.0 })),
                    DpoLossType::Ipo => {
                        let lengths = pair.map(|answer| answer.tokens.max(1) as f64);
                        let distance = chosen.ratio() / lengths[0] - rejected.ratio() / lengths[1] - 1.0 / (2.0 * beta);
                        (distance * distance, [2.0 * distance / lengths[0], -2.0 * distance / lengths[1]])
                    }
                    DpoLossType::Robust => {
                        let (right, wrong) = (1.0 - label_smoothing, label_smoothing);
                        let loss = wrong * log_sigmoid(-margin) - right * log_sigmoid(margin);
                        let slope = -beta * (right * sigmoid(-margin) + wrong * sigmoid(margin));
                        (loss / (right - wrong), both(slope / (right - wrong)))
                    }
                };
                (loss, slopes, rewards)
            }
            Self::Orpo { beta } => {
                // ln (1 − p) of a mean probability; a certain answer is taken for a nearly certain one.
                let rest = pair.map(|answer| (-answer.mean().exp_m1()).max(1e-12));
                let log_odds = (chosen.mean() - rejected.mean()) - (rest[0].ln() - rest[1].ln());
                let slope = |answer: &Answer, rest: f64| beta * sigmoid(-log_odds) / rest / answer.tokens.max(1) as f64;
                let slopes = [-slope(chosen, rest[0]), slope(rejected, rest[1])];
                (-beta * log_sigmoid(log_odds), slopes, pair.map(|answer| beta * answer.mean()))
            }
            Self::SimPo { beta, gamma, .. } => {
                let margin = beta * (chosen.mean() - rejected.mean()) - gamma;
                let slope = |answer: &Answer| beta * sigmoid(-margin) / answer.tokens.max(1) as f64;
                let slopes = [-slope(chosen), slope(rejected)];
                (-log_sigmoid(margin), slopes, pair.map(|answer| beta * answer.mean()))
            }
            Self::Kto { .. } => (0.0, [0.0; 2], [0.0; 2]),
        }
    }

    /// Of single answers, each with whether it is desirable; `others` are of the same prompts with answers of other rows, from
    /// which is estimated how far the model has moved.
    #[must_use]
    pub fn of_judged(&self, answers: &[(Answer, bool)], others: &[Answer]) -> Judgement {
        let mut judgement = Judgement::default();
        let &Self::Kto { beta, desirable_weight, undesirable_weight } = self else { return judgement };
        let rows = answers.len().max(1) as f64;
        let kl = others.iter().map(Answer::ratio).sum::<f64>() / others.len().max(1) as f64;
        let kl = kl.max(0.0);
        for (answer, is_desirable) in answers {
            let (weight, sign) = if *is_desirable { (desirable_weight, 1.0) } else { (undesirable_weight, -1.0) };
            let z = sign * beta * (answer.ratio() - kl);
            judgement.loss += weight * sigmoid(-z) / rows;
            judgement.slopes.push(-sign * weight * beta * sigmoid(z) * sigmoid(-z) / rows);
            judgement.rewards.count(*is_desirable, beta * answer.ratio(), answer.log_probability);
        }
        judgement.rewards.kl = [1.0, kl];
        judgement
    }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
