//! Successors that have failed and have not ended: they may still have the sockets.

use std::process::Child;

use parking_lot::Mutex;

use super::channel::Channel;

/// Those of one process. Nothing waits for them: each turn looks once.
#[derive(Default)]
pub(super) struct LeftBehind {
    /// Started here, and not known to have ended: each is a zombie until it is asked about.
    children: Mutex<Vec<Child>>,
    /// To those that were passed the sockets. The other end closes when its process ends.
    channels: Mutex<Vec<Channel>>,
}

impl LeftBehind {
    /// One that was started here.
    pub(super) fn add_child(&self, child: Option<Child>) {
        self.children.lock().extend(child);
    }

    /// One that was passed the sockets.
    pub(super) fn add_holder(&self, channel: Channel) {
        self.channels.lock().push(channel);
    }

    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.children.lock().is_empty() && !self.may_have_sockets()
    }

    /// Whether one of them may have the sockets.
    pub(super) fn may_have_sockets(&self) -> bool {
        !self.channels.lock().is_empty()
    }

    /// Hears of their ends. True: the last one that had the sockets has ended.
    pub(super) fn look(&self) -> bool {
        // An error means that others have waited for it.
        self.children.lock().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let mut channels = self.channels.lock();
        let were_there = !channels.is_empty();
        channels.retain(|channel| !channel.is_closed());
        were_there && channels.is_empty()
    }
}
