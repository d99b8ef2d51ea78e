//! Sending to a connection from elsewhere: what a chat room, a broadcaster or a timer holds of its members.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::outbox_writer;
use crate::live::{Cut, Entry};
use crate::sys;
use crate::write_stall::{SendTimeout, WriteStall};

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

pub(super) struct OutboxQueue {
    entry: Arc<Entry>,
    capacity: usize,
    /// A thread may be started to send for it, and to wait for room.
    may_have_thread: bool,
    state: Mutex<OutboxState>,
}

struct OutboxState {
    /// The connection, until its request ends: an outbox that somebody keeps does not keep it open.
    fd: Option<Arc<OwnedFd>>,
    /// Due, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// How much has ever been due, and how much of it has been sent: who waits for his own bytes waits
    /// for the second to reach what the first was.
    due_total: u64,
    sent_total: u64,
    /// How much of what is due the handler has written itself, and up to where in the total it goes: it
    /// waits for that, and so it does not count against the capacity.
    own_bytes: u64,
    own_mark: u64,
    /// A wait that was given up, and what had been sent then: it goes on with the next one.
    given_up: Option<(u64, WriteStall)>,
    /// On a list of those that will be looked at.
    listed: bool,
    /// The handler has returned: what is due is still sent, and nothing more is taken.
    ending: bool,
    /// The connection is being wrapped, or was: the same, and it is no end.
    wrapped: bool,
    closed: bool,
}

impl OutboxState {
    fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// What waits of others' messages.
    fn others_bytes(&self) -> usize {
        let own = self.own_bytes.min(self.own_mark.saturating_sub(self.sent_total));
        self.waiting_bytes().saturating_sub(usize::try_from(own).unwrap_or(usize::MAX))
    }

    fn append(&mut self, bytes: &[u8]) {
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
}

/// So much leaves at once: waiting for more would gain nothing.
const AT_ONCE: usize = 64 * 1024;

impl Outbox {
    pub(super) fn new(
        fd: Arc<OwnedFd>,
        entry: Arc<Entry>,
        capacity: usize,
        may_have_thread: bool,
    ) -> Self {
        let state = OutboxState {
            fd: Some(fd),
            bytes: Vec::new(),
            start: 0,
            due_total: 0,
            sent_total: 0,
            own_bytes: 0,
            own_mark: 0,
            given_up: None,
            listed: false,
            ending: false,
            wrapped: false,
            closed: false,
        };
        let state = Mutex::new(state);
        Self { shared: Arc::new(OutboxQueue { entry, capacity, may_have_thread, state }) }
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
            if state.wrapped {
                return Err(OutboxError::Wrapped);
            }
            if state.closed || state.ending {
                return Err(OutboxError::Closed);
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
            state.closed = true;
            // Left here it would keep whoever waits for room busy: a connection that is shut down is
            // always ready.
            state.bytes = Vec::new();
            state.start = 0;
        }
        self.shared.entry.shut_down(Cut::Closed, Shutdown::Both);
    }

    /// What the handler itself writes: behind what is due, and waited for.
    pub(super) fn write_all(&self, bytes: &[u8], timeout: SendTimeout) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.state.lock();
            if state.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.append(bytes);
            (state.own_bytes, state.own_mark) = (bytes.len() as u64, state.due_total);
            state.due_total
        };
        self.wait_until_sent(mark, timeout)
    }

    /// The end of the request: nothing more is taken, and what is due is waited for.
    pub(super) fn finish(&self, timeout: SendTimeout) {
        let mark = {
            let mut state = self.shared.state.lock();
            state.ending = true;
            state.due_total
        };
        let _ = self.wait_until_sent(mark, timeout);
        self.let_go();
    }

    /// The connection is about to be wrapped: nothing more is taken, and what is due leaves in the open. If it does
    /// not, everything is as before.
    pub(super) fn retire(&self, timeout: SendTimeout) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.state.lock();
            state.wrapped = true;
            state.due_total
        };
        if let Err(error) = self.wait_until_sent(mark, timeout) {
            self.shared.state.lock().wrapped = false;
            return Err(error);
        }
        self.let_go();
        Ok(())
    }

    /// Nothing is sent any more.
    fn let_go(&self) {
        let listed = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.fd = None;
            state.bytes = Vec::new();
            state.start = 0;
            state.listed
        };
        if listed {
            // Whoever waits for room in its socket has it open as well.
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

impl OutboxQueue {
    /// Waits until so much of all that has ever been due is sent. What goes before, and what others send at the same
    /// time, is progress as well.
    fn wait_until_sent(&self, mark: u64, timeout: SendTimeout) -> io::Result<()> {
        let given_up = self.state.lock().given_up.take();
        let mut waiting = given_up.map(|(sent, stall)| (sent, stall.resume(timeout)));
        loop {
            self.send_due();
            let (sent, fd) = {
                let state = self.state.lock();
                if state.sent_total >= mark {
                    return Ok(());
                }
                (state.sent_total, state.fd.clone().filter(|_| !state.closed))
            };
            let Some(fd) = fd else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let fd = fd.as_fd();
            let (seen, stall) =
                waiting.get_or_insert_with(|| (sent, WriteStall::begin(fd, timeout)));
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

    /// Sends what is due as far as the socket takes it.
    pub(super) fn send_due(&self) {
        self.send_due_of(&mut self.state.lock());
    }

    /// The same, by whoever has this outbox on his list: it stays there if something is left, which is what
    /// the answer says.
    pub(super) fn send_listed(&self) -> bool {
        let mut state = self.state.lock();
        self.send_due_of(&mut state);
        state.listed = state.fd.is_some() && state.waiting_bytes() > 0;
        state.listed
    }

    /// The same, by who does not come back to it: what is left waits for the next message.
    pub(super) fn send_unlisted(&self) {
        let mut state = self.state.lock();
        state.listed = false;
        self.send_due_of(&mut state);
    }

    pub(super) fn may_have_thread(&self) -> bool {
        self.may_have_thread
    }

    /// Notes this outbox as listed, if something is due and it is on no list. True: the caller has to
    /// put it there.
    pub(super) fn needs_a_list(&self) -> bool {
        let mut state = self.state.lock();
        let needs = state.fd.is_some() && state.waiting_bytes() > 0 && !state.listed;
        state.listed |= needs;
        needs
    }

    fn send_due_of(&self, state: &mut OutboxState) {
        while let (Some(fd), false) = (&state.fd, state.closed) {
            if state.start == state.bytes.len() {
                return;
            }
            // Not a wait: the lock is held for the length of a system call.
            match sys::send(fd.as_fd(), &state.bytes[state.start..]) {
                Ok(count) => {
                    state.start += count;
                    state.sent_total += count as u64;
                    self.entry.add_bytes_out(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The peer is gone. Its handler learns it by itself.
                Err(error) => {
                    self.entry.note_loss(error.kind());
                    state.closed = true;
                    state.bytes = Vec::new();
                    state.start = 0;
                }
            }
        }
    }

    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().fd.clone()
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
