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
//! Everybody appends at the end, and everybody sends from `start`, under the lock and without waiting. So messages are
//! whole and in order, no matter which thread sends them: the one that appends, the writer, or the handler that waits
//! for its own output. A handler waits for a total and not for an empty queue, because others may append for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::sealed::Seal;
use crate::live::Entry;
use crate::sys;
use crate::write_stall::{SendTimeout, WriteStall};

/// One queue per connection, shared by all clones of its outbox, the handler and the writer.
pub(super) struct OutboxQueue {
    /// Counts the bytes, notes a loss, and carries the cut of `Outbox::close`.
    pub(super) entry: Arc<Entry>,
    /// `Limits::outbox_bytes`: how many bytes of others' messages may wait at most.
    pub(super) capacity: usize,
    /// Decided by the role of the process when the outbox is made.
    pub(super) writer: Writer,
    /// Under TLS: encrypts the bytes when they are sent, so that lines that have gathered share one record.
    pub(super) seal: Option<Arc<dyn Seal>>,
    /// Never locked across a wait.
    pub(super) state: Mutex<OutboxState>,
}

/// The queue itself, and how far its connection is.
#[derive(Default)]
pub(super) struct OutboxState {
    /// The connection, until its request ends: an outbox that is kept longer does not keep it open.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// The bytes that are due, from `start` on.
    bytes: Vec<u8>,
    /// How many of `bytes` have been sent. They are removed later, many at once.
    start: usize,
    /// How many bytes from `start` on are encrypted, and not all sent yet.
    sealed: usize,
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
    /// Whether it takes messages, and whether it sends.
    pub(super) phase: OutboxPhase,
}

/// The sender of due bytes that no handler waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The one thread for all outboxes.
    Thread,
    /// The sender: this process must start no thread.
    Sender,
}

/// Whether an outbox takes messages, and whether it sends.
///
/// | from | to | when |
/// |---|---|---|
/// | `Open` | `Wrapping` | the connection is about to be wrapped |
/// | `Wrapping` | `Open` | what is due could not be sent: no wrapper is made |
/// | `Wrapping` | `Wrapped` | it has been sent |
/// | `Open` | `Ending` | the handler has returned, or has ended its output |
/// | `Ending` | `Closed` | what is due has been sent, or was given up |
/// | any but `Wrapped` | `Closed` | [`Outbox::close`](crate::Outbox::close), or the connection has failed |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OutboxPhase {
    /// It takes messages, and sends.
    #[default]
    Open,
    /// It takes no more messages, and sends what is due.
    Wrapping,
    /// The bytes on the wire are the wrapper's.
    Wrapped,
    /// It takes no more messages, and sends what is due.
    Ending,
    /// Nothing is sent any more.
    Closed,
}

impl OutboxPhase {
    /// Whether what is due may still be sent.
    pub(super) fn sends(self) -> bool {
        matches!(self, Self::Open | Self::Wrapping | Self::Ending)
    }
}

impl OutboxState {
    /// Of a new outbox: nothing is due, and no list has it.
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

    /// Drops the due bytes: none of them is sent any more.
    /// Their memory is given back at once: clones of the outbox may be kept for long.
    pub(super) fn drop_due(&mut self, phase: OutboxPhase) {
        self.phase = phase;
        self.bytes = Vec::new();
        (self.start, self.sealed) = (0, 0);
    }

    /// Counts this many bytes as sent.
    fn sent(&mut self, count: usize) {
        self.start += count;
        self.sent_total += count as u64;
    }

    /// Appends a message. Sent bytes are removed first: at no cost if nothing waits, and otherwise only when they are
    /// so many that moving the rest is worth it.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > AT_ONCE {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.due_total += bytes.len() as u64;
    }

    /// Appends the handler's own output. Returns the total that has to be reached before it is sent.
    pub(super) fn append_own(&mut self, bytes: &[u8]) -> u64 {
        self.append(bytes);
        (self.own_bytes, self.own_mark) = (bytes.len() as u64, self.due_total);
        self.due_total
    }
}

/// With this many bytes due the outbox sends at once, because waiting for more gains nothing.
pub(super) const AT_ONCE: usize = 64 * 1024;

impl OutboxQueue {
    /// Waits until `sent_total` reaches the mark. Others' bytes that are sent meanwhile count as progress as well. Any
    /// thread may send them: this one sends what it can before each wait, and does not depend on the writer.
    ///
    /// # Errors
    ///
    /// `TimedOut`, with the bytes still due; `BrokenPipe`, if the outbox was closed or the peer is gone.
    pub(super) fn wait_until_sent(&self, mark: u64, timeout: SendTimeout) -> io::Result<()> {
        // A handler that calls again after a timeout gets no new time for a peer that has taken nothing.
        let given_up = self.state.lock().given_up.take();
        let mut waiting = given_up.map(|(sent, stall)| (sent, stall.resume(timeout)));
        loop {
            self.send_due();
            // A share of the descriptor, so that the wait needs no lock and the number is not used again meanwhile.
            let (sent, fd) = {
                let state = self.state.lock();
                if state.sent_total >= mark {
                    return Ok(());
                }
                // Under the same lock: after a close the total never reaches the mark.
                (state.sent_total, state.fd.clone().filter(|_| state.phase.sends()))
            };
            // Closed by others, or the connection has failed.
            let Some(fd) = fd else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let fd = fd.as_fd();
            let (seen, stall) =
                waiting.get_or_insert_with(|| (sent, WriteStall::begin(fd, timeout)));
            // The peer takes something: the limit begins anew.
            if *seen != sent {
                *seen = sent;
                stall.progress(fd);
            }
            if let Err(error) = stall.wait(fd, None) {
                self.state.lock().given_up = waiting;
                return Err(error);
            }
        }
    }

    /// Sends due bytes, as far as the socket takes them.
    pub(super) fn send_due(&self) {
        self.send_due_of(&mut self.state.lock());
    }

    /// Sends due bytes, for the thread whose list has this outbox. True: some bytes are left, and the outbox stays on the
    /// list. False: it is on no list any more, and the next message lists it anew. Both without a release of the lock, so
    /// that no message can be appended in between and be forgotten.
    pub(super) fn send_listed(&self) -> bool {
        let mut state = self.state.lock();
        self.send_due_of(&mut state);
        state.listed = state.fd.is_some() && state.waiting_bytes() > 0;
        state.listed
    }

    /// Sends due bytes, for a sender without a list: the rest waits for the next message.
    pub(super) fn send_unlisted(&self) {
        let mut state = self.state.lock();
        state.listed = false;
        self.send_due_of(&mut state);
    }

    /// Marks this outbox as listed, if bytes are due and it is on no list. True: the caller has to put it on a list.
    pub(super) fn needs_a_list(&self) -> bool {
        let mut state = self.state.lock();
        // Marked under the same lock: of two threads that ask, only one lists it.
        let needs = state.fd.is_some() && state.waiting_bytes() > 0 && !state.listed;
        state.listed |= needs;
        needs
    }

    /// Sends under the lock, so that messages of several senders stay whole and in order.
    pub(super) fn send_due_of(&self, state: &mut OutboxState) {
        while let (Some(fd), true) = (&state.fd, state.phase.sends()) {
            if state.start == state.bytes.len() {
                return;
            }
            // This never waits: the lock is held for one system call, and for the encryption of 64 KiB at most.
            let sent = match &self.seal {
                None => sys::send(fd.as_fd(), &state.bytes[state.start..])
                    .inspect(|count| self.entry.add_bytes_out(*count)),
                Some(seal) => {
                    send_sealed(&**seal, fd.as_fd(), &state.bytes[state.start..], &mut state.sealed)
                        .inspect(|count| self.entry.add_clear_out(*count))
                }
            };
            match sent {
                Ok(count) => state.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The rest waits for room, in the caller's wait or in the writer's.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The peer is gone. The handler finds out by its own reads and writes.
                Err(error) => {
                    self.entry.note_loss(error.kind());
                    state.drop_due(OutboxPhase::Closed);
                }
            }
        }
    }

    /// A share of the descriptor. None after the end of the request.
    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().fd.clone()
    }
}

/// Encrypts the first of the bytes, unless they are encrypted already (`sealed` says how many), and sends the result.
/// Plain bytes count as sent when the socket has taken everything that they were encrypted to.
fn send_sealed(
    seal: &dyn Seal,
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    sealed: &mut usize,
) -> io::Result<usize> {
    // A record that was cut short by a full socket is not encrypted again: its number in the stream is used up.
    if *sealed == 0 {
        // Messages of TLS itself go first, so that the room for records is empty.
        seal.transmit(fd)?;
        *sealed = seal.seal(bytes)?;
    }
    seal.transmit(fd)?;
    Ok(std::mem::take(sealed))
}
