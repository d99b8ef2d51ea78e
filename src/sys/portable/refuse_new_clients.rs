//! Other systems have no such means: clients that arrive right before the close are reset by it.

use std::os::fd::BorrowedFd;

pub(crate) fn refuse_clients(_listener: BorrowedFd<'_>) {}
