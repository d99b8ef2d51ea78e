//! Two who wait for the same listener, of whom the kernel wakes the first if it can.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::SockRef;

use super::check;

/// A place in front of a listener's door, for a worker that has nothing else to do, and one behind it, for the loop.
///
/// Both are epoll sets with the listener in them. By
/// [EPOLLEXCLUSIVE](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html) (Linux 4.5) the kernel goes through the
/// sets in the order in which they took the listener in, when a client comes, and stops at the first that
/// somebody waits at. So a client wakes the worker, and the loop only if no worker waits. Who does not wait
/// misses nothing: the listener stays readable for both as long as there is a client.
#[derive(Debug)]
pub(crate) struct Door {
    front: OwnedFd,
    back: OwnedFd,
}

impl Door {
    /// `calls`: what else wakes who waits in front. Refuses what is no listening socket: the kernel wakes once for each
    /// client of one, and who notifies an event may do it once for many, of whom one alone would be heard of.
    pub(crate) fn new(listener: BorrowedFd<'_>, calls: [BorrowedFd<'_>; 2]) -> io::Result<Self> {
        if !SockRef::from(&listener).is_listener()? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (front, back) = (new_set()?, new_set()?);
        add(&front, listener, CLIENTS)?;
        for call in calls {
            add(&front, call, libc::EPOLLIN)?;
        }
        add(&back, listener, CLIENTS)?;
        Ok(Self { front, back })
    }

    /// Waits in front, one thread at a time, until there may be a client or a call. Signals do not end it.
    pub(crate) fn wait(&self) -> io::Result<()> {
        loop {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: the pointer is to one live event.
            let waited = unsafe { libc::epoll_wait(self.front.as_raw_fd(), &raw mut event, 1, -1) };
            match check(waited) {
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
        let (back, listener_fd) = (self.back.as_raw_fd(), listener.as_raw_fd());
        // SAFETY: no event is passed, and none is needed to delete.
        unsafe { libc::epoll_ctl(back, libc::EPOLL_CTL_DEL, listener_fd, std::ptr::null_mut()) };
        // The kernel looks at what a set takes in. There is room for what was in it before.
        let _ = add(&self.back, listener, CLIENTS);
    }
}

const CLIENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;

fn new_set() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor or -1 comes back.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    Ok(super::owned(fd))
}

fn add(set: &OwnedFd, fd: BorrowedFd<'_>, events: libc::c_int) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: 0 };
    let (set, fd) = (set.as_raw_fd(), fd.as_raw_fd());
    // SAFETY: the pointer is to a live event, and both descriptors are open.
    check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
    Ok(())
}
