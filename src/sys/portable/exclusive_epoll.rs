//! Only Linux can wake a worker in preference to the accept loop. Elsewhere only the loop accepts.
//!
//! kqueue(2) has nothing like EPOLLEXCLUSIVE: a client would wake every waiter. With the loop alone each client costs
//! one hand-over to a thread, and nothing else changes. The type has no values, so none of its methods can be called.

use std::io;
use std::os::fd::BorrowedFd;

/// See the form for Linux, in `sys/exclusive_epoll.rs`. It is never made.
#[derive(Debug)]
pub(crate) enum ExclusiveEpoll {}

impl ExclusiveEpoll {
    /// Always fails, so that the other methods are never called.
    pub(crate) fn new(
        _listener: BorrowedFd<'_>,
        _interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See the form for Linux, in `sys/exclusive_epoll.rs`.
    pub(crate) fn renew(
        &self,
        _listener: BorrowedFd<'_>,
        _interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        match *self {}
    }

    /// See the form for Linux, in `sys/exclusive_epoll.rs`.
    pub(crate) fn wait(&self) -> io::Result<()> {
        match *self {}
    }

    /// See the form for Linux, in `sys/exclusive_epoll.rs`.
    pub(crate) fn loop_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    /// See the form for Linux, in `sys/exclusive_epoll.rs`.
    pub(crate) fn wake_loop(&self, _listener: BorrowedFd<'_>) {
        match *self {}
    }
}
