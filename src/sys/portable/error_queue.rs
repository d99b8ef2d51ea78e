//! Only Linux has error queues.
//!
//! An error of a socket there is a pending one, and the next call on the socket takes it.

use std::os::fd::BorrowedFd;

/// Nothing to do.
pub(super) fn empty(_fd: BorrowedFd<'_>) {}
