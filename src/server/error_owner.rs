//! [`ErrorOwner`]: decides whether an error comes from the request's own peer: the request's own reads and writes
//! must have returned it.
//!
//! A handler that talks to a database, a file or another client returns their errors in the same way, and with the same
//! kinds. If those counted as the peer's doing, a proxy with a dead upstream would look as if its clients had hung up, and
//! nothing would be printed. So the errors of a request carry its mark (`peer_fault.rs`), and only those count:
//!
//! ```text
//! the handler returns                             it carries              the request's end
//! request.read(..)?       ConnectionReset         its own mark            Disconnected
//! upstream.read(..)?      ConnectionReset         another mark, or none   Failed
//! io::Error::new(kind, "no answer")               none                    Disconnected, if its connection has failed
//!                                                                         in this way; otherwise Failed
//! ```

use std::error::Error as StdError;
use std::io;

use crate::error::Stopping;
use crate::live::Entry;
use crate::peer_fault::{Owned, PeerFault, RequestId, causes, find, find_of};
use crate::request::{LineTooLong, NoHeader, OutboxError};
use crate::timed_out::TimedOut;

/// Identifies the errors of one request. Made when a step of the request has failed, and used for the reason of the
/// request's end, for the default report and for [`Failure::fault`](super::Failure::fault), which therefore agree.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorOwner {
    /// The mark of the request itself.
    own: Mark,
    /// The mark of the request that the handler has at its end, if it has swapped its own for another one.
    held: Option<Mark>,
}

/// The mark of a request's errors.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Marks the errors of the request's own reads and writes.
    owner: RequestId,
    /// The way in which the request's connection has failed, if it has.
    lost: Option<io::ErrorKind>,
}

impl Mark {
    fn of(entry: &Entry) -> Self {
        Self { owner: entry.owner(), lost: entry.loss() }
    }
}

impl ErrorOwner {
    /// The owner as of now: if the connection fails later, the answers stay the same.
    pub(super) fn of(entry: &Entry) -> Self {
        Self { own: Mark::of(entry), held: None }
    }

    /// The owner for a request whose handler ends with another request in place of its own: that of `held`.
    pub(super) fn holding(entry: &Entry, held: &Entry) -> Self {
        let (own, held) = (Mark::of(entry), Mark::of(held));
        // Usually the handler still has its own request.
        Self { own, held: (held.owner != own.owner).then_some(held) }
    }

    /// The error of this kind in the chain, if it belongs to this request or to the one that the handler holds at its
    /// end. An error of any other request, or of an upstream, is not found.
    pub(super) fn find<'a, E: Owned>(self, error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
        let of_held = || self.held.and_then(|held| find_of(held.owner, error));
        find_of(self.own.owner, error).or_else(of_held)
    }

    /// Whether the error says that the request's own peer has gone away.
    ///
    /// Three cases:
    ///
    /// 1. The error carries a [`PeerFault`] of this request, which says so itself.
    /// 2. It carries a payload of another request: false.
    /// 3. It carries no payload: an `io::Error` made from the kind of another error, or an error of an outbox. True if this
    ///    request's connection has failed in the same way. A bare error of the system (with an errno) is never of
    ///    this request, whose errors are all wrapped.
    pub(super) fn is_disconnect(self, error: &(dyn StdError + 'static)) -> bool {
        if let Some(fault) = self.find::<PeerFault>(error) {
            return fault.is_gone();
        }
        // Three kinds of payload name a request. One that `self.find` has not returned belongs to another request.
        let names_a_request = find::<PeerFault>(error).is_some()
            || find::<Stopping>(error).is_some()
            || TimedOut::find(error).is_some();
        let lost = [self.own.lost, self.held.and_then(|held| held.lost)];
        if names_a_request || lost == [None, None] {
            return false;
        }
        causes(error).any(|error| {
            let by_its_kind = error.downcast_ref::<io::Error>().is_some_and(|error| {
                error.raw_os_error().is_none() && lost.contains(&Some(error.kind()))
            });
            // An outbox's error names no request: the outbox outlives its own, and other requests send to it.
            by_its_kind || error.downcast_ref() == Some(&OutboxError::Closed)
        })
    }

    /// Whether the request's own peer has sent bytes that cannot be read.
    pub(super) fn is_garbled(self, error: &(dyn StdError + 'static)) -> bool {
        self.find::<PeerFault>(error).is_some_and(|fault| !fault.is_gone())
    }

    /// Whether the request's own peer and this side could not agree in a handshake.
    pub(super) fn is_not_agreed(self, error: &(dyn StdError + 'static)) -> bool {
        self.find::<PeerFault>(error).is_some_and(PeerFault::is_not_agreed)
    }

    /// Whether the peer caused the error in any way: it went away, was too slow, or sent something invalid.
    pub(super) fn is_peers(self, error: &(dyn StdError + 'static)) -> bool {
        self.is_disconnect(error)
            || self.is_garbled(error)
            || self.find::<TimedOut>(error).is_some()
            || self.find::<LineTooLong>(error).is_some()
            || self.find::<NoHeader>(error).is_some()
    }
}
