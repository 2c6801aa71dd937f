//! A model behind OpenAI's API: `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`.
//!
//! A connection has a thread, which reads a request ([`http`]), understands it (`api`), and puts the texts that are to be written
//! into the queue. The one thread that has the model (`scheduler`) writes those of all requests together and sends each piece to the
//! connection that waits for it.

mod api;
mod connection;
mod error;
pub mod http;
mod logprobs;
mod queue;
mod request;
mod scheduler;
mod sequence;
mod stop_strings;

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::loaded::Loaded;
use crate::train::{Interrupt, TrainError};

pub use error::ApiError;
use queue::Queue;
use request::Served;
use scheduler::Scheduler;

/// How long texts may still be written after the server was asked to end.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether it was.
const GLANCE: Duration = Duration::from_millis(50);
/// Connections beside those of requests that are written or wait.
const SPARE_CONNECTIONS: usize = 32;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name or address of this machine under which it is reached.
    pub host: String,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// What clients must show.
    pub api_key: Option<String>,
    /// What the model is called.
    pub name: String,
    /// Most tokens of an answer, and how many it may have where a request does not say.
    pub max_new_tokens: usize,
    /// Most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// Most texts that are written at a time.
    pub parallel: usize,
    /// Most texts that wait.
    pub max_queue: usize,
    /// The longest that an answer may take, the wait included.
    pub timeout: Duration,
    /// Most bytes of a request.
    pub max_body: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            api_key: None,
            name: "model".to_owned(),
            max_new_tokens: 1024,
            max_prompt_tokens: 4096,
            parallel: 8,
            max_queue: 64,
            timeout: Duration::from_secs(600),
            max_body: 8 << 20,
        }
    }
}

/// A server that has its port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
}

/// What all connections see.
struct Shared<'a> {
    options: Options,
    loaded: Served<'a>,
    queue: Queue,
    /// When the server ends, once it is asked to.
    end: OnceLock<Instant>,
    created: u64,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// The host is not known, or the port is another program's.
    pub fn bind(options: Options) -> Result<Self, TrainError> {
        let at = (options.host.as_str(), options.port);
        let failed = |error: std::io::Error| {
            TrainError::Other(format!(
                "{}:{} cannot be listened to ({error}); choose another --host or --port",
                at.0, at.1
            ))
        };
        let addresses: Vec<SocketAddr> = at.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, options })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `interrupt` is heard, and then for some seconds those that are being answered.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn run(self, loaded: &Loaded, interrupt: &Interrupt) -> Result<(), TrainError> {
        let Self { listener, address, options } = self;
        let shared = Shared {
            queue: Queue::new(options.max_queue),
            loaded: Served::of(loaded)?,
            end: OnceLock::new(),
            created: grades_models::calendar::now().as_secs(),
            options,
        };
        let mut scheduler = Scheduler::new(loaded, shared.options.parallel);
        interrupt.begin();
        thread::scope(|scope| {
            let shared = &shared;
            scope.spawn(move || {
                while interrupt.heard().is_none() {
                    thread::sleep(GLANCE);
                }
                let _ = shared.end.set(Instant::now() + GRACE);
                shared.queue.close();
                // So that who waits for connections looks up.
                let _ = TcpStream::connect_timeout(&reachable(address), Duration::from_secs(1));
            });
            scope.spawn(move || accept(scope, &listener, shared));
            scheduler.run(&shared.queue);
        });
        interrupt.end();
        Ok(())
    }
}

/// Reads a client's bytes as a request, and what its body asks for, of which at most `most` bytes are read: all that comes before a
/// model.
///
/// # Errors
/// It is none, or not one of the API.
pub fn understand(mut bytes: &[u8], most: u64) -> Result<(), http::HttpError> {
    let Some(head) = http::read_head(&mut bytes)? else { return Ok(()) };
    let body = http::read_body(&mut bytes, &head, most)?;
    let kind = if head.path.ends_with("/chat/completions") { api::Kind::Chat } else { api::Kind::Completion };
    api::Asked::parse(kind, &body).map(|_| ()).map_err(http::HttpError::Refused)
}

/// An address that leads to a server which listens to every one of this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1_u16].into() });
    }
    address
}

/// Gives each connection a thread, up to as many as there may be.
fn accept<'scope>(scope: &'scope thread::Scope<'scope, '_>, listener: &TcpListener, shared: &'scope Shared<'_>) {
    let open = Arc::new(AtomicUsize::new(0));
    let most = shared.options.parallel + shared.options.max_queue + SPARE_CONNECTIONS;
    for stream in listener.incoming() {
        if shared.ends() {
            return;
        }
        let Ok(stream) = stream else {
            // Most likely there are too many open files.
            thread::sleep(GLANCE);
            continue;
        };
        if open.fetch_add(1, SeqCst) >= most {
            open.fetch_sub(1, SeqCst);
            let error = ApiError::unavailable("overloaded", "there are too many connections; try again later");
            let _ = stream.set_write_timeout(Some(GLANCE));
            let _ = http::answer(&mut &stream, error.status, &error.body().to_string(), false);
            continue;
        }
        let open = open.clone();
        scope.spawn(move || {
            connection::serve(&stream, shared);
            open.fetch_sub(1, SeqCst);
        });
    }
}

impl Shared<'_> {
    /// Whether the server was asked to end.
    fn ends(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether it must now.
    fn must_end(&self) -> bool {
        self.end.get().is_some_and(|end| Instant::now() > *end)
    }

    /// Whether a key is the right one, in a time that does not tell how much of it is.
    fn admits(&self, shown: Option<&str>) -> bool {
        let Some(key) = &self.options.api_key else { return true };
        let shown = shown.unwrap_or_default();
        let differences = key.bytes().zip(shown.bytes().chain(std::iter::repeat(0))).map(|(one, other)| one ^ other);
        differences.fold(0, |all, one| all | one) == 0 && key.len() == shown.len()
    }
}
