//! [`Session`]: one connection's TLS, without its socket. Only the worker has it, until an outbox shares it.
//!
//! ```text
//! worker       Hold::Alone                Hold::Shared, from the first `share` on, for good
//!              no lock                    each call under the lock, and none of them waits
//! outbox       -                          Seal::seal, Seal::transmit, under the outbox's own lock
//! ```
//!
//! The order of the locks is: the outbox's, then the session's. The worker takes the session's alone, and never holds it
//! while it waits for the socket: it takes the encrypted records out, and sends them without the lock.
//!
//! Records have to leave in the order in which they were encrypted. So while others may encrypt, only `transmit` sends, under
//! the lock; the worker takes records out only at the end, when nobody else encrypts any more (`TlsStream::is_last`).

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConnection;

use crate::live::Entry;
use crate::request::Seal;
use crate::sys;

/// How many bytes are encrypted before they are sent: four records. More gains nothing, and every connection may hold
/// this much.
pub(super) const SEALED_AT_ONCE: usize = 64 * 1024;

/// The state of one connection.
pub(super) struct Session {
    /// rustls' state, with its buffers in both directions.
    pub(super) tls: ServerConnection,
    /// close_notify has been queued, or the session has failed: nothing more is encrypted.
    pub(super) ended: bool,
}

impl Session {
    /// Encrypts the first of these bytes, and returns how many.
    pub(super) fn seal(&mut self, plain: &[u8]) -> io::Result<usize> {
        // A peer ignores everything after close_notify, so a write must not seem to succeed.
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.tls.writer().write(&plain[..plain.len().min(SEALED_AT_ONCE)])
    }

    /// Queues close_notify, once.
    pub(super) fn end_output(&mut self) {
        // A close_notify may be queued already: rustls queues only one.
        self.ended = true;
        self.tls.send_close_notify();
    }

    /// Sends the encrypted bytes, without waiting.
    fn transmit(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Unwaiting(fd)) {
                // A whole record or a part of one: rustls keeps the rest, and the order.
                Ok(count) => entry.add_bytes_out(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket that is written to without waiting.
struct Unwaiting<'a>(BorrowedFd<'a>);

impl Write for Unwaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::send(self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session that an outbox and the worker share.
pub(super) struct SharedSession {
    /// Held for one call at a time, and never across a wait.
    session: Mutex<Session>,
    /// The request, for the count of bytes on the wire: the bytes that the outbox sends pass no raw stream.
    entry: Arc<Entry>,
}

impl SharedSession {
    /// Takes all encrypted bytes out of the session. The caller has to send them before anything else.
    pub(super) fn take_records(&self, records: &mut Vec<u8>) -> io::Result<()> {
        let mut session = self.session.lock();
        while session.tls.wants_write() {
            session.tls.write_tls(records)?;
        }
        Ok(())
    }
}

impl Seal for SharedSession {
    fn seal(&self, plain: &[u8]) -> io::Result<usize> {
        self.session.lock().seal(plain)
    }

    fn transmit(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.session.lock().transmit(fd, &self.entry)
    }

    fn end(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut session = self.session.lock();
        session.end_output();
        session.transmit(fd, &self.entry)
    }
}

/// The worker's hold on its session. Without an outbox there is no lock on its path.
pub(super) enum Hold {
    /// No other thread has the session. It is boxed, so that the other variants do not need its room.
    Alone(Box<Session>),
    /// An outbox has the session as well, or had it: a shared session never becomes `Alone` again.
    Shared(Arc<SharedSession>),
    /// Stands in for a moment, between the other two.
    Moving,
}

impl Hold {
    /// Calls `act` with the session. `act` must not wait.
    pub(super) fn with<T>(&mut self, act: impl FnOnce(&mut Session) -> T) -> T {
        match self {
            // The path of every request without an outbox: a branch, and no atomic operation.
            Self::Alone(session) => act(session),
            Self::Shared(shared) => act(&mut shared.session.lock()),
            Self::Moving => unreachable!("nothing runs while a session is shared"),
        }
    }

    /// Shares the session: from here on others have it as well.
    ///
    /// The session stays shared for good: later calls return the same value.
    pub(super) fn share(&mut self, entry: &Arc<Entry>) -> Arc<SharedSession> {
        let shared = match std::mem::replace(self, Self::Moving) {
            Self::Alone(session) => {
                let (session, entry) = (Mutex::new(*session), Arc::clone(entry));
                Arc::new(SharedSession { session, entry })
            }
            Self::Shared(shared) => shared,
            Self::Moving => unreachable!("nothing runs while a session is shared"),
        };
        *self = Self::Shared(Arc::clone(&shared));
        shared
    }
}
