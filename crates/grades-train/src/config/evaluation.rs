//! `generate_samples` and `eval_tasks`: what is asked of the model while it trains.

use std::path::Path;

use super::{Config, ConfigError};
use crate::eval::Task;
use crate::eval::open::OpenTask;

/// Most tokens of an answer, where the config does not say.
const MAX_NEW_TOKENS: usize = 64;

impl Config {
    /// Most tokens of an answer to a prompt of `generate_samples`.
    #[must_use]
    pub fn generation_max_new_tokens(&self) -> usize {
        self.generation_max_new_tokens.unwrap_or(MAX_NEW_TOKENS)
    }

    pub(super) fn validate_evaluation(&self) -> Result<(), ConfigError> {
        let (answers, scores) = (self.generate_samples > 0, !self.eval_tasks.is_empty());
        let is_unknown = |name: &&String| {
            let is_file = Path::new(name.as_str()).extension().is_some();
            !is_file && Task::named(name).is_none() && OpenTask::named(name).is_none()
        };
        let problem = if (answers || scores) && self.rl.is_some() {
            "`generate_samples` and `eval_tasks` are not there with `rl`, which judges answers by their rewards; remove them, and use grades \
             eval when the run has ended"
                .to_owned()
        } else if answers && !self.validates() {
            "`generate_samples` takes its prompts from the validation data, and there are none; set val_set_size or test_datasets"
                .to_owned()
        } else if !answers && self.generation_max_new_tokens.is_some() {
            "`generation_max_new_tokens` bounds the answers of `generate_samples`; set that, or remove it".to_owned()
        } else if !scores && self.eval_tasks_limit.is_some() {
            "`eval_tasks_limit` bounds the questions of `eval_tasks`; set that, or remove it".to_owned()
        } else if let Some(name) = self.eval_tasks.iter().find(is_unknown) {
            format!(
                "`eval_tasks: {name}` is no benchmark that is known here, and no file; there are {}, {}, and files of questions of your own \
                 (my-questions.jsonl)",
                Task::names(),
                OpenTask::names()
            )
        } else {
            return Ok(());
        };
        Err(ConfigError::Inconsistent(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_or_cannot_be_asked_is_refused() {
        let parse = |more: &str| {
            let yaml = format!("model: m\ndatasets: [{{path: a.jsonl, type: text}}]\n{more}");
            Config::parse(&yaml, &[]).map_err(|error| error.to_string())
        };
        let config = parse("val_set_size: 3\ngenerate_samples: 2\neval_tasks: [piqa, own.jsonl]\neval_tasks_limit: 9");
        let config = config.unwrap();
        assert_eq!((config.generate_samples, config.generation_max_new_tokens()), (2, 64));
        assert_eq!(Config::parse(&config.to_yaml().unwrap(), &[]).unwrap(), config);
        for (more, wanted) in [
            ("generate_samples: 2", "val_set_size"),
            ("generate_samples: true", "generate_samples"),
            ("generation_max_new_tokens: 2", "generate_samples"),
            ("val_set_size: 3\ngenerate_samples: 2\ngeneration_max_new_tokens: 0", "from 1"),
            ("eval_tasks_limit: 2", "`eval_tasks`"),
            ("eval_tasks: [piqa]\neval_tasks_limit: 0", "from 1"),
            ("eval_tasks: [pica]", "`eval_tasks: pica`"),
            ("eval_tasks: piqa", "eval_tasks"),
            ("rl: dpo\nval_set_size: 3\ngenerate_samples: 2", "`rl`"),
            ("rl: dpo\neval_tasks: [piqa]", "`rl`"),
            ("num_generation_samples: 3", "did you mean `generate_samples`?"),
        ] {
            let error = parse(more).unwrap_err();
            assert!(error.contains(wanted), "{more}: {error}");
        }
    }
}
