//! Requests to the Hub and to the store behind it, repeated where they may succeed the next time. The Hub alone gets the token.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body, SendBody};

use super::UploadError;
use crate::hub::{Hub, PATIENCE};

/// How often a request is sent at most.
const ATTEMPTS: u32 = 6;

/// The wait before the second attempt; before each further one it is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest wait, also where the Hub asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often a request follows to where the Hub has moved a renamed repository.
const MOVES: usize = 3;

/// The media type of Git LFS.
const LFS: &str = "application/vnd.git-lfs+json";

/// The address of the Hub in what it answers, also where it is reached at another.
const PUBLIC: &str = "https://huggingface.co";

/// What is sent.
pub(super) enum Payload<'a> {
    None,
    /// Bytes of this media type.
    Bytes(&'a str, &'a [u8]),
    /// JSON of Git LFS's protocol.
    Lfs(String),
    /// `length` bytes of a file, from its byte `from` on.
    Part {
        path: &'a Path,
        from: u64,
        length: u64,
        bar: &'a ProgressBar,
    },
}

/// Who asks.
#[derive(Clone, Copy)]
enum Who<'a> {
    /// The owner of the token, as far as it is the Hub that is asked.
    Known,
    /// Nobody, with these headers.
    Unknown(&'a [(&'a str, &'a str)]),
}

/// Requests about one repository.
pub(super) struct Requests<'a> {
    pub(super) hub: &'a Hub,
    /// Where the repository is shown.
    pub(super) page: String,
    agent: Agent,
}

impl<'a> Requests<'a> {
    pub(super) fn new(hub: &'a Hub, page: String) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            // A commit of many files, or the store's assembly of a large one, takes a while.
            .timeout_recv_response(Some(10 * PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .timeout_per_write(Some(PATIENCE))
            // What is sent is sent again here, so that nothing follows to another host with the token.
            .max_redirects(0)
            .user_agent(concat!("grades/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { hub, page, agent }
    }

    /// Posts JSON to the Hub.
    pub(super) fn post(&self, url: &str, body: &Value) -> Result<Response<Body>, UploadError> {
        self.send("POST", url, &Payload::Bytes("application/json", body.to_string().as_bytes()))
    }

    /// Asks the Hub until it answers; an answer that is no success is an error.
    pub(super) fn send(&self, method: &str, url: &str, payload: &Payload<'_>) -> Result<Response<Body>, UploadError> {
        self.patiently(|| self.once(method, url, payload))
    }

    /// The same, once.
    pub(super) fn once(&self, method: &str, url: &str, payload: &Payload<'_>) -> Result<Response<Body>, UploadError> {
        let mut url = url.to_owned();
        for _ in 0..MOVES {
            let answer = self.call(method, &url, Who::Known, payload)?;
            match moved(&answer, &self.hub.endpoint).filter(|_| matches!(answer.status().as_u16(), 307 | 308)) {
                Some(to) => url = to,
                None if answer.status().is_success() => return Ok(answer),
                None => return Err(UploadError::of_hub(answer, &url, &self.page, self.hub.token.as_deref())),
            }
        }
        Err(self.unclear("it sends from one address to the next"))
    }

    /// Tells the store something: a piece of a file, or that all have come. The address says who may; the token stays here.
    pub(super) fn store(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
    ) -> Result<Response<Body>, UploadError> {
        self.patiently(|| {
            let answer = self.call(method, url, Who::Unknown(headers), payload)?;
            if answer.status().is_success() { Ok(answer) } else { Err(UploadError::of_store(&answer, url)) }
        })
    }

    fn patiently<T>(&self, send: impl Fn() -> Result<T, UploadError>) -> Result<T, UploadError> {
        let mut attempt = 1;
        loop {
            match send() {
                Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                    let asked = error.asked_pause().map(|asked| asked.min(LONGEST_PAUSE));
                    thread::sleep(asked.unwrap_or_default().max(self.pause(attempt)));
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// The wait after this attempt has failed.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        if cfg!(test) { Duration::from_millis(1) } else { (PAUSE * 2u32.pow(attempt - 1)).min(LONGEST_PAUSE) }
    }

    fn call(
        &self,
        method: &str,
        url: &str,
        who: Who<'_>,
        payload: &Payload<'_>,
    ) -> Result<Response<Body>, UploadError> {
        let cut = |reason: String| UploadError::network(url, reason);
        let mut request = Request::builder().method(method).uri(url);
        match (who, self.hub.token.as_deref()) {
            (Who::Known, Some(token)) if self.is_of_hub(url) => {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            (Who::Known, _) => {}
            (Who::Unknown(headers), _) => {
                request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            }
        }
        let answer = match payload {
            Payload::None => self.agent.run(request.body(()).map_err(|error| cut(error.to_string()))?),
            Payload::Bytes(kind, bytes) => {
                let request = request.header("Content-Type", *kind).body(*bytes);
                self.agent.run(request.map_err(|error| cut(error.to_string()))?)
            }
            Payload::Lfs(text) => {
                let request = request.header("Accept", LFS).header("Content-Type", LFS).body(text);
                self.agent.run(request.map_err(|error| cut(error.to_string()))?)
            }
            Payload::Part { path, from, length, bar } => {
                let mut file = File::open(path).map_err(UploadError::file(path))?;
                file.seek(SeekFrom::Start(*from)).map_err(UploadError::file(path))?;
                let before = bar.position();
                let mut reader = bar.wrap_read(Exactly { file, left: *length });
                let request = request.header("Content-Length", length.to_string());
                let request =
                    request.body(SendBody::from_reader(&mut reader)).map_err(|error| cut(error.to_string()))?;
                let answer = self.agent.run(request);
                if answer.as_ref().map_or(true, |answer| !answer.status().is_success()) {
                    bar.set_position(before);
                }
                answer
            }
        };
        answer.map_err(|error| cut(error.to_string()))
    }

    /// Whether an address is the Hub's own, which alone may see the token.
    fn is_of_hub(&self, url: &str) -> bool {
        url.strip_prefix(&self.hub.endpoint).is_some_and(|rest| rest.starts_with('/'))
    }

    /// An address that the Hub gives, at the one where it is reached.
    pub(super) fn at_endpoint(&self, url: &str) -> String {
        match url.strip_prefix(PUBLIC) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.hub.endpoint),
            _ => url.to_owned(),
        }
    }

    /// An answer's JSON.
    pub(super) fn read<T: DeserializeOwned>(&self, mut answer: Response<Body>) -> Result<T, UploadError> {
        let text = answer.body_mut().with_config().limit(u64::MAX).read_to_string();
        let text = text.map_err(|error| UploadError::network(&self.page, error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| self.unclear(&error.to_string()))
    }

    /// The Hub answers what is none.
    pub(super) fn unclear(&self, problem: &str) -> UploadError {
        UploadError::Unclear { page: self.page.clone(), problem: problem.to_owned() }
    }
}

/// Where a repository has gone, as long as that is on the same Hub.
fn moved(answer: &Response<Body>, endpoint: &str) -> Option<String> {
    let to = answer.headers().get("location")?.to_str().ok()?;
    let to = if to.starts_with('/') { format!("{endpoint}{to}") } else { to.to_owned() };
    to.strip_prefix(endpoint).is_some_and(|rest| rest.starts_with('/')).then_some(to)
}

/// So many bytes of a file: one that has become shorter is an error, not a shorter body.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        self.left -= read as u64;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter meanwhile"));
        }
        Ok(read)
    }
}
