//! [`OwnSockets`]: the sockets that a process hands over.
//!
//! The successor gets them as a list, and names a socket by its place in the list. The list has only sockets that can
//! be handed over, so its numbers are not the places of the servers: [`pass`](OwnSockets::pass) returns the meaning of each.
//!
//! Each socket is told which processes have it ([`Holders`]): a close must not end a socket that another process serves,
//! and the last process that has a Unix socket removes its file.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::message::{HandoverMessage, Socket};
use crate::server::fork::AnyServer;
use crate::transport::{HandoverSocket, Holders, Transport, UnixStream};

/// The sockets of the servers, and the one at which successors ask.
pub(super) struct OwnSockets {
    /// The servers of the run, and then those that are not part of it. The program owns them: a dropped one is skipped.
    pub(super) servers: Vec<Weak<dyn AnyServer>>,
    /// The socket at which successors ask. `None` if a successor can only be started by SIGUSR2.
    pub(super) listener: Option<UnixStream>,
}

/// Names one of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The socket of a server, by the server's place in `servers`.
    Server(usize),
    /// The socket at which successors ask.
    Listener,
}

impl OwnSockets {
    /// The servers that are still there, in their order.
    pub(super) fn servers(&self) -> impl Iterator<Item = Arc<dyn AnyServer>> {
        self.servers.iter().filter_map(Weak::upgrade)
    }

    /// All sockets, whether or not they can be handed over. The listener is the last one.
    fn targets(&self) -> impl Iterator<Item = Target> + use<> {
        (0..self.servers.len()).map(Target::Server).chain([Target::Listener])
    }

    /// Acts on a socket, if it can be handed over. Returns `None` if its server is gone, if its transport has no socket
    /// to pass, or if there is no listener.
    pub(super) fn with<R>(
        &self,
        target: Target,
        act: impl FnOnce(&dyn HandoverSocket) -> R,
    ) -> Option<R> {
        match target {
            Target::Server(index) => {
                let server = self.servers[index].upgrade()?;
                server.handover().map(act)
            }
            Target::Listener => self.listener.as_ref()?.handover().map(act),
        }
    }

    /// Tells all sockets which processes have them from now on.
    pub(super) fn set_holders(&self, holders: Holders) {
        for target in self.targets() {
            self.with(target, |socket| socket.set_holders(holders));
        }
    }

    /// Removes the files of closed sockets that no other process has any more.
    pub(super) fn remove_files_as_the_last(&self) {
        for target in self.targets() {
            self.with(target, |socket| socket.remove_file_as_the_last());
        }
    }

    /// The numbers of the sockets that come from the predecessor, in the predecessor's list: for `Ready`.
    pub(super) fn inherited(&self) -> Vec<u16> {
        let numbers = self.targets().filter_map(|target| self.with(target, |s| s.inherited_as()));
        numbers.flatten().filter_map(|number| u16::try_from(number).ok()).collect()
    }

    /// Whether a server has taken a socket of the predecessor. The listener at the path does not count: it is taken by any
    /// program that was given the path.
    pub(super) fn has_inherited_of_a_server(&self) -> bool {
        let is_inherited = |target| self.with(target, |s| s.inherited_as().is_some());
        (0..self.servers.len()).map(Target::Server).any(|target| is_inherited(target) == Some(true))
    }

    /// Passes all sockets, in messages of [`SOCKETS_PER_MESSAGE`]. From here on both processes have them. Returns the
    /// target behind each number of the list.
    ///
    /// # Errors
    ///
    /// If the successor does not read within [`PASS_TIMEOUT`], or has ended. It may have some of the sockets then.
    pub(super) fn pass(&self, channel: &Channel) -> io::Result<Vec<Target>> {
        let (mut targets, mut found) = (Vec::new(), Vec::new());
        for target in self.targets() {
            let described = self.with(target, |socket| socket.describe()).flatten();
            let Some((description, fd)) = described else { continue };
            let is_coordinator = target == Target::Listener;
            targets.push(target);
            found.push((Socket { description, is_coordinator }, fd));
        }
        // The sockets are marked before they are sent: a close must not end a socket that the successor has. If the sending
        // fails, they stay `Both` until the successor has ended.
        self.set_holders(Holders::Both);
        // At least one message is sent, even if there is no socket: the last message marks the end of the list.
        let (mut rest, deadline) = (&found[..], Instant::now() + PASS_TIMEOUT);
        loop {
            let (now, later) = rest.split_at(rest.len().min(SOCKETS_PER_MESSAGE));
            rest = later;
            let sockets = now.iter().map(|(socket, _)| socket.clone()).collect();
            let fds: Vec<_> = now.iter().map(|(_, fd)| fd.as_fd()).collect();
            let message = HandoverMessage::Sockets { sockets, more: !rest.is_empty() };
            channel.send_until(&message, &fds, deadline)?;
            if rest.is_empty() {
                return Ok(targets);
            }
        }
    }
}

/// How many sockets a message has room for, if each has two paths of the longest length that the system allows:
/// 7 times 2 times 4,096 bytes, and the rest of each socket, are less than 65,535.
const SOCKETS_PER_MESSAGE: usize = 7;

/// How long a successor may take to read the sockets. It waits for them, so a moment is enough. During that time the
/// loop of a server that forks stands still.
const PASS_TIMEOUT: Duration = Duration::from_secs(1);
