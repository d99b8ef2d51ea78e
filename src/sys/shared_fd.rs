//! A descriptor with several owners.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A descriptor with several owners. Its number stands beside the pointer to it: reading the number through the
/// pointer would be one more cache miss for each call on a connection.
#[derive(Debug)]
pub(crate) struct SharedFd {
    /// The number of `owned`. It never changes: `fd.rs` replaces the file behind a number, and not the number.
    number: RawFd,
    /// Closed with the last owner.
    owned: Arc<OwnedFd>,
}

impl SharedFd {
    /// Becomes an owner of the descriptor, and notes its number.
    pub(crate) fn new(owned: Arc<OwnedFd>) -> Self {
        Self { number: owned.as_raw_fd(), owned }
    }

    /// Makes one more owner.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.owned)
    }
}

impl AsFd for SharedFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is the number of `owned`, which stays open for as long as this is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }
}
