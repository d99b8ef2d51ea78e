//! [`ErrorOwner`]: decides whether an error comes from the request's own peer: the request's own reads and writes
//! must have returned it.

use std::error::Error as StdError;
use std::io;

use crate::error::Stopping;
use crate::live::Entry;
use crate::peer_fault::{Owned, PeerFault, RequestId, causes, find, find_of};
use crate::request::{LineTooLong, NoHeader, OutboxError};
use crate::timed_out::TimedOut;

/// Identifies the errors of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorOwner {
    /// Marks the errors of the request's own reads and writes.
    owner: RequestId,
    /// The way in which its connection has failed, if it has.
    lost: Option<io::ErrorKind>,
}

impl ErrorOwner {
    /// The owner as of now: if the connection fails later, the answer stays.
    pub(super) fn of(entry: &Entry) -> Self {
        Self { owner: entry.owner(), lost: entry.loss() }
    }

    /// The error of this kind in the chain, if it is this request's own. An error of another request, or of an
    /// upstream, is not found.
    pub(super) fn find<'a, E: Owned>(self, error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
        find_of(self.owner, error)
    }

    /// Whether the error says that the request's own peer has gone away.
    ///
    /// Three cases:
    ///
    /// 1. The error carries a [`PeerFault`] of this request: it says so itself.
    /// 2. It carries a payload of another request: false.
    /// 3. It carries none: an `io::Error` made from the kind of another error, or an error of an outbox. True if this
    ///    request's connection has failed in the same way. A bare error of the system (with an errno) is never of
    ///    this request, whose errors are all wrapped.
    pub(super) fn is_disconnect(self, error: &(dyn StdError + 'static)) -> bool {
        if let Some(fault) = self.find::<PeerFault>(error) {
            return fault.is_gone();
        }
        // A payload that `find` did not return belongs to another request.
        let names_a_request = find::<PeerFault>(error).is_some()
            || find::<Stopping>(error).is_some()
            || TimedOut::find(error).is_some();
        let Some(lost) = self.lost.filter(|_| !names_a_request) else { return false };
        causes(error).any(|error| {
            let by_its_kind = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.raw_os_error().is_none() && error.kind() == lost);
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

    /// Whether the peer caused it in any way: it went away, was too slow, or sent something invalid.
    pub(super) fn is_peers(self, error: &(dyn StdError + 'static)) -> bool {
        self.is_disconnect(error)
            || self.is_garbled(error)
            || self.find::<TimedOut>(error).is_some()
            || self.find::<LineTooLong>(error).is_some()
            || self.find::<NoHeader>(error).is_some()
    }
}
