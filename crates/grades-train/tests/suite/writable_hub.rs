//! A Hugging Face Hub that models are uploaded to, with a store of large files on another port, on this machine.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A server that answers as long as the test runs.
pub(crate) struct WritableHub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

/// What the Hub has, and what happened.
#[derive(Default)]
pub(crate) struct State {
    /// The only token that may write; none where any does.
    pub(crate) token: Option<String>,
    /// Repositories with what their creation said.
    pub(crate) repositories: BTreeMap<String, Value>,
    pub(crate) branches: Vec<String>,
    /// Files of the last commits, by branch and path: contents, or the name of what the store has.
    pub(crate) files: BTreeMap<(String, String), Contents>,
    /// Each commit's first line.
    pub(crate) commits: Vec<Value>,
    /// Large files by name; with those that have not arrived whole.
    pub(crate) stored: HashMap<String, Vec<u8>>,
    parts: BTreeMap<(String, u64), Vec<u8>>,
    /// Large files in parts of so many bytes.
    pub(crate) chunk_size: Option<usize>,
    /// `METHOD path` of every request with its body's length, in order, and the token that it had.
    pub(crate) requests: Vec<(String, usize, Option<String>)>,
    /// What goes wrong, by the beginning of `METHOD path`; each once.
    pub(crate) faults: Vec<(&'static str, Fault)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Here(Vec<u8>),
    Stored(String),
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Such as `503 Service Unavailable`, with whole lines of headers and a body.
    Answer(&'static str, &'static str, &'static str),
    /// The connection ends while the request is read.
    CutRequest,
    /// What was asked for is done, and the answer gets lost.
    CutAnswer,
}

impl WritableHub {
    pub(crate) fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (hub, store) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (endpoint, store_address) = (address(&hub), address(&store));
        for listener in [hub, store] {
            let (state, store) = (state.clone(), store_address.clone());
            let endpoint = endpoint.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (state, store, endpoint) = (state.clone(), store.clone(), endpoint.clone());
                    std::thread::spawn(move || answer(stream.unwrap(), &state, &endpoint, &store));
                }
            });
        }
        Self { endpoint, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call, as `METHOD path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests).into_iter().map(|(request, ..)| request).collect()
    }

    /// What a branch has, by path.
    pub(crate) fn files(&self, branch: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let of = state.files.iter().filter(|((of, _), _)| of == branch);
        of.map(|((_, path), contents)| {
            let contents = match contents {
                Contents::Here(contents) => contents.clone(),
                Contents::Stored(oid) => state.stored[oid].clone(),
            };
            (path.clone(), contents)
        })
        .collect()
    }
}

/// Reads one request and answers it.
fn answer(stream: TcpStream, state: &Mutex<State>, endpoint: &str, store: &str) {
    let mut out = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let request = head[0].rsplit_once(' ').unwrap().0.to_owned();
    let header = |name: &str| {
        let of = |line: &&String| line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        head[1..].iter().find(of).map(|line| line[name.len() + 1..].trim().to_owned())
    };
    let fault = {
        let faults = &mut state.lock().unwrap().faults;
        let at = faults.iter().position(|(start, _)| request.starts_with(start));
        at.map(|at| faults.remove(at).1)
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    let token = header("authorization");
    if matches!(fault, Some(Fault::CutRequest)) {
        let _ = reader.read(&mut [0; 3]);
        state.lock().unwrap().requests.push((request + " cut", 0, token));
        return;
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let mut state = state.lock().unwrap();
    state.requests.push((request.clone(), length, token.clone()));
    if let Some(Fault::Answer(status, headers, said)) = &fault {
        return reply(&mut out, status, headers, said.as_bytes());
    }
    let (status, headers, said) = state.act(&request, token.as_deref(), &body, endpoint, store);
    drop(state);
    if fault.is_none() {
        reply(&mut out, status, &headers, &said);
    }
}

fn reply(out: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = out.write_all(&[head.as_bytes(), body].concat());
}

type Reply = (&'static str, String, Vec<u8>);

fn ok(value: &Value) -> Reply {
    ("200 OK", String::new(), value.to_string().into_bytes())
}

impl State {
    fn act(&mut self, request: &str, token: Option<&str>, body: &[u8], endpoint: &str, store: &str) -> Reply {
        let (method, address) = request.split_once(' ').unwrap();
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let refused = |status, said: &str| (status, String::new(), json!({ "error": said }).to_string().into_bytes());
        if let ("PUT", Some(rest)) = (method, path.strip_prefix("/store/")) {
            // Pre-signed: the address says who may do it.
            if query != "signature=secret-of-the-store" || token.is_some() {
                return refused("403 Forbidden", "only one way of authentication");
            }
            match rest.split_once('/') {
                None => drop(self.stored.insert(rest.to_owned(), body.to_vec())),
                Some((oid, part)) => {
                    self.parts.insert((oid.to_owned(), part.parse().unwrap()), body.to_vec());
                }
            }
            return ("200 OK", "ETag: \"tag\"\r\n".to_owned(), Vec::new());
        }
        let known = self.token.as_ref().is_none_or(|known| token == Some(&format!("Bearer {known}")));
        if !known && !path.starts_with("/complete/") {
            return refused("401 Unauthorized", "Invalid username or password.");
        }
        let json = || serde_json::from_slice::<Value>(body).unwrap();
        match path.trim_start_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["api", "repos", "create"] => {
                let wanted = json();
                let id = format!("{}/{}", wanted["organization"].as_str().unwrap(), wanted["name"].as_str().unwrap());
                if self.repositories.contains_key(&id) {
                    return refused("409 Conflict", "You already created this model repo");
                }
                self.repositories.insert(id.clone(), wanted);
                ok(&json!({ "url": format!("{endpoint}/{id}") }))
            }
            ["api", "models", _, _, "branch", branch] => {
                self.branches.push((*branch).to_owned());
                ok(&json!({}))
            }
            ["api", "models", _, _, "preupload", branch] => {
                let mode = |path: &str| {
                    let large = [".safetensors", ".gguf", ".bin"].iter().any(|end| path.ends_with(end));
                    if large { "lfs" } else { "regular" }
                };
                let asked = json();
                let describe = |file: &Value| {
                    let path = file["path"].as_str().unwrap();
                    let there = self.files.get(&((*branch).to_owned(), path.to_owned()));
                    let oid = there.map(|contents| match contents {
                        Contents::Here(contents) => git_name(contents),
                        Contents::Stored(oid) => oid.clone(),
                    });
                    json!({ "path": path, "uploadMode": mode(path), "shouldIgnore": path.ends_with(".tmp"), "oid": oid })
                };
                ok(&json!({ "files": asked["files"].as_array().unwrap().iter().map(describe).collect::<Vec<_>>() }))
            }
            [_, git, "info", "lfs", "objects", "batch"] if git.ends_with(".git") => {
                let describe = |object: &Value| {
                    let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
                    if self.stored.contains_key(oid) {
                        return json!({ "oid": oid, "size": size });
                    }
                    let place = |part: &str| format!("{store}/store/{oid}{part}?signature=secret-of-the-store");
                    let upload = match self.chunk_size.filter(|chunk| size > *chunk) {
                        None => json!({ "href": place("") }),
                        Some(chunk) => {
                            let mut header = json!({ "chunk_size": chunk.to_string() });
                            (1..=size.div_ceil(chunk)).for_each(|part| {
                                header[part.to_string()] = place(&format!("/{part}")).into();
                            });
                            json!({ "href": format!("https://huggingface.co/complete/{oid}"), "header": header })
                        }
                    };
                    let verify = json!({ "href": "https://huggingface.co/verify" });
                    json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
                };
                ok(
                    &json!({ "objects": json()["objects"].as_array().unwrap().iter().map(describe).collect::<Vec<_>>() }),
                )
            }
            ["complete", oid] => {
                let parts = json()["parts"].as_array().unwrap().clone();
                let whole: Vec<u8> =
                    (1..=parts.len() as u64).flat_map(|part| self.parts[&((*oid).to_owned(), part)].clone()).collect();
                assert!(parts.iter().all(|part| part["etag"] == "\"tag\""));
                self.stored.insert((*oid).to_owned(), whole);
                ok(&json!({}))
            }
            ["verify"] => {
                let told = json();
                let there = self.stored.get(told["oid"].as_str().unwrap());
                match there.filter(|contents| contents.len() as u64 == told["size"].as_u64().unwrap()) {
                    Some(_) => ok(&json!({})),
                    None => refused("422 Unprocessable Entity", "it has not arrived"),
                }
            }
            ["api", "models", owner, name, "commit", branch] => {
                self.commit(body, (owner, name), branch, query, endpoint)
            }
            ["api", "models", owner, name] if self.repositories.contains_key(&format!("{owner}/{name}")) => {
                ok(&json!({}))
            }
            _ => ("404 Not Found", "X-Error-Code: RepoNotFound\r\n".to_owned(), Vec::new()),
        }
    }

    fn commit(&mut self, body: &[u8], id: (&str, &str), branch: &str, query: &str, endpoint: &str) -> Reply {
        let page = format!("{endpoint}/{}/{}", id.0, id.1);
        let branch = if query == "create_pr=1" { "refs/pr/1" } else { branch };
        for line in std::str::from_utf8(body).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let value = &line["value"];
            let path = || (branch.to_owned(), value["path"].as_str().unwrap().to_owned());
            match line["key"].as_str().unwrap() {
                "header" => self.commits.push(value.clone()),
                "file" => {
                    let contents = STANDARD.decode(value["content"].as_str().unwrap()).unwrap();
                    self.files.insert(path(), Contents::Here(contents));
                }
                "lfsFile" => {
                    let oid = value["oid"].as_str().unwrap();
                    assert_eq!(self.stored[oid].len() as u64, value["size"].as_u64().unwrap());
                    self.files.insert(path(), Contents::Stored(oid.to_owned()));
                }
                other => panic!("{other}"),
            }
        }
        let oid = format!("{:040x}", self.commits.len());
        ok(&json!({
            "commitUrl": format!("{page}/commit/{oid}"), "commitOid": oid,
            "pullRequestUrl": format!("{page}/discussions/1"),
        }))
    }
}

/// What Git calls contents.
fn git_name(contents: &[u8]) -> String {
    let mut whole = format!("blob {}\0", contents.len()).into_bytes();
    whole.extend(contents);
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &whole);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
