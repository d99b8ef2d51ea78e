//! An epoll set: several descriptors that are waited for as one.
//!
//! A fork shares the set itself, not a copy: a change by one process holds for both. So a child that goes on for
//! itself renews it before it adds or removes anything. A closed descriptor leaves the set only when its last copy is
//! closed, in any process: so descriptors that may have been inherited are removed explicitly.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::check;
use super::socket::Mode;

/// The set. Its descriptor is readable while one of those in it is ready.
/// [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html)
#[derive(Debug)]
pub(super) struct Epoll {
    /// Its number stays, also after [`renew`](Self::renew).
    set: OwnedFd,
}

impl Epoll {
    /// An empty set, which is closed by exec and shared by a fork.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self { set: super::owned(fd) })
    }

    /// In a forked child: makes it an empty set of its own, under the same number. The parent's set is shared until then,
    /// so that every change to it would hold in the parent as well.
    pub(super) fn renew(&self) -> io::Result<()> {
        super::replace(&self.set, Self::new()?.set)
    }

    /// Adds a descriptor; [`wait`](Self::wait) returns `number` when it is ready.
    ///
    /// `events` are those of epoll_ctl(2), such as EPOLLIN. EPOLLERR and EPOLLHUP are reported in any case. Fails for
    /// a descriptor that is in the set already (EEXIST), and for regular files (EPERM).
    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        events: libc::c_int,
        number: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: number };
        let (set, fd) = (self.set.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the pointer is to a live event, and both descriptors are open.
        check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Removes a descriptor. One that is not in the set is no error.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        let (set, fd) = (self.set.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: no event is passed, and none is needed to delete.
        unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits until one is ready ([`Mode::Block`]), or only looks. Returns the numbers of those that are, `MOST` at the
    /// most.
    ///
    /// A signal ends the wait with `Interrupted`. A set with more ready descriptors than `MOST` reports the others by
    /// the next calls.
    pub(super) fn wait<const MOST: usize>(
        &self,
        mode: Mode,
    ) -> io::Result<impl Iterator<Item = u64> + use<MOST>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        let most = libc::c_int::try_from(MOST).unwrap_or(libc::c_int::MAX);
        let timeout = if mode == Mode::Block { -1 } else { 0 };
        let set = self.set.as_raw_fd();
        // SAFETY: the pointer and the length are those of `events`.
        let count = check(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), most, timeout) })?;
        let count = usize::try_from(count).unwrap_or(0);
        Ok(events.into_iter().take(count).map(|event| event.u64))
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
