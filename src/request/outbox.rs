//! [`Outbox`]: sending to a connection from other threads, as a chat room, a broadcaster or a timer does.
//!
//! ```text
//! sender (any thread)        outbox_queue.rs, _send.rs    outbox_thread.rs
//!   send ------------------>   appends; nothing waits
//!                              newly listed?  ---------->   this thread's list
//!   waits, or returns  --------------------------------->   flush: the list goes to the writer, one thread
//!                              send_listed  <------------     tries each; what is left waits for room
//! the handler
//!   write_all ------------->   appends; waits until sent
//!   returns: finish ------->   Ending; waits until sent; Closed
//! ```
//!
//! Invariant, while the queue is unlocked: if bytes are due, the outbox is on a list (`listed`) or a thread waits in
//! `wait_until_sent`. Bytes are sent under the lock, by `send` with `MSG_DONTWAIT`, so that they stay in order and
//! nobody waits with the lock held.

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bounded_io::BoundedIo;
use super::connection::Connection;
use super::outbox_queue::{OutboxPhase, OutboxQueue, OutboxState, SEND_THRESHOLD, Writer};
use super::outbox_send::not_ours;
use super::{StreamRequest, outbox_thread};
use crate::live::Cut;
use crate::process::BareFork;
use crate::wait::{self, Interest, Waiting};
use crate::write_stall::SendTimeout;

/// Sends to a connection from anywhere: from another handler, another thread, a timer. Clones send to the same
/// connection.
///
/// [`send`](Self::send) only appends to a queue and never waits for the peer, so that a slow member of a room delays
/// nobody. The bytes are sent when the sending thread next waits or returns, or at once if 64 KiB or more are due.
/// So lines for one member leave together. If the socket has no room, a thread of the library waits for it.
///
/// A forking server must start no thread in its own process, where only the hook `overflow` can send. There `send`
/// writes at once and never waits, and bytes that the socket does not take by the end of the hook are lost. In a child
/// an outbox works as under other mixins.
///
/// In a child that a handler has forked by itself (`libc::fork`), an outbox from before the fork belongs to the parent,
/// which sends what is due. In the child its [`send`](Self::send) fails with [`OutboxError::Closed`], and its other
/// methods do nothing. For its own connection the child makes a new outbox by [`StreamRequest::outbox`].
///
/// Messages are never torn: the handler's own writes go through the same queue. The queue is bounded by
/// `Limits::outbox_bytes`; under TLS it holds the bytes that are not encrypted yet.
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
///                 // A member that does not read is disconnected.
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
    /// The state that all clones, the handler and the writer share.
    shared: Arc<OutboxQueue>,
}

/// Why [`Outbox::send`] did not take a message. No part of the message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The peer is too slow: with this message more than `Limits::outbox_bytes` would wait.
    #[error("the outbox is full: its peer is too slow")]
    Full,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
    /// The connection was wrapped ([`StreamRequest::wrap_stream`](crate::StreamRequest::wrap_stream)) after this
    /// outbox was made. Its messages would bypass the wrapper, unencrypted.
    #[error("the connection was wrapped, and this outbox sends in the open")]
    Wrapped,
}

impl Outbox {
    /// Queues a message, whole or not at all. It does not wait, and does not say whether the peer gets it.
    ///
    /// # Errors
    ///
    /// If the message does not fit (`Limits::outbox_bytes`), or the connection has ended or been wrapped: see
    /// [`OutboxError`].
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), OutboxError> {
        let message = message.as_ref();
        let (newly_listed, large) = {
            let Some(mut state) = self.shared.lock() else { return Err(OutboxError::Closed) };
            match state.phase {
                OutboxPhase::Open => {}
                OutboxPhase::Wrapping | OutboxPhase::Wrapped => return Err(OutboxError::Wrapped),
                OutboxPhase::Ending | OutboxPhase::Closed => return Err(OutboxError::Closed),
            }
            // Checked before anything is appended, because a message is taken whole or not at all. The handler's own bytes
            // do not count, because it waits for them.
            if state.others_bytes() + message.len() > self.shared.capacity {
                return Err(OutboxError::Full);
            }
            state.append(message);
            let newly_listed = !std::mem::replace(&mut state.listed, true);
            (newly_listed, state.waiting_bytes() >= SEND_THRESHOLD)
        };
        // The lock is released by now: `list` may hand the outbox over at once, which takes the lock again.
        if newly_listed {
            outbox_thread::list(&self.shared);
        }
        // This much fills a send by itself: waiting for more would only make the peer wait.
        if large {
            self.flush();
        }
        Ok(())
    }

    /// Sends the waiting bytes now, as far as the socket takes them. For a sender that computes for a long time before
    /// it waits again.
    pub fn flush(&self) {
        self.shared.send_due();
        // The bytes that the socket has not taken are left to the writer.
        outbox_thread::look_after(&self.shared);
    }

    /// How many bytes wait for the peer, those of the handler's own writes included. The number is out of date at
    /// once: use it for statistics, or to slow down before [`OutboxError::Full`] (see
    /// [`wait_for_room`](Self::wait_for_room)).
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().map_or(0, |state| state.waiting_bytes())
    }

    /// How many bytes the system has taken for the peer since the outbox was made. Dropped bytes do not count. Under
    /// TLS these are bytes before the encryption.
    ///
    /// If bytes wait and this number grows, the peer is slow. If it does not grow, the peer reads nothing.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.shared.lock().map_or(0, |state| state.sent_total)
    }

    /// Waits until at most `waiting_bytes` bytes wait for the peer, but no longer than `timeout`. True: at most that
    /// many wait, or the connection has ended. False: the time is over, or the wait was cancelled.
    ///
    /// For a sender that has much to send at once, more than the outbox should hold: it waits here and does not run
    /// into [`OutboxError::Full`]. The peer decides how long such a transfer takes. If others depend on the same sender, it
    /// should give up in time: [`sent_bytes`](Self::sent_bytes) shows whether the peer reads at all. Under a mixin with
    /// coroutines only the caller waits, and not its thread. Do not hold a lock that handlers need during the call.
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::Outbox;
    ///
    /// /// Sends a long text in pieces. False: its peer is too slow for it.
    /// fn send_all(outbox: &Outbox, pieces: &[&str]) -> bool {
    ///     pieces.iter().all(|piece| {
    ///         outbox.wait_for_room(64 * 1024, Duration::from_secs(10)) && outbox.send(piece).is_ok()
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn wait_for_room(&self, waiting_bytes: usize, timeout: Duration) -> bool {
        /// The system reports room only when a third of its buffer is free, which takes a slow peer seconds. So the
        /// wait also looks again after this time, in which the peer may have taken a little.
        const ROOM_CHECK_PAUSE: Duration = Duration::from_millis(50);
        let until = wait::moment_after(Instant::now(), timeout);
        loop {
            let fd = {
                let Some(mut state) = self.shared.lock() else { return true };
                if state.waiting_bytes() > waiting_bytes {
                    self.shared.send_due_of(&mut state);
                }
                if state.waiting_bytes() <= waiting_bytes {
                    return true;
                }
                state.fd.clone()
            };
            // Without a descriptor the request has ended, and there is nothing to wait for.
            let Some(fd) = fd else { return true };
            // The time is checked after the queue, so that a call with no time at all still says whether there is room.
            let now = Instant::now();
            if now >= until {
                return false;
            }
            // The slot belongs to the request's own waits, and this may be another thread, so the wait has none.
            let room = Waiting { fd: fd.as_fd(), interest: Interest::Write, slot: None };
            if wait::any(&[room], Some(until.min(now + ROOM_CHECK_PAUSE))).is_err() {
                return false;
            }
        }
    }

    /// Ends the connection. The handler's reads and writes fail, and it returns.
    ///
    /// Bytes that are due are sent first, as far as the socket takes them at once. So a last message reaches a peer that
    /// reads. If the peer does not read, its connection is reset, because the system could otherwise keep megabytes
    /// of unread data for minutes.
    pub fn close(&self) {
        {
            let Some(mut state) = self.shared.lock() else { return };
            // Sends as many of the due bytes as fit without waiting.
            self.shared.send_due_of(&mut state);
            if let (Some(fd), 1..) = (&state.fd, state.waiting_bytes()) {
                // The option takes effect when the connection is closed. Unix sockets have no resets.
                let _ = socket2::SockRef::from(&**fd).set_linger(Some(Duration::ZERO));
            }
            // The remaining bytes would keep the writer busy: a connection that is shut down is always writable.
            if state.phase != OutboxPhase::Wrapped {
                state.drop_due(OutboxPhase::Closed);
            }
        }
        // The queue is unlocked by now, because `shut_down` locks the entry, and may wake the handler.
        self.shared.entry.shut_down(Cut::Closed, Shutdown::Both);
    }

    /// Sends the handler's own output after the waiting bytes, and waits until it is sent. Called by the handler's
    /// thread, so its own bytes need no bound in memory: there are never more than those of one write.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the outbox sends no more; `TimedOut`, and then the bytes stay due.
    pub(super) fn write_all(&self, bytes: &[u8], timeout: SendTimeout) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.lock().ok_or_else(not_ours)?;
            if !state.phase.sends() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Appended behind all that is due, so that no message is torn.
            state.append_own(bytes)
        };
        self.wait_until_sent(mark, timeout)
    }

    /// The end of the request or of its output: takes no more messages, and waits until the queued bytes are sent.
    /// After an error the unsent bytes are dropped, and the caller must not say that the output was whole.
    pub(super) fn finish(&self, timeout: SendTimeout) -> io::Result<()> {
        // None: the outbox is the parent's, which sends the due bytes.
        let Some(mark) = self.take_no_more(OutboxPhase::Ending) else { return Ok(()) };
        let sent = self.wait_until_sent(mark, timeout);
        self.let_go(OutboxPhase::Closed);
        sent
    }

    /// The connection is about to be wrapped: takes no more messages, and sends the queued bytes unwrapped. If sending
    /// fails, the outbox is open again.
    pub(super) fn retire(&self, timeout: SendTimeout) -> io::Result<()> {
        let mark = self.take_no_more(OutboxPhase::Wrapping).ok_or_else(not_ours)?;
        if let Err(error) = self.wait_until_sent(mark, timeout) {
            // If `close` was called meanwhile, the connection is ended, and the phase stays.
            let state = self.shared.lock();
            if let Some(mut state) = state.filter(|it| it.phase == OutboxPhase::Wrapping) {
                state.phase = OutboxPhase::Open;
            }
            return Err(error);
        }
        self.let_go(OutboxPhase::Wrapped);
        Ok(())
    }

    /// Makes [`send`](Self::send) fail from here on. Returns the number that `sent_total` has when all bytes taken so far
    /// are sent. None: the outbox is the parent's.
    fn take_no_more(&self, phase: OutboxPhase) -> Option<u64> {
        let mut state = self.shared.lock()?;
        // An outbox that was closed meanwhile stays closed.
        if state.phase == OutboxPhase::Open {
            state.phase = phase;
        }
        Some(state.due_total)
    }

    /// Sends nothing more, and lets go of the connection.
    fn let_go(&self, phase: OutboxPhase) {
        let listed = {
            let Some(mut state) = self.shared.lock() else { return };
            state.drop_due(phase);
            // Clones of this outbox may live on. They must not keep the connection open.
            state.fd = None;
            state.listed
        };
        if listed {
            // The writer may be waiting for room in the socket, and keeps the socket open for that time.
            outbox_thread::look_again();
        }
    }

    /// Whether this process sends what is due, and not the one that has forked it.
    pub(super) fn is_ours(&self) -> bool {
        self.shared.made_in.is_current()
    }

    /// Waits until the total of all sent bytes has reached `mark`. Called by the handler's thread only.
    fn wait_until_sent(&self, mark: u64, timeout: SendTimeout) -> io::Result<()> {
        let result = self.shared.wait_until_sent(mark, timeout);
        // Messages of other threads, or the rest of a write that timed out, may be left. If the outbox is on no list,
        // the writer takes it over.
        outbox_thread::look_after(&self.shared);
        result
    }
}

impl StreamRequest {
    /// An [`Outbox`], by which others send to this connection. Every call returns an outbox of the same queue. In the
    /// hook `overflow` nothing waits for room: bytes that the socket does not take by the end of the hook are lost.
    ///
    /// # Errors
    ///
    /// If held-back output cannot be sent, or if the connection is wrapped by [`wrap_stream`](Self::wrap_stream), because
    /// bytes from elsewhere cannot be put into the wrapper's output. (The server's own TLS can have an outbox: its
    /// messages are encrypted when they are sent.) An outbox that was made before the connection was wrapped, or before
    /// TLS was started, fails from then on with [`OutboxError::Wrapped`].
    pub fn outbox(&mut self) -> io::Result<Outbox> {
        // Bytes that `wbufsize` holds back were written before any message, and so leave first.
        self.flush()?;
        self.io.outbox()
    }
}

/// From the first call on, the writes of the handler go through the outbox as well.
impl BoundedIo {
    /// The outbox. The first call makes it.
    pub(super) fn outbox(&mut self) -> io::Result<Outbox> {
        self.leave_outbox_to_parent();
        if let Some(outbox) = &self.outbox {
            return Ok(outbox.clone());
        }
        let (fd, seal) = match &mut self.connection {
            Connection::Socket(socket) => (Some(socket.share()), None),
            Connection::Split(socket) => (Some(socket.share()), None),
            Connection::Sealed { stream, status } => {
                (status.own_fd().map(Arc::clone), Some(stream.share()))
            }
            _ => (None, None),
        };
        let Some(fd) = fd else {
            let text = "only a socket can have an outbox, plain or under the server's own TLS, not what is wrapped";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        };
        // The outbox shares the entry and the socket, and not the request, which it may outlive.
        let capacity = self.ticket.limits().outbox_bytes;
        let entry = Arc::clone(self.ticket.entry());
        let may_start_threads = self.ticket.server().role().may_start_threads();
        let writer = if may_start_threads { Writer::Thread } else { Writer::Sender };
        let state = Mutex::new(OutboxState::over(fd));
        let made_in = BareFork::current();
        let shared = Arc::new(OutboxQueue { entry, capacity, writer, seal, made_in, state });
        Ok(self.outbox.insert(Outbox { shared }).clone())
    }

    /// Forgets an outbox from before a bare fork: it is the parent's. The child then writes by itself.
    pub(super) fn leave_outbox_to_parent(&mut self) {
        // It is not dropped, because its state may have been copied in the middle of a change.
        std::mem::forget(self.outbox.take_if(|outbox| !outbox.is_ours()));
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
