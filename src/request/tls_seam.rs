//! The seam between a connection and TLS: [`SealedStream`] and [`Seal`]. This crate's own TLS is a wrapper, and does
//! more than a user's wrapper can: an outbox may send through it, and bytes in clear are counted.
//!
//! ```text
//! the handler's reads and writes   SealedStream ─→ RawStream ─→ the socket    (the limits are the raw stream's)
//! an outbox's messages             Seal ─────────────────────→ the socket    (without waiting)
//! ```

use std::any::Any;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::StreamRequest;
use super::connection::{Connection, Stream};
use crate::live::Entry;
use crate::server_context::ServerContext;

/// A wrapper that encrypts. The worker owns it; the seal that it shares has the same session: see
/// `tls/session.rs`.
pub(crate) trait SealedStream: Stream {
    /// The part that an outbox sends through. After the first call other threads may use the seal at any time.
    fn share(&mut self) -> Arc<dyn Seal>;

    /// Lends this as a stream, for one call.
    fn as_stream(&mut self) -> &mut dyn Stream;

    /// Turns this into a stream, for another wrapper above it.
    fn into_stream(self: Box<Self>) -> Box<dyn Stream>;
}

/// Encrypts and sends without waiting, on any thread. The caller holds the lock of the outbox.
pub(crate) trait Seal: Send + Sync {
    /// Encrypts the first of these bytes, as many as make a good send, and returns their number. May be called only
    /// when [`transmit`](Self::transmit) has sent everything.
    ///
    /// # Errors
    ///
    /// `BrokenPipe`, if the output has been ended.
    fn seal(&self, plain: &[u8]) -> io::Result<usize>;

    /// Sends all encrypted bytes.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, if the socket does not take all bytes; the rest stays for the next call. Also the errors of the socket.
    fn transmit(&self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Sends close_notify, after all encrypted bytes. It may be called again after an error.
    ///
    /// # Errors
    ///
    /// The errors of [`transmit`](Self::transmit).
    fn end(&self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// The raw parts that a sealed stream is made of.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS seals connections"))]
pub(crate) struct SealBase {
    /// The connection below, with the limits of the request.
    pub(crate) raw: Box<dyn Stream>,
    /// The socket; none under a transport's own stream.
    pub(crate) fd: Option<Arc<OwnedFd>>,
    /// The request's entry in the live list, for counts and errors.
    pub(crate) entry: Arc<Entry>,
}

#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS seals connections"))]
impl StreamRequest {
    /// Seals the connection, as [`wrap_stream`](Self::wrap_stream) wraps it. [`seal_facts`](Self::seal_facts) returns
    /// the `facts` later.
    pub(crate) fn seal(
        &mut self,
        seal: impl FnOnce(SealBase) -> io::Result<(Box<dyn SealedStream>, Box<dyn Any + Send + Sync>)>,
    ) -> io::Result<()> {
        // The raw stream goes to the seal, and with it every limit: a handshake waits as any read of a wrapper.
        self.wrap_by(
            |raw, status| {
                let (fd, entry) = (status.fd.clone(), Arc::clone(&status.entry));
                let (stream, facts) = seal(SealBase { raw: Box::new(raw), fd, entry })?;
                // If a connection is sealed twice, the facts of the first seal stay: it is the one with the client that
                // has connected.
                let _ = status.facts.set(facts);
                Ok(stream)
            },
            |stream, status| {
                status.entry.begin_clear();
                Connection::Sealed { stream, status }
            },
        )
    }

    /// Takes the connection away, unless it is sealed: reads and writes fail from here on. For a refused request of a
    /// server with TLS, whose hook may write a secret that the client expects under TLS.
    pub(crate) fn close_unsealed(&mut self) {
        if self.seal_facts().is_none() {
            self.io.give_up();
            self.io.connection = Connection::Gone(None);
        }
    }

    /// The server, the entry, and the limit of unfinished handshakes, to be kept during a handshake.
    pub(crate) fn share_for_handshake(&self) -> (Arc<ServerContext>, Arc<Entry>, usize) {
        // Shares, because the handshake borrows the request itself.
        let ticket = &self.io.ticket;
        let most = ticket.limits().handshakes;
        (Arc::clone(&ticket.context), Arc::clone(ticket.entry()), most)
    }

    /// The facts of the TLS, also if another wrapper is above it.
    pub(crate) fn seal_facts(&self) -> Option<&(dyn Any + Send + Sync)> {
        let facts = self.io.connection.raw_status()?.facts.get()?;
        Some(&**facts)
    }
}
