//! Only Linux has error queues.
//!
//! An error of a socket there is a pending one, and the next call on the socket takes it.

use std::os::fd::BorrowedFd;

/// Does nothing: these systems have no error queues.
pub(super) fn empty(_fd: BorrowedFd<'_>) {}
