//! [`Session`]: TLS over a socket, for a thread that reads and a thread that writes at the same time.
//!
//! rustls keeps both directions of a session in one value, which only one thread at a time may use. A thread that waited
//! for the socket while it held that value would keep the other thread out: the client of an echo server would then send
//! nothing while it waits for an answer. So there are three locks, and the lock of rustls is never held across a wait:
//!
//! ```text
//!   read:   receiving  ->  tls      decrypt what is there; if nothing is, unlock tls and wait for the socket
//!   write:  sending    ->  tls      encrypt, take the records out; unlock tls and wait for the socket
//! ```
//!
//! *Records leave in the order in which they were encrypted*, because both happen under `sending`.
//!
//! *A read never waits for a write.* A read may have something to send, such as the answer to a key update. If it waited
//! for space in the socket's buffer while the server waits for its own output to be read, both would wait for ever. So a
//! read sends only what fits at once, and only if no other thread is sending. A thread that has sent its records checks
//! for new ones after it has unlocked `sending`, so that none is left behind.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::ClientConnection;
use socket2::Socket;

use super::trouble::{explain, truncated};

/// A TLS session after its handshake.
#[derive(Debug)]
pub(super) struct Session {
    socket: Socket,
    tls: Mutex<ClientConnection>,
    receiving: Mutex<Inbox>,
    sending: Mutex<Outbox>,
}

impl Session {
    /// Makes the handshake. The timeouts of the socket bound each of its waits.
    ///
    /// # Errors
    ///
    /// Those of the socket, and those that rustls reports for the handshake.
    pub(super) fn begin(socket: Socket, mut tls: ClientConnection) -> io::Result<Self> {
        while tls.is_handshaking() || tls.wants_write() {
            match tls.complete_io(&mut &socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => drop(result?),
            }
        }
        let (receiving, sending) = (Mutex::default(), Mutex::default());
        Ok(Self { socket, tls: Mutex::new(tls), receiving, sending })
    }

    /// The socket below the session, for its timeouts.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Reads decrypted bytes. Zero bytes mean that the server has announced the end of its output.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the connection has ended without that announcement: something may be missing.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut inbox = lock(&self.receiving);
        loop {
            let (result, has_to_send) = {
                let mut tls = lock(&self.tls);
                let result = decrypt(&mut tls, &mut inbox, buf);
                (result, tls.wants_write())
            };
            if has_to_send {
                self.send_at_once();
            }
            match result {
                Ok(None) => inbox.receive(&self.socket, RecvFlags::empty())?,
                Ok(Some(count)) => return Ok(count),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a read would return at once. The session's own messages, such as tickets, do not count as input.
    pub(super) fn has_input(&self) -> bool {
        // If another thread is reading, that thread gets the bytes.
        let Ok(mut inbox) = self.receiving.try_lock() else { return false };
        let has_input = loop {
            {
                let mut tls = lock(&self.tls);
                match tls.process_new_packets() {
                    // The caller's next read reports the error.
                    Err(_) => break true,
                    Ok(state) if state.plaintext_bytes_to_read() > 0 => break true,
                    Ok(state) if state.peer_has_closed() || inbox.is_over() => break true,
                    Ok(_) => {}
                }
                if inbox.has_bytes() {
                    if tls.read_tls(&mut *inbox).is_err() {
                        break true;
                    }
                    continue;
                }
            }
            // Nothing has come yet, or the connection is lost. In the latter case the next write fails as well.
            if inbox.receive(&self.socket, RecvFlags::DONTWAIT).is_err() {
                break false;
            }
        };
        drop(inbox);
        self.send_at_once();
        has_input
    }

    /// Encrypts and sends the bytes. Waits while the socket's buffer is full.
    pub(super) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let mut outbox = lock(&self.sending);
        let count = {
            let mut tls = lock(&self.tls);
            let count = tls.writer().write(buf)?;
            outbox.fill(&mut tls)?;
            count
        };
        let sent = outbox.send(&self.socket, SendFlags::empty());
        drop(outbox);
        // A reader that found `sending` locked has left its records to this thread.
        self.send_at_once();
        sent.map(|()| count)
    }

    /// Ends one direction or both. A close_notify goes first, so that the server does not take the end for an attack.
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how == Shutdown::Write {
            let mut outbox = lock(&self.sending);
            self.say_farewell(&mut outbox)?;
            outbox.send(&self.socket, SendFlags::empty())?;
        } else {
            self.leave();
        }
        self.socket.shutdown(how)
    }

    /// Sends `close_notify` without waiting: the program is about to end.
    fn leave(&self) {
        // Another thread may be in the middle of a write. That write is cut off, so no `close_notify` could follow it.
        let Ok(mut outbox) = self.sending.try_lock() else { return };
        if self.say_farewell(&mut outbox).is_ok() {
            // An error is ignored: the server may be gone.
            let _ = outbox.send(&self.socket, SendFlags::DONTWAIT);
        }
    }

    fn say_farewell(&self, outbox: &mut Outbox) -> io::Result<()> {
        let mut tls = lock(&self.tls);
        tls.send_close_notify();
        outbox.fill(&mut tls)
    }

    /// Sends the session's own messages, as far as that is possible without waiting.
    fn send_at_once(&self) {
        while lock(&self.tls).wants_write() {
            // The thread that has the lock sends these records when it is done.
            let Ok(mut outbox) = self.sending.try_lock() else { return };
            if outbox.fill(&mut lock(&self.tls)).is_err() {
                return;
            }
            // Records that do not fit into the socket's buffer leave with the next write. A lost connection fails the
            // next call.
            let _ = outbox.send(&self.socket, SendFlags::DONTWAIT);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Decrypts the received bytes. `None` means that more must be received first.
fn decrypt(
    tls: &mut ClientConnection,
    inbox: &mut Inbox,
    buf: &mut [u8],
) -> io::Result<Option<usize>> {
    loop {
        tls.process_new_packets().map_err(|error| explain(&error))?;
        match tls.reader().read(buf) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(truncated()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if !inbox.has_bytes() && !inbox.is_over() => return Ok(None),
            // All decrypted bytes have been read by now; until then rustls would accept no more. At the end of the input
            // this call tells rustls about the end.
            Err(_) => drop(tls.read_tls(inbox)?),
        }
    }
}

/// Bytes that were received and not decrypted yet.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    /// Whether the server has ended its output.
    ended: bool,
}

/// How many bytes are received at a time: about one record of the largest size.
const RECEIVED: usize = 16 * 1024;

impl Inbox {
    fn has_bytes(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// Whether nothing is left, and nothing more will come.
    fn is_over(&self) -> bool {
        self.ended && !self.has_bytes()
    }

    /// Receives once. The earlier bytes must all have been taken.
    fn receive(&mut self, socket: &Socket, flags: RecvFlags) -> io::Result<()> {
        self.bytes.resize(RECEIVED, 0);
        let received = retry(|| recv(socket, &mut self.bytes[..], flags).map(|(count, _)| count));
        self.taken = 0;
        self.bytes.truncate(*received.as_ref().unwrap_or(&0));
        self.ended |= received? == 0;
        Ok(())
    }
}

impl Read for Inbox {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = (&self.bytes[self.taken..]).read(buf)?;
        self.taken += count;
        Ok(count)
    }
}

/// Records that were encrypted and not sent yet.
#[derive(Debug, Default)]
struct Outbox {
    records: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Takes the records that rustls has encrypted.
    fn fill(&mut self, tls: &mut ClientConnection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut self.records)?;
        }
        Ok(())
    }

    /// Sends all records, or as much as the flags allow. The next call sends the rest.
    fn send(&mut self, socket: &Socket, flags: SendFlags) -> io::Result<()> {
        while self.sent < self.records.len() {
            let left = &self.records[self.sent..];
            self.sent += retry(|| send(socket, left, flags | SendFlags::NOSIGNAL))?;
        }
        self.records.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Repeats a system call that a signal has interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Locks a mutex, also a poisoned one: a thread that panics leaves nothing half done that another thread could see.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
