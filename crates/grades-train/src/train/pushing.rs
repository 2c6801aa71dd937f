//! What goes to the Hub while a run goes on (`hub_strategy`): the model with each checkpoint, and checkpoints beside it.
//!
//! A thread sends it, one push after the other, while the steps go on. What it sends is a copy in the run's directory (of a checkpoint hard
//! links), so that neither later steps nor `save_total_limit` reach it. A push that waits gives way to the next one, but for the
//! checkpoints of `all_checkpoints`.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::checkpoint;
use super::error::TrainError;
use crate::config::{Config, HubStrategy};
use crate::hub::Hub;
use crate::hub::upload::{Upload, UploadError};

/// The folder of a run's directory that copies wait in.
pub(super) const FOLDER: &str = "hub";

/// Where the last checkpoint is in the repository, as transformers has it.
const LAST: &str = "last-checkpoint";

/// Between two looks at what is being sent.
const MOMENT: Duration = Duration::from_millis(20);

/// What has failed, and after which step that was saved.
pub(super) type Failed = (usize, String);

/// Sends what a run saves.
#[derive(Debug)]
pub struct Pusher {
    hub: Hub,
    upload: Upload,
    strategy: HubStrategy,
    run: PathBuf,
    waiting: VecDeque<Push>,
    /// A checkpoint that may still be being written.
    unwritten: Option<usize>,
    at: Option<(usize, JoinHandle<Result<(), UploadError>>)>,
}

/// Copies that are sent together.
#[derive(Debug)]
struct Push {
    step: usize,
    model: Option<PathBuf>,
    /// With its place in the repository.
    checkpoint: Option<(PathBuf, String)>,
}

impl Upload {
    /// The upload that a config asks for.
    #[must_use]
    pub fn of_config(config: &Config) -> Option<Self> {
        Some(Self {
            id: config.hub_model_id.clone()?,
            private: config.hub_private_repo,
            revision: config.hub_revision.clone(),
            path_in_repo: None,
            message: "Upload with grades".to_owned(),
            pull_request: false,
        })
    }
}

impl Pusher {
    /// What a config asks for, of the run in the directory `run`; `None` where nothing is sent before the end.
    pub(super) fn of(config: &Config, run: &Path) -> Option<Self> {
        let strategy = config.hub_strategy.filter(|strategy| *strategy != HubStrategy::End)?;
        let (upload, hub, run) = (Upload::of_config(config)?, Hub::from_env(), run.to_owned());
        Some(Self { hub, upload, strategy, run, waiting: VecDeque::new(), unwritten: None, at: None })
    }

    fn copies(&self, step: usize) -> PathBuf {
        self.run.join(FOLDER).join(checkpoint::name(step))
    }

    /// Takes the model, which `save` writes into a folder, to be sent as it is after `step`, with the checkpoint of that step, as soon as
    /// that is [written](Self::written).
    pub(super) fn take(
        &mut self,
        step: usize,
        save: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let folder = self.copies(step);
        fs::create_dir_all(&folder).map_err(|error| TrainError::io(&folder, error))?;
        let model = folder.join("model");
        save(&model)?;
        // Those that wait are older.
        for push in &mut self.waiting {
            if let Some(model) = push.model.take() {
                let _ = fs::remove_dir_all(model);
            }
            if self.strategy != HubStrategy::AllCheckpoints
                && let Some((checkpoint, _)) = push.checkpoint.take()
            {
                let _ = fs::remove_dir_all(checkpoint);
            }
        }
        self.waiting.retain(|push| push.checkpoint.is_some());
        self.waiting.push_back(Push { step, model: Some(model), checkpoint: None });
        self.unwritten = matches!(self.strategy, HubStrategy::Checkpoint | HubStrategy::AllCheckpoints).then_some(step);
        Ok(())
    }

    /// Takes the last checkpoint, now that nothing of it is being written any more. One that could not be written is not there.
    pub(super) fn written(&mut self) -> Result<(), TrainError> {
        let Some(step) = self.unwritten.take() else { return Ok(()) };
        let from = checkpoint::folder(&self.run, step);
        if !from.is_dir() {
            return Ok(());
        }
        let to = self.copies(step).join("checkpoint");
        link(&from, &to).map_err(|error| TrainError::io(&to, error))?;
        let place = match self.strategy {
            HubStrategy::AllCheckpoints => format!("{}/{}", checkpoint::FOLDER, checkpoint::name(step)),
            _ => LAST.to_owned(),
        };
        if let Some(push) = self.waiting.back_mut().filter(|push| push.step == step) {
            push.checkpoint = Some((to, place));
        }
        Ok(())
    }

    /// Begins to send what waits, where nothing is being sent; what has failed meanwhile.
    pub(super) fn go_on(&mut self) -> Option<Failed> {
        let failed = match &self.at {
            Some((_, thread)) if !thread.is_finished() => return None,
            _ => self.wait(),
        };
        // The one whose checkpoint is not there yet is the last.
        if self.waiting.len() > usize::from(self.unwritten.is_some())
            && let Some(push) = self.waiting.pop_front()
        {
            let (hub, upload, folder, step) =
                (self.hub.clone(), self.upload.clone(), self.copies(push.step), push.step);
            let send = move || {
                let sent = push.send(&hub, &upload);
                let _ = fs::remove_dir_all(folder);
                sent
            };
            match thread::Builder::new().name("hub".to_owned()).spawn(send) {
                Ok(thread) => self.at = Some((step, thread)),
                Err(error) => return Some((step, error.to_string())),
            }
        }
        failed
    }

    /// Waits for what is being sent.
    fn wait(&mut self) -> Option<Failed> {
        let (step, thread) = self.at.take()?;
        match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((step, error.to_string())),
            Err(_) => Some((step, "the thread that sends to the Hub has failed".to_owned())),
        }
    }

    /// Sends all that waits, and waits for it until it is `given_up`; what has failed.
    pub(super) fn finish(&mut self, given_up: impl Fn() -> bool) -> Vec<Failed> {
        let mut failed = Vec::new();
        while (self.at.is_some() || !self.waiting.is_empty()) && !given_up() {
            failed.extend(self.go_on());
            thread::sleep(MOMENT);
        }
        let _ = fs::remove_dir_all(self.run.join(FOLDER));
        failed
    }
}

impl Push {
    fn send(&self, hub: &Hub, upload: &Upload) -> Result<(), UploadError> {
        let as_what = |path_in_repo: Option<String>| Upload {
            path_in_repo,
            message: format!("Training in progress, step {}", self.step),
            ..upload.clone()
        };
        if let Some(model) = &self.model {
            hub.upload(model, &as_what(None))?;
        }
        if let Some((checkpoint, place)) = &self.checkpoint {
            hub.upload(checkpoint, &as_what(Some(place.clone())))?;
        }
        Ok(())
    }
}

/// The files of a folder under other names, which stay when the first are removed; where the disk has no such names, copies.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link(&entry.path(), &target)?;
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
