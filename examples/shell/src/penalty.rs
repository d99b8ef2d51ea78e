//! The penalty of a failed login: its connection stays silent for a while, and then ends.
//!
//! The delay must occupy neither a thread nor a forked child. So the worker passes the connection's descriptor to the
//! keeper, a process that only keeps such connections; then the worker serves the next client. The keeper is a process because
//! a server that forks may have no second thread. So the penalty is the same under every mixin.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::StreamRequest;
use socketserver::handler::inherit_only_stdio;
use socketserver::request::Stream;

use crate::command::{leave_terminal, own_program};
use crate::handover;

/// How long the connection of a failed login is kept. A short time is enough, because nobody guesses 32 bytes, and a
/// user with the wrong secret has to wait for it.
const DELAY: Duration = Duration::from_secs(2);

/// How many connections are kept. A further one ends the oldest, so that failed logins cannot use up the descriptors.
const AT_ONCE: usize = 256;

/// The server's side: passes connections to the keeper.
pub struct Penalty {
    keeper: Child,
    socket: UnixStream,
}

impl Penalty {
    /// Starts the keeper.
    pub fn start() -> io::Result<Self> {
        let (socket, its_socket) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let mut command = Command::new(own_program()?);
        command.arg("keep").stdin(OwnedFd::from(its_socket)).stdout(Stdio::null());
        let keeper = inherit_only_stdio(&mut command).spawn()?;
        Ok(Self { keeper, socket })
    }

    /// Takes the connection out of its request, and passes it to the keeper. If that fails, the connection ends at once.
    pub fn give(&self, request: &mut StreamRequest) {
        // The server ends a request's connection after the handler. Here it ends only the stand-in.
        let _ = request.wrap_stream(|connection| {
            if let Some(fd) = connection.fileno() {
                let _ = handover::send(&self.socket, Some(fd));
            }
            Ok(Box::new(Nobody))
        });
    }
}

impl Drop for Penalty {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.keeper.wait();
    }
}

/// Stands in for a connection that was passed on.
struct Nobody;

impl Read for Nobody {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Nobody {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Nobody {
    fn set_deadline(&mut self, _: Option<Instant>) {}

    fn shutdown(&mut self, _: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// The keeper: keeps the connections that arrive over stdin, each for its time, until the server is gone.
pub fn keep() -> io::Result<()> {
    leave_terminal()?;
    let stdin = io::stdin();
    let mut kept: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
    loop {
        let next = kept.front().map(|(until, _)| until.saturating_duration_since(Instant::now()));
        let next = next.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, next.as_ref()) {
            Err(rustix::io::Errno::INTR) | Ok(0) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => match handover::receive(stdin.as_fd())? {
                None => return Ok(()),
                Some(fd) => kept.extend(fd.map(|fd| (Instant::now() + DELAY, fd))),
            },
        }
        let now = Instant::now();
        while kept.len() > AT_ONCE || kept.front().is_some_and(|(until, _)| *until <= now) {
            kept.pop_front();
        }
    }
}
