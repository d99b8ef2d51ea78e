//! Sending to a connection from elsewhere: what a chat room, a broadcaster or a timer holds of its members.

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::outbox_queue::{AT_ONCE, OutboxPhase, OutboxQueue, Writer};
use super::{StreamRequest, outbox_writer};
use crate::live::{Cut, Entry};
use crate::write_stall::SendTimeout;

/// A way to send to a connection from anywhere: another handler, another thread, a timer. Clones are ways to
/// the same one.
///
/// [`send`](Self::send) only appends to what is due to the connection, and never waits for its peer, so that
/// a slow member of a room delays nobody. What has been sent leaves at the latest when the sender next waits
/// or returns, and at once beyond 64 KiB; so lines that are due to one member together leave together. What
/// the socket will not take waits for room without anybody's help.
///
/// A server that forks must start no thread in its own process, where of all that has a request only the hook
/// `overflow` runs: there the sender writes by itself, never waits, and what the socket does not take by the end
/// of the hook is lost. In a child everything is as elsewhere.
///
/// Lines are never torn: what the handler itself writes goes through the same queue.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use socketserver::{HandlerResult, Outbox, StreamRequest, StreamRequestHandler};
///
/// type Room = Arc<Mutex<HashMap<u64, Outbox>>>;
///
/// struct Member {
///     room: Room,
/// }
///
/// impl StreamRequestHandler for Member {
///     fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
///         self.room.lock().unwrap().insert(request.id(), request.outbox()?);
///         let mut line = String::new();
///         while let Some(text) = request.next_line(&mut line)? {
///             for (id, outbox) in self.room.lock().unwrap().iter() {
///                 // Who does not take his lines is shown the door.
///                 if *id != request.id() && outbox.send(format!("{text}\n")).is_err() {
///                     outbox.close();
///                 }
///             }
///         }
///         Ok(())
///     }
///
///     fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
///         self.room.lock().unwrap().remove(&request.id());
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<OutboxQueue>,
}

/// Why [`Outbox::send`] has not taken a message. Nothing of it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The peer does not take what is due to it: as much waits already as may.
    #[error("the outbox is full: its peer is too slow")]
    Full,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
    /// The connection was wrapped ([`StreamRequest::wrap_stream`](crate::StreamRequest::wrap_stream)) after this way to
    /// it had been made: what it sent would go in the open, past the wrapper.
    #[error("the connection was wrapped, and this outbox sends in the open")]
    Wrapped,
}

impl Outbox {
    pub(super) fn new(
        fd: Arc<OwnedFd>,
        entry: Arc<Entry>,
        capacity: usize,
        writer: Writer,
    ) -> Self {
        Self { shared: Arc::new(OutboxQueue::new(fd, entry, capacity, writer)) }
    }

    /// Has a message sent, whole or not at all.
    ///
    /// # Errors
    ///
    /// If so much waits already that it does not fit (`Limits::outbox_bytes`), or the connection has ended, or has been
    /// wrapped meanwhile.
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), OutboxError> {
        let message = message.as_ref();
        let (newly_listed, large) = {
            let mut state = self.shared.state.lock();
            match state.phase {
                OutboxPhase::Open => {}
                OutboxPhase::Wrapping | OutboxPhase::Wrapped => return Err(OutboxError::Wrapped),
                OutboxPhase::Ending | OutboxPhase::Closed => return Err(OutboxError::Closed),
            }
            if state.others_bytes() + message.len() > self.shared.capacity {
                return Err(OutboxError::Full);
            }
            state.append(message);
            let newly_listed = !std::mem::replace(&mut state.listed, true);
            (newly_listed, state.waiting_bytes() >= AT_ONCE)
        };
        if newly_listed {
            outbox_writer::list(&self.shared);
        }
        if large {
            self.flush();
        }
        Ok(())
    }

    /// Has everything that is due leave now, as far as the socket takes it: for a sender that computes for
    /// long before it waits again.
    pub fn flush(&self) {
        self.shared.send_due();
        outbox_writer::look_after(&self.shared);
    }

    /// How many bytes wait to be taken by the peer.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.state.lock().waiting_bytes()
    }

    /// Ends the connection. Its handler's reads and writes fail, and it leaves.
    ///
    /// What is due is sent before, as far as the socket takes it at once: a word of farewell reaches whoever
    /// reads. A peer that does not read has its connection reset: the system would otherwise keep what it has
    /// taken, megabytes of it, for as long as it has hope.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            self.shared.send_due_of(&mut state);
            if let (Some(fd), 1..) = (&state.fd, state.waiting_bytes()) {
                // It takes effect when the connection is closed. A Unix socket knows no resets.
                let _ = socket2::SockRef::from(&**fd).set_linger(Some(Duration::ZERO));
            }
            // What is left would keep the writer busy: a connection that is shut down is always writable.
            if state.phase != OutboxPhase::Wrapped {
                state.drop_due(OutboxPhase::Closed);
            }
        }
        self.shared.entry.shut_down(Cut::Closed, Shutdown::Both);
    }

    /// What the handler itself writes: behind what is due, and waited for.
    pub(super) fn write_all(&self, bytes: &[u8], timeout: SendTimeout) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.state.lock();
            if !state.phase.sends() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.append_own(bytes)
        };
        self.wait_until_sent(mark, timeout)
    }

    /// The end of the request: nothing more is taken, and what is due is waited for.
    pub(super) fn finish(&self, timeout: SendTimeout) {
        let mark = {
            let mut state = self.shared.state.lock();
            if state.phase == OutboxPhase::Open {
                state.phase = OutboxPhase::Ending;
            }
            state.due_total
        };
        let _ = self.wait_until_sent(mark, timeout);
        self.let_go(OutboxPhase::Closed);
    }

    /// The connection is about to be wrapped: nothing more is taken, and what is due leaves in the open. If it does
    /// not, everything is as before.
    pub(super) fn retire(&self, timeout: SendTimeout) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.state.lock();
            if state.phase == OutboxPhase::Open {
                state.phase = OutboxPhase::Wrapping;
            }
            state.due_total
        };
        if let Err(error) = self.wait_until_sent(mark, timeout) {
            let mut state = self.shared.state.lock();
            if state.phase == OutboxPhase::Wrapping {
                state.phase = OutboxPhase::Open;
            }
            return Err(error);
        }
        self.let_go(OutboxPhase::Wrapped);
        Ok(())
    }

    /// Sends nothing more, and lets go of the connection.
    fn let_go(&self, phase: OutboxPhase) {
        let listed = {
            let mut state = self.shared.state.lock();
            state.drop_due(phase);
            state.fd = None;
            state.listed
        };
        if listed {
            // The writer may wait for room in the socket, and holds it open as well.
            outbox_writer::look_again();
        }
    }

    fn wait_until_sent(&self, mark: u64, timeout: SendTimeout) -> io::Result<()> {
        let result = self.shared.wait_until_sent(mark, timeout);
        // What is left is due to somebody else's messages, or to a wait that was given up: it is nobody's
        // to send any more, if it is on no list.
        outbox_writer::look_after(&self.shared);
        result
    }
}

impl StreamRequest {
    /// A way for others to send to this connection: see [`Outbox`]. Every call gives a way to the same one. In
    /// the hook `overflow` nobody waits for room: what the socket does not take by the end of the hook is lost.
    ///
    /// # Errors
    ///
    /// If the connection is not a plain socket: bytes from elsewhere cannot be put into a TLS session. An outbox that was
    /// made before a [`wrap_stream`](Self::wrap_stream) fails from then on, with
    /// [`OutboxError::Wrapped`](crate::request::OutboxError::Wrapped).
    pub fn outbox(&mut self) -> io::Result<Outbox> {
        self.flush()?;
        self.io.outbox()
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("client_address", self.shared.entry.client_address())
            .field("waiting_bytes", &self.waiting_bytes())
            .finish()
    }
}
