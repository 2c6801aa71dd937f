//! Where a run begins: anew, from a checkpoint, or nowhere as it has ended already.

use std::fs;
use std::path::PathBuf;

use grades_report::record::{self, Summary};

use super::checkpoint::STATE;
use super::checkpoints::latest;
use super::error::TrainError;
use super::run_dir::RunDir;
use crate::config::{Config, Resume};

/// Where a run begins.
pub(super) enum Start {
    /// At its first step, in a new directory.
    New,
    /// At its first step, in the directory of an interrupted run that left no whole checkpoint.
    Again,
    /// After a checkpoint; `in_place` where that is the run's own.
    Checkpoint { checkpoint: PathBuf, in_place: bool },
    /// It has ended.
    Ended(Box<Summary>),
}

impl Start {
    /// Of a run with this config, by what is in its directory.
    ///
    /// # Errors
    /// If something else is there, or the checkpoint that it names is none or damaged.
    pub(super) fn of(config: &Config) -> Result<Self, TrainError> {
        let run = &config.output_dir;
        let checkpoint = match &config.resume_from_checkpoint {
            None => return RunDir::check_free(run).map(|()| Self::New),
            Some(Resume::From(checkpoint)) if !checkpoint.join(STATE).is_file() => {
                if checkpoint.join("config.json").is_file() || checkpoint.join("adapter_config.json").is_file() {
                    return Err(TrainError::Other(format!(
                        "`resume_from_checkpoint: {}` holds a model alone, as `save_only_model` writes it, from which no run goes on; \
                         give a whole checkpoint, or begin anew with it as model",
                        checkpoint.display()
                    )));
                }
                return Err(TrainError::Other(format!(
                    "`resume_from_checkpoint: {}` is not a checkpoint; give a folder such as \
                     runs/first/checkpoints/step-000100, or auto",
                    checkpoint.display()
                )));
            }
            Some(Resume::From(checkpoint)) => {
                grades_fs::verify(checkpoint)
                    .map_err(|damage| TrainError::Damaged { path: checkpoint.clone(), damage })?;
                checkpoint.clone()
            }
            Some(Resume::Auto) => {
                let summary = run.join(record::SUMMARY);
                if let Ok(text) = fs::read(&summary) {
                    let summary = serde_json::from_slice(&text)
                        .map_err(|error| TrainError::io(&summary, std::io::Error::from(error)))?;
                    return Ok(Self::Ended(Box::new(summary)));
                }
                match latest(run, usize::MAX) {
                    Some(checkpoint) => checkpoint,
                    None if RunDir::is_interrupted(run) => return Ok(Self::Again),
                    None => return RunDir::check_free(run).map(|()| Self::New),
                }
            }
        };
        let own = checkpoint.parent().and_then(|parent| parent.parent()).and_then(|run| run.canonicalize().ok());
        let in_place = own.is_some() && own == run.canonicalize().ok();
        if in_place && run.join(record::SUMMARY).exists() {
            return Err(TrainError::RunExists { path: run.clone() });
        }
        if !in_place {
            RunDir::check_free(run)?;
        }
        Ok(Self::Checkpoint { checkpoint, in_place })
    }

    /// Whether it goes on in a directory that is there.
    pub(super) fn is_in_place(&self) -> bool {
        matches!(self, Self::Again | Self::Checkpoint { in_place: true, .. })
    }
}
