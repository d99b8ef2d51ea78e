//! [`PeerFault`]: an error that the request's own peer has caused.
//!
//! A handler returns errors of files, upstreams and other requests as well. Only errors of its own request's reads and
//! writes say anything about its peer. So each error that a request makes carries its [`RequestId`], and errors of the
//! system about the connection are wrapped in a [`PeerFault`]:
//!
//! ```text
//!   recv: ECONNRESET  →  io::Error(ConnectionReset, PeerFault { request 7, Gone(ECONNRESET) })
//!                        │ through BufReader, io::copy, an error of the program with source()
//!   handle returns    →  find_of(request 7, error): Some  →  CloseReason::Disconnected, not reported
//! ```
//!
//! A new error with only the same kind (`io::Error::new(error.kind(), text)`) has no payload. For such errors the
//! request remembers how its connection failed: see `server/error_owner.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The mark that says which request an error belongs to. Unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    /// The number of the server's live list.
    pub(crate) server: u64,
    /// The number that the list has given the request.
    pub(crate) request: u64,
}

/// An error that carries its [`RequestId`].
pub(crate) trait Owned: StdError + 'static {
    /// The request whose read or write has made the error.
    fn owner(&self) -> RequestId;
}

/// Implements [`Owned`] for an error whose field `owner` is its mark, and adds the function `find`, by which a program
/// looks for the error.
macro_rules! owned_error {
    ($Error:ident) => {
        impl $crate::peer_fault::Owned for $Error {
            fn owner(&self) -> $crate::peer_fault::RequestId {
                self.owner
            }
        }

        impl $Error {
            /// Finds an error of this type along a chain of causes.
            #[must_use]
            pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
                $crate::peer_fault::find(error)
            }
        }
    };
}

pub(crate) use owned_error;

/// An error that says: the peer of this request went away, or sent bytes that cannot be read. It is the payload of the
/// [`io::Error`]s of the request's own reads and writes:
///
/// | kind of the error | cause |
/// |---|---|
/// | `ConnectionReset`, `BrokenPipe` and others of the system | the peer has gone |
/// | `UnexpectedEof` | the input ended in the middle of something; under TLS also an end without a close_notify |
/// | `InvalidData` | no UTF-8 where a `String` is read, [`garbled`](crate::StreamRequest::garbled), no TLS where TLS is expected, or a handshake without agreement |
///
/// An adapter that decodes by itself (`BufReader`, `Take`) makes an `InvalidData` of its own, without this payload.
///
/// A line above its limit ([`LineTooLong`](crate::request::LineTooLong)) and a time limit
/// ([`TimedOut`](crate::request::TimedOut)) are the peer's fault too, with payloads of their own. Both are reported,
/// because the limit may be too low, except for `Limits::idle`.
///
/// A `PeerFault` lets a proxy distinguish a failure of its client from a failure of its upstream:
///
/// ```
/// # use socketserver::request::PeerFault;
/// # fn f(error: std::io::Error) {
/// if PeerFault::find(&error).is_some_and(PeerFault::is_gone) {
///     // the client has gone; a reset by the upstream has no such payload
/// }
/// # }
/// ```
///
/// A request that fails with a `PeerFault` is not reported on stderr. It ends as
/// [`Disconnected`](crate::monitor::CloseReason::Disconnected) or [`Garbled`](crate::monitor::CloseReason::Garbled).
#[derive(Debug)]
pub struct PeerFault {
    /// The request whose peer is at fault. For any other request this error says nothing about its peer.
    owner: RequestId,
    /// How the peer is at fault.
    kind: FaultKind,
}

#[derive(Debug, thiserror::Error)]
enum FaultKind {
    /// The connection has failed, with the system's error.
    #[error("{0}")]
    Gone(#[source] io::Error),
    /// The end of input, where more had to come.
    #[error("the peer ended the connection in the middle of a message")]
    EndedEarly,
    /// Both sides speak TLS, and have found nothing in common.
    #[error("the handshake failed: {0}")]
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS has such faults"))]
    NotAgreed(#[source] Box<dyn StdError + Send + Sync>),
    /// The end of input, where an attacker could have made it.
    #[error("the peer ended the connection without TLS's close_notify: its input may be cut short")]
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS has a close_notify"))]
    Truncated,
    /// Bytes without a meaning, with the reason.
    #[error("the peer sent what cannot be read: {0}")]
    Garbled(#[source] Box<dyn StdError + Send + Sync>),
}

impl PeerFault {
    /// Makes the error for a connection that has failed. The kind of the system's error stays.
    pub(crate) fn gone(owner: RequestId, error: io::Error) -> io::Error {
        // A program that looks only at the kind sees that of the system's error.
        let kind = error.kind();
        io::Error::new(kind, Self { owner, kind: FaultKind::Gone(error) })
    }

    /// Makes the error for a peer that has ended its output in the middle of a message.
    pub(crate) fn ended_early(owner: RequestId) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, Self { owner, kind: FaultKind::EndedEarly })
    }

    /// Makes the error for a peer that has sent bytes that cannot be read.
    pub(crate) fn garbled(
        owner: RequestId,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> io::Error {
        let kind = FaultKind::Garbled(error.into());
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, kind })
    }

    /// Makes the error for two sides that have no version, cipher or certificate that both accept.
    #[cfg(feature = "tls")]
    pub(crate) fn not_agreed(
        owner: RequestId,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> io::Error {
        let kind = FaultKind::NotAgreed(error.into());
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, kind })
    }

    /// Makes the error for a connection that has ended without the close_notify that TLS requires.
    #[cfg(feature = "tls")]
    pub(crate) fn truncated(owner: RequestId) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, Self { owner, kind: FaultKind::Truncated })
    }

    /// Makes the error for a datagram that is shorter than the read asks for.
    pub(crate) fn too_short(owner: RequestId) -> io::Error {
        // The kind is that of std's `read_exact`. But nothing has ended, so the peer does not count as gone (`is_gone`).
        let kind = FaultKind::Garbled("the datagram is too short".into());
        io::Error::new(io::ErrorKind::UnexpectedEof, Self { owner, kind })
    }

    /// Whether the peer has gone away or accepts no datagram. Otherwise the peer has sent bytes that cannot be decoded.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        // A peer that has ended early counts as gone as well.
        !matches!(self.kind, FaultKind::Garbled(_) | FaultKind::NotAgreed(_))
    }

    /// Whether the two sides could not agree in the TLS handshake: no common version or cipher, a certificate that one
    /// of them does not accept.
    #[must_use]
    pub fn is_not_agreed(&self) -> bool {
        matches!(self.kind, FaultKind::NotAgreed(_))
    }
}

owned_error!(PeerFault);

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl StdError for PeerFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

/// The kinds of the system's errors which mean that the connection is gone. The live list notes a kind by its index here
/// (`live/entry.rs`), so there are fewer than 255.
pub(crate) const LOSSES: [io::ErrorKind; 9] = [
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::ConnectionReset,
    // Also the kind of `Stopping`, so the payload is checked before the kind.
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::NotConnected,
    io::ErrorKind::HostUnreachable,
    io::ErrorKind::NetworkUnreachable,
    io::ErrorKind::NetworkDown,
    // The kernel has retransmitted without an answer.
    io::ErrorKind::TimedOut,
];

/// Whether an error of a connection means that the connection is gone. A lack of memory or a mistake of the
/// program does not.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    // A time limit of this crate has no errno. It means that the peer is slow, not gone.
    let is_limit = error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
    // A router or the peer's system has reported the loss. These errors have no kind in std.
    let is_told = matches!(error.raw_os_error(), Some(libc::EHOSTDOWN | libc::ENOPROTOOPT));
    !is_limit && LOSSES.contains(&error.kind()) || is_told
}

/// An error and its causes, outermost first.
///
/// `io::Error::source` skips the wrapped error and returns the source of the wrapped error, so a walk that uses only
/// `source` would miss every error wrapped in an `io::Error`. The walk has at most [`MAX_CAUSES`] errors.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error)).take(MAX_CAUSES)
}

/// How many errors of a chain are searched. Real chains have a handful; a chain whose `source` goes in a circle has no
/// end.
pub(crate) const MAX_CAUSES: usize = 64;

/// The next error of a chain: the payload of an `io::Error`, and the source of any other.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // The payload itself is the cause, and not what its `source` gives.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Finds an error of type `E` along a chain of causes.
pub(crate) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Finds an error of type `E` along a chain of causes, if it is of this request. An error of another request does not
/// hide it.
pub(crate) fn find_of<'a, E: Owned>(
    owner: RequestId,
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    causes(error).filter_map(|error| error.downcast_ref()).find(|found: &&E| found.owner() == owner)
}
