//! How the next token is drawn, as options of a verb.

use grades_models::sampling::{Sampler, SamplingError, SamplingOptions};

/// How the next token is drawn.
#[derive(Debug, clap::Args)]
pub(crate) struct Draws {
    /// Randomness: 0 takes the most likely token, 1 follows the model's probabilities.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw only from the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Draw only from this many of the most likely tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Draw only from tokens that are at least this many times as likely as the most likely one; 0 for all.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Draws {
    /// What draws so.
    pub(crate) fn sampler(&self) -> Result<Sampler, SamplingError> {
        let Self { temperature, top_p, top_k, min_p, seed } = *self;
        Sampler::new(SamplingOptions { temperature, top_p, top_k, min_p, seed })
    }
}
