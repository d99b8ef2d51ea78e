//! Only Linux has error queues.
//!
//! On other systems an error of a socket is always pending, and the next call on the socket returns it.

use std::os::fd::BorrowedFd;

/// Does nothing: these systems have no error queues.
pub(super) fn empty(_fd: BorrowedFd<'_>) {}
