//! A connection: requests that arrive together are answered together, by one send.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::request::TimedOut;
use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler};

use crate::answer::{Answer, Clock, Connection, HTML, error_page};
use crate::budget::Budget;
use crate::files::{Answered, Exchange};
use crate::folder::Folder;
use crate::health;
use crate::protocol::{Decoder, Head, Method, Refusal, Status, Step};
use crate::status::{self, Readers};

/// How many bytes of answers are gathered before a send: so many that the system call costs little compared with
/// the copy, and no more than the processor's cache holds.
pub const BATCH_BYTES: usize = 64 * 1024;

/// How many bytes of buffer a silent connection keeps.
const KEPT_BYTES: usize = 8 * 1024;

/// The site: its folder, its limits, its log.
pub struct Site {
    /// `None` if every path is answered with `Hello, World`.
    pub folder: Option<Folder>,
    /// How long a request may take to arrive.
    pub header_timeout: Duration,
    /// How long the first request may take, counted from the connection's start. `None` if the idle limit is shorter.
    pub first_timeout: Option<Duration>,
    /// The memory of listings that wait to be sent.
    pub listings: Budget,
    /// Whether there are `/healthz` and `/readyz`.
    pub health: bool,
    /// The clients that get `/status`, if any.
    pub status: Option<Readers>,
    /// Whether requests are written to stdout.
    pub log: bool,
}

pub struct Web {
    site: Arc<Site>,
    clock: Clock,
    /// Answers that have not been sent.
    out: Vec<u8>,
    /// The whole answer of a site without a folder, with the Date of this second.
    hello: Vec<u8>,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Close,
}

impl StreamRequestHandler for Web {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut decoder = Decoder::default();
        // The beginning of a request whose rest has not arrived, and the deadline of that rest. The first request has
        // a deadline from the start, because a silent connection may keep another one waiting.
        let mut kept = Vec::new();
        let mut deadline = self.site.first_timeout.map(|time| Instant::now() + time);
        loop {
            let chunk = match receive(request, deadline) {
                Ok(Some(chunk)) => chunk,
                Err(error) if deadline.is_some() && kept.is_empty() && is_timeout(&error) => {
                    return Ok(());
                }
                Ok(None) if kept.is_empty() => return Ok(()),
                Ok(None) => {
                    let why = "The request ends in its middle.";
                    return self.refuse(
                        request,
                        &kept,
                        Refusal { status: Status::BadRequest, why },
                    );
                }
                Err(error) if deadline.is_some() && is_timeout(&error) => {
                    let why = "The request takes too long to arrive.";
                    let refusal = Refusal { status: Status::RequestTimeout, why };
                    return self.refuse(request, &kept, refusal);
                }
                Err(error) => return Err(error.into()),
            };
            let bytes: &[u8] = if kept.is_empty() {
                &chunk
            } else {
                kept.extend_from_slice(&chunk);
                &kept
            };
            let (next, used) = self.answer_all(request, &mut decoder, bytes)?;
            self.send(request)?;
            if next == Next::Close {
                return Ok(());
            }
            if used > 0 {
                deadline = None;
            }
            if kept.is_empty() {
                kept.extend_from_slice(&chunk[used..]);
            } else {
                kept.drain(..used);
            }
            if kept.is_empty() {
                deadline = None;
                kept.shrink_to(KEPT_BYTES);
            } else if deadline.is_none() {
                deadline = Some(Instant::now() + self.site.header_timeout);
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    TimedOut::find(error).is_some()
}

/// Waits for input: between two requests for the idle limit, within one until the deadline.
fn receive(
    request: &mut StreamRequest,
    deadline: Option<Instant>,
) -> io::Result<Option<socketserver::request::Chunk>> {
    match deadline {
        None => {
            request.set_timeout(None);
            request.between_requests();
        }
        Some(at) => request.set_timeout(Some(at.saturating_duration_since(Instant::now()))),
    }
    let chunk = request.chunk();
    // The server's own limits apply to the answers.
    request.set_timeout(None);
    chunk
}

impl Web {
    pub fn new(site: &Arc<Site>) -> Self {
        let (out, hello) = (Vec::new(), Vec::new());
        Self { site: Arc::clone(site), clock: Clock::default(), out, hello }
    }

    /// Answers each complete request. Returns how many bytes the requests had.
    fn answer_all(
        &mut self,
        request: &mut StreamRequest,
        decoder: &mut Decoder,
        bytes: &[u8],
    ) -> io::Result<(Next, usize)> {
        if self.clock.tick() {
            self.write_hello();
        }
        let mut at = 0;
        loop {
            match decoder.step(&bytes[at..]) {
                Step::More => return Ok((Next::Read, at)),
                Step::Continue => self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
                Step::Refused(refusal) => {
                    self.write_refusal(request, &bytes[at..], refusal);
                    return Ok((Next::Close, at));
                }
                Step::Request(head, used) => {
                    at += used;
                    if self.answer(request, &head)? == Next::Close {
                        return Ok((Next::Close, at));
                    }
                }
            }
            if self.out.len() >= BATCH_BYTES {
                self.send(request)?;
            }
        }
    }

    fn answer(&mut self, request: &mut StreamRequest, head: &Head<'_>) -> io::Result<Next> {
        let connection = match (head.keep_alive && !request.is_stopping(), head.minor) {
            (false, _) => Connection::Closes,
            (true, 0) => Connection::StaysOpenly,
            (true, _) => Connection::Stays,
        };
        let own_page = self.own_page(request, head, connection);
        let (answered, sent) = match (own_page, &self.site.folder) {
            (Some(answered), _) => (answered, Ok(())),
            (None, None) => (self.answer_hello(head, connection), Ok(())),
            (None, Some(folder)) => {
                let (out, clock) = (&mut self.out, &self.clock);
                Exchange { request, head, out, clock, connection }
                    .answer(folder, &self.site.listings)
            }
        };
        if self.site.log {
            let method = if head.method == Method::Get { "GET" } else { "HEAD" };
            let line = format!("{method} {} HTTP/1.{}", head.target, head.minor);
            log(request, &self.clock, line.as_bytes(), answered);
        }
        sent?;
        Ok(if connection == Connection::Closes { Next::Close } else { Next::Read })
    }

    /// Answers a request for a page about this server itself, if the option for that page is given. Such a page hides a file
    /// of the same name.
    fn own_page(
        &mut self,
        request: &StreamRequest,
        head: &Head<'_>,
        connection: Connection,
    ) -> Option<Answered> {
        if self.site.health {
            let to = (&mut self.out, &self.clock);
            let answered = health::answer(request, head, to, connection);
            if answered.is_some() {
                return answered;
            }
        }
        let to = (&mut self.out, &self.clock);
        self.site.status.and_then(|readers| status::answer(readers, request, head, to, connection))
    }

    fn answer_hello(&mut self, head: &Head<'_>, connection: Connection) -> Answered {
        if head.method == Method::Get && connection == Connection::Stays {
            self.out.extend_from_slice(&self.hello);
        } else {
            let answer = Answer::new(&mut self.out, &self.clock, Status::Ok, connection);
            answer.body(TEXT, HELLO, head.method == Method::Head);
        }
        Answered { status: Status::Ok, bytes: HELLO.len() as u64 }
    }

    fn write_hello(&mut self) {
        self.hello.clear();
        let answer = Answer::new(&mut self.hello, &self.clock, Status::Ok, Connection::Stays);
        answer.body(TEXT, HELLO, false);
    }

    /// Answers a request that cannot be understood. The connection then ends, because the beginning of the next
    /// request is unknown.
    fn write_refusal(&mut self, request: &mut StreamRequest, bytes: &[u8], refusal: Refusal) {
        // The client may still be sending a body.
        request.expect_more_input();
        let line = first_line(bytes);
        let page = error_page(refusal.status, refusal.why, "");
        let mut answer =
            Answer::new(&mut self.out, &self.clock, refusal.status, Connection::Closes);
        if refusal.status == Status::MethodNotAllowed {
            answer = answer.field("Allow", "GET, HEAD");
        }
        answer.body(HTML, page.as_bytes(), line.starts_with(b"HEAD "));
        if self.site.log {
            let answered = Answered { status: refusal.status, bytes: page.len() as u64 };
            log(request, &self.clock, line, answered);
        }
    }

    fn refuse(
        &mut self,
        request: &mut StreamRequest,
        bytes: &[u8],
        refusal: Refusal,
    ) -> HandlerResult {
        self.clock.tick();
        self.write_refusal(request, bytes, refusal);
        Ok(self.send(request)?)
    }

    fn send(&mut self, request: &mut StreamRequest) -> io::Result<()> {
        if !self.out.is_empty() {
            request.write_all(&self.out)?;
            self.out.clear();
            self.out.shrink_to(KEPT_BYTES);
        }
        Ok(())
    }
}

const HELLO: &[u8] = b"Hello, World";
const TEXT: &str = "text/plain; charset=utf-8";

/// The first line of a refused request, shortened, for the log.
fn first_line(bytes: &[u8]) -> &[u8] {
    const SHOWN: usize = 200;
    let line = bytes.trim_ascii_start();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    &line[..line.len().min(SHOWN)]
}

/// Writes a request to stdout, in one line. Bytes other than printable ASCII are escaped.
fn log(request: &StreamRequest, clock: &Clock, what: &[u8], answered: Answered) {
    let mut line = format!("{} [{}] \"", request.client_address(), clock.date);
    for byte in what {
        match byte {
            b'\\' => line += "\\\\",
            b'"' => line += "\\\"",
            b' '..=b'~' => line.push(char::from(*byte)),
            // Writing to memory cannot fail.
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
    let Answered { status, bytes } = answered;
    // Writing to memory cannot fail.
    let _ = write!(line, "\" {} {bytes}", status.code());
    common::say(&line);
}
