//! Successors that have failed and have not ended: they may still have the sockets.
//!
//! As long as one of them may have a socket, no file of a Unix socket is removed when the socket is closed, and the
//! coordinator is not at rest: each turn checks them. There are two lists, because an ended child has to be reaped even if
//! it never got the sockets, and a process that has connected by itself may have the sockets but is not a child.

use std::process::Child;

use parking_lot::Mutex;

use super::channel::Channel;

/// The failed successors of one process. No thread waits for their ends: each turn checks once.
#[derive(Default)]
pub(super) struct LeftBehind {
    /// Children that this process has started, and whose ends are not known yet. An ended one is a zombie until a turn
    /// reaps it.
    children: Mutex<Vec<Child>>,
    /// Connections to successors that were passed the sockets. The other end closes when the process ends.
    channels: Mutex<Vec<Channel>>,
}

impl LeftBehind {
    /// Adds a successor, if this process has started it. A later turn reaps it.
    pub(super) fn add_child(&self, child: Option<Child>) {
        self.children.lock().extend(child);
    }

    /// Adds a successor that was passed the sockets.
    pub(super) fn add_holder(&self, channel: Channel) {
        self.channels.lock().push(channel);
    }

    /// Whether no failed successor is left.
    pub(super) fn is_empty(&self) -> bool {
        self.children.lock().is_empty() && !self.may_have_sockets()
    }

    /// Whether one of the failed successors may have the sockets.
    pub(super) fn may_have_sockets(&self) -> bool {
        !self.channels.lock().is_empty()
    }

    /// Finds out which successors have ended, without waiting, and removes these from the lists. Returns true if the last
    /// one that had the sockets has ended: this process alone has them now.
    pub(super) fn look(&self) -> bool {
        // An error means that other code has reaped the child.
        self.children.lock().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let mut channels = self.channels.lock();
        let were_there = !channels.is_empty();
        channels.retain(|channel| !channel.is_closed());
        were_there && channels.is_empty()
    }
}
