//! One client's connection: requests in, answers out, one after the other.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use super::api::{Asked, Kind, Reply};
use super::error::ApiError;
use super::http::{self, Events, Head, HttpError};
use super::queue::{Event, ending};

/// How long a connection may stay without a request, a head and a body may take, and an answer may wait to be taken.
const IDLE: Duration = Duration::from_secs(60);
const HEAD: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(60);
const WRITE: Duration = Duration::from_secs(30);
/// How often who waits looks whether there is still a reason to.
const GLANCE: Duration = Duration::from_millis(100);
/// What is still read of a client that was refused, so that it gets to read why.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 4 << 20);

/// The bytes of a client, until some time.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: &'a Cell<Instant>,
    shared: &'a Shared<'a>,
    /// Whether it is between two requests, where the server's end ends it.
    between: &'a Cell<bool>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.get().saturating_duration_since(Instant::now());
            if left.is_zero() || (self.between.get() && self.shared.ends()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left.min(GLANCE).max(Duration::from_millis(1))))?;
            match (&mut &*self.stream).read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// Answers what comes over a connection until it ends.
pub(super) fn serve(stream: &TcpStream, shared: &Shared<'_>) {
    // A failure here is one of the connection, as any later.
    let _ = stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(WRITE)));
    let (until, between) = (Cell::new(Instant::now() + IDLE), Cell::new(true));
    let mut input = BufReader::new(Timed { stream, until: &until, shared, between: &between });
    loop {
        until.set(Instant::now() + IDLE);
        between.set(true);
        if !input.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) {
            return;
        }
        between.set(false);
        match one(&mut input, &until, stream, shared) {
            Ok(true) => {}
            Ok(false) | Err(HttpError::Gone(_)) => break,
            Err(HttpError::Refused(error)) => {
                let _ = http::answer(&mut &*stream, error.status, &error.body().to_string(), false);
                break;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    until.set(Instant::now() + LINGER.0);
    let _ = io::copy(&mut input.take(LINGER.1), &mut io::sink());
}

/// Reads and answers one request; whether another may follow.
fn one(
    input: &mut BufReader<Timed<'_>>,
    until: &Cell<Instant>,
    stream: &TcpStream,
    shared: &Shared<'_>,
) -> Result<bool, HttpError> {
    until.set(Instant::now() + HEAD);
    let Some(head) = http::read_head(input)? else { return Ok(false) };
    // Before the body: who has no key has none of it read.
    if head.path != "/health" && !shared.admits(head.key.as_deref()) {
        let message = "the API key is missing or wrong; send it as `Authorization: Bearer …`";
        return Err(HttpError::Refused(ApiError::new(401, "invalid_api_key", message)));
    }
    if head.waits && head.length <= shared.options.max_body {
        http::go_on(&mut &*stream)?;
    }
    until.set(Instant::now() + BODY);
    let body = http::read_body(input, &head, shared.options.max_body)?;
    let answer = match route(&head, shared) {
        Ok(Route::Told(answer)) => Ok(answer),
        Ok(Route::Write(kind)) => match write(kind, &head, &body, stream, shared) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => return Ok(head.stays && head.chunks),
            Err(Unanswered::Gone) => return Ok(false),
            Err(Unanswered::Failed(error)) => Err(error),
        },
        Err(error) => Err(error),
    };
    let stays = head.stays && !shared.ends();
    let (status, answer) = match answer {
        Ok(answer) => (200, answer),
        Err(error) => (error.status, error.body()),
    };
    http::answer(&mut &*stream, status, &answer.to_string(), stays)?;
    Ok(stays)
}

/// What a path stands for.
enum Route {
    /// Something that is known.
    Told(Value),
    /// Texts that are to be written.
    Write(Kind),
}

fn route(head: &Head, shared: &Shared<'_>) -> Result<Route, ApiError> {
    let model =
        || json!({ "id": shared.options.name, "object": "model", "created": shared.created, "owned_by": "grades" });
    let (method, route) = match head.path.as_str() {
        "/health" => ("GET", Route::Told(json!({ "status": "ok" }))),
        "/v1/models" => ("GET", Route::Told(json!({ "object": "list", "data": [model()] }))),
        "/v1/chat/completions" => ("POST", Route::Write(Kind::Chat)),
        "/v1/completions" => ("POST", Route::Write(Kind::Completion)),
        path => match path.strip_prefix("/v1/models/") {
            Some(name) if name == shared.options.name => ("GET", Route::Told(model())),
            Some(name) => return Err(shared.unknown_model(name)),
            None => {
                let message = format!(
                    "there is nothing at {path:?}; known are /v1/chat/completions, /v1/completions, /v1/models and /health"
                );
                return Err(ApiError::new(404, "unknown_url", message));
            }
        },
    };
    if head.method != method {
        return Err(ApiError::new(405, "wrong_method", format!("{} is asked for with {method}", head.path)));
    }
    if method == "POST" && !head.is_json {
        // Pages in a browser may send anything else anywhere without asking first.
        let message = "the body must be JSON, and say so: `Content-Type: application/json`";
        return Err(ApiError::new(415, "unsupported_media_type", message));
    }
    Ok(route)
}

/// Why there is no answer.
enum Unanswered {
    /// The client has gone.
    Gone,
    /// Something is wrong.
    Failed(ApiError),
}

impl From<ApiError> for Unanswered {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Unanswered {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// What is being written for a client, until it is dropped.
struct Pending<'a> {
    events: Receiver<(usize, Event)>,
    gone: Arc<AtomicBool>,
    stream: &'a TcpStream,
    shared: &'a Shared<'a>,
    until: Instant,
    /// When it was last looked whether the client is still there.
    looked: Cell<Instant>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.gone.store(true, Relaxed);
    }
}

impl Pending<'_> {
    fn next(&self) -> Result<(usize, Event), Unanswered> {
        loop {
            // Also while tokens come one upon another: a text that is written fast has its limits, too.
            self.check()?;
            match self.events.recv_timeout(GLANCE) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return Err(ending().into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether there is still a reason to wait.
    fn check(&self) -> Result<(), Unanswered> {
        let now = Instant::now();
        if now.duration_since(self.looked.get()) >= GLANCE {
            self.looked.set(now);
            if has_left(self.stream) {
                return Err(Unanswered::Gone);
            }
        }
        if self.shared.must_end() {
            return Err(ending().into());
        }
        if now > self.until {
            let seconds = self.shared.options.timeout.as_secs();
            let message = format!("the answer took more than {seconds} s; ask for fewer tokens, or try again later");
            return Err(ApiError::new(504, "timeout", message).into());
        }
        Ok(())
    }
}

/// Whether a client that waits has ended its connection.
fn has_left(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let left = match stream.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || left
}

/// Has texts written and answers with them, all at once, or as they are written; then there is nothing left to answer.
fn write(
    kind: Kind,
    head: &Head,
    body: &[u8],
    stream: &TcpStream,
    shared: &Shared<'_>,
) -> Result<Option<Value>, Unanswered> {
    let asked = Asked::parse(kind, body)?;
    let (gone, (events, received)) = (Arc::new(AtomicBool::new(false)), channel());
    let (prompts, jobs) = shared.jobs(&asked, &events, &gone)?;
    drop(events);
    let now = Instant::now();
    let until = now + shared.options.timeout;
    let pending = Pending { events: received, gone, stream, shared, until, looked: Cell::new(now) };
    shared.queue.push(jobs)?;
    let mut reply = Reply::new(&asked, prompts, &shared.options.name, shared.loaded.tokenizer);
    if asked.options.stream {
        return stream_reply(&pending, &mut reply, head).map(|()| None);
    }
    while !reply.is_whole() {
        let (index, event) = pending.next()?;
        reply.take(index, event)?;
    }
    Ok(Some(reply.whole()))
}

fn stream_reply(pending: &Pending<'_>, reply: &mut Reply<'_>, head: &Head) -> Result<(), Unanswered> {
    // What goes wrong before the first event has a status of its own.
    let first = pending.next()?;
    let mut output = pending.stream;
    let mut events = Events::begin(&mut output, head)?;
    let mut next = Ok(first);
    loop {
        let chunks = next.and_then(|(index, event)| Ok(reply.chunks(index, event)?));
        match chunks {
            Ok(chunks) => chunks.iter().try_for_each(|chunk| events.send(&chunk.to_string()))?,
            Err(Unanswered::Gone) => return Err(Unanswered::Gone),
            Err(Unanswered::Failed(error)) => {
                events.send(&error.body().to_string())?;
                break;
            }
        }
        if reply.is_whole() {
            events.send("[DONE]")?;
            break;
        }
        next = pending.next();
    }
    Ok(events.end()?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_client_that_ends_its_connection_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert!(!has_left(&stream));
        client.shutdown(Shutdown::Write).unwrap();
        // The end is on its way.
        while !has_left(&stream) {
            std::thread::yield_now();
        }
    }
}
