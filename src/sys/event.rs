//! A descriptor that is readable from the first `notify` until a `clear`.
//! [eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html)
//!
//! With it a thread or a signal's handler wakes a wait for descriptors: for a shutdown, or for a message to a worker.
//! `wait::Event` is the public form, which adds the process that the event belongs to.
//!
//! ```text
//! waker:  state = new; notify          (a write: the counter is above zero, the descriptor readable)
//! waiter: poll returns; clear; look at the state
//! ```
//!
//! The waiter clears before it looks. Had it looked first, a change after the look and before the clear would be lost.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::check;

/// The descriptor behind an event. Its counter is above zero while the event is notified. Other systems need two descriptors.
pub(crate) type Ends = OwnedFd;

/// An event that is not notified.
///
/// Fails with EMFILE or ENFILE if no descriptor is free, and with ENOMEM.
pub(crate) fn new() -> io::Result<Ends> {
    // SAFETY: no pointers; a descriptor or -1 comes back.
    // EFD_NONBLOCK: neither `notify` nor `clear` may ever wait.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    Ok(super::owned(fd))
}

/// In a forked child: gives the event a descriptor of its own, not notified, under the same number.
///
/// Until then the child would wake its parent, and take its parent's wake-ups away.
pub(crate) fn renew(ends: &Ends) -> io::Result<()> {
    super::replace(ends, new()?)
}

/// The descriptor to wait for.
#[inline]
pub(crate) fn reader(ends: &Ends) -> BorrowedFd<'_> {
    ends.as_fd()
}

/// Notifies the event, by one write and nothing else, so that a signal handler may call it.
///
/// It never waits and takes no lock. The counter is full after 2^64 - 2 notifications without a `clear`.
pub(crate) fn notify(ends: &Ends) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes. A full counter (EAGAIN) is readable all the same.
    // The result is ignored: a signal's action has no caller to tell.
    unsafe { libc::write(ends.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Takes back every `notify` so far.
pub(crate) fn clear(ends: &Ends) {
    let mut count = [0u8; 8];
    // SAFETY: eight writable bytes. An empty counter (EAGAIN) is clear already.
    // One read takes the whole counter, however often it was notified.
    unsafe { libc::read(ends.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}
