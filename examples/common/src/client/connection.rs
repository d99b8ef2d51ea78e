//! [`Connection`]: a client's connection, in the clear or with TLS.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::session::{Session, retry};
use super::trouble::answers_with_tls;

/// A connection to a server. Clones are the same connection; one thread may read while another one writes.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Link>);

#[derive(Debug)]
enum Link {
    Clear {
        socket: Socket,
        /// Whether a read has begun. The first read checks whether the server speaks TLS.
        heard: AtomicBool,
    },
    Tls(Box<Session>),
}

impl Connection {
    pub(super) fn clear(socket: Socket) -> Self {
        Self(Arc::new(Link::Clear { socket, heard: AtomicBool::new(false) }))
    }

    pub(super) fn tls(session: Session) -> Self {
        Self(Arc::new(Link::Tls(Box::new(session))))
    }

    fn socket(&self) -> &Socket {
        match &*self.0 {
            Link::Clear { socket, .. } => socket,
            Link::Tls(session) => session.socket(),
        }
    }

    /// Sets how long a read may wait; `None` means for ever. A read that has waited so long fails with `WouldBlock`.
    pub fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(time)
    }

    /// Sets how long a write may wait; `None` means for ever. A write that has waited so long fails with `WouldBlock`.
    pub fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket().set_write_timeout(time)
    }

    /// Whether a read would return at once, with bytes or with the end.
    pub fn has_input(&self) -> bool {
        match &*self.0 {
            Link::Clear { socket, .. } => {
                recv(socket, &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
            }
            Link::Tls(session) => session.has_input(),
        }
    }

    /// Ends one direction or both. Under TLS the server gets a close_notify first.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &*self.0 {
            Link::Clear { socket, .. } => socket.shutdown(how),
            Link::Tls(session) => session.shutdown(how),
        }
    }
}

impl Read for &Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Link::Clear { socket, heard } => {
                if !heard.swap(true, Ordering::Relaxed) {
                    // The buffer is one byte longer than an alert, so that a longer message is not taken for one.
                    let mut first = [0; 8];
                    let count = retry(|| recv(socket, &mut first[..], RecvFlags::PEEK))?.0;
                    answers_with_tls(&first[..count])?;
                }
                (&mut &*socket).read(buf)
            }
            Link::Tls(session) => session.read(buf),
        }
    }
}

impl Write for &Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Link::Clear { socket, .. } => (&mut &*socket).write(buf),
            Link::Tls(session) => session.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
