//! Elsewhere than on Linux nothing keeps clients from coming in the moment before the close.

use std::os::fd::BorrowedFd;

pub(crate) fn new_clients(_listener: BorrowedFd<'_>) {}
