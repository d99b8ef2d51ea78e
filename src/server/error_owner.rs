//! Whose an error is that a request has failed with: its peer's, if the request's own reads and writes say so.

use std::error::Error as StdError;
use std::io;

use crate::error::{Stopping, TimedOut};
use crate::live::Entry;
use crate::peer_fault::{Owned, PeerFault, RequestId, causes, find, find_of};
use crate::request::{LineTooLong, OutboxError};

/// A request, as far as it takes to know which errors are its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorOwner {
    owner: RequestId,
    /// How its connection has failed, if it has.
    lost: Option<io::ErrorKind>,
}

impl ErrorOwner {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { owner: entry.owner(), lost: entry.loss() }
    }

    pub(super) fn find<'a, E: Owned>(self, error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
        find_of(self.owner, error)
    }

    /// Whether the request's own peer has gone away, by the error's word.
    ///
    /// An error that somebody has made of another one by its kind, or an outbox's, does not say whose it is: there
    /// it has to be the way in which this request's connection has failed. A bare error of the system's is never
    /// this request's: those are all wrapped.
    pub(super) fn is_disconnect(self, error: &(dyn StdError + 'static)) -> bool {
        if let Some(fault) = self.find::<PeerFault>(error) {
            return fault.is_gone();
        }
        let says_whose = find::<PeerFault>(error).is_some()
            || find::<Stopping>(error).is_some()
            || TimedOut::find(error).is_some();
        let Some(lost) = self.lost.filter(|_| !says_whose) else { return false };
        causes(error).any(|error| {
            let by_its_kind = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.raw_os_error().is_none() && error.kind() == lost);
            by_its_kind || error.downcast_ref() == Some(&OutboxError::Closed)
        })
    }

    /// Whether the request's own peer has sent what cannot be read.
    pub(super) fn is_garbled(self, error: &(dyn StdError + 'static)) -> bool {
        self.find::<PeerFault>(error).is_some_and(|fault| !fault.is_gone())
    }

    /// Whether it is the peer's in any way: it went away, was too slow, or sent what it must not.
    pub(super) fn is_peers(self, error: &(dyn StdError + 'static)) -> bool {
        self.is_disconnect(error)
            || self.is_garbled(error)
            || self.find::<TimedOut>(error).is_some()
            || self.find::<LineTooLong>(error).is_some()
    }
}
