//! How the due bytes of an outbox are sent, and how a handler waits until its own are.
//!
//! Every thread may send: the one that appends, the outbox thread (`outbox_thread.rs`), or the handler that waits for
//! its own output. Each sends under the lock of the queue and without waiting. So messages are whole and in order, no
//! matter which thread sends them. A handler waits for a total and not for an empty queue, because others may append
//! for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::outbox_queue::{OutboxPhase, OutboxQueue, OutboxState};
use super::tls_seam::Seal;
use crate::sys;
use crate::write_stall::{SendTimeout, WriteStall};

impl OutboxQueue {
    /// Waits until `sent_total` reaches the mark. Others' bytes that are sent meanwhile count as progress as well. Any
    /// thread may send them: this one sends what it can before each wait, and does not depend on the writer.
    ///
    /// # Errors
    ///
    /// `TimedOut`, with the bytes still due; `BrokenPipe`, if the outbox was closed or the peer is gone.
    pub(super) fn wait_until_sent(&self, mark: u64, timeout: SendTimeout) -> io::Result<()> {
        // A handler that calls again after a timeout gets no new time for a peer that has taken nothing.
        let given_up = self.lock().ok_or_else(not_ours)?.given_up.take();
        let mut waiting = given_up.map(|(sent, stall)| (sent, stall.resume(timeout)));
        loop {
            self.send_due();
            // A share of the descriptor, so that the wait needs no lock and the descriptor's number is not reused.
            let (sent, fd) = {
                let state = self.lock().ok_or_else(not_ours)?;
                if state.sent_total >= mark {
                    return Ok(());
                }
                // The phase is read under the same lock: after a close the total never reaches the mark.
                (state.sent_total, state.fd.clone().filter(|_| state.phase.sends()))
            };
            // The outbox was closed by others, or its connection has failed.
            let Some(fd) = fd else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let fd = fd.as_fd();
            let (seen, stall) =
                waiting.get_or_insert_with(|| (sent, WriteStall::begin(fd, timeout)));
            // The peer has taken something: the limit begins anew.
            if *seen != sent {
                *seen = sent;
                stall.progress(fd);
            }
            if let Err(error) = stall.wait(fd, None) {
                if let Some(mut state) = self.lock() {
                    state.given_up = waiting;
                }
                return Err(error);
            }
        }
    }

    /// Sends due bytes, as far as the socket takes them.
    pub(super) fn send_due(&self) {
        if let Some(mut state) = self.lock() {
            self.send_due_of(&mut state);
        }
    }

    /// Sends due bytes, for the thread whose list has this outbox. True: some bytes are left, and the outbox stays on
    /// the list. False: it is on no list any more, and the next message lists it anew. The lock is held all the time,
    /// so that no message can be appended in between and be forgotten.
    pub(super) fn send_listed(&self) -> bool {
        let Some(mut state) = self.lock() else { return false };
        self.send_due_of(&mut state);
        state.listed = state.fd.is_some() && state.waiting_bytes() > 0;
        state.listed
    }

    /// Sends due bytes, for a sender without a list: the rest waits for the next message.
    pub(super) fn send_unlisted(&self) {
        let Some(mut state) = self.lock() else { return };
        state.listed = false;
        self.send_due_of(&mut state);
    }

    /// Marks this outbox as listed, if bytes are due and it is on no list. True: the caller has to put it on a list.
    pub(super) fn needs_a_list(&self) -> bool {
        let Some(mut state) = self.lock() else { return false };
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
            // The send never waits: the lock is held for one system call, and for the encryption of 64 KiB at most.
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
}

/// The error of an outbox in the child of a bare fork, if the parent has made the outbox.
#[cold]
pub(super) fn not_ours() -> io::Error {
    io::Error::other(
        "this process was forked after the outbox had been made, and its parent sends what is due",
    )
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
        // Messages of TLS itself go first: `seal` may be called only when everything encrypted is sent.
        seal.transmit(fd)?;
        *sealed = seal.seal(bytes)?;
    }
    seal.transmit(fd)?;
    Ok(std::mem::take(sealed))
}
