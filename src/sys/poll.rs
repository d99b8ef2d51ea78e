//! Waiting for descriptors: [`poll`].
//!
//! A thread without a parker waits here, by `wait::any`, whether it serves a request or accepts. Others call [`poll`] directly,
//! such as the outbox's thread, the lingering close and the handover. The descriptors stay blocking or not, as they are; a
//! call that follows has a flag of its own (`socket.rs`).
//!
//! A wait is level-triggered and keeps nothing in the kernel: a descriptor that is ready is reported each time, until
//! the caller takes what there is. So a caller that does not read what was reported spins.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use super::{check, error_queue};

/// Waits until one of the descriptors is ready, or until the deadline; without a deadline, for ever. Returns whether
/// one is ready.
///
/// A signal does not end the wait. [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html)
///
/// With a deadline that has passed it only looks. A close of the descriptor by another thread does not end the wait; a
/// shutdown(2) of its socket does.
///
/// # Errors
///
/// ENOMEM; and EINVAL for more descriptors than RLIMIT_NOFILE, which no wait of this crate has.
pub(crate) fn poll(fds: &mut [PollFd], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        // Computed anew in each round: a signal has used up a part of the time.
        let timeout = match deadline {
            None => -1,
            // Rounded up: a wait that ended early would make its caller spin until the deadline.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let millis = left.as_nanos().div_ceil(1_000_000);
                libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
            }
        };
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the pointer and the length are those of one live slice, and `PollFd` is a
        // `pollfd` (repr(transparent)).
        match check(unsafe { libc::poll(fds.as_mut_ptr().cast(), count, timeout) }) {
            // The longest wait of one call, 25 days, is over, and the deadline has not come yet.
            Ok(0) if timeout == libc::c_int::MAX => {}
            Ok(ready) => {
                fds.iter().for_each(PollFd::forget_queued_errors);
                return Ok(ready > 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a descriptor is readable now.
///
/// Also true at the end of the input, and for a pending error. It never waits.
///
/// One system call. It leaves a queued error where it is, so a filled error queue counts as readable.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::readable(fd)];
    // SAFETY: one live `pollfd`, as above.
    Ok(check(unsafe { libc::poll(fds.as_mut_ptr().cast(), 1, 0) })? > 0)
}

/// One descriptor of a [`poll`].
///
/// It has the layout of a `pollfd`, so that a slice of it can be passed to the system as it is. It borrows nothing: the
/// caller of [`poll`] keeps the descriptor open during the call, and reads only [`is_ready`](Self::is_ready) after it.
#[repr(transparent)]
pub(crate) struct PollFd(libc::pollfd);

impl PollFd {
    /// A place for a descriptor that is ready when there is something to read or to accept, or when the input has ended.
    pub(crate) fn readable(fd: BorrowedFd<'_>) -> Self {
        Self(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
    }

    /// A place for a descriptor that is ready when there is room to write.
    pub(crate) fn writable(fd: BorrowedFd<'_>) -> Self {
        Self(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 })
    }

    /// An empty place of the slice: it is never ready.
    ///
    /// poll(2) skips negative numbers. So a wait for a few descriptors needs no vector: its array has empty places.
    pub(crate) const fn never() -> Self {
        Self(libc::pollfd { fd: -1, events: 0, revents: 0 })
    }

    /// Empties the socket's error queue, if the last poll has found nothing but an error. Options such as IP_RECVERR
    /// and SO_TIMESTAMPING fill that queue. A filled queue makes every poll return at once, and no receive and no
    /// send empties it. A pending error of the socket (SO_ERROR) is something else, and stays for the next call.
    fn forget_queued_errors(&self) {
        if self.0.revents != libc::POLLERR {
            return;
        }
        // SAFETY: the number is not -1, which has no events. So it comes from `readable` or `writable`, which borrow a
        // descriptor; the caller of `poll` keeps that open during the call. It is borrowed no longer than this function runs.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.fd) };
        error_queue::empty(fd);
    }

    /// Whether the last poll has found the descriptor ready, or in error.
    ///
    /// An error counts as ready, because the call that follows returns it.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}
