//! Whose an error is. A handler passes on errors of files, of upstreams, of other requests; only what its *own*
//! request's reads and writes have returned says anything about its peer.
//!
//! So each error that a request makes carries the request that it is of ([`RequestId`]), and what the system says of
//! the connection is wrapped in a [`PeerFault`] that does. They are found along any chain of causes: through
//! `BufReader`, `io::copy`, and every error that names its source. Where an error has only taken over the kind
//! (`io::Error::new(error.kind(), text)`), the request's memory of how its connection failed has to do; a bare
//! error of the system is never taken for the peer's so.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Which request an error is of. Unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) server: u64,
    pub(crate) request: u64,
}

/// An error that knows which request it is of.
pub(crate) trait Owned: StdError + 'static {
    fn owner(&self) -> RequestId;
}

/// The peer's doing, met by the request's own reads and writes: it went away, or sent what cannot be read. It is
/// the payload of the [`io::Error`]s in which a request says so, whose kind is the system's (`ConnectionReset`,
/// `BrokenPipe`, ..), `UnexpectedEof` for an end in the middle of something, and `InvalidData` for what cannot be read:
/// bytes that are not UTF-8 where a `String` is read (`next_line`, `read_line`, `lines`, `read_to_string`), or what
/// [`garbled`](crate::StreamRequest::garbled) says. An adapter that decodes by itself (`BufReader`, `Take`) makes such an
/// error of its own, which does not say whose bytes those were.
///
/// A line above its limit ([`LineTooLong`](crate::request::LineTooLong)) and a limit in time ([`TimedOut`](crate::request::TimedOut)) are
/// the peer's as well, and have payloads of their own. Both are reported, since a limit may be too small; only
/// `Limits::idle` ends a request without a word.
///
/// A handler that talks to others as well, a proxy, tells by it whose connection has failed:
///
/// ```
/// # use socketserver::request::PeerFault;
/// # fn f(error: std::io::Error) {
/// if PeerFault::find(&error).is_some_and(PeerFault::is_gone) {
///     // the client has gone away; an upstream's reset has no such payload
/// }
/// # }
/// ```
///
/// A request that ends with one of its own is reported to nobody on stderr: it ends as
/// [`Disconnected`](crate::CloseReason::Disconnected) or [`Garbled`](crate::CloseReason::Garbled).
#[derive(Debug)]
pub struct PeerFault {
    owner: RequestId,
    how: How,
}

#[derive(Debug)]
enum How {
    Gone(io::Error),
    EndedEarly,
    Garbled(Box<dyn StdError + Send + Sync>),
}

impl PeerFault {
    /// The connection has failed. The kind stays.
    pub(crate) fn gone(owner: RequestId, error: io::Error) -> io::Error {
        let kind = error.kind();
        io::Error::new(kind, Self { owner, how: How::Gone(error) })
    }

    /// The peer has ended its input in the middle of what it had to send.
    pub(crate) fn ended_early(owner: RequestId) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, Self { owner, how: How::EndedEarly })
    }

    /// The peer has sent what cannot be read.
    pub(crate) fn garbled(
        owner: RequestId,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> io::Error {
        let how = How::Garbled(error.into());
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, how })
    }

    /// The peer has sent a datagram that has less in it than what is read of it.
    pub(crate) fn too_short(owner: RequestId) -> io::Error {
        let how = How::Garbled("the datagram is too short".into());
        io::Error::new(io::ErrorKind::UnexpectedEof, Self { owner, how })
    }

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// Whether the peer has gone away, or takes no datagram; otherwise it has sent what cannot be read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        !matches!(self.how, How::Garbled(_))
    }
}

impl Owned for PeerFault {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::Gone(error) => error.fmt(f),
            How::EndedEarly => {
                f.write_str("the peer ended the connection in the middle of a message")
            }
            How::Garbled(error) => write!(f, "the peer sent what cannot be read: {error}"),
        }
    }
}

impl StdError for PeerFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.how {
            How::Gone(error) => Some(error),
            How::EndedEarly => None,
            How::Garbled(error) => Some(&**error),
        }
    }
}

/// The kinds of errors by which the system says that a connection is gone.
pub(crate) const LOSSES: [io::ErrorKind; 9] = [
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::NotConnected,
    io::ErrorKind::HostUnreachable,
    io::ErrorKind::NetworkUnreachable,
    io::ErrorKind::NetworkDown,
    // The kernel has sent again and again, and nobody has answered.
    io::ErrorKind::TimedOut,
];

/// Whether an error of a connection says that the connection is gone. What the machine lacks (memory, say) and what
/// a program does wrong is something else.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    // A limit of ours has no number; it says that the peer is slow, and not that it is gone.
    let is_limit = error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
    !is_limit && LOSSES.contains(&error.kind())
}

/// An error and its causes, outermost first.
///
/// `io::Error::source` skips the error that it wraps and gives that one's source, so a walk by
/// `source` alone would miss whatever travelled inside an `io::Error`. At most [`MOST_CAUSES`].
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error)).take(MOST_CAUSES)
}

/// How many errors of a chain are looked at. Real chains have a handful; one whose `source` leads in a circle has no end.
pub(crate) const MOST_CAUSES: usize = 64;

fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
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

/// Finds an error of type `E` along a chain of causes, if it is of this request.
pub(crate) fn find_of<'a, E: Owned>(
    owner: RequestId,
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    causes(error).filter_map(|error| error.downcast_ref()).find(|found: &&E| found.owner() == owner)
}
