//! The connection of two processes in a handover: whole messages, and descriptors with them.
//!
//! Both ends are non-blocking, because the coordinator of a server that forks takes its turns in the accept loop. A peer's
//! mistake ends the attempt and nothing more: everything that a peer can send is bounded before it is kept.
//!
//! | resource | bound |
//! |---|---|
//! | bytes that do not make a whole message yet | one message: `HEADER_BYTES` + `MAX_PAYLOAD_BYTES` |
//! | descriptors that no message has named yet | those of two messages: [`MAX_PENDING_FDS`] |
//! | time, whatever the peer sends | the deadline of the caller |
//!
//! The kernel gives descriptors out together with the first byte that they were sent with. So they come in the order of the
//! messages, and a message that is whole has all of its descriptors.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::message::{HEADER_BYTES, HandoverMessage, MAX_PAYLOAD_BYTES, nonsense};
use crate::sys::pass_fds::{receive_fds, send_fds};
use crate::sys::{self, PollFd};

/// One end of the connection. Only [`send_until`](Self::send_until) and [`receive_until`](Self::receive_until) wait.
#[derive(Debug)]
pub(super) struct Channel {
    /// A Unix stream socket, which closes with its last holder. The others are the handles that [`share`](Self::share)
    /// makes, and for a moment a loop that waits for the socket.
    socket: Arc<OwnedFd>,
    /// Bytes that were received and do not make a whole message yet: never more than one message has.
    received: Vec<u8>,
    /// Descriptors that have come with the bytes in `received`. They are closed with the channel.
    fds: VecDeque<OwnedFd>,
}

/// The most descriptors that may belong to no whole message yet: those of two messages, because a receive may end in the
/// middle of the second one.
const MAX_PENDING_FDS: usize = 2 * sys::pass_fds::MAX_FDS;

impl Channel {
    pub(super) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, received: Vec::new(), fds: VecDeque::new() }
    }

    /// Another handle to this connection, without the bytes that were received. It is kept to see when the other side
    /// closes, if no more messages are of interest.
    pub(super) fn share(&self) -> Self {
        Self::new(Arc::clone(&self.socket))
    }

    /// The socket, for a wait.
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Sends a message without descriptors, and without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the other side does not read: a few hundred messages fit. `BrokenPipe` if it has closed.
    pub(super) fn send(&self, message: &HandoverMessage) -> io::Result<()> {
        self.send_until(message, &[], Instant::now())
    }

    /// Sends a message, and descriptors with it. Waits for room, until the deadline. The descriptors are copied: the caller
    /// keeps its own.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the other side does not read before the deadline. A part of the message may have been sent by then,
    /// so the connection is no longer usable. Otherwise as [`send`](Self::send).
    pub(super) fn send_until(
        &self,
        message: &HandoverMessage,
        mut fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<()> {
        let bytes = message.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match send_fds(self.socket.as_fd(), rest, fds) {
                // The descriptors leave with the first byte.
                Ok(count) => (rest, fds) = (&rest[count..], &[]),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    sys::poll(&mut [PollFd::writable(self.socket.as_fd())], Some(deadline))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message, with the descriptors that came with it, which are then the caller's. `None` if no whole
    /// message has come yet. Never waits.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the other side has closed; `InvalidData` if its bytes are not a message, or if it passes more or
    /// fewer descriptors than it names.
    pub(super) fn receive(&mut self) -> io::Result<Option<(HandoverMessage, Vec<OwnedFd>)>> {
        loop {
            // Decoded before anything is received, because one receive may have brought several messages.
            if let Some((message, len)) = HandoverMessage::decode(&self.received)? {
                self.received.drain(..len);
                // Only a message of sockets has descriptors. They have come with its first byte, so they are here.
                let count = match &message {
                    HandoverMessage::Sockets { sockets, .. } => sockets.len(),
                    _ => 0,
                };
                if count > self.fds.len() {
                    return Err(nonsense("it names sockets that it does not pass"));
                }
                let fds = self.fds.drain(..count).collect();
                return Ok(Some((message, fds)));
            }
            let mut buffer = [0; 4_096];
            // Never zero: with that many bytes the message would be whole, and was returned above.
            let room = buffer.len().min(HEADER_BYTES + MAX_PAYLOAD_BYTES - self.received.len());
            match receive_fds(self.socket.as_fd(), &mut buffer[..room]) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, fds)) => {
                    self.received.extend(&buffer[..count]);
                    self.fds.extend(fds);
                    if self.fds.len() > MAX_PENDING_FDS {
                        return Err(nonsense("it passes descriptors that it does not name"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The other side has closed, and has left something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other side has closed, usually because its process has ended. Everything that it has sent is thrown
    /// away, descriptors as well. Never waits.
    pub(super) fn is_closed(&self) -> bool {
        // These reads take more than the kernel holds for one connection: a side that has sent more is still there.
        for _ in 0..256 {
            match receive_fds(self.socket.as_fd(), &mut [0; 4_096]) {
                Ok((0, _)) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The connection was reset, or there was no room for descriptors.
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
        false
    }

    /// Waits until the other side has closed, or the deadline has passed. An error of the wait ends it early.
    pub(super) fn wait_until_closed(&self, deadline: Instant) {
        while !self.is_closed() && Instant::now() < deadline {
            if sys::poll(&mut [PollFd::readable(self.socket.as_fd())], Some(deadline)).is_err() {
                return;
            }
        }
    }

    /// Receives the next message, and waits for it until the deadline.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, and those of `receive`.
    pub(super) fn receive_until(
        &mut self,
        deadline: Instant,
    ) -> io::Result<(HandoverMessage, Vec<OwnedFd>)> {
        // Checked before each message, even one that is there: a side that sends without end gets no more time.
        while Instant::now() < deadline {
            if let Some(received) = self.receive()? {
                return Ok(received);
            }
            sys::poll(&mut [PollFd::readable(self.socket.as_fd())], Some(deadline))?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        let channel = |socket| Channel::new(Arc::new(OwnedFd::from(socket)));
        (channel(one), channel(other))
    }

    fn sockets() -> HandoverMessage {
        HandoverMessage::Sockets { sockets: Vec::new(), more: true }
    }

    #[test]
    fn a_send_waits_for_room_until_its_deadline() {
        let (one, mut other) = pair();
        while one.send(&sockets()).is_ok() {}
        let soon = Instant::now() + Duration::from_millis(20);
        let error = one.send_until(&sockets(), &[], soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let later = Instant::now() + Duration::from_secs(60);
        let sender = thread::spawn(move || one.send_until(&sockets(), &[], later));
        while other.receive_until(later).is_ok() {}
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn messages_that_are_there_keep_nobody_beyond_the_deadline() {
        let (one, mut other) = pair();
        one.send(&sockets()).unwrap();
        let error = other.receive_until(Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
