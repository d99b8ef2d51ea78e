//! Late input cannot be waited for on other systems: `new` always fails.
//!
//! The reader then looks every millisecond instead, until the deadline of the drain or of its read (`request/bounded_io.rs`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// See the form for Linux, in `sys/input_after_shutdown.rs`. It is never made.
#[derive(Debug)]
pub(crate) enum InputAfterShutdown {}

impl InputAfterShutdown {
    /// Always `Unsupported`.
    pub(crate) fn new(_connection: BorrowedFd<'_>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn clear(&self) {
        match *self {}
    }
}

impl AsFd for InputAfterShutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}
