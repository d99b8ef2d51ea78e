//! Two who wait for the same listener, where the system has no way to prefer one of them: only the loop does.

use std::io;
use std::os::fd::BorrowedFd;

/// See the Linux form. There is none.
#[derive(Debug)]
pub(crate) enum Door {}

impl Door {
    /// Refuses.
    pub(crate) fn new(_listener: BorrowedFd<'_>, _calls: [BorrowedFd<'_>; 2]) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See the Linux form.
    pub(crate) fn renew(
        &self,
        _listener: BorrowedFd<'_>,
        _calls: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn wait(&self) -> io::Result<()> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn back(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    /// See the Linux form.
    pub(crate) fn pass_on(&self, _listener: BorrowedFd<'_>) {
        match *self {}
    }
}
