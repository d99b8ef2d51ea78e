//! Elsewhere than on Linux nothing tells of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug)]
pub(crate) enum Late {}

impl Late {
    pub(crate) fn new(_connection: BorrowedFd<'_>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn clear(&self) {
        match *self {}
    }
}

impl AsFd for Late {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}
