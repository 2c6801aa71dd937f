//! HTTP/1.1 as far as an API needs it: requests with a bounded head and body, answers whole or piece by piece.
//!
//! Reference: RFC 9112. What it leaves out is refused: bodies in chunks, upgrades.

use std::io::{self, BufRead, Read, Write};

use super::error::ApiError;

/// Most bytes of a request's head.
const HEAD: u64 = 16 << 10;
/// Most lines of it.
const HEADERS: usize = 64;

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `GET`, `POST`, ….
    pub method: String,
    /// What is asked for, decoded, without what follows a question mark.
    pub path: String,
    /// Bytes of the body.
    pub length: u64,
    /// Whether the body is of type `application/json`.
    pub is_json: bool,
    /// The key that it shows.
    pub key: Option<String>,
    /// Whether the client waits for a word before it sends the body.
    pub waits: bool,
    /// Whether the connection stays open for another request.
    pub stays: bool,
    /// Whether the client understands an answer in chunks.
    pub chunks: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub enum HttpError {
    /// The client has gone, or was too slow.
    Gone(io::Error),
    /// What it sent is refused; what follows it cannot be understood.
    Refused(ApiError),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn malformed(problem: impl std::fmt::Display) -> HttpError {
    HttpError::Refused(ApiError::new(400, "malformed_request", format!("the HTTP request {problem}")))
}

/// The head of the next request; `None` if the client has ended the connection.
///
/// # Errors
/// The client goes away within it, or it is malformed or too large.
pub fn read_head(input: &mut impl BufRead) -> Result<Option<Head>, HttpError> {
    let mut bytes = Vec::new();
    loop {
        let line = bytes.len();
        let left = HEAD - line as u64;
        input.by_ref().take(left).read_until(b'\n', &mut bytes)?;
        match &bytes[line..] {
            [] if line == 0 => return Ok(None),
            // An empty line before a request is passed over.
            b"\r\n" | b"\n" if line == 0 => bytes.clear(),
            b"\r\n" | b"\n" => break,
            read if read.ends_with(b"\n") && read.len() < left as usize => {}
            read if read.len() == left as usize => {
                let message = format!("the head of the HTTP request has more than {HEAD} bytes");
                return Err(HttpError::Refused(ApiError::new(431, "head_too_large", message)));
            }
            _ => return Err(HttpError::Gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
    parse(&bytes).map(Some)
}

fn parse(bytes: &[u8]) -> Result<Head, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("has no whole head")),
        Err(error) => return Err(malformed(format_args!("cannot be read ({error})"))),
    }
    let modern = request.version == Some(1);
    let path = request.path.unwrap_or_default();
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: decoded(path.split('?').next().unwrap_or_default()),
        stays: modern,
        chunks: modern,
        ..Head::default()
    };
    let mut length = None;
    for header in request.headers.iter() {
        let text = || std::str::from_utf8(header.value).unwrap_or_default().trim();
        let has = |word: &str| text().split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let digits = Some(text()).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let bytes = digits.and_then(|text| text.parse().ok());
                let bytes: u64 = bytes.ok_or_else(|| malformed("has a Content-Length that is no number"))?;
                if length.replace(bytes).is_some_and(|other| other != bytes) {
                    return Err(malformed("has two lengths"));
                }
            }
            "transfer-encoding" => {
                let message = "a body in chunks is not read; send it whole, with its Content-Length";
                return Err(HttpError::Refused(ApiError::new(411, "length_required", message)));
            }
            "content-type" => {
                let kind = text().split(';').next().unwrap_or_default().trim();
                head.is_json = kind.eq_ignore_ascii_case("application/json");
            }
            "authorization" => {
                let (scheme, key) = text().split_once(' ').unwrap_or_default();
                head.key = Some(key.trim().to_owned()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
            }
            "expect" => head.waits = has("100-continue"),
            "connection" if has("close") => head.stays = false,
            "connection" if has("keep-alive") => head.stays = true,
            _ => {}
        }
    }
    head.length = length.unwrap_or_default();
    Ok(head)
}

/// A path without the percent signs that clients write for letters with a meaning in URLs, as for the slash in a model's name; what is
/// no text then stays as it is.
fn decoded(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        (rest, _) = match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => (&after[2..], bytes.push((high * 16 + low) as u8)),
            _ => (after, bytes.push(byte)),
        };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}

/// The body that belongs to a head.
///
/// # Errors
/// The client goes away, or the body has more than `most` bytes, of which none is read then.
pub fn read_body(input: &mut impl BufRead, head: &Head, most: u64) -> Result<Vec<u8>, HttpError> {
    if head.length > most {
        let message = format!("the body has {} bytes, but at most {most} are read", head.length);
        return Err(HttpError::Refused(ApiError::new(413, "body_too_large", message)));
    }
    let mut body = Vec::new();
    if input.by_ref().take(head.length).read_to_end(&mut body)? as u64 == head.length {
        return Ok(body);
    }
    Err(HttpError::Gone(io::ErrorKind::UnexpectedEof.into()))
}

/// What a status is called.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

/// Says that the body may come.
pub(super) fn go_on(output: &mut impl Write) -> io::Result<()> {
    output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
}

/// Answers with JSON; `stays` says whether the connection does.
pub(super) fn answer(output: &mut impl Write, status: u16, body: &str, stays: bool) -> io::Result<()> {
    let more = match status {
        401 => "WWW-Authenticate: Bearer\r\n",
        503 => "Retry-After: 1\r\n",
        _ => "",
    };
    let connection = if stays { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n{more}\r\n",
        reason(status),
        body.len()
    );
    output.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    output.flush()
}

/// An answer that is sent event by event (SSE).
#[derive(Debug)]
pub(super) struct Events<'a, W: Write> {
    output: &'a mut W,
    chunks: bool,
}

impl<'a, W: Write> Events<'a, W> {
    /// Begins it.
    pub(super) fn begin(output: &'a mut W, head: &Head) -> io::Result<Self> {
        let connection = if head.stays && head.chunks { "keep-alive" } else { "close" };
        let encoding = if head.chunks { "Transfer-Encoding: chunked\r\n" } else { "" };
        write!(
            output,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n{encoding}Connection: \
             {connection}\r\n\r\n"
        )?;
        output.flush()?;
        Ok(Self { output, chunks: head.chunks })
    }

    /// Sends an event.
    pub(super) fn send(&mut self, data: &str) -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        let framed = if self.chunks { format!("{:x}\r\n{event}\r\n", event.len()) } else { event };
        self.output.write_all(framed.as_bytes())?;
        self.output.flush()
    }

    /// Ends it.
    pub(super) fn end(self) -> io::Result<()> {
        if self.chunks {
            self.output.write_all(b"0\r\n\r\n")?;
        }
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, HttpError> {
        read_head(&mut text.as_bytes())
    }

    #[test]
    fn a_head_says_what_is_asked_for_and_how_long_the_body_is() {
        let text = "POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: x\r\ncontent-type: Application/JSON; charset=utf-8\r\n\
                    CONTENT-LENGTH: 3\r\nAuthorization: bearer  secret \r\nExpect: 100-continue\r\n\r\nabcGET";
        let mut input = text.as_bytes();
        let head = read_head(&mut input).unwrap().unwrap();
        let expected = Head {
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            length: 3,
            is_json: true,
            key: Some("secret".to_owned()),
            waits: true,
            stays: true,
            chunks: true,
        };
        assert_eq!(head, expected);
        assert_eq!(read_body(&mut input, &head, 3).unwrap(), b"abc");
        assert_eq!(input, b"GET");
    }

    #[test]
    fn paths_are_decoded_once() {
        for (path, is) in [
            ("/v1/models/a%2Fb%20c?d=%2F", "/v1/models/a/b c"),
            ("/%e2%82%AC", "/€"),
            ("/%252F", "/%2F"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%zz%+1", "/%zz%+1"),
            ("/%ff", "/%ff"),
        ] {
            assert_eq!(head(&format!("GET {path} HTTP/1.1\r\n\r\n")).unwrap().unwrap().path, is);
        }
    }

    #[test]
    fn connections_stay_as_the_version_and_the_client_say() {
        for (line, more, stays) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            let head = head(&format!("\r\nGET / HTTP/{line}\r\n{more}\r\n")).unwrap().unwrap();
            assert_eq!((head.stays, head.chunks), (stays, line == "1.1"), "{line} {more}");
        }
        assert!(head("").unwrap().is_none());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let status = |text: &str| match head(text) {
            Err(HttpError::Refused(error)) => error.status,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(status("hello\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 411);
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100))), 400);
        // A client that goes away within a head or a body.
        assert!(matches!(head("GET / HTTP/1.1\r\nHost"), Err(HttpError::Gone(_))));
        let long = Head { length: 4, ..Head::default() };
        assert!(matches!(read_body(&mut b"abc".as_slice(), &long, 9), Err(HttpError::Gone(_))));
        assert!(
            matches!(read_body(&mut b"abcd".as_slice(), &long, 3), Err(HttpError::Refused(error)) if error.status == 413)
        );
    }

    #[test]
    fn events_are_framed() {
        let mut output = Vec::new();
        let mut events = Events::begin(&mut output, &Head { chunks: true, stays: true, ..Head::default() }).unwrap();
        events.send("ab").unwrap();
        events.end().unwrap();
        assert!(output.ends_with(b"\r\n\r\na\r\ndata: ab\n\n\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&output));
    }
}
