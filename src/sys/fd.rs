//! Descriptors as numbers, and results of system calls as errors.
//!
//! Every file of this folder calls the system through these functions, and imports them from `sys`. So the pattern is
//! the same everywhere: `check(unsafe { libc::call(..) })?`, with the reason of the `unsafe` above it, and
//! `uninterrupted` around it where a signal may end the call before it has done anything.
//!
//! The error of a call is in errno, which the thread's next call may overwrite, and so may a signal's handler that does not
//! restore it. So `check` stands directly around the call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Returns the error of a system call whose result is -1.
#[inline]
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for a call that returns a number of bytes.
///
/// Any negative number counts as a failure; calls return no other than -1.
#[inline]
pub(super) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats a system call for as long as signals interrupt it. For calls without a timeout: a call with a timeout has
/// to count the time that has passed.
///
/// A signal must not end such a wait: a thread that has to act on it is woken by an event. Handlers of this crate are
/// installed with SA_RESTART, but a program's own need not be, and poll(2) and epoll_wait(2) return EINTR in any case.
#[inline]
pub(super) fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Owns a descriptor that a system call has just made.
///
/// The caller gives a number that no `OwnedFd` has: two owners would close it twice, the second time perhaps as the
/// number of another thread's file. That is why this is for the folder alone.
pub(super) fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: every caller has the number from a call that makes a new descriptor, and gives it to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The number of a descriptor, for messages and for finding a descriptor again in a table.
///
/// Only to print or to compare: a number is no proof that the descriptor is still open.
#[inline]
pub(crate) fn number(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

/// Makes the number of `old` a descriptor of `new`'s file, in this process alone. A forked child replaces a
/// descriptor that it shares with its parent, and all code that holds the number goes on with the new file.
/// [dup3(2)](https://man7.org/linux/man-pages/man2/dup3.2.html)
///
/// # Errors
///
/// EBADF if `old` was closed behind its owner's back, or if its number is above a limit that was lowered since. EMFILE
/// cannot come: no new number is needed.
pub(crate) fn replace(old: &impl AsFd, new: OwnedFd) -> io::Result<()> {
    // Only the second number is closed: the file stays open under `old`.
    replace_by(old, new.as_fd()).map(|()| drop(new))
}

/// As [`replace`], with a file whose own descriptor stays open.
#[cfg(linux_kernel)]
#[inline]
pub(crate) fn replace_by(old: &impl AsFd, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers. `old` stays an open descriptor of its owner. The old file is closed and the number given its new
    // one in one step: no other thread can take it in between. The call is made by its number: a forked child makes two
    // calls in this way, and maps the C library's code for that only once.
    let done =
        unsafe { libc::syscall(libc::SYS_dup3, new.as_raw_fd(), number(old), libc::O_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// See the form for Linux above. In the moment before the flag is set, a program that another thread starts inherits the
/// descriptor.
#[cfg(not(linux_kernel))]
pub(crate) fn replace_by(old: &impl AsFd, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers. `old` stays an open descriptor of its owner.
    check(unsafe { libc::dup2(new.as_raw_fd(), number(old)) })?;
    socket2::SockRef::from(old).set_cloexec(true)
}
