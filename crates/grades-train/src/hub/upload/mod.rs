//! Uploads of a folder: what `huggingface_hub`'s `upload_folder` asks of the Hub, in the same order.
//!
//! The repository is made where there is none; `preupload` says which files are large and what the Hub has already; large ones go to
//! the store that it names (Git LFS's protocol, `lfs.rs`); one commit then takes all. Nothing is sent that the Hub has, so a call that
//! was cut short goes on where it was when it is made again.

mod error;
mod files;
mod lfs;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Hub, MAIN, encoded};
pub use error::UploadError;
use files::LocalFile;
use requests::{Payload, Requests};

/// Files that one request asks about, as many as `huggingface_hub` asks about.
const ASKED_AT_ONCE: usize = 256;

/// How often a commit is tried, each time with what is still missing.
const ATTEMPTS: u32 = 4;

/// Where a folder goes, and as what.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The model's name on the Hub, `owner/name`.
    pub id: String,
    /// Whether the repository, if it is made now, is shown to its owner alone.
    pub private: bool,
    /// The branch; `main` where left out. One that is not there is made.
    pub revision: Option<String>,
    /// The folder of the repository that it goes to; the repository itself where left out.
    pub path_in_repo: Option<String>,
    /// What the commit says.
    pub message: String,
    /// Whether the commit is proposed as a pull request.
    pub pull_request: bool,
}

/// What an upload came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uploaded {
    /// The model's page, or that of the pull request.
    pub url: String,
    /// The commit; `null` where the Hub had everything.
    pub commit: Option<String>,
    /// Files that the commit changed.
    pub files: usize,
    /// Bytes of large files that were sent.
    pub sent_bytes: u64,
}

impl Hub {
    /// Makes the repository and the branch of an upload where they are not there yet, so that what is wrong with name or token shows
    /// before there is anything to send.
    ///
    /// # Errors
    /// There is no token, it may not write there, or the Hub cannot be reached.
    pub fn prepare_upload(&self, upload: &Upload) -> Result<(), UploadError> {
        Session::of(self, upload)?.make()
    }

    /// Brings the files of a folder, without hidden ones, to a model's repository, which is made if it is not there. Files of the same
    /// names are replaced, others stay.
    ///
    /// # Errors
    /// As of [`prepare_upload`](Self::prepare_upload); or a file cannot be read or is refused.
    pub fn upload(&self, folder: &Path, upload: &Upload) -> Result<Uploaded, UploadError> {
        let mut files = files::of(folder)?;
        if let Some(place) = &upload.path_in_repo {
            files.iter_mut().for_each(|file| file.name = format!("{place}/{}", file.name));
        }
        let session = Session::of(self, upload)?;
        session.make()?;
        let mut sent = 0;
        let mut attempt = 1;
        loop {
            match session.commit(&files, &mut sent) {
                // The answer may have been lost after the commit was made: the next attempt finds what it has changed. A pull
                // request would be made twice.
                Err(error) if error.may_pass_anew() && attempt < ATTEMPTS && !upload.pull_request => {
                    thread::sleep(session.requests.pause(attempt));
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// One upload.
struct Session<'a> {
    upload: &'a Upload,
    requests: Requests<'a>,
}

/// What the Hub says of a file before it gets it.
#[derive(Deserialize)]
struct Known {
    path: String,
    #[serde(rename = "uploadMode")]
    mode: Mode,
    #[serde(default, rename = "shouldIgnore")]
    ignored: bool,
    /// The name of what is there: by SHA-256 of a large file, by Git's own of another.
    oid: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Regular,
    Lfs,
}

impl<'a> Session<'a> {
    fn of(hub: &'a Hub, upload: &'a Upload) -> Result<Self, UploadError> {
        if !super::is_name(&upload.id) {
            return Err(UploadError::Name { id: upload.id.clone() });
        }
        if hub.offline {
            return Err(UploadError::Offline);
        }
        if hub.token.is_none() {
            return Err(UploadError::NoToken);
        }
        let page = format!("{}/{}", hub.endpoint, upload.id);
        Ok(Self { upload, requests: Requests::new(hub, page) })
    }

    fn api(&self) -> String {
        format!("{}/api/models/{}", self.requests.hub.endpoint, self.upload.id)
    }

    /// The branch as it stands in addresses.
    fn revision(&self) -> String {
        encoded(self.upload.revision.as_deref().unwrap_or(MAIN), false)
    }

    fn make(&self) -> Result<(), UploadError> {
        let (owner, name) = self.upload.id.split_once('/').unwrap_or_default();
        let mut wanted = json!({ "name": name, "organization": owner, "type": "model" });
        if self.upload.private {
            wanted["visibility"] = "private".into();
        }
        let url = format!("{}/api/repos/create", self.requests.hub.endpoint);
        match self.requests.post(&url, &wanted) {
            // It is there.
            Err(UploadError::Conflict { .. }) => {}
            // A token may write to what is there without being one that makes repositories.
            Err(error @ UploadError::Forbidden { .. }) => {
                let there = self.requests.send("GET", &self.api(), &Payload::None);
                there.map_err(|_| error)?;
            }
            answer => drop(answer?),
        }
        let Some(revision) = self.upload.revision.as_deref().filter(|it| *it != MAIN && !it.starts_with("refs/"))
        else {
            return Ok(());
        };
        match self.requests.post(&format!("{}/branch/{}", self.api(), encoded(revision, false)), &json!({})) {
            Err(UploadError::Conflict { .. }) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Sends what the Hub has not, and has it committed.
    fn commit(&self, files: &[LocalFile], sent: &mut u64) -> Result<Uploaded, UploadError> {
        let known = self.ask(files)?;
        let (mut regular, mut large) = (Vec::new(), Vec::new());
        for file in files {
            let Some(known) = known.get(&file.name) else {
                return Err(self.requests.unclear("it says nothing of a file that it was asked about"));
            };
            // The store takes nothing that is empty.
            let mode = if file.size == 0 { Mode::Regular } else { known.mode };
            match mode {
                _ if known.ignored => {}
                Mode::Regular => {
                    let contents = file.read()?;
                    if known.oid.as_deref() != Some(&files::git_name(&contents)) {
                        regular.push((file, contents));
                    }
                }
                Mode::Lfs => {
                    let oid = file.sha256()?;
                    if known.oid.as_deref() != Some(&oid) {
                        large.push((file, oid));
                    }
                }
            }
        }
        let page = self.requests.page.clone();
        if regular.is_empty() && large.is_empty() {
            return Ok(Uploaded { url: page, commit: None, files: 0, sent_bytes: *sent });
        }
        *sent += lfs::send(&self.requests, &large, self.upload.revision.as_deref().unwrap_or(MAIN))?;

        let mut lines =
            vec![json!({ "key": "header", "value": { "summary": self.upload.message, "description": "" } })];
        lines.extend(regular.iter().map(|(file, contents)| {
            let value = json!({ "content": STANDARD.encode(contents), "path": file.name, "encoding": "base64" });
            json!({ "key": "file", "value": value })
        }));
        lines.extend(large.iter().map(|(file, oid)| {
            let value = json!({ "path": file.name, "algo": "sha256", "oid": oid, "size": file.size });
            json!({ "key": "lfsFile", "value": value })
        }));
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = format!("{}/commit/{}{}", self.api(), self.revision(), self.as_proposed());
        let answer = self.requests.once("POST", &url, &Payload::Bytes("application/x-ndjson", body.as_bytes()))?;
        let answer: Value = self.requests.read(answer)?;
        let commit = answer["commitOid"].as_str().map(str::to_owned);
        let commit = commit.ok_or_else(|| self.requests.unclear("it names no commit"))?;
        let url = answer["pullRequestUrl"].as_str().filter(|_| self.upload.pull_request).map_or(page, str::to_owned);
        Ok(Uploaded { url, commit: Some(commit), files: regular.len() + large.len(), sent_bytes: *sent })
    }

    fn as_proposed(&self) -> &'static str {
        if self.upload.pull_request { "?create_pr=1" } else { "" }
    }

    /// What the Hub says of every file, by its name.
    fn ask(&self, files: &[LocalFile]) -> Result<HashMap<String, Known>, UploadError> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Known>,
        }

        let url = format!("{}/preupload/{}{}", self.api(), self.revision(), self.as_proposed());
        let mut known = HashMap::new();
        for asked in files.chunks(ASKED_AT_ONCE) {
            let described: Vec<Value> = asked
                .iter()
                .map(|file| json!({ "path": file.name, "sample": STANDARD.encode(&file.sample), "size": file.size }))
                .collect();
            let answer = self.requests.post(&url, &json!({ "files": described }))?;
            let answer: Answer = self.requests.read(answer)?;
            known.extend(answer.files.into_iter().map(|file| (file.path.clone(), file)));
        }
        Ok(known)
    }
}
