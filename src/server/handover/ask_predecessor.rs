//! The successor's side at its start: it finds its predecessor, and gets the sockets.
//!
//! ```text
//! this process                                  predecessor
//!   connect            the same user? ------->    accepts, the same user?
//!   Hello              ------------------------>
//!                      <------------------------  Sockets, more: true        descriptors come with each message
//!                      <------------------------  Sockets, more: false
//!   keep: the servers' binds take them
//!   .. coordinator.rs goes on: Ready, Release or Refuse
//! ```
//!
//! Nothing of the other side is believed before it is bounded: one deadline for all of its messages, at most
//! [`MAX_SOCKETS`], and no message without a socket except the last.
//!
//! All of it runs in the thread that makes the `Handover`, before the program has a server, and it may wait. A predecessor
//! that ends during this time is not an error: then this process is the first.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::channel::Channel;
use super::message::{HandoverMessage, nonsense};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys;
use crate::transport::predecessor_sockets::{self, PredecessorsSocket};

/// How long to wait for the sockets. Another successor may be starting, which may take thirty seconds by default.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// The most sockets that are taken from a predecessor: more than any server has.
const MAX_SOCKETS: usize = 4_096;

/// A predecessor that has passed its sockets, and waits for this process to be ready.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) channel: Channel,
    /// The number of the socket at which successors ask, if the predecessor has passed it. `None` for a predecessor
    /// that was started without a path.
    pub(super) coordinator: Option<usize>,
}

/// How long to wait between two attempts to connect to a server whose accept queue is full.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Connects to the server that answers at `path`; `None` if no process does.
///
/// # Errors
///
/// If the file there is not a socket, if the server belongs to another user, or if its queue stays full until the deadline.
pub(super) fn connect(path: &Path, deadline: Instant) -> Result<Option<Channel>> {
    let cannot = |error| Error::io("ask for the sockets of the server at", path.display(), error);
    let socket = match connect_until(path, deadline) {
        Ok(socket) => OwnedFd::from(socket),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The system gives this error for the socket of a killed server, and for any file that is not a socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return no_other_file(path).map(|()| None).map_err(cannot);
        }
        Err(error) => return Err(cannot(error)),
    };
    // In a folder that others may write to, the socket could be another user's, and so could the sockets that are
    // passed over it.
    let server = sys::credentials(socket.as_fd()).map_err(cannot)?;
    if server.uid != sys::user() {
        let text = format!(
            "it is a server of user {}, and this process is one of user {}: start it as that user, or \
             choose another path",
            server.uid,
            sys::user()
        );
        return Err(cannot(io::Error::new(io::ErrorKind::PermissionDenied, text)));
    }
    Ok(Some(Channel::new(Arc::new(socket))))
}

/// Fails if the file at the path is not a socket. Such a file is never replaced, so waiting for the path would be in
/// vain.
fn no_other_file(path: &Path) -> io::Result<()> {
    // The file may be gone by now. A link is not followed: the bind would replace the link, not its target.
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    let what = if kind.is_symlink() { "a link" } else { "no socket" };
    let text = format!("what is there is {what}, and is not replaced: choose another path");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Connects without blocking: the queue of a server that is stopped (SIGSTOP, a debugger) may stay full for ever.
fn connect_until(path: &Path, deadline: Instant) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => return Ok(socket),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                // No event reports room in the queue: unix(7).
                io::ErrorKind::WouldBlock if Instant::now() < deadline => {
                    thread::sleep(RETRY_PAUSE);
                }
                io::ErrorKind::WouldBlock => {
                    let text = "it accepts no connection, and its queue is full: is it stopped?";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                _ => return Err(error),
            },
        }
    }
}

/// Asks for the sockets, and keeps them for the servers that are bound from here on, in `transport::predecessor_sockets`.
/// Returns `None` if the other process has ended before it passed all of them. `whom` is for error messages.
///
/// # Errors
///
/// If the other process refuses, does not answer in time, or sends anything other than its sockets. The sockets that have
/// already come are then closed.
pub(super) fn ask(
    mut channel: Channel,
    whom: &str,
    deadline: Instant,
) -> Result<Option<Predecessor>> {
    let cannot = |error| Error::io("get the sockets of", whom, error);
    match channel.send(&HandoverMessage::Hello) {
        // The predecessor has ended since it accepted the connection.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
        sent => sent.map_err(cannot)?,
    }
    let mut found: Vec<PredecessorsSocket> = Vec::new();
    let mut coordinator = None;
    loop {
        let (sockets, more, fds) = match channel.receive_until(deadline) {
            Ok((HandoverMessage::Sockets { sockets, more }, fds)) => (sockets, more, fds),
            Ok((HandoverMessage::Refuse(why), _)) => return Err(cannot(refused(&why))),
            Ok(_) => return Err(cannot(nonsense("it answers something else"))),
            // The predecessor stops, and its sockets close with it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let text = format!("it has not answered within {} s", ASK_TIMEOUT.as_secs());
                return Err(cannot(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            Err(error) => return Err(cannot(error)),
        };
        // Only the last message may be empty, so the bound on sockets also bounds the number of messages.
        let is_empty = sockets.is_empty();
        for (socket, fd) in sockets.into_iter().zip(fds) {
            let number = found.len();
            if socket.is_coordinator {
                coordinator = Some(number);
            }
            found.push(PredecessorsSocket { number, description: socket.description, fd });
        }
        if found.len() > MAX_SOCKETS || (more && is_empty) {
            return Err(cannot(nonsense("it passes sockets without end")));
        }
        if !more {
            break;
        }
    }
    // Only a whole list is kept: with a part of it this process would serve a part of the addresses.
    predecessor_sockets::keep(found);
    Ok(Some(Predecessor { channel, coordinator }))
}

/// Judges the predecessor's addresses that no server here has taken, and returns a warning about them. No process
/// serves them any more; an operator who has changed the addresses knows that.
///
/// # Errors
///
/// If servers here have taken none of its addresses: the predecessor is then more likely another program, and this one was
/// given its path by mistake.
pub(super) fn judge_left(left: &[Address], has_taken: bool) -> io::Result<Option<String>> {
    if left.is_empty() {
        return Ok(None);
    }
    let addresses = left.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
    if has_taken {
        return Ok(Some(format!("not served any more after the handover: {addresses}")));
    }
    let text = format!(
        "it serves {addresses}, and no server here binds to that: give this program another path for its \
         handover, or stop that server first"
    );
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text))
}

/// The predecessor's reason as an error.
pub(super) fn refused(why: &str) -> io::Error {
    // The predecessor may be of another version: only the text of its answer counts. It goes to a terminal or a log, so it
    // is one line of bounded length.
    let text: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
    io::Error::other(format!("it says: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_server_that_is_stopped_with_a_full_queue_is_not_waited_for_beyond_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator");
        let address = SockAddr::unix(&path).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut queue = Vec::new();
        let error = loop {
            match connect_until(&path, soon()) {
                Ok(socket) => queue.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The queue has room again, and the next attempt comes before the deadline.
        let later = Instant::now() + Duration::from_secs(60);
        thread::scope(|scope| {
            let found = scope.spawn(|| connect(&path, later));
            let _accepted = listener.accept().unwrap();
            assert!(found.join().unwrap().unwrap().is_some());
        });
    }

    #[test]
    fn a_predecessor_that_promises_sockets_without_end_is_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let channel = |socket| Channel::new(Arc::new(OwnedFd::from(socket)));
        let later = Instant::now() + Duration::from_secs(60);
        let (asking, answering) = (channel(one), channel(other));
        let promises = thread::spawn(move || {
            let message = HandoverMessage::Sockets { sockets: Vec::new(), more: true };
            while answering.send_until(&message, &[], later).is_ok() {}
        });
        let error = ask(asking, "the test", later).unwrap_err();
        assert!(error.to_string().contains("without end"), "{error}");
        promises.join().unwrap();
    }
}
