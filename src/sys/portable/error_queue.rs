//! Only Linux has queues of errors.

use std::os::fd::BorrowedFd;

pub(super) fn empty(_fd: BorrowedFd<'_>) {}
