//! The server's own [`Error`], the handler's [`HandlerError`], and [`Fatal`], with which a handler ends its server.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::peer_fault::{MAX_CAUSES, RequestId, find, owned_error};

/// The result of a server's methods: the error type is this crate's [`Error`] unless another one is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a handler: any error type, so that `?` works on all of them.
///
/// The server reports the error, and searches its chain of causes for three things: a [`Fatal`], a time limit
/// ([`TimedOut`](crate::request::TimedOut)), and a fault of the peer ([`PeerFault`](crate::request::PeerFault)).
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// The result of `setup`, `handle` and `finish`.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a server could not be made, or why it ended.
///
/// Its text names the operation, the object and the cause: `cannot bind 127.0.0.1:80: Permission denied (os error 13)`.
/// `Debug` prints the same sentence, because a `main` that returns this error shows `Debug`. The cause is also its
/// [`source`](StdError::source). The kinds are private, so that a new kind breaks no program: use the methods to find
/// out the kind.
///
/// ```
/// use socketserver::{TcpServer, stream_fn};
///
/// let error = TcpServer::bind("no address", stream_fn(|_request| Ok(()))).unwrap_err();
/// assert!(error.is_bad_address());
/// assert!(error.to_string().starts_with("cannot understand the address \"no address\""));
/// ```
///
/// A program can look for another port:
///
/// ```
/// use socketserver::{Result, TcpServer, stream_fn};
///
/// fn bind_near(port: u16) -> Result<TcpServer> {
///     match TcpServer::bind(("127.0.0.1", port), stream_fn(|_request| Ok(()))) {
///         Err(error) if error.is_address_in_use() => {
///             TcpServer::bind(("127.0.0.1", 0), stream_fn(|_request| Ok(())))
///         }
///         result => result,
///     }
/// }
/// # let taken = bind_near(0).unwrap();
/// # assert!(bind_near(taken.server_address().port().unwrap()).is_ok());
/// ```
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error {
    /// Boxed, so that a `Result` with this error is small.
    kind: Box<ErrorKind>,
}

/// Each kind has the parts of its sentence. `source` is the cause, as in [`StdError::source`].
#[derive(thiserror::Error, Debug)]
enum ErrorKind {
    /// A call of the system has failed. `operation` is a verb, for "cannot .. "; `object` is an address, a file or the
    /// like.
    #[error("cannot {operation} {object}: {source}")]
    Io { operation: &'static str, object: String, source: io::Error },
    /// The text of an address cannot be understood.
    #[error("cannot understand the address {text:?}: {why}")]
    Address { text: String, why: String },
    /// A handler has ended the server.
    #[error("the handler stopped the server: {source}")]
    Fatal { source: Fatal },
    /// A call after the close.
    #[error("the server {address} is closed")]
    Closed { address: String },
    /// A call at the wrong time. `why` continues the sentence after the address.
    #[error("the server {address} {why}")]
    State { address: String, why: &'static str },
    /// An `io::Error` of the program, converted by `?`.
    #[error("{source}")]
    Other { source: io::Error },
}

impl Error {
    /// A failed call: `cannot OPERATION OBJECT: SOURCE`. The operation is a verb in the infinitive.
    pub(crate) fn io(
        operation: &'static str,
        object: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        ErrorKind::Io { operation, object: object.to_string(), source }.into()
    }

    /// An address that cannot be understood. `why` says what to write in its place.
    pub(crate) fn address(text: impl Into<String>, why: impl Into<String>) -> Self {
        ErrorKind::Address { text: text.into(), why: why.into() }.into()
    }

    /// The end of a run by a handler's [`Fatal`].
    pub(crate) fn fatal(source: Fatal) -> Self {
        ErrorKind::Fatal { source }.into()
    }

    /// A call of a server that was closed before.
    pub(crate) fn closed(address: impl fmt::Display) -> Self {
        ErrorKind::Closed { address: address.to_string() }.into()
    }

    /// A call of a server that does something else at the moment. `why` continues the sentence "the server ADDRESS ..".
    pub(crate) fn state(address: impl fmt::Display, why: &'static str) -> Self {
        ErrorKind::State { address: address.to_string(), why }.into()
    }

    /// The kind of the operating system's error behind this one, if there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &*self.kind {
            ErrorKind::Io { source, .. } | ErrorKind::Other { source } => Some(source.kind()),
            // The other kinds are mistakes or decisions of the program: no call of the system has failed.
            _ => None,
        }
    }

    /// Whether the address is taken: another server listens there, or the path for a Unix socket is something other
    /// than a socket (then [`io_kind`](Self::io_kind) is `AlreadyExists`).
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        // `AlreadyExists` is this crate's own error of a Unix socket's bind: see `transport/socket_file.rs`.
        matches!(self.io_kind(), Some(io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists))
    }

    /// Whether the operating system denies permission, as for ports below 1024.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether the text of the address cannot be understood.
    #[must_use]
    pub fn is_bad_address(&self) -> bool {
        matches!(&*self.kind, ErrorKind::Address { .. })
    }

    /// Whether the server was closed before the call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&*self.kind, ErrorKind::Closed { .. })
    }

    /// Whether descriptors or memory ran out.
    #[must_use]
    pub fn is_resource_limit(&self) -> bool {
        match &*self.kind {
            // EAGAIN is the system's answer to a fork, or a new thread, beyond the limit of processes.
            ErrorKind::Io { source, .. } | ErrorKind::Other { source } => matches!(
                source.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
            ),
            _ => false,
        }
    }

    /// The [`Fatal`] with which a handler stopped the server, if this error is one.
    #[must_use]
    pub fn as_fatal(&self) -> Option<&Fatal> {
        match &*self.kind {
            ErrorKind::Fatal { source } => Some(source),
            _ => None,
        }
    }
}

/// Converts an error of the program, for `?` in a `main` that returns this crate's [`Result`]. The text is the same as
/// that of the `io::Error`.
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

/// An error with which a handler ends its server: Python's `SystemExit`.
///
/// Return it from `setup`, `handle` or `finish`, alone or as the source of another error. The request is closed,
/// `handle_error` is not called, and `serve_forever` returns this error, under every mixin. (In CPython a threading
/// server continues to serve.)
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
    // In an `Arc`, because the handler's error, in a worker, and the error of `serve_forever`, in another thread, share
    // it.
    error: Arc<HandlerError>,
}

impl Fatal {
    /// Wraps the reason: a text or an error. [`Error::as_fatal`] returns it.
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
        // This error prints the reason as its own text, so the next error of the chain is the reason's cause.
        self.error.source()
    }
}

/// The error of a read that a stop of the server has interrupted, or has kept from waiting. `Stopping` is the payload
/// of an [`io::Error`] of kind `ConnectionAborted`, and is not reported.
///
/// A stop is an error and not an end of input, because a handler that reads an upload to its end would otherwise take
/// half of it for the whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is stopping")]
pub struct Stopping {
    /// The request that was told to stop. A handler may also read from a request of another server, whose stop is not
    /// its own.
    owner: RequestId,
}

owned_error!(Stopping);

impl Stopping {
    /// An [`io::Error`] of kind `ConnectionAborted` with this payload. The caller notes the stop in the live list.
    pub(crate) fn error(owner: RequestId) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, Self { owner })
    }
}

/// An error with which [`wrap_request`](crate::ServerHooks::wrap_request) turns a client away, as
/// [`verify_request`](crate::ServerHooks::verify_request) does with `false`. The request ends as
/// [`Rejected`](crate::monitor::CloseReason::Rejected), and nothing is reported.
///
/// Use it where [`verify_request`](crate::ServerHooks::verify_request) is too early: a [proxy](crate::proxy_protocol)
/// names the client only after that hook.
#[derive(Clone, Copy, Debug, Default, thiserror::Error)]
#[error("the client was turned away")]
pub struct Rejected;

/// A panic in a handler, a hook, a transport or the drop of an error, as an error. `handle_error` gets the panic, and
/// [`phase`](crate::hooks::Failure::phase) says where it happened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a panic: {message}")]
pub struct Panicked {
    /// The text of the panic. The payload itself was dropped where the panic was caught.
    message: String,
}

impl Panicked {
    /// The error for a caught payload, which the caller drops (`panic_payload.rs`).
    pub(crate) fn new(payload: &(dyn std::any::Any + Send)) -> Self {
        // A panic with a constant text carries a `&str`, and one with arguments a `String`.
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "with a value that is not text".to_owned(),
        };
        Self { message }
    }

    /// The text of the panic.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The whole chain of causes in one line, outermost first.
///
/// Control characters are escaped: a peer's bytes may be part of an error, and must not control the operator's
/// terminal. A cause whose text already ends the text before it is left out.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    // A chain of causes may be a cycle.
    for error in std::iter::successors(error.source(), |&error| error.source()).take(MAX_CAUSES) {
        let next = error.to_string();
        // Most wrappers print their cause as well, at the end of their text.
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
