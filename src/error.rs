//! What can go wrong: the server's own [`Error`], the handler's [`HandlerError`], and [`Fatal`],
//! by which a handler ends its server.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::peer_fault::{MOST_CAUSES, Owned, RequestId, find};

/// The result of what a server does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a handler failed: any error at all, so that `?` takes every error a handler meets.
///
/// An enum would have to know the errors of its users. The server only reports it and asks three
/// questions of it: is it [`Fatal`], is it a timeout ([`TimedOut`]), has the peer just gone away?
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What `setup`, `handle` and `finish` return.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a server could not be made, or why it ended.
///
/// It names the operation, the object and the cause: `cannot bind 127.0.0.1:80: Permission denied
/// (os error 13)`. The kinds are private, so that new ones break nobody; ask by the predicates. The
/// cause is also behind [`source`](StdError::source). `Debug` prints the same sentence, because
/// that is what a `main` that returns this error shows.
pub struct Error {
    kind: Box<ErrorKind>,
}

#[derive(thiserror::Error, Debug)]
enum ErrorKind {
    #[error("cannot {operation} {object}: {source}")]
    Io { operation: &'static str, object: String, source: io::Error },
    #[error("cannot understand the address {text:?}: {why}")]
    Address { text: String, why: String },
    #[error("the handler stopped the server: {source}")]
    Fatal { source: Fatal },
    #[error("the server {address} {why}")]
    State { address: String, why: &'static str, closed: bool },
    #[error("{source}")]
    Other { source: io::Error },
}

impl Error {
    pub(crate) fn io(
        operation: &'static str,
        object: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        ErrorKind::Io { operation, object: object.to_string(), source }.into()
    }

    pub(crate) fn address(text: impl Into<String>, why: impl Into<String>) -> Self {
        ErrorKind::Address { text: text.into(), why: why.into() }.into()
    }

    pub(crate) fn fatal(source: Fatal) -> Self {
        ErrorKind::Fatal { source }.into()
    }

    pub(crate) fn closed(address: impl fmt::Display) -> Self {
        let why = "is closed";
        ErrorKind::State { address: address.to_string(), why, closed: true }.into()
    }

    pub(crate) fn state(address: impl fmt::Display, why: &'static str) -> Self {
        ErrorKind::State { address: address.to_string(), why, closed: false }.into()
    }

    /// The kind of the operating system's error behind this one, if there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &*self.kind {
            ErrorKind::Io { source, .. } | ErrorKind::Other { source } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the address is taken: another server listens there; or, of a path for a Unix socket, something is there
    /// that is no socket (a link, say), and then the [`io_kind`](Self::io_kind) is `AlreadyExists`.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists))
    }

    /// Whether the operating system forbids it, as it does for ports below 1024.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether the text given as an address cannot be one.
    #[must_use]
    pub fn is_bad_address(&self) -> bool {
        matches!(&*self.kind, ErrorKind::Address { .. })
    }

    /// Whether the server had been closed before.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&*self.kind, ErrorKind::State { closed: true, .. })
    }

    /// Whether descriptors or memory ran out.
    #[must_use]
    pub fn is_resource_limit(&self) -> bool {
        match &*self.kind {
            ErrorKind::Io { source, .. } | ErrorKind::Other { source } => matches!(
                source.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
            ),
            _ => false,
        }
    }

    /// The [`Fatal`] by which a handler stopped the server, if that is what happened.
    #[must_use]
    pub fn as_fatal(&self) -> Option<&Fatal> {
        match &*self.kind {
            ErrorKind::Fatal { source } => Some(source),
            _ => None,
        }
    }
}

/// An error of the program's own, by `?` in a `main` that returns this crate's [`Result`]. It says what the other one says;
/// this crate's own errors name the operation and the object as well.
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        ErrorKind::Other { source }.into()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

/// An error by which a handler ends its server: Python's `SystemExit`.
///
/// Return it from `setup`, `handle` or `finish`, alone or as the source of another error: the
/// request is closed, `handle_error` is not called, and `serve_forever` returns this error, under
/// every mixin. (CPython lets a threading server live on.)
///
/// ```
/// use socketserver::{Fatal, HandlerResult, StreamRequest};
///
/// fn handle(_request: &mut StreamRequest) -> HandlerResult {
///     Err(Fatal::new("the licence has expired").into())
/// }
/// ```
#[derive(Clone)]
pub struct Fatal {
    // Shared, because the worker that met it and the loop that ends with it may be two threads.
    error: Arc<HandlerError>,
}

impl Fatal {
    /// Wraps the reason, which [`Error::as_fatal`] gives back.
    pub fn new(error: impl Into<HandlerError>) -> Self {
        Self { error: Arc::new(error.into()) }
    }

    /// The reason given to [`Fatal::new`].
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &**self.error
    }

    /// Finds a `Fatal` anywhere along the chain of causes of a handler's error.
    pub(crate) fn find(error: &HandlerError) -> Option<&Self> {
        find(&**error)
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fatal({:?})", self.error)
    }
}

impl StdError for Fatal {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

/// Which limit ended a wait. A timeout that does not say which of these fired sends its
/// reader to the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// `Limits::idle`: the peer sent nothing, with nothing of a request outstanding. A quiet end:
    /// the connection is closed and nothing is reported.
    Idle,
    /// `Limits::read`, or what [`set_timeout`](crate::StreamRequest::set_timeout) has put in its place: the peer stopped in
    /// the middle.
    Read,
    /// `Limits::write`, or what [`set_timeout`](crate::StreamRequest::set_timeout) has put in its place: the peer takes
    /// nothing.
    Write,
    /// `Limits::request`: the whole request took too long, however busy the peer was.
    Request,
    /// `Limits::handshake`: `wrap_request` did not come to an end.
    Handshake,
    /// The handler's own bound of a whole, by [`deadline_in`](crate::StreamRequest::deadline_in).
    Deadline,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle timeout",
            Self::Read => "read timeout",
            Self::Write => "write timeout",
            Self::Request => "whole request timeout",
            Self::Handshake => "handshake timeout",
            Self::Deadline => "handler's deadline",
        })
    }
}

/// The payload of every [`io::Error`] of kind `TimedOut` that a request returns.
///
/// ```
/// # use socketserver::request::{TimedOut, Timeout};
/// # fn f(error: std::io::Error) {
/// if TimedOut::find(&error).is_some_and(|t| t.which() == Timeout::Idle) {
///     // the peer has been silent for the idle limit
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the {which} of {after:?} has passed")]
pub struct TimedOut {
    owner: RequestId,
    which: Timeout,
    after: Duration,
}

impl Owned for TimedOut {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

impl TimedOut {
    pub(crate) fn error(owner: RequestId, which: Timeout, after: Duration) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, Self { owner, which, after })
    }

    /// Which limit it was.
    #[must_use]
    pub fn which(&self) -> Timeout {
        self.which
    }

    /// The length of that limit, as it was set.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.after
    }

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find(error)
    }
}

/// The server is stopping, and this read would have waited, or was cut off: the payload of an
/// [`io::Error`] of kind `ConnectionAborted`.
///
/// It is an error and not an end of input, because a handler that takes the end of input for the end of
/// what its peer had to say (the end of an upload, of a list of numbers) would answer half of it as if it
/// were the whole. It is not reported.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is stopping")]
pub struct Stopping {
    owner: RequestId,
}

impl Owned for Stopping {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

impl Stopping {
    pub(crate) fn error(owner: RequestId) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, Self { owner })
    }

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find(error)
    }
}

/// A panic of anything that a request runs for its user, as an error: of its handler, or of a hook, a transport of one's own
/// or the drop of an error. What `handle_error` is given then; the [`phase`](crate::hooks::Failure::phase) says where it was.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a panic: {message}")]
pub struct Panicked {
    message: String,
}

impl Panicked {
    pub(crate) fn new(payload: &(dyn std::any::Any + Send)) -> Self {
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "with a value that is not text".to_owned(),
        };
        Self { message }
    }

    /// What the panic said.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The whole chain of causes in one line, outermost first, as an operator reads it.
///
/// Control characters are escaped: a peer's bytes may be part of an error, and must not steer the
/// terminal on which it is shown. A cause that only repeats the sentence before it is left out.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    // A cause may lead back to an earlier one.
    for error in std::iter::successors(error.source(), |&error| error.source()).take(MOST_CAUSES) {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_travels_inside_an_io_error() {
        let error = io::Error::other(Fatal::new("stop"));
        let error: HandlerError = Box::new(Error::io("read", "a file", error));
        assert_eq!(Fatal::find(&error).map(ToString::to_string).as_deref(), Some("stop"));
    }

    #[test]
    fn a_limit_in_time_is_called_by_the_name_of_its_setter() {
        let owner = RequestId { server: 1, request: 1 };
        for (which, says) in [
            (Timeout::Idle, "the idle timeout of 200ms has passed"),
            (Timeout::Read, "the read timeout of 200ms has passed"),
            (Timeout::Write, "the write timeout of 200ms has passed"),
            (Timeout::Request, "the whole request timeout of 200ms has passed"),
            (Timeout::Handshake, "the handshake timeout of 200ms has passed"),
            (Timeout::Deadline, "the handler's deadline of 200ms has passed"),
        ] {
            let error = TimedOut::error(owner, which, Duration::from_millis(200));
            assert_eq!(error.to_string(), says);
        }
    }

    #[test]
    fn a_chain_is_one_line_without_repeats_and_without_escapes() {
        let cause = io::Error::other("bad\x1b[2J");
        let error = Error::io("read", "x", cause);
        assert_eq!(chain(&error), "cannot read x: bad\\u{1b}[2J");
    }

    #[test]
    fn debug_is_the_sentence_that_main_prints() {
        let error = Error::io("bind", "127.0.0.1:80", io::ErrorKind::PermissionDenied.into());
        assert_eq!(format!("{error:?}"), "cannot bind 127.0.0.1:80: permission denied");
        assert!(error.is_permission_denied());
    }
}
