//! Waiting for input that arrives after this side has shut the input down (`shutdown(Read)`).
//!
//! A drain needs this. It may end the input of a connection whose request begins at just that moment, and the request still
//! has to be read, within the grace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::epoll::Epoll;
use super::socket::Mode;

/// A descriptor that is readable when more input has arrived. The kernel still receives what the peer sends over TCP, but
/// poll(2) reports such a connection as readable at all times. An edge-triggered epoll set
/// ([EPOLLET](https://man7.org/linux/man-pages/man7/epoll.7.html)) reports only new input.
#[derive(Debug)]
pub(crate) struct InputAfterShutdown {
    /// Contains only the connection.
    set: Epoll,
}

impl InputAfterShutdown {
    /// Takes one descriptor. Adding a connection reports its present state once; [`clear`](Self::clear) takes that
    /// away.
    pub(crate) fn new(connection: BorrowedFd<'_>) -> io::Result<Self> {
        let set = Epoll::new()?;
        set.add(connection, libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET, 0)?;
        Ok(Self { set })
    }

    /// Forgets the input that has arrived so far: the descriptor becomes readable when more arrives. Called before
    /// the receive, so that no input is missed.
    ///
    /// An edge is reported once, though the input is still there. This takes one system call and never waits.
    pub(crate) fn clear(&self) {
        let _ = self.set.wait::<1>(Mode::Try);
    }
}

impl AsFd for InputAfterShutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::is_readable;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn what_comes_after_the_end_of_the_input_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut connection, _) = listener.accept().unwrap();
        connection.shutdown(Shutdown::Read).unwrap();
        let late = InputAfterShutdown::new(connection.as_fd()).unwrap();
        for word in [b"one", b"two"] {
            late.clear();
            assert_eq!(connection.read(&mut [0; 8]).unwrap(), 0);
            assert!(!is_readable(late.as_fd()).unwrap(), "nothing has come");
            peer.write_all(word).unwrap();
            let began = Instant::now();
            while !is_readable(late.as_fd()).unwrap() {
                assert!(began.elapsed() < Duration::from_secs(10), "nobody tells of it");
            }
            late.clear();
            let mut bytes = [0; 8];
            assert_eq!(connection.read(&mut bytes).unwrap(), 3);
            assert_eq!(&bytes[..3], word);
        }
    }
}
