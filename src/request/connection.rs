//! What a connection's bytes come from and go to: a socket, or what stands in for one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::source::{Bound, Source};
use crate::stall::Patience;
use crate::sys::Room;

/// What bytes come from and go to: a socket, or what a transport or `wrap_request` puts in its place
/// (TLS, memory, a decompressor).
///
/// Implement it to serve over something else. `read` and `write` obey the last deadline: when it has
/// passed they return an error of kind `TimedOut`. A deadline in the past still tries once without
/// waiting.
pub trait Stream: Read + Write + Send {
    /// Bounds every read and write from here on; none lets them wait for ever.
    fn set_deadline(&mut self, deadline: Option<Instant>);

    /// Ends one or both directions, as [`std::net::TcpStream::shutdown`] does.
    ///
    /// # Errors
    ///
    /// If the peer is gone. The server ignores it.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()>;

    /// The connection's descriptor, if it has one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Stream for Box<dyn Stream> {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        (**self).set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        (**self).shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        (**self).fileno()
    }
}

/// A socket for those who see it as a [`Stream`], with the bound of their next call.
struct Socket {
    source: Source,
    deadline: Option<Instant>,
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bound = self.deadline.map_or(Bound::Never, Bound::Until);
        self.source.recv(&mut Room::from(buf), bound)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.source.send(buf, Patience::until(self.deadline))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.source.shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.source.lend())
    }
}

/// A plain socket stands in the request itself: the usual case costs no box and no indirection.
pub(super) enum Connection {
    Socket(Source),
    Other(Box<dyn Stream>),
    /// Its stream is in the hands of a wrapper that failed with it.
    Gone,
}

impl Connection {
    pub(super) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// One receive within the bound.
    #[inline]
    pub(super) fn receive(&mut self, room: &mut Room<'_>, bound: Bound) -> io::Result<usize> {
        match self {
            Self::Socket(source) => source.recv(room, bound),
            _ => self.within(bound.at(), |stream| stream.read(room.bytes())),
        }
    }

    /// One send, for as long as the patience lasts.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8], patience: Patience) -> io::Result<usize> {
        match self {
            Self::Socket(source) => source.send(bytes, patience),
            _ => self.within(patience.at(), |stream| stream.write(bytes)),
        }
    }

    /// A call of what is not a socket of ours, and may be interrupted as one of a socket never is.
    #[inline(never)]
    fn within(
        &mut self,
        deadline: Option<Instant>,
        mut call: impl FnMut(&mut dyn Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Self::Other(stream) = self else { return Err(gone()) };
        loop {
            stream.set_deadline(deadline);
            match call(&mut **stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Socket(source) => source.shutdown(how),
            Self::Other(stream) => stream.shutdown(how),
            Self::Gone => Err(gone()),
        }
    }

    pub(super) fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(source) => Some(source.as_fd()),
            Self::Other(stream) => stream.fileno(),
            Self::Gone => None,
        }
    }

    /// Takes the stream out, in order to put something before it.
    pub(super) fn take(&mut self) -> io::Result<Box<dyn Stream>> {
        match std::mem::replace(self, Self::Gone) {
            Self::Socket(source) => Ok(Box::new(Socket { source, deadline: None })),
            Self::Other(stream) => Ok(stream),
            Self::Gone => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
