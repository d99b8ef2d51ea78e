//! Only Linux has error queues.

use std::os::fd::BorrowedFd;

/// Nothing to do.
pub(super) fn empty(_fd: BorrowedFd<'_>) {}
