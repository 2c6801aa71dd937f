//! Choosing the next token from logits.
//!
//! Reference: the logits warpers of transformers, in its order: temperature, then top-k, then top-p, then min-p.

mod penalties;
#[cfg(test)]
mod tests;

pub use penalties::Penalties;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// An option is out of its range.
    #[error("{option} is {value}, but it must be {range}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// There is nothing to choose from.
    #[error("no token can be chosen from {count} logits of which none is finite; the model's output is broken")]
    NoCandidate {
        /// The number of logits.
        count: usize,
    },
    /// A logit is NaN or +∞.
    #[error("the logit of token {token} is {value}; the model's weights are damaged or training has diverged")]
    NotFinite {
        /// The token's id.
        token: usize,
        /// Its logit.
        value: f32,
    },
}

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingOptions {
    /// Divisor of the logits; 0 chooses the largest logit always.
    pub temperature: f32,
    /// Keep the smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the tokens that are at least this many times as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// The largest logit always.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0 }
    }
}

/// A seeded sampler: the same options and logits give the same tokens on every machine.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
    /// Tokens and their scaled logits, kept to allocate once.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler with these options.
    ///
    /// # Errors
    /// If the temperature is negative or not finite, `top_p` not in (0, 1], or `min_p` not in [0, 1].
    pub fn new(options: SamplingOptions) -> Result<Self, SamplingError> {
        let SamplingOptions { temperature, top_p, min_p, .. } = options;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let range = "a finite number, 0 or more";
            return Err(SamplingError::Option { option: "temperature", value: temperature, range });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let range = "above 0 and at most 1";
            return Err(SamplingError::Option { option: "top_p", value: top_p, range });
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(SamplingError::Option { option: "min_p", value: min_p, range: "from 0 to 1" });
        }
        Ok(Self { options, random: ChaCha8Rng::seed_from_u64(options.seed), candidates: Vec::new() })
    }

    /// The next token for `logits`, `[vocabulary]`. A logit of −∞ forbids its token.
    ///
    /// # Errors
    /// If a logit is NaN or +∞, or all tokens are forbidden.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let largest = largest(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(largest);
        }
        let temperature = self.options.temperature;
        let top = logits[largest as usize];
        self.candidates.clear();
        // Relative to the largest, so that a small temperature does not overflow.
        let scaled = logits.iter().enumerate().filter(|(_, logit)| logit.is_finite());
        self.candidates.extend(scaled.map(|(token, &logit)| (token as u32, (logit - top) / temperature)));
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        Ok(self.draw())
    }

    /// Drops what is below the k-th largest logit; equals of it stay, as in transformers.
    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k == 0 || k >= self.candidates.len() {
            return;
        }
        let (_, &mut (_, threshold), _) = self.candidates.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
        self.candidates.retain(|&(_, logit)| logit >= threshold);
    }

    /// Drops a token if those above it already reach the sum.
    fn keep_top_p(&mut self) {
        let top_p = f64::from(self.options.top_p);
        if top_p >= 1.0 {
            return;
        }
        self.candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut above = 0.0;
        let kept = self.candidates.iter().take_while(|candidate| {
            let keep = above < top_p * total;
            above += weight(candidate);
            keep
        });
        let kept = kept.count().max(1);
        self.candidates.truncate(kept);
    }

    /// Drops what is less probable than that share of the most probable, whose weight is 1.
    fn keep_min_p(&mut self) {
        let min_p = f64::from(self.options.min_p);
        if min_p > 0.0 {
            self.candidates.retain(|candidate| weight(candidate) >= min_p);
        }
    }

    /// Draws from the softmax of the candidates.
    fn draw(&mut self) -> u32 {
        // Selecting reorders; the order decides which random number means which token.
        self.candidates.sort_unstable_by_key(|&(token, _)| token);
        let total: f64 = self.candidates.iter().map(weight).sum();
        // 53 random bits: every f64 step of [0, 1).
        let mut remaining = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        for candidate in &self.candidates {
            remaining -= weight(candidate);
            if remaining < 0.0 {
                return candidate.0;
            }
        }
        // Rounding may leave a trace: the last token with any weight.
        self.candidates.iter().rev().find(|candidate| weight(candidate) > 0.0).map_or(0, |candidate| candidate.0)
    }
}

/// The unnormalised probability; the largest logit is 0.
fn weight(&(_, logit): &(u32, f32)) -> f64 {
    f64::from(logit).exp()
}

/// The token with the largest logit, the first of equals.
fn largest(logits: &[f32]) -> Result<u32, SamplingError> {
    let mut best: Option<(usize, f32)> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SamplingError::NotFinite { token, value: logit });
        }
        if logit > best.map_or(f32::NEG_INFINITY, |(_, best)| best) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token as u32).ok_or(SamplingError::NoCandidate { count: logits.len() })
}
