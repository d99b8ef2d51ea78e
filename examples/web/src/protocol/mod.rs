//! HTTP/1.1 as bytes: where a request begins and ends, and what its head asks for. It knows no socket and no
//! file, so that the same bytes give the same requests however they are cut.
//!
//! ```text
//! Decoder::step(bytes since the end of the last request)
//!   More             too few bytes: call again with the same bytes and more
//!   Continue         send "100 Continue", and call again
//!   Request(h, n)    a whole request of n bytes: answer it, drop the n bytes, call again
//!   Refused(why)     answer and close: where the next request begins is unknown
//! ```

mod body;
mod host;
mod status;

use std::ops::Range;
use std::str;

use httparse::{Header, Status as Parsed};

use body::{BodyReader, Framing, framing};
use host::is_host;
pub use status::Status;

/// The most bytes of a line, the request's own or a header's: as in Python's `http.server`.
pub const LINE_BYTES: usize = 65_536;
/// The most bytes of a head: two of the longest lines.
pub const HEAD_BYTES: usize = 2 * LINE_BYTES;
/// How many headers a request may have, as in Python. Browsers send about fifteen.
pub const HEADERS: usize = 100;
/// Why a request is refused: the status, and a sentence for the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: Status,
    pub why: &'static str,
}

const fn refusal(status: Status, why: &'static str) -> Refusal {
    Refusal { status, why }
}

const fn bad(why: &'static str) -> Refusal {
    refusal(Status::BadRequest, why)
}

/// The methods that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
}

impl Method {
    fn read(word: &str) -> Result<Self, Refusal> {
        match word {
            "GET" => Ok(Self::Get),
            "HEAD" => Ok(Self::Head),
            "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "CONNECT" | "TRACE" => {
                let why = "This server answers GET and HEAD only.";
                Err(refusal(Status::MethodNotAllowed, why))
            }
            _ => Err(refusal(Status::NotImplemented, "This method is not known.")),
        }
    }
}

/// A request without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub method: Method,
    /// As received, percent-encoded; ASCII or UTF-8 without blanks and control characters.
    pub target: &'a str,
    /// The second number of the version: the last 1 of HTTP/1.1.
    pub minor: u8,
    /// Whether the connection may be used for another request.
    pub keep_alive: bool,
    pub range: Option<&'a [u8]>,
    pub if_range: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    expects_continue: bool,
    expects_something_else: bool,
    body: Framing,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The request is not whole.
    More,
    /// The client waits for "100 Continue" before it sends its body. Call again after that.
    Continue,
    /// A whole request, and how many bytes it has with its body.
    Request(Head<'a>, usize),
    /// The bytes after this request cannot be trusted: answer and close.
    Refused(Refusal),
}

/// Reads requests from bytes that arrive in pieces. It reads each byte of a head about twice, however small the pieces
/// are.
#[derive(Debug, Default)]
pub struct Decoder {
    /// How far the bytes have been read.
    at: usize,
    /// Where the incomplete line begins.
    line_start: usize,
    line: Option<RequestLine>,
    headers: usize,
    /// Where the head ends, once that is known.
    head_end: Option<usize>,
    body: BodyReader,
}

/// The first line.
#[derive(Clone, Debug)]
struct RequestLine {
    /// If the method is not served, it is refused at the end of the head, and only if the head is valid: the end of
    /// the body has to be known first (RFC 9112, 6.3).
    method: Result<Method, Refusal>,
    target: Range<usize>,
    minor: u8,
    end: usize,
}

impl Decoder {
    /// Reads on. `bytes` begins where the last request ended, and may only grow until the next request is returned.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        match self.advance(bytes) {
            Ok(step) => step,
            Err(refusal) => Step::Refused(refusal),
        }
    }

    fn advance<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Refusal> {
        if self.at == 0 {
            if let Some((head, used)) = Head::read_whole(bytes) {
                return Ok(Step::Request(head, used));
            }
        }
        let head_end = match self.head_end {
            Some(end) => end,
            None => {
                let Some(end) = self.find_head_end(bytes)? else { return Ok(Step::More) };
                let head = self.head(bytes, end)?;
                if head.body == Framing::Length(0) && !head.expects_continue {
                    *self = Self::default();
                    return Ok(Step::Request(head, end));
                }
                self.head_end = Some(end);
                self.body = BodyReader::new(head.body, end);
                if head.expects_continue {
                    return Ok(Step::Continue);
                }
                end
            }
        };
        if !self.body.advance(bytes)? {
            return Ok(Step::More);
        }
        let (head, used) = (self.head(bytes, head_end)?, self.body.at);
        *self = Self::default();
        Ok(Step::Request(head, used))
    }

    /// Reads up to the empty line. Limits and refusals follow the order of the bytes, so the result does not depend
    /// on how many bytes have arrived.
    fn find_head_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(length) = bytes[self.at..].iter().position(|byte| *byte == b'\n') {
            let newline = self.at + length;
            let start = self.line_start;
            let line = without_return(&bytes[start..newline]);
            self.at = newline + 1;
            if line.len() > LINE_BYTES || self.at > HEAD_BYTES {
                return Err(self.too_long());
            }
            self.line_start = self.at;
            match &self.line {
                // Some clients send an empty line after a body: RFC 9112, 2.2.
                None if line.is_empty() => {}
                None => self.line = Some(RequestLine::read(line, start, self.at)?),
                Some(_) if line.is_empty() => return Ok(Some(self.at)),
                Some(_) if self.headers == HEADERS => {
                    return Err(refusal(Status::HeadersTooLarge, "There are too many headers."));
                }
                Some(_) => self.headers += 1,
            }
        }
        self.at = bytes.len();
        if without_return(&bytes[self.line_start..]).len() > LINE_BYTES || self.at > HEAD_BYTES {
            return Err(self.too_long());
        }
        Ok(None)
    }

    fn too_long(&self) -> Refusal {
        match self.line {
            None => refusal(Status::UriTooLong, "The address is too long."),
            Some(_) => refusal(Status::HeadersTooLarge, "The headers are too long."),
        }
    }

    fn head<'a>(&self, bytes: &'a [u8], end: usize) -> Result<Head<'a>, Refusal> {
        let Some(line) = &self.line else { return Err(bad("There is no request line.")) };
        let target = str::from_utf8(&bytes[line.target.clone()]);
        let target = target.map_err(|_| bad("The address is not text."))?;
        // The method is decided after the headers.
        let mut head = Head::new(line.method.unwrap_or(Method::Head), target, line.minor);
        let block = &bytes[line.end..end];
        let mut room = [httparse::EMPTY_HEADER; HEADERS];
        match httparse::parse_headers(block, &mut room) {
            // httparse and the decoder must agree on the end of the block.
            Ok(Parsed::Complete((used, headers))) if used == block.len() => head.take(headers)?,
            _ => return Err(bad("The headers are malformed.")),
        }
        line.method?;
        head.body.check_size()?;
        if head.expects_something_else {
            return Err(refusal(Status::ExpectationFailed, "Only 100-continue can be expected."));
        }
        Ok(head)
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl RequestLine {
    /// Reads a line. `start` is where it begins, and `end` where the next line begins.
    fn read(line: &[u8], start: usize, end: usize) -> Result<Self, Refusal> {
        let line = line.trim_ascii_end();
        let mut request = httparse::Request::new(&mut []);
        // A line without its end counts as incomplete, but its words are known.
        let result = request.parse(line);
        let (Ok(_), Some(method), Some(target), Some(minor)) =
            (result, request.method, request.path, request.version)
        else {
            return Err(why_malformed(line));
        };
        let from = start + method.len() + 1;
        let method = Method::read(method);
        // Other methods have other forms, `OPTIONS *` for one.
        if method.is_ok() && !is_address(target) {
            return Err(bad("The address has to begin with a slash, or with http:// and a host."));
        }
        let target = from..from + target.len();
        Ok(Self { method, target, minor, end })
    }
}

/// Whether a target is a path, or has the form that proxies get, which every server has to accept (RFC 9112, 3.2.2).
fn is_address(target: &str) -> bool {
    target.starts_with('/')
        || authority(target).is_some_and(|host| !host.is_empty() && is_host(host))
}

/// The host in the form that proxies get.
fn authority(target: &str) -> Option<&[u8]> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    is_http.then(|| &rest.as_bytes()[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// Tells another version of HTTP from a line that is not HTTP. httparse knows 1.0 and 1.1 and calls all others malformed.
fn why_malformed(line: &[u8]) -> Refusal {
    let malformed = bad("This is no HTTP/1.1 request.");
    let words: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return malformed };
    let number = |digits: &[u8]| {
        let is_number = matches!(digits.len(), 1..=10) && digits.iter().all(u8::is_ascii_digit);
        is_number
            .then(|| digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    };
    let Some(version) = version.strip_prefix(b"HTTP/") else { return malformed };
    let Some(dot) = version.iter().position(|byte| *byte == b'.') else { return malformed };
    match (number(&version[..dot]), number(&version[dot + 1..])) {
        (Some(major), Some(minor)) if (major, minor) > (1, 1) => {
            if method.is_empty() || target.is_empty() {
                return malformed;
            }
            refusal(Status::VersionNotSupported, "This server speaks HTTP/1.1 and HTTP/1.0.")
        }
        _ => malformed,
    }
}

impl<'a> Head<'a> {
    fn new(method: Method, target: &'a str, minor: u8) -> Self {
        Self {
            method,
            target,
            minor,
            keep_alive: minor == 1,
            range: None,
            if_range: None,
            if_none_match: None,
            if_modified_since: None,
            expects_continue: false,
            expects_something_else: false,
            body: Framing::Length(0),
        }
    }

    /// Reads a request of the usual form: short, complete, valid and without a body. Returns `None` for any other form,
    /// which the decoder then reads step by step. A request of the usual form is too short to reach any limit.
    fn read_whole(bytes: &'a [u8]) -> Option<(Self, usize)> {
        // More room would cost more to clear than a few headers cost to read.
        let mut room = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut room);
        let Ok(Parsed::Complete(used)) = request.parse(bytes) else { return None };
        let target = request.path.filter(|target| is_address(target))?;
        let mut head = Self::new(Method::read(request.method?).ok()?, target, request.version?);
        head.take(request.headers).ok()?;
        let expects = head.expects_continue || head.expects_something_else;
        let is_all = head.body == Framing::Length(0) && !expects;
        (is_all && used <= LINE_BYTES).then_some((head, used))
    }

    fn take(&mut self, headers: &[Header<'a>]) -> Result<(), Refusal> {
        let (mut length, mut coding, mut host) = (None, None, None);
        for header in headers {
            let Header { name, value } = *header;
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            match name.len() {
                4 if is("host") => only(&mut host, value)?,
                5 if is("range") => self.range = Some(value),
                6 if is("expect") => self.expect(value),
                8 if is("if-range") => self.if_range = Some(value),
                10 if is("connection") => self.connection(value),
                13 if is("if-none-match") => self.if_none_match = Some(value),
                14 if is("content-length") => only(&mut length, value)?,
                17 if is("transfer-encoding") => only(&mut coding, value)?,
                17 if is("if-modified-since") => self.if_modified_since = Some(value),
                _ => {}
            }
        }
        self.body = framing(length, coding, self.minor)?;
        match host {
            None if self.minor == 1 => Err(bad("An HTTP/1.1 request has to name its Host.")),
            Some(host) if !is_host(host) => Err(bad("The Host is malformed.")),
            _ => Ok(()),
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
                // `close` overrides all other options.
                return;
            }
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn expect(&mut self, value: &[u8]) {
        // HTTP/1.0 does not know `Expect`: RFC 9110, 10.1.1.
        if self.minor == 1 {
            let is_known = value.eq_ignore_ascii_case(b"100-continue");
            self.expects_continue |= is_known;
            self.expects_something_else |= !is_known;
        }
    }
}

/// Accepts a header only once. Requests are smuggled by two headers that disagree on the end of a body.
fn only<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Refusal> {
    if place.replace(value).is_some() {
        return Err(bad("A header that may be there once is there twice."));
    }
    Ok(())
}
