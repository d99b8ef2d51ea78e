//! Bytes that are due to a connection, and how far they have been sent.
//!
//! ```text
//! bytes     | sent, to be removed | encrypted, not all sent | due                           |
//!           0                     start                     start + sealed                  bytes.len()
//!
//! totals    sent_total ............................................................. due_total
//!                                           own_mark: here the handler's own output ends
//! ```
//!
//! Every thread appends at the end and sends from `start` (`outbox_send.rs`), both under the lock.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::tls_seam::Seal;
use crate::live::Entry;
use crate::process::BareFork;
use crate::write_stall::WriteStall;

/// One queue per connection, shared by all clones of its outbox, the handler and the writer.
pub(super) struct OutboxQueue {
    /// Counts the bytes, notes a loss, and carries the cut of `Outbox::close`.
    pub(super) entry: Arc<Entry>,
    /// `Limits::outbox_bytes`: how many bytes of others' messages may wait at most.
    pub(super) capacity: usize,
    /// Decided by the role of the process when the outbox is made.
    pub(super) writer: Writer,
    /// TLS, if the connection has it. The bytes are encrypted only when they are sent, so that lines that have gathered
    /// share one record.
    pub(super) seal: Option<Arc<dyn Seal>>,
    /// The process that sends the due bytes.
    pub(super) made_in: BareFork,
    /// Never locked across a wait.
    pub(super) state: Mutex<OutboxState>,
}

/// The queue itself, its totals, and its phase.
#[derive(Default)]
pub(super) struct OutboxState {
    /// The connection, until its request ends: an outbox that is kept longer does not keep it open.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// The bytes that are due, from `start` on.
    pub(super) bytes: Vec<u8>,
    /// How many of `bytes` have been sent. They are removed later, many at once.
    pub(super) start: usize,
    /// How many bytes from `start` on are encrypted, and not all sent yet.
    pub(super) sealed: usize,
    /// How many bytes have ever become due. A writer that waits for its own bytes notes this total, and waits until
    /// `sent_total` reaches it.
    pub(super) due_total: u64,
    /// How many bytes have ever been sent. Never more than `due_total`; the difference waits, until it is dropped.
    pub(super) sent_total: u64,
    /// How many bytes the handler's last write had. The handler waits for them, so they do not count against the
    /// capacity.
    own_bytes: u64,
    /// The total at which `own_bytes` end.
    own_mark: u64,
    /// A wait that timed out, and how many bytes had been sent at that moment. The next wait goes on from there.
    pub(super) given_up: Option<(u64, WriteStall)>,
    /// The outbox is on the list of a sender, or of the writer.
    pub(super) listed: bool,
    /// Whether the outbox takes messages, and whether it sends.
    pub(super) phase: OutboxPhase,
}

/// The sender of due bytes that no handler waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The one thread for all outboxes.
    Thread,
    /// The thread that calls `send`: this process must start no thread of the library.
    Sender,
}

/// Whether an outbox takes messages, and whether it sends.
///
/// | from | to | when |
/// |---|---|---|
/// | `Open` | `Wrapping` | the connection is about to be wrapped |
/// | `Wrapping` | `Open` | the due bytes could not be sent: no wrapper is made |
/// | `Wrapping` | `Wrapped` | the due bytes have been sent |
/// | `Open` | `Ending` | the handler has returned, or has ended its output |
/// | `Ending` | `Closed` | the due bytes have been sent, or were given up |
/// | any but `Wrapped` | `Closed` | [`Outbox::close`](crate::Outbox::close), or the connection has failed |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OutboxPhase {
    /// The outbox takes messages, and sends.
    #[default]
    Open,
    /// A wrapper is about to be made: the outbox takes no more messages, and sends what is due.
    Wrapping,
    /// The outbox sends nothing more: the bytes on the wire are the wrapper's.
    Wrapped,
    /// The handler's output ends: the outbox takes no more messages, and sends what is due.
    Ending,
    /// Nothing is sent any more.
    Closed,
}

impl OutboxPhase {
    /// Whether due bytes may still be sent.
    pub(super) fn sends(self) -> bool {
        matches!(self, Self::Open | Self::Wrapping | Self::Ending)
    }
}

impl OutboxState {
    /// The state of a new outbox: nothing is due, and the outbox is on no list.
    pub(super) fn over(fd: Arc<OwnedFd>) -> Self {
        Self { fd: Some(fd), ..Self::default() }
    }

    /// How many bytes wait, the handler's own among them.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// How many of the waiting bytes are others' messages.
    pub(super) fn others_bytes(&self) -> usize {
        // The handler's own bytes end at `own_mark`. Unsent bytes before that mark are the handler's, but no more
        // than it has written.
        let own = self.own_bytes.min(self.own_mark.saturating_sub(self.sent_total));
        self.waiting_bytes().saturating_sub(usize::try_from(own).unwrap_or(usize::MAX))
    }

    /// Enters a phase that sends nothing, and drops the due bytes. Their memory is given back at once, because clones
    /// of the outbox may be kept for long.
    pub(super) fn drop_due(&mut self, phase: OutboxPhase) {
        self.phase = phase;
        self.bytes = Vec::new();
        (self.start, self.sealed) = (0, 0);
    }

    /// Counts this many bytes as sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.start += count;
        self.sent_total += count as u64;
    }

    /// Appends a message. Sent bytes are removed first: at no cost if nothing waits, and otherwise only when they are
    /// so many that moving the rest is worth it.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > SEND_THRESHOLD {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.due_total += bytes.len() as u64;
    }

    /// Appends the handler's own output. Returns the number that `sent_total` has when all of this output is sent.
    pub(super) fn append_own(&mut self, bytes: &[u8]) -> u64 {
        self.append(bytes);
        (self.own_bytes, self.own_mark) = (bytes.len() as u64, self.due_total);
        self.due_total
    }
}

/// With this many bytes due the outbox sends at once, because waiting for more gains nothing.
pub(super) const SEND_THRESHOLD: usize = 64 * 1024;

impl OutboxQueue {
    /// The state, locked. None in the child of a bare fork: the due bytes are the parent's to send, and one of its threads may
    /// have held the lock at the fork.
    #[inline]
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, OutboxState>> {
        if self.made_in.is_current() { Some(self.state.lock()) } else { None }
    }

    /// A share of the descriptor. None after the end of the request.
    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.lock()?.fd.clone()
    }
}
