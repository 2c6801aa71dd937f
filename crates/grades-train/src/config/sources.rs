//! The options of several data sets: how they become one, and on which a run is validated.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, ConfigError};
use crate::data::{DatasetSpec, MixStrategy};
use crate::train::outputs::Place;

/// The share of each data set in a mix: a list, or as LLaMA-Factory writes it, numbers with commas between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Vec<f64>")]
pub struct Shares(pub Vec<f64>);

impl TryFrom<Value> for Shares {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let shares: Option<Vec<f64>> = match &value {
            Value::String(text) => text.split(',').map(|share| share.trim().parse().ok()).collect(),
            Value::Array(shares) => shares.iter().map(Value::as_f64).collect(),
            _ => None,
        };
        shares.map(Self).ok_or("it must be a list of numbers, such as [0.7, 0.3]")
    }
}

impl From<Shares> for Vec<f64> {
    fn from(shares: Shares) -> Self {
        shares.0
    }
}

impl Config {
    /// Whether there is anything to validate on.
    pub fn validates(&self) -> bool {
        self.val_set_size.value() > 0.0 || !self.test_datasets.is_empty()
    }

    /// The sets that a run is validated on; of a folder or a set of the Hub the split `test`, where none is named.
    pub fn test_datasets(&self) -> Vec<DatasetSpec> {
        let split = |spec: &DatasetSpec| Some(spec.split.clone().unwrap_or_else(|| "test".to_owned()));
        self.test_datasets.iter().map(|spec| DatasetSpec { split: split(spec), ..spec.clone() }).collect()
    }

    pub(super) fn validate_sources(&self) -> Result<(), ConfigError> {
        let refuse = |problem: String| Err(ConfigError::Inconsistent(problem));
        if !self.test_datasets.is_empty() && self.val_set_size.value() > 0.0 {
            return refuse(
                "`test_datasets` and `val_set_size` both say what to validate on; remove one of them".to_owned(),
            );
        }
        for (key, value) in [
            ("max_samples", self.max_samples),
            ("shuffle_buffer_size", self.shuffle_buffer_size),
            ("streaming_multipack_buffer_size", self.streaming_multipack_buffer_size),
        ] {
            if value == Some(0) {
                return Err(ConfigError::OutOfRange { key, value: "0".to_owned(), allowed: "a whole number from 1" });
            }
        }
        if let Some(problem) = self.problem_of_streaming() {
            return refuse(problem.to_owned());
        }
        let sets = self.datasets.len();
        if self.mix_strategy != MixStrategy::Concat && sets < 2 {
            return refuse(
                "`mix_strategy` interleaves several data sets, and there is one; add another, or remove it".to_owned(),
            );
        }
        let Some(Shares(shares)) = &self.interleave_probs else { return Ok(()) };
        if self.mix_strategy == MixStrategy::Concat {
            return refuse(
                "`interleave_probs` has no effect with `mix_strategy: concat`; set interleave_under or interleave_over"
                    .to_owned(),
            );
        }
        if shares.len() != sets {
            return refuse(format!(
                "`interleave_probs` has {} numbers for {sets} data sets; give one for each",
                shares.len()
            ));
        }
        let sum: f64 = shares.iter().sum();
        if !shares.iter().all(|share| *share > 0.0) || (sum - 1.0).abs() > 1e-6 {
            return refuse(format!(
                "`interleave_probs` must be numbers above 0 that add up to 1, and these add up to {sum}"
            ));
        }
        Ok(())
    }
}

impl Config {
    fn problem_of_streaming(&self) -> Option<&'static str> {
        if !self.streaming {
            return if self.shuffle_buffer_size.is_some() {
                Some("`shuffle_buffer_size` is of `streaming: true`; set that, or remove it")
            } else if self.streaming_multipack_buffer_size.is_some() {
                Some("`streaming_multipack_buffer_size` is of `streaming: true`; set that, or remove it")
            } else {
                None
            };
        }
        if self.max_steps.is_none() {
            Some("`streaming` does not know how long an epoch is; set `max_steps`")
        } else if self.val_set_size.value() > 0.0 {
            Some(
                "`streaming` cannot keep samples back for `val_set_size`; name sets to validate on, `test_datasets`, in its place",
            )
        } else if self.dataset_exact_deduplication {
            Some(
                "`dataset_exact_deduplication` would have to remember all that `streaming` passes by; remove one of them",
            )
        } else if self.dataset_prepared_path.is_some() {
            Some(
                "`dataset_prepared_path` keeps what was encoded before the training, and `streaming` encodes while it goes on; remove one of them",
            )
        } else if !self.contamination.is_empty() {
            Some(
                "`contamination` looks through all rows before the training, which `streaming` does not read then; remove one of them",
            )
        } else if self.prefix_cache != Place::Off {
            Some("`prefix_cache` keeps what comes again, and with `streaming` nothing is known to; remove one of them")
        } else if !self.shuffle_merged_datasets && self.shuffle_buffer_size.is_some() {
            Some("`shuffle_buffer_size` has no effect with `shuffle_merged_datasets: false`; remove one of them")
        } else if !self.sample_packing && self.streaming_multipack_buffer_size.is_some() {
            Some("`streaming_multipack_buffer_size` is of `sample_packing: true`; set that, or remove it")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "model: m\ndatasets: [{path: a.jsonl, type: text}, {path: b.jsonl, type: text}]\n";

    fn error(more: &str) -> String {
        Config::parse(&format!("{TWO}{more}"), &[]).unwrap_err().to_string()
    }

    #[test]
    fn mixes_are_named_as_other_tools_name_them() {
        let parse = |more: &str| Config::parse(&format!("{TWO}{more}"), &[]).unwrap();
        assert_eq!(parse("").mix_strategy, MixStrategy::Concat);
        let under = parse("mix_strategy: interleave_under\ninterleave_probs: 0.7, 0.3");
        assert_eq!(under.interleave_probs, Some(Shares(vec![0.7, 0.3])));
        for (name, wanted) in [("under", MixStrategy::InterleaveUnder), ("all_exhausted", MixStrategy::InterleaveOver)]
        {
            let config = parse(&format!("mix_strategy: {name}\ninterleave_probs: [0.25, 0.75]"));
            assert_eq!(config.mix_strategy, wanted);
            assert_eq!(Config::parse(&config.to_yaml().unwrap(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn what_has_no_effect_or_no_sense_is_refused() {
        for (more, wanted) in [
            ("interleave_probs: [0.5, 0.5]", "concat"),
            ("mix_strategy: under\ninterleave_probs: [1.0]", "1 numbers for 2"),
            ("mix_strategy: under\ninterleave_probs: [0.5, 0.6]", "1.1"),
            ("mix_strategy: under\ninterleave_probs: [0.0, 1.0]", "above 0"),
            ("mix_strategy: under\ninterleave_probs: some", "list of numbers"),
            ("mix_strategy: best", "mix_strategy"),
            ("max_samples: 0", "max_samples"),
            ("shuffle_buffer_size: 9", "streaming: true"),
            ("streaming_multipack_buffer_size: 9", "streaming: true"),
            ("streaming: true", "max_steps"),
            ("streaming: true\nmax_steps: 3\nval_set_size: 2", "test_datasets"),
            ("streaming: true\nmax_steps: 3\ndataset_exact_deduplication: true", "deduplication"),
            ("streaming: true\nmax_steps: 3\ndataset_prepared_path: kept", "dataset_prepared_path"),
            ("streaming: true\nmax_steps: 3\ncontamination: [piqa]", "contamination"),
            ("streaming: true\nmax_steps: 3\nprefix_cache: memory", "prefix_cache"),
            ("streaming: true\nmax_steps: 3\nshuffle_buffer_size: 0", "shuffle_buffer_size"),
            ("streaming: true\nmax_steps: 3\nstreaming_multipack_buffer_size: 4", "sample_packing"),
            ("val_set_size: 3\ntest_datasets: [{path: c.jsonl, type: text}]", "val_set_size"),
            ("test_datasets: [{path: c.jsonl}]", "test_datasets.0.type"),
            ("test_datasets: [{path: c.jsonl, type: texts}]", "texts"),
        ] {
            assert!(error(more).contains(wanted), "{more}: {}", error(more));
        }
        let one = "model: m\ndatasets: [{path: a.jsonl, type: text}]\nmix_strategy: under\n";
        assert!(Config::parse(one, &[]).unwrap_err().to_string().contains("there is one"));
    }
}
