//! Two who wait for the same listener, of whom the kernel wakes the first if it can.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::epoll::Epoll;

/// A place in front of a listener's door, for a worker that has nothing else to do, and one behind it, for the loop.
///
/// Both are epoll sets with the listener in them. By
/// [EPOLLEXCLUSIVE](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html) (Linux 4.5) the kernel goes through the
/// sets in the order in which they took the listener in, when a client comes, and stops at the first that
/// somebody waits at. So a client wakes the worker, and the loop only if no worker waits. Who does not wait
/// misses nothing: the listener stays readable for both as long as there is a client.
#[derive(Debug)]
pub(crate) struct Door {
    front: Epoll,
    back: Epoll,
}

impl Door {
    /// `calls`: what else wakes who waits in front. Refuses what is no listening socket: the kernel wakes once for each
    /// client of one, and who notifies an event may do it once for many, of whom one alone would be heard of.
    pub(crate) fn new(listener: BorrowedFd<'_>, calls: [BorrowedFd<'_>; 2]) -> io::Result<Self> {
        if !SockRef::from(&listener).is_listener()? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let door = Self { front: Epoll::new()?, back: Epoll::new()? };
        door.fill(listener, calls)?;
        Ok(door)
    }

    fn fill(&self, listener: BorrowedFd<'_>, calls: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        self.front.add(listener, CLIENTS, 0)?;
        for call in calls {
            self.front.add(call, libc::EPOLLIN, 0)?;
        }
        self.back.add(listener, CLIENTS, 0)
    }

    /// In a forked child: makes it a door of its own, with these calls.
    pub(crate) fn renew(
        &self,
        listener: BorrowedFd<'_>,
        calls: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        self.front.renew()?;
        self.back.renew()?;
        self.fill(listener, calls)
    }

    /// Waits in front, one thread at a time, until there may be a client or a call. Signals do not end it.
    pub(crate) fn wait(&self) -> io::Result<()> {
        loop {
            match self.front.wait::<1>(true) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => return waited.map(drop),
            }
        }
    }

    /// What the loop waits for: readable when there may be a client for which nobody in front was woken.
    pub(crate) fn back(&self) -> BorrowedFd<'_> {
        self.back.as_fd()
    }

    /// Wakes who waits behind, if there is a client: by who was woken for one and cannot take it.
    pub(crate) fn pass_on(&self, listener: BorrowedFd<'_>) {
        self.back.remove(listener);
        // The kernel looks at what a set takes in. There is room for what was in it before.
        let _ = self.back.add(listener, CLIENTS, 0);
    }
}

const CLIENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
