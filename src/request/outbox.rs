//! Sending to a connection from elsewhere: what a chat room, a broadcaster or a timer holds of its members.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::flusher;
use crate::live::{Cut, Entry};
use crate::sys;
use crate::wait::{self, Interest, Waiting};

/// A way to send to a connection from anywhere: another handler, another thread, a timer. Clones are ways to
/// the same one.
///
/// [`send`](Self::send) only appends to what is due to the connection, and never waits for its peer, so that
/// a slow member of a room delays nobody. What has been sent leaves at the latest when the sender next waits
/// or returns, and at once beyond 64 KiB; so lines that are due to one member together leave together. What
/// the socket will not take waits for room without anybody's help.
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
    shared: Arc<Shared>,
}

/// Why [`Outbox::send`] has not taken a message. Nothing of it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OutboxError {
    /// The peer does not take what is due to it: as much waits already as may.
    #[error("the outbox is full: its peer is too slow")]
    Full,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
}

pub(super) struct Shared {
    fd: Arc<OwnedFd>,
    entry: Arc<Entry>,
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Due, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// How much has ever been due, and how much of it has been sent: who waits for his own bytes waits
    /// for the second to reach what the first was.
    due_total: u64,
    sent_total: u64,
    /// On a list of those that are to be flushed.
    listed: bool,
    /// The handler has returned: what is due is still sent, and nothing more is taken.
    ending: bool,
    closed: bool,
}

impl State {
    fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.start
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
    pub(super) fn new(fd: Arc<OwnedFd>, entry: Arc<Entry>, capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { fd, entry, capacity, state: Mutex::default() }) }
    }

    /// Has a message sent, whole or not at all.
    ///
    /// # Errors
    ///
    /// If so much waits already that it does not fit (`Limits::outbox_bytes`), or the connection has ended.
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), OutboxError> {
        let message = message.as_ref();
        let (newly_listed, large) = {
            let mut state = self.shared.state.lock();
            if state.closed || state.ending {
                return Err(OutboxError::Closed);
            }
            if state.waiting_bytes() + message.len() > self.shared.capacity {
                return Err(OutboxError::Full);
            }
            state.append(message);
            let newly_listed = !std::mem::replace(&mut state.listed, true);
            (newly_listed, state.waiting_bytes() >= AT_ONCE)
        };
        if newly_listed {
            flusher::list(&self.shared);
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
    }

    /// How many bytes wait to be taken by the peer.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.state.lock().waiting_bytes()
    }

    /// Ends the connection. Its handler's reads and writes fail, and it leaves.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.entry.shut_down(Cut::Closed, Shutdown::Both);
    }

    /// What the handler itself writes: behind what is due, and waited for.
    pub(super) fn write_all(&self, bytes: &[u8], until: Instant) -> io::Result<()> {
        let mark = {
            let mut state = self.shared.state.lock();
            if state.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.append(bytes);
            state.due_total
        };
        self.wait_until_sent(mark, until)
    }

    /// The end of the request: nothing more is taken, and what is due is waited for until the deadline.
    pub(super) fn finish(&self, until: Instant) {
        let mark = {
            let mut state = self.shared.state.lock();
            state.ending = true;
            state.due_total
        };
        let _ = self.wait_until_sent(mark, until);
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.bytes = Vec::new();
        state.start = 0;
    }

    fn wait_until_sent(&self, mark: u64, until: Instant) -> io::Result<()> {
        loop {
            self.shared.send_due();
            {
                let state = self.shared.state.lock();
                if state.sent_total >= mark {
                    return Ok(());
                }
                if state.closed {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let room =
                Waiting { fd: self.shared.fd.as_fd(), interest: Interest::Write, slot: None };
            wait::any(&[room], Some(until))?;
        }
    }
}

impl Shared {
    /// Sends what is due as far as the socket takes it. True: something is left, for which there is no room.
    pub(super) fn send_due(&self) -> bool {
        let mut state = self.state.lock();
        state.listed = false;
        while !state.closed && state.waiting_bytes() > 0 {
            // Not a wait: the lock is held for the length of a system call.
            match sys::send(self.fd.as_fd(), &state.bytes[state.start..], false) {
                Ok(count) => {
                    state.start += count;
                    state.sent_total += count as u64;
                    self.entry.add_bytes_out(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.listed = true;
                    return true;
                }
                // The peer is gone. Its handler learns it by itself.
                Err(_) => state.closed = true,
            }
        }
        false
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
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
