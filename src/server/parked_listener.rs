//! [`ParkedListener`]: the descriptor that an accept loop waits for if it is a coroutine.
//!
//! poll(2) keeps the files open that it waits for. An epoll set does not. If the program puts another file under the
//! listener's number (dup2(2)), the listener is closed and leaves the set, and nothing wakes the loop any more. So the
//! loop waits for a duplicate. The next client then wakes the loop. Its accept uses the listener's own number, and
//! fails as it does under every other mixin.
//!
//! A close must not leave the listener open until the loop goes on, because that may take long. So the close puts
//! another file under the duplicate's number. The number stays the same, because the loop may be suspended with it.
//!
//! ```text
//! of, at the first wait of the loop      close, in a thread that closes the server
//!   makes the copy                         is_closed = true
//!   is_closed?  replaces it                is there a copy?  replaces it
//! ```
//!
//! Each side first leaves its own mark and then looks for the other's, so at least one of them replaces the file. If both
//! do, it is the same file twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::sys;
use crate::wait;

/// The duplicate of the listener that a suspended loop waits for: see the [module](self).
#[derive(Debug, Default)]
pub(super) struct ParkedListener {
    /// The duplicate, which the first wait makes. `Some(None)`: there was no descriptor for it, and the loop waits for
    /// the listener itself.
    copy: OnceLock<Option<OwnedFd>>,
    /// Whether the listener is closed, for good. Locked for a moment, so that a close and the first wait see each
    /// other.
    is_closed: Mutex<bool>,
}

impl ParkedListener {
    /// The duplicate, if the loop of this thread has to wait for it. `stop` is the file that a close puts in its place.
    pub(super) fn of(
        &self,
        listener: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
    ) -> Option<BorrowedFd<'_>> {
        if !wait::is_parked_here() {
            return None;
        }
        let copy = self.copy.get().unwrap_or_else(|| {
            let copy = self.copy.get_or_init(|| listener.try_clone_to_owned().ok());
            if *self.is_closed.lock() {
                close(copy.as_ref(), stop);
            }
            copy
        });
        copy.as_ref().map(AsFd::as_fd)
    }

    /// Called when the listener is closed: replaces the copy, if there is one.
    pub(super) fn close(&self, stop: BorrowedFd<'_>) {
        *self.is_closed.lock() = true;
        close(self.copy.get().and_then(Option::as_ref), stop);
    }
}

/// Puts the stop's event under the copy's number: a loop that waits for it then wakes by the stop.
fn close(copy: Option<&OwnedFd>, stop: BorrowedFd<'_>) {
    if let Some(copy) = copy {
        // It takes no new descriptor, and both are open, so there is no reason for which it could fail.
        let _ = sys::replace_by(copy, stop);
    }
}
