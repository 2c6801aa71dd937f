//! Data sets and models of the Hugging Face Hub: fetched once, kept in the cache of its own libraries, and read from there.
//!
//! The cache has the layout of `huggingface_hub` (`datasets--owner--name/refs/<revision>` names a commit,
//! `snapshots/<commit>/` holds its files), and beside it `files/<commit>.json` lists what the commit has, so that what is
//! there once needs no request again. Another state is another `revision`.

pub mod error;
mod gguf;
mod token;
pub mod upload;

use std::env;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use grades_models::fields::warn_once;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::data::files;
pub use error::HubError;
use token::Token;

/// The branch on which the Hub keeps every public set as parquet, also those that come as a script or in other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// The branch of what was uploaded.
const MAIN: &str = "main";

/// How long a connection, an answer or the next piece of it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Hub and the cache for it.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<Token>,
    /// Whether nothing may be asked for, and whether no data set may.
    offline: bool,
    offline_sets: bool,
    agent: Agent,
}

impl Hub {
    /// The Hub at `endpoint` (a URL), with a token where one is needed, or with `offline` its `cache` alone.
    #[must_use]
    pub fn new(endpoint: &str, cache: PathBuf, token: Option<String>, offline: bool) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            // A renamed set is elsewhere on the same host; files are on others, which must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("grades/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, cache, token: token.and_then(Token::of), offline, offline_sets: offline, agent }
    }

    /// The Hub as the environment describes it to all its libraries: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN`
    /// or the token that `hf auth login` left, and `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`; for data sets also
    /// `HF_DATASETS_OFFLINE`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::described_by(|name| env::var(name).ok(), env::home_dir())
    }

    fn described_by(variable: impl Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| user.unwrap_or_default().join(".cache"));
            caches.join("huggingface")
        });
        let token = Token::found(set("HF_TOKEN"), || folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")));
        let yes = |value: String| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
        let offline = |name: &str| set(name).is_some_and(yes);
        let hub = Self::new(
            &set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            None,
            offline("HF_HUB_OFFLINE") || offline("TRANSFORMERS_OFFLINE"),
        );
        Self { token, offline_sets: hub.offline || offline("HF_DATASETS_OFFLINE"), ..hub }
    }

    /// The same without network: its cache alone.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { offline: true, offline_sets: true, ..self }
    }

    /// The data set `id` (`owner/name`) at a branch, tag or commit. Without `revision` it is the set as parquet that the Hub
    /// makes, or where it makes none (as of private sets) what was uploaded.
    ///
    /// # Errors
    /// There is no such set or revision, it may not be read, or neither the network nor the cache has it.
    pub fn data_set(&self, id: &str, revision: Option<&str>) -> Result<Snapshot<'_>, HubError> {
        let repo = Repo { kind: Kind::DataSet, id: id.to_owned() };
        self.open(repo, &revision.map_or_else(|| vec![CONVERTED, MAIN], |revision| vec![revision]))
    }

    /// The folder or file of a model: `path` itself, or if there is no such file or folder and it may be one on the Hub, where
    /// what is read of it was fetched to. `owner/name` is a model with its config, tokenizer and weights; of GGUF files one is
    /// fetched (or the parts of one), which `owner/name:Q4_K_M` or `owner/name:model-Q4_K_M.gguf` choose.
    ///
    /// # Errors
    /// As of [`data_set`](Self::data_set); the model has no weights that are read, or several GGUF files fit.
    pub fn model(&self, path: &Path) -> Result<PathBuf, HubError> {
        self.model_with(path, is_of_model)
    }

    /// The same without the weights, where these are no GGUF file, which describes itself.
    ///
    /// # Errors
    /// As of [`model`](Self::model).
    pub fn description(&self, path: &Path) -> Result<PathBuf, HubError> {
        self.model_with(path, |file| is_of_model(file) && !file.ends_with(".safetensors"))
    }

    fn model_with(&self, path: &Path, is_read: fn(&str) -> bool) -> Result<PathBuf, HubError> {
        let named = path.to_str().filter(|_| !path.exists()).and_then(gguf::named);
        let Some((id, choice)) = named else { return Ok(path.to_owned()) };
        let snapshot = self.open(Repo { kind: Kind::Model, id: id.to_owned() }, &[MAIN])?;
        // What a tokenizer was made from counts where there is no other.
        let has_tokenizer = snapshot.files.iter().any(|file| file == "tokenizer.json");
        let is_wanted = |file: &&String| is_read(file) || (!has_tokenizer && *file == "tokenizer.model");
        let wanted: Vec<&String> = snapshot.files.iter().filter(is_wanted).collect();
        if choice.is_some() || !snapshot.files.iter().any(|file| is_of_model(file) && file.ends_with(".safetensors")) {
            return snapshot.gguf(choice);
        }
        for file in wanted {
            match snapshot.fetch(file) {
                // Nothing but a card needs it.
                Err(_) if file == "README.md" => {}
                fetched => drop(fetched?),
            }
        }
        Ok(snapshot.folder())
    }

    /// The first of `revisions` that there is. What the cache has of a later one does not stand for an earlier one, unless
    /// the Hub says that it has none, or must not or cannot be asked.
    fn open(&self, repo: Repo, revisions: &[&str]) -> Result<Snapshot<'_>, HubError> {
        let mut unreachable = None;
        for (index, revision) in revisions.iter().enumerate() {
            if let Some(snapshot) = self.cached(&repo, revision) {
                return Ok(snapshot);
            }
            let last = index + 1 == revisions.len();
            if !self.is_offline(repo.kind) && unreachable.is_none() {
                match self.ask(&repo, revision) {
                    Err(HubError::NoRevision { .. } | HubError::NotThere { .. }) if !last => continue,
                    Err(error) if error.is_passing() => unreachable = Some(error),
                    answer => return answer,
                }
            }
            if let Some(snapshot) = self.left_by_others(&repo, revision) {
                if let Some(error) = unreachable.as_ref().filter(|_| snapshot.is_whole()) {
                    let (id, cache) = (&repo.id, self.cache.display());
                    warn_once(format!(
                        "{id}: what the cache {cache} has of it is used, as the Hub cannot be reached ({error})"
                    ));
                    return Ok(snapshot);
                }
                if unreachable.is_none() {
                    return Ok(snapshot);
                }
            }
        }
        Err(unreachable.unwrap_or(HubError::Offline { what: repo.id, cache: self.cache.clone() }))
    }

    fn is_offline(&self, kind: Kind) -> bool {
        match kind {
            Kind::Model => self.offline,
            Kind::DataSet => self.offline_sets,
        }
    }

    /// What the cache has, with the list of its files.
    fn cached(&self, repo: &Repo, revision: &str) -> Option<Snapshot<'_>> {
        let commit = self.commit(repo, revision)?;
        let listed = fs::read(self.folder(repo).join("files").join(format!("{commit}.json"))).ok()?;
        let files = serde_json::from_slice(&listed).ok()?;
        Some(Snapshot { hub: self, repo: repo.clone(), commit, files, listed: true })
    }

    /// What another program left in the cache: perhaps not all there is, so it counts only where the Hub does not tell.
    fn left_by_others(&self, repo: &Repo, revision: &str) -> Option<Snapshot<'_>> {
        let commit = self.commit(repo, revision)?;
        let files = files::walk(&self.folder(repo).join("snapshots").join(&commit)).ok()?;
        Some(Snapshot { hub: self, repo: repo.clone(), commit, files, listed: false })
    }

    /// The commit that the cache knows a revision as.
    fn commit(&self, repo: &Repo, revision: &str) -> Option<String> {
        let is_commit = revision.len() == 40 && is_commit(revision);
        let commit = if is_commit {
            revision.to_owned()
        } else {
            fs::read_to_string(self.folder(repo).join("refs").join(inside(revision)?)).ok()?.trim().to_owned()
        };
        self::is_commit(&commit).then_some(commit)
    }

    /// What the Hub has; its answer is kept.
    fn ask(&self, repo: &Repo, revision: &str) -> Result<Snapshot<'_>, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }

        let (kind, id) = (repo.kind.plural(), &repo.id);
        let url = format!("{}/api/{kind}/{id}/revision/{}", self.endpoint, encoded(revision, false));
        let mut answer = self.get(&url, repo, revision)?;
        let network = |reason: String| HubError::Network { id: id.clone(), url: url.clone(), reason };
        let text =
            answer.body_mut().with_config().limit(u64::MAX).read_to_string().map_err(|e| network(e.to_string()))?;
        let unclear = || network("the answer does not describe it".to_owned());
        let Answer { sha: commit, siblings } = serde_json::from_str(&text).map_err(|_| unclear())?;
        let reference = inside(revision).filter(|_| is_commit(&commit)).ok_or_else(unclear)?;
        let files: Vec<String> = siblings.into_iter().map(|file| file.rfilename).collect();

        let folder = self.folder(repo);
        let listed = serde_json::to_vec(&files).unwrap_or_default();
        write(&folder.join("files").join(format!("{commit}.json")), &mut listed.as_slice())?;
        let snapshot = folder.join("snapshots").join(&commit);
        fs::create_dir_all(&snapshot).map_err(HubError::cache(&snapshot))?;
        // Last, since a reference to a commit that is not there is a damaged cache to other programs.
        write(&folder.join("refs").join(reference), &mut commit.as_bytes())?;
        Ok(Snapshot { hub: self, repo: repo.clone(), commit, files, listed: true })
    }

    fn folder(&self, repo: &Repo) -> PathBuf {
        self.cache.join(format!("{}--{}", repo.kind.plural(), repo.id.replace('/', "--")))
    }

    /// What is at `url`, which is about `repo`.
    fn get(&self, url: &str, repo: &Repo, revision: &str) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", &**token));
        }
        let answer = request.call().map_err(|e| {
            let reason = e.to_string();
            HubError::Network { id: repo.id.clone(), url: url.to_owned(), reason }
        })?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(answer);
        }
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (page, what) = (repo.page(&self.endpoint), repo.kind.name());
        Err(match (status, header("X-Error-Code"), header("X-Error-Message")) {
            (_, "RevisionNotFound", _) => HubError::NoRevision { page, what, revision: revision.to_owned() },
            (_, "GatedRepo", _) | (403, ..) => HubError::Gated { page, what },
            (401, _, "Invalid credentials in Authorization header") => HubError::Token { page },
            // The Hub does not tell strangers what is private.
            (_, "RepoNotFound", _) | (401 | 404, "", _) => HubError::NotThere { id: repo.id.clone(), page, what },
            (_, _, message) => HubError::Refused { url: url.to_owned(), status, message: message.to_owned() },
        })
    }
}

/// What a name on the Hub stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    DataSet,
    Model,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::DataSet => "data set",
            Self::Model => "model",
        }
    }

    /// As in the Hub's addresses and in the cache.
    fn plural(self) -> &'static str {
        match self {
            Self::DataSet => "datasets",
            Self::Model => "models",
        }
    }
}

/// A data set or a model.
#[derive(Clone, Debug)]
struct Repo {
    kind: Kind,
    id: String,
}

impl Repo {
    /// Where it is shown, and below which its files are.
    fn page(&self, endpoint: &str) -> String {
        match self.kind {
            Kind::DataSet => format!("{endpoint}/datasets/{}", self.id),
            Kind::Model => format!("{endpoint}/{}", self.id),
        }
    }
}

/// A data set or model at one commit.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    hub: &'a Hub,
    repo: Repo,
    commit: String,
    files: Vec<String>,
    /// Whether `files` is what the Hub says it has, or only what is in the cache.
    listed: bool,
}

impl Snapshot<'_> {
    /// Its files, as paths within it.
    #[must_use]
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Where its files are in the cache.
    fn folder(&self) -> PathBuf {
        self.hub.folder(&self.repo).join("snapshots").join(&self.commit)
    }

    /// Whether what is there is enough to go on with: of a model its config, its tokenizer and all of its weights. Which files
    /// a set has cannot be told.
    fn is_whole(&self) -> bool {
        let has = |name: &str| self.files.iter().any(|file| file == name);
        match self.repo.kind {
            Kind::DataSet => !self.files.is_empty(),
            Kind::Model => {
                let weights =
                    has("model.safetensors") || self.shards().is_some_and(|shards| shards.iter().all(|s| has(s)));
                let gguf = self.files.iter().any(|file| file.ends_with(".gguf"));
                gguf || has("config.json") && (has("tokenizer.json") || has("tokenizer.model")) && weights
            }
        }
    }

    /// The files that the index of the weights names.
    fn shards(&self) -> Option<Vec<String>> {
        let index = fs::read(self.folder().join("model.safetensors.index.json")).ok()?;
        let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
        let shards = index.get("weight_map")?.as_object()?.values();
        shards.map(|shard| shard.as_str().map(str::to_owned)).collect()
    }

    /// Where `file`, one of its files, is in the cache; fetched if it is not there yet.
    ///
    /// # Errors
    /// It cannot be fetched or stored.
    pub fn fetch(&self, file: &str) -> Result<PathBuf, HubError> {
        let hub = self.hub;
        let url = format!("{}/resolve/{}/{}", self.repo.page(&hub.endpoint), self.commit, encoded(file, true));
        let network = |reason: String| HubError::Network { id: self.repo.id.clone(), url: url.clone(), reason };
        let within = inside(file).ok_or_else(|| network("a path that leaves its folder".to_owned()))?;
        let path = self.folder().join(within);
        if path.is_file() {
            return Ok(path);
        }
        if hub.is_offline(self.repo.kind) {
            return Err(HubError::Offline { what: format!("{file} of {}", self.repo.id), cache: hub.cache.clone() });
        }
        let answer = hub.get(&url, &self.repo, &self.commit)?;
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
        let bar = ProgressBar::new(answer.body().content_length().unwrap_or_default())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(file.to_owned());
        let mut reader = Noted { body: bar.wrap_read(answer.into_body().into_reader()), failure: None };
        let written = write(&path, &mut reader);
        bar.finish_and_clear();
        match reader.failure {
            Some(reason) => Err(network(reason)),
            None => written.map(|()| path),
        }
    }
}

/// Keeps why reading failed, to tell it from a failure to write.
struct Noted<R> {
    body: R,
    failure: Option<String>,
}

impl<R: io::Read> io::Read for Noted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).inspect_err(|error| self.failure = Some(error.to_string()))
    }
}

/// Writes a file of the cache, whole or not at all.
fn write(path: &Path, contents: &mut dyn io::Read) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(HubError::cache(folder))?;
    grades_fs::write_from(path, contents).map_err(|error| HubError::cache(path)(error.source))
}

/// Whether a path may mean something on the Hub: `owner/name`, and nothing that only files are called.
pub(crate) fn is_id(path: &str) -> bool {
    let extension = files::extension(Path::new(path));
    is_name(path) && (extension.is_empty() || !extension.chars().all(|letter| letter.is_ascii_alphabetic()))
}

/// Whether a text is `owner/name` as the Hub allows it.
pub(crate) fn is_name(text: &str) -> bool {
    let part = |text: &str| {
        let of_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.chars().all(of_name)
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// Whether a file of a model on the Hub is its config, of its tokenizer, or holds weights. There may be more, as the weights
/// once again in other formats.
fn is_of_model(file: &str) -> bool {
    let json = |start: &str| file.starts_with(start) && file.ends_with(".json");
    let weights = file.starts_with("model") && file.ends_with(".safetensors");
    let named = [
        // The license, for the card of what is made of it.
        "README.md",
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "preprocessor_config.json",
        "processor_config.json",
    ];
    let more =
        named.contains(&file) || file.starts_with("chat_template.") || json("tokenizer") || json("model.safetensors");
    !file.contains('/') && (weights || more)
}

/// Whether a text is a commit's name and no path.
fn is_commit(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A path, if it stays within the folder that it is joined to.
fn inside(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    (stays && path.file_name().is_some()).then_some(path)
}

/// A path as a part of a URL, with or without its slashes.
fn encoded(path: &str, slashes: bool) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            b'/' if slashes => text.push('/'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
