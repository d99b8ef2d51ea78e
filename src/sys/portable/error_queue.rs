//! Only Linux has error queues.

use std::os::fd::BorrowedFd;

pub(super) fn empty(_fd: BorrowedFd<'_>) {}
