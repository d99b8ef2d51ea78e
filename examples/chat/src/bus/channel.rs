//! [`Channel`]: bytes to and from Redis, with or without TLS, over TCP or a Unix socket. Each call takes at most
//! [`PATIENCE`], and all calls after a [`deadline_in`](Channel::deadline_in) together take at most its time. So a Redis
//! that sends one byte now and then, or one record of TLS in small parts, does not hold its reader for longer.

use std::io::{self, Read, Write};
use std::time::Duration;

use common::client::{ClientTls, why_no_session};
use common::{Endpoint, Failure};
use rustls::{ClientConnection, StreamOwned};
use socketserver::outgoing::{OutgoingStream, connect};

use super::access::tls_words;
use super::wire::{ENTRY, PATIENCE};

/// A connection, before anything is said over it.
pub enum Channel {
    Clear(OutgoingStream),
    Tls(Box<StreamOwned<ClientConnection, OutgoingStream>>),
}

impl Channel {
    /// Connects to `HOST:PORT` or to a path. If a name has several addresses, each is tried, and an address that does not
    /// answer delays the next by a quarter of a second. The error names the operation, the place, the cause and what to do.
    pub fn open(at: &str, tls: Option<&ClientTls>) -> Result<Self, String> {
        // The files of TLS come first: their faults have nothing to do with the server.
        let session = tls.map(|tls| tls.session(&Endpoint::Tcp(at.to_owned()))).transpose();
        let session = session.map_err(|failure: Failure| tls_words(&failure.to_string()))?;
        let mut stream = connect(at, PATIENCE).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                    "; is Redis running there?"
                }
                io::ErrorKind::PermissionDenied => {
                    "; this user has to be in the group of the socket (unixsocketperm 770)"
                }
                _ => "",
            };
            format!("{error}{advice}")
        })?;
        stream.set_timeout(Some(PATIENCE));
        let Some(session) = session else { return Ok(Self::Clear(stream)) };
        stream.deadline_in(ENTRY);
        let mut stream = Box::new(StreamOwned::new(session, stream));
        let StreamOwned { conn, sock } = &mut *stream;
        let shaken = conn.complete_io(sock).and_then(|_| {
            // `complete_io` may return without an error before the handshake is complete.
            if conn.is_handshaking() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        });
        shaken.map_err(|error| {
            let why = if is_timeout(&error) {
                "it does not answer the handshake; does it speak TLS there?".to_owned()
            } else {
                of_tls(&error)
            };
            format!("cannot connect to {at} with TLS: {why}")
        })?;
        Ok(Self::Tls(stream))
    }

    /// Bounds the time of all reads and writes that follow, together.
    pub fn deadline_in(&mut self, time: Duration) {
        match self {
            Self::Clear(stream) => stream.deadline_in(time),
            Self::Tls(stream) => stream.sock.deadline_in(time),
        }
    }
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf).map_err(in_words),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf).map_err(in_words),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush().map_err(in_words),
        }
    }
}

/// Puts an error of TLS into words for the operator: with TLS 1.3 the refusal of a certificate comes in place of the first
/// answer. The end of the connection means the same with `close_notify` and without it: an answer that is cut off is
/// incomplete in any case.
fn in_words(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return io::Error::new(error.kind(), "it has ended the connection");
    }
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) {
        return io::Error::new(error.kind(), of_tls(&error));
    }
    error
}

fn of_tls(error: &io::Error) -> String {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS: write redis:// or redis+sentinel://, or give another port"
                .to_owned()
        }
        _ => tls_words(&why_no_session(error)),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
