//! A Hugging Face Hub with one data set or model, on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A server that answers as long as the test runs, and notes what it was asked for.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
    routes: Arc<Mutex<Vec<(String, Answer)>>>,
}

/// What the server says to a path.
#[derive(Clone)]
pub(crate) struct Answer {
    /// Such as `200 OK`.
    pub(crate) status: &'static str,
    /// Whole lines.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// How many bytes the body is said to have beyond those that are sent.
    pub(crate) missing: usize,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: "200 OK", headers: Vec::new(), body: body.into(), missing: 0 }
    }

    pub(crate) fn refusal(status: &'static str, code: &str) -> Self {
        Self { status, headers: vec![format!("X-Error-Code: {code}")], body: b"no".to_vec(), missing: 0 }
    }
}

impl FakeHub {
    pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Serves the data set `id` with `files` at `revision` (as it stands in a URL).
    pub(crate) fn new(id: &str, revision: &str, files: &[(&str, &[u8])]) -> Self {
        Self::serve(&format!("datasets/{id}"), &format!("datasets/{id}"), revision, files)
    }

    /// Serves the model `id` with `files`.
    pub(crate) fn with_model(id: &str, files: &[(&str, &[u8])]) -> Self {
        Self::serve(&format!("models/{id}"), id, "main", files)
    }

    fn serve(api: &str, page: &str, revision: &str, files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            requests: Arc::default(),
            routes: Arc::default(),
        };
        let names: Vec<String> = files.iter().map(|(name, _)| format!(r#"{{"rfilename": "{name}"}}"#)).collect();
        let listing = format!(r#"{{"id": "{page}", "sha": "{}", "siblings": [{}]}}"#, Self::COMMIT, names.join(", "));
        hub.answer(&format!("/api/{api}/revision/{revision}"), Answer::ok(listing));
        for (name, bytes) in files {
            hub.answer(&format!("/{page}/resolve/{}/{name}", Self::COMMIT), Answer::ok(*bytes));
        }
        let (requests, routes) = (hub.requests.clone(), hub.routes.clone());
        let known = format!("/api/{api}/");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let token = headers.iter().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
                requests.lock().unwrap().push(match token {
                    Some(token) => format!("{path} {token}"),
                    None => path.clone(),
                });
                let code = if path.starts_with(&known) { "RevisionNotFound" } else { "RepoNotFound" };
                let route = routes.lock().unwrap().iter().rev().find(|(route, _)| *route == path).cloned();
                let answer = route.map_or_else(|| Answer::refusal("404 Not Found", code), |(_, answer)| answer);
                let length = answer.body.len() + answer.missing;
                let mut text =
                    format!("HTTP/1.1 {}\r\nContent-Length: {length}\r\nConnection: close\r\n", answer.status);
                answer.headers.iter().for_each(|line| text.push_str(&format!("{line}\r\n")));
                // The reader may be gone already.
                let _ = stream.write_all(&[text.as_bytes(), b"\r\n", &answer.body].concat());
            }
        });
        hub
    }

    /// Says something else to a path from now on.
    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.routes.lock().unwrap().push((path.to_owned(), answer));
    }

    /// What was asked for since the last call, with the token.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}
