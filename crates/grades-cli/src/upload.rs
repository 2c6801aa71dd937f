//! `grades upload`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use grades_train::card;
use grades_train::hub::Hub;
use grades_train::hub::upload::{Upload, Uploaded};
use serde_json::json;

use crate::output;

/// Bring a model or adapter to the Hugging Face Hub.
///
/// Of a run it is model/, or with adapter: lora adapter/; of any other folder all that lies in it, but for hidden files. The
/// repository is made if there is none; files of the same names are replaced, others stay. Of a run a model card (README.md) is
/// written first where there is none: what the model comes from, how to load it, how it was trained. The token is that of HF_TOKEN,
/// or the one that `hf auth login` has left, and must be one that may write. What the Hub has is not sent again, so a call that
/// was cut short goes on where it was when it is made again.
///
/// Example: grades upload runs/first me/my-model --private
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run, or a folder.
    source: PathBuf,
    /// The model's name on the Hub: owner/name.
    #[arg(value_name = "OWNER/NAME")]
    id: String,
    /// Make a private repository, if it is made now.
    #[arg(long)]
    private: bool,
    /// The branch, which is made where there is none; left out, main.
    #[arg(long)]
    revision: Option<String>,
    /// What the commit says.
    #[arg(long, default_value = "Upload with grades")]
    message: String,
    /// Propose the commit as a pull request.
    #[arg(long)]
    create_pr: bool,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let folder = folder(&self.source)?;
        let upload = Upload {
            id: self.id,
            private: self.private,
            revision: self.revision,
            path_in_repo: None,
            message: self.message,
            pull_request: self.create_pr,
        };
        let hub = Hub::from_env();
        // Before the card is written, so that a call that leads nowhere changes nothing.
        hub.prepare_upload(&upload)?;
        if let Some(run) = folder.parent() {
            card::write(run, &folder)?;
        }
        tell(json, &hub.upload(&folder, &upload)?)
    }
}

/// The folder to upload: of a run's directory that of what it has trained.
fn folder(source: &Path) -> anyhow::Result<PathBuf> {
    if !source.is_dir() {
        bail!("{}: there is no such folder; give the directory of a run, or a folder", source.display());
    }
    let is_run = source.join("config.yaml").is_file() && source.join("metrics.jsonl").is_file();
    let trained = ["adapter", "model"].map(|name| source.join(name)).into_iter().find(|folder| folder.is_dir());
    match trained {
        Some(folder) if is_run => Ok(std::path::absolute(folder)?),
        None if is_run => bail!(
            "{}: the run has not ended, so there is no model yet; go on with resume_from_checkpoint=auto",
            source.display()
        ),
        _ => Ok(std::path::absolute(source)?),
    }
}

fn tell(json: bool, uploaded: &Uploaded) -> anyhow::Result<()> {
    if json {
        return output::print_json(&json!(uploaded));
    }
    output::print(&sentence(uploaded));
    Ok(())
}

/// What an upload came to.
pub(crate) fn sentence(uploaded: &Uploaded) -> String {
    match &uploaded.commit {
        Some(_) => format!("{}: {} files, {}B sent", uploaded.url, uploaded.files, output::short(uploaded.sent_bytes)),
        None => format!("{}: everything is there already", uploaded.url),
    }
}
