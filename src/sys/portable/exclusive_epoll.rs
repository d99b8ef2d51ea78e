//! Only Linux can wake a worker in preference to the accept loop. Elsewhere only the loop accepts.
//!
//! kqueue(2) has nothing like EPOLLEXCLUSIVE: a client would wake every waiter. With the loop alone each client costs
//! one hand-over to a thread, and nothing else changes. The type has no values, so none of its methods can be called.

use std::io;
use std::os::fd::BorrowedFd;

/// See the Linux form. It is never made.
#[derive(Debug)]
pub(crate) enum ExclusiveEpoll {}

impl ExclusiveEpoll {
    /// Fails.
    pub(crate) fn new(
        _listener: BorrowedFd<'_>,
        _interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See the Linux form.
    pub(crate) fn renew(
        &self,
        _listener: BorrowedFd<'_>,
        _interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn wait(&self) -> io::Result<()> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn loop_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn wake_loop(&self, _listener: BorrowedFd<'_>) {
        match *self {}
    }
}
