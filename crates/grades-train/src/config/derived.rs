//! What follows from the options: theirs in the forms that others take them in.

use super::averaging::Averaging;
use super::optimizer::Optimizer;
use super::resolved::Config;
use crate::data::packing::Packing;
use crate::data::stream::StreamOptions;
use crate::data::{LoaderOptions, TokenOptions};
use crate::schedule::Schedule;
use crate::train::average::WeightAverage;
use crate::train::outputs;
use crate::train::rule::{Adam, AdjustLrFn, Rule};

impl Config {
    /// How the data become tokens.
    pub fn token_options(&self) -> TokenOptions {
        TokenOptions {
            sequence_len: self.sequence_len,
            train_on_inputs: self.train_on_inputs,
            excess_length: self.excess_length_strategy,
            max_samples: self.max_samples,
            train_on_last_turn_only: self.train_on_last_turn_only,
            on_bad_row: self.on_bad_row,
        }
    }

    /// How the samples become steps.
    pub fn loader_options(&self) -> LoaderOptions {
        LoaderOptions {
            micro_batch_size: self.micro_batch_size,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            packing: self.packing(),
            shuffle: self.shuffle_merged_datasets,
            seed: self.seed,
        }
    }

    /// How data are gone through with `streaming`.
    pub fn stream_options(&self) -> StreamOptions {
        StreamOptions {
            tokens: self.token_options(),
            loader: self.loader_options(),
            mix_strategy: self.mix_strategy,
            shares: self.interleave_probs.as_ref().map(|shares| shares.0.clone()),
            shuffle_buffer: self.shuffle_buffer_size.unwrap_or(2048),
            packing_buffer: self.streaming_multipack_buffer_size.unwrap_or(1024),
        }
    }

    /// Which average of the weights is kept.
    pub fn weight_average(&self) -> Option<WeightAverage> {
        match (self.weight_average, &self.early_stopping) {
            (Averaging::Kind(kind), _) => Some(kind),
            // Such a run ends with its best checkpoint.
            (Averaging::Auto, _) if self.load_best_model_at_end => None,
            (Averaging::Auto, grades::EarlyStopping::Grades(options)) if options.tau == grades::Tau::Auto => {
                Some(WeightAverage::Polynomial { power: 3.0 })
            }
            (Averaging::Auto | Averaging::None, _) => None,
        }
    }

    /// What the learning rate of embeddings is multiplied by.
    pub fn embedding_lr_ratio(&self) -> f64 {
        let of_rate = self.embedding_lr.zip(self.learning_rate.number()).map(|(rate, of)| rate / of);
        self.embedding_lr_scale.or(of_rate).unwrap_or(1.0)
    }

    /// The rule of the update.
    pub fn rule(&self) -> Rule {
        let (beta1, epsilon) = (self.adam_beta1, self.adam_epsilon);
        let beta2 = self.adam_beta2.unwrap_or(if self.optimizer == Optimizer::Lion { 0.99 } else { 0.999 });
        let adam = Adam { beta1, beta2, epsilon };
        match self.optimizer {
            Optimizer::AdamW => Rule::AdamW(adam),
            Optimizer::AdamW8bit => Rule::AdamW8bit(adam),
            Optimizer::Lion => Rule::Lion { beta1, beta2 },
            Optimizer::Muon => Rule::Muon {
                momentum: self.momentum.unwrap_or(0.95),
                nesterov: self.optim_args.nesterov.unwrap_or(true),
                ns_steps: self.optim_args.ns_steps.unwrap_or(5),
                adjust_lr_fn: self.optim_args.adjust_lr_fn.unwrap_or(AdjustLrFn::MatchRmsAdamW),
                adam,
            },
            Optimizer::Sgd => Rule::Sgd { momentum: self.momentum.unwrap_or(0.0) },
        }
    }

    /// How outputs of frozen layers are kept.
    pub fn prefix_cache_options(&self) -> outputs::Options {
        let (place, dtype) = (self.prefix_cache, self.prefix_cache_dtype);
        outputs::Options { place, size: self.prefix_cache_size.0, dtype }
    }

    /// How outputs of a vision tower are kept.
    pub fn vision_cache_options(&self) -> outputs::Options {
        let (place, dtype) = (self.vision_cache, self.vision_cache_dtype);
        outputs::Options { place, size: self.vision_cache_size.0, dtype }
    }

    /// What a row holds at most with sample packing, `None` without.
    pub fn packing(&self) -> Option<Packing> {
        let pictures = self.max_images_per_row.unwrap_or(usize::MAX);
        self.sample_packing.then_some(Packing { tokens: self.sequence_len, pictures })
    }

    /// The learning rate over a run of `total_steps`; as a share of it where it is not known yet.
    pub fn schedule(&self, total_steps: usize) -> Schedule {
        let share = || (self.warmup_ratio.unwrap_or(0.0) * total_steps as f64).ceil() as usize;
        Schedule {
            scheduler: self.lr_scheduler,
            options: self.lr_scheduler_kwargs,
            learning_rate: self.learning_rate.number().unwrap_or(1.0),
            warmup_steps: self.warmup_steps.unwrap_or_else(share),
            total_steps,
        }
    }
}
