//! `on_bad_row`: what becomes of rows that cannot be used.

use grades_models::fields::warn_once;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::DataError;

/// What happens at a row that cannot be used: one that is no JSON, lacks a column, or that the chat template refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// An error that names the row.
    #[default]
    Stop,
    /// The row is left out and counted.
    Skip,
}

/// So many bad rows of a set are named, each with its reason.
const NAMED: usize = 5;

/// The bad rows of a set.
#[derive(Debug)]
pub(super) struct BadRows {
    rule: OnBadRow,
    pub(super) count: usize,
    /// The first of them.
    named: Vec<String>,
}

impl BadRows {
    pub(super) fn new(rule: OnBadRow) -> Self {
        Self { rule, count: 0, named: Vec::new() }
    }

    /// What a row gives, or nothing if it is a bad one that is left out.
    ///
    /// # Errors
    /// Bad rows stop the run, or it is not the row that is bad.
    pub(super) fn pass<T>(&mut self, row: Result<T, DataError>) -> Result<Option<T>, DataError> {
        match row {
            Ok(row) => Ok(Some(row)),
            Err(error @ (DataError::Row { .. } | DataError::MissingColumn { .. })) if self.rule == OnBadRow::Skip => {
                self.count += 1;
                if self.count <= NAMED {
                    self.named.push(format!("left out: {error}"));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What there is to tell of them.
    pub(super) fn sentences(self, set: &str) -> Vec<String> {
        let mut sentences = self.named;
        if self.count > 0 {
            sentences.push(format!("{set}: {} bad rows are left out (on_bad_row: skip)", self.count));
        }
        sentences
    }

    /// Tells what there is of them so far, each once.
    pub(super) fn tell(&mut self) {
        self.named.drain(..).for_each(warn_once);
    }
}
