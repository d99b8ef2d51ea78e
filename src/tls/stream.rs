//! [`TlsStream`]: TLS between the request and its raw stream.
//!
//! ```text
//! read    plaintext that is there already
//!         else: sends what TLS itself has to say, receives from below, decrypts, again
//! write   sends what an earlier call has left, encrypts up to 64 KiB, sends it
//! ```
//!
//! All waits are those of the raw stream, which keeps the limits, sees the drain and counts the bytes on the wire.
//! After an error of the raw stream a call may be made again, and no byte is lost. The bytes of a write that has
//! timed out may leave later, before those of the next write, as with a write behind an outbox.
//!
//! At rest a connection has rustls' state and its receive buffer of 4 KiB. At first receives have that size. If a
//! peer fills one, the next receives use a block of 64 KiB from the common pool, which saves system calls.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::fault::{self, TlsStage};
use super::session::{Hold, Session};
use crate::live::Entry;
use crate::peer_fault::PeerFault;
use crate::request::{Chunk, Seal, SealBase, SealedStream, Stream};

/// The length of a receive for a shared session. The bytes go into memory on the stack, because rustls' own buffer is
/// behind the lock.
const SMALL_RECEIVE: usize = 1024;
/// A receive of this many bytes shows that the peer sends a stream. It is the size of rustls' own buffer.
const STREAM_RECEIVE: usize = 4096;

/// TLS above a raw stream. The handshake is done.
pub(super) struct TlsStream {
    /// Alone until the handler asks for an outbox.
    session: Hold,
    /// The connection below, with the limits of the request.
    raw: Box<dyn Stream>,
    /// The socket below, if there is one: the rest of an outbox's records is sent by it.
    fd: Option<Arc<OwnedFd>>,
    /// The request, for the owner of an error and the count of bytes.
    entry: Arc<Entry>,
    /// Bytes that were received and not decrypted yet. Without bytes it has no memory, except while a receive of a
    /// stream waits.
    ahead: Chunk,
    /// How many of the next receives use a block at once.
    much: u8,
    /// How the session has failed. Plaintext from before the failure is read first.
    failed: Option<rustls::Error>,
    /// Whether nobody else encrypts by the shared session any more, so that its records may be taken out before they are
    /// sent.
    is_last: bool,
    /// Records of that session that the socket has not taken.
    unsent: Vec<u8>,
}

impl TlsStream {
    /// A stream over a session whose handshake has ended.
    pub(super) fn new(session: Session, base: SealBase) -> Self {
        let SealBase { raw, fd, entry } = base;
        Self {
            session: Hold::Alone(Box::new(session)),
            raw,
            fd,
            entry,
            ahead: Chunk::default(),
            much: 0,
            failed: None,
            is_last: false,
            unsent: Vec::new(),
        }
    }

    /// Sends the encrypted bytes, within the limits of the call.
    ///
    /// | the session is | the records go |
    /// | --- | --- |
    /// | the worker's alone | from rustls' buffer to the raw stream, which may wait |
    /// | shared with an outbox | to the socket under the lock, without waiting; the rest leaves with the next message of the worker or the outbox |
    /// | shared, and nobody else encrypts any more | out of the session into `unsent`, and from there to the raw stream, which may wait |
    fn send_pending(&mut self) -> io::Result<()> {
        match &mut self.session {
            // The bytes go straight to the raw stream. The rest stays in rustls' buffer for the next call.
            Hold::Alone(session) => {
                while session.tls.wants_write() {
                    session.tls.write_tls(&mut self.raw)?;
                }
                Ok(())
            }
            Hold::Shared(shared) if self.is_last => {
                shared.take_records(&mut self.unsent)?;
                // The session is not locked here, because this waits. An error keeps the rest for the next call.
                while !self.unsent.is_empty() {
                    let count = self.raw.write(&self.unsent)?;
                    self.unsent.drain(..count);
                }
                Ok(())
            }
            // This does not wait, because others may need the lock. The rest leaves before their next message.
            Hold::Shared(shared) => match self.fd.as_ref().map(|fd| shared.transmit(fd.as_fd())) {
                Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            },
            // This is never found here: `share` sets it and replaces it within one call.
            Hold::Moving => Ok(()),
        }
    }

    /// Receives once, and decrypts. False: the peer has ended the connection below.
    ///
    /// The receive may wait, within the limits of the raw stream. After an error of the raw stream no byte is lost:
    /// `ahead` has the bytes that came before. Received bytes need not give plaintext yet, because a record has up to
    /// 16 KiB, so the caller calls again.
    fn receive(&mut self) -> io::Result<bool> {
        if self.ahead.is_empty() {
            let (raw, much) = (&mut self.raw, self.much > 0);
            let count = match &mut self.session {
                // A stream: one receive of 64 KiB in the place of sixteen.
                _ if much => {
                    self.ahead = Chunk::receive_large(|room| raw.read(room))?;
                    self.ahead.len()
                }
                // The bytes go into rustls' own buffer, which it has anyway.
                Hold::Alone(session) => session.tls.read_tls(raw)?,
                Hold::Shared(_) | Hold::Moving => {
                    let mut small = [0; SMALL_RECEIVE];
                    let count = raw.read(&mut small)?;
                    self.ahead = Chunk::copy_of(&small[..count]);
                    count
                }
            };
            // TCP has ended without a close_notify: after one, rustls' reader returns zero, and this is not called.
            if count == 0 {
                return Ok(false);
            }
            let enough = if much || self.ahead.is_empty() { STREAM_RECEIVE } else { SMALL_RECEIVE };
            // Only two short receives in a row end the use of blocks: a stream may have a single one.
            self.much = if count >= enough { 2 } else { self.much.saturating_sub(1) };
        }
        self.decrypt();
        Ok(true)
    }

    /// Decrypts the received bytes, until there is plaintext.
    ///
    /// Stops there, and the rest waits in `ahead`: a peer that sends faster than the handler reads does not fill the memory
    /// with plaintext. A failure is noted in `failed`, and reported when the plaintext before it has been read.
    fn decrypt(&mut self) {
        let ahead = &mut self.ahead;
        let result = self.session.with(|session| {
            loop {
                // This comes first, because bytes of an earlier call may still be in rustls' buffer.
                let state = session.tls.process_new_packets()?;
                if ahead.is_empty() || state.plaintext_bytes_to_read() > 0 {
                    return Ok(());
                }
                let mut rest: &[u8] = ahead;
                // The bytes go from memory into rustls' buffer, which has room for a record.
                match session.tls.read_tls(&mut rest) {
                    Ok(count) if count > 0 => ahead.consume(count),
                    // Bytes after the peer's close_notify are ignored.
                    _ => ahead.consume(usize::MAX),
                }
            }
        });
        if self.ahead.is_empty() {
            // The block goes back to the pool.
            self.ahead = Chunk::default();
        }
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Notes that the session has failed. The peer is told why, as far as this needs no wait.
    fn fail(&mut self, error: rustls::Error) {
        // rustls has queued the alert. Nothing of the handler's may follow it.
        self.session.with(|session| session.ended = true);
        self.raw.set_deadline(Some(Instant::now()));
        // An alert that the socket does not take is lost: the peer may not be reading.
        let _ = self.send_pending();
        self.failed = Some(error);
    }

    /// Marks an error of the socket as the loss of the peer, if it is one: for a send that a read has to make.
    fn lose(&self, error: io::Error) -> io::Error {
        if crate::peer_fault::is_loss(&error) && PeerFault::find(&error).is_none() {
            return self.entry.lose(error);
        }
        error
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            // Both questions are asked in one call, because a shared session is locked for each call.
            let (read, pending) = self.session.with(|session| {
                let read = session.tls.reader().read(buf);
                (read, session.tls.wants_write())
            });
            match read {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end of the connection was seen by an earlier call.
                Err(_) => return Err(PeerFault::truncated(self.entry.owner())),
            }
            // The error comes after the plaintext from before the failure, so that no whole message is lost.
            if let Some(error) = &self.failed {
                let owner = self.entry.owner();
                return Err(fault::of_session(owner, TlsStage::Established, error.clone()));
            }
            if pending {
                // A peer that has renewed its keys may wait for the answer to that.
                self.send_pending().map_err(|error| self.lose(error))?;
            }
            if !self.receive()? {
                return Err(PeerFault::truncated(self.entry.owner()));
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The rest of an earlier call goes first.
        self.send_pending()?;
        // A call takes at most 64 KiB: the caller calls again with the rest, as after any short write.
        let count = self.session.with(|session| session.seal(bytes))?;
        self.send_pending()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()?;
        self.raw.flush()
    }
}

impl Stream for TlsStream {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.raw.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        // close_notify goes before the end of TCP: without it the peer could not tell this end from a forged one.
        if how != Shutdown::Read {
            // Nothing is encrypted after close_notify.
            self.session.with(Session::end_output);
            self.is_last = true;
            self.send_pending()?;
        }
        self.raw.shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.raw.fileno()
    }
}

impl SealedStream for TlsStream {
    fn share(&mut self) -> Arc<dyn Seal> {
        self.session.share(&self.entry)
    }

    fn as_stream(&mut self) -> &mut dyn Stream {
        self
    }

    fn into_stream(mut self: Box<Self>) -> Box<dyn Stream> {
        // An outbox has been retired by now.
        self.is_last = true;
        self
    }
}
