//! The successor's side at its start: it finds its predecessor, and gets the sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::message::{Message, nonsense};
use crate::error::{Error, Result};
use crate::sys;
use crate::transport::predecessor::{self, PredecessorsSocket};

/// How long to wait for the sockets. Another successor may be in progress, which has thirty seconds by default.
const ASK: Duration = Duration::from_secs(60);

/// No server has more listeners.
const MOST_SOCKETS: usize = 4_096;

/// A predecessor that has passed its sockets, and waits for this process to be ready.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) channel: Channel,
    /// The number of the socket at which successors ask, if it passes one.
    pub(super) desk: Option<usize>,
}

/// Connects to the server that answers at `path`; none if no process does.
pub(super) fn connect(path: &Path) -> Result<Option<Channel>> {
    let cannot = |error| Error::io("ask for the sockets of the server at", path.display(), error);
    let socket = match UnixStream::connect(path) {
        Ok(socket) => OwnedFd::from(socket),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(cannot(error)),
        },
    };
    // Where others may make files, the socket could be anybody's, and so the sockets that it passes.
    let server = sys::credentials(std::os::fd::AsFd::as_fd(&socket)).map_err(cannot)?;
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

/// Asks for the sockets, and keeps them for the servers that are bound from here on. None: the other process has ended
/// before it has passed any.
pub(super) fn ask(mut channel: Channel, whom: &str) -> Result<Option<Predecessor>> {
    let cannot = |error| Error::io("get the sockets of", whom, error);
    let deadline = Instant::now() + ASK;
    match channel.send(&Message::Hello, &[]) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
        Err(error) => return Err(cannot(error)),
    }
    let mut found: Vec<PredecessorsSocket> = Vec::new();
    let mut desk = None;
    loop {
        let (sockets, more, fds) = match channel.receive_until(deadline) {
            Ok((Message::Sockets { sockets, more }, fds)) => (sockets, more, fds),
            Ok((Message::Refuse(why), _)) => return Err(cannot(refused(&why))),
            Ok(_) => return Err(cannot(nonsense("it answers something else"))),
            // It stops, and its sockets close with it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let text = format!("it has not answered within {} s", ASK.as_secs());
                return Err(cannot(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            Err(error) => return Err(cannot(error)),
        };
        for (socket, fd) in sockets.into_iter().zip(fds) {
            let number = found.len();
            if socket.is_desk {
                desk = Some(number);
            }
            found.push(PredecessorsSocket { number, description: socket.description, fd });
        }
        if found.len() > MOST_SOCKETS {
            return Err(cannot(nonsense("it passes sockets without end")));
        }
        if !more {
            break;
        }
    }
    predecessor::keep(found);
    Ok(Some(Predecessor { channel, desk }))
}

/// The predecessor's reason as an error.
pub(super) fn refused(why: &str) -> io::Error {
    // It may be another version's: only its text counts.
    let text: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
    io::Error::other(format!("it says: {text}"))
}
