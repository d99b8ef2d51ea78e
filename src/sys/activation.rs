//! Descriptors that a service manager has passed to this process at its start.
//! [sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)
//!
//! The manager opens the listeners, forks, moves them to the numbers from 3 on, sets LISTEN_PID, LISTEN_FDS and
//! LISTEN_FDNAMES, and executes the server. `transport/inherited.rs` reads the variables and calls [`take_passed`], once. A
//! descriptor may be of any kind: whether it is a socket of the right kind is checked when a transport takes it.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Mutex;

use super::{PerProcess, check};

/// The number of the first passed descriptor (`SD_LISTEN_FDS_START`); the others follow it.
const FIRST_PASSED_FD: RawFd = 3;

/// Takes the descriptors that were passed to this process, `count` of them from number 3 on, and marks them to be
/// closed in programs that this process starts. If a descriptor cannot be taken, the error comes with its number.
///
/// A passed descriptor has come through an exec, so it is not marked close-on-exec; all descriptors that std and this
/// crate have opened since are. A passed descriptor that is marked has been taken already, by another part of the program
/// that knows the same protocol.
pub(crate) fn take_passed(count: usize) -> Result<Vec<OwnedFd>, (RawFd, io::Error)> {
    // Two threads must not take the same descriptors.
    static ONE_AT_A_TIME: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
    let _lock = ONE_AT_A_TIME.get().lock();
    let end = FIRST_PASSED_FD.saturating_add(RawFd::try_from(count).unwrap_or(RawFd::MAX));
    // Checks all descriptors before it takes one, so that an error takes none. `count` may be any number: the loop
    // ends at the first number that is no descriptor.
    for fd in FIRST_PASSED_FD..end {
        is_passed(fd).map_err(|error| (fd, error))?;
    }
    let take = |fd| {
        // SAFETY: a number alone.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).map_err(|e| (fd, e))?;
        Ok(super::owned(fd))
    };
    (FIRST_PASSED_FD..end).map(take).collect()
}

/// Fails unless this number is a descriptor that was open when the process began, and that no part of the program has
/// taken since.
fn is_passed(fd: RawFd) -> io::Result<()> {
    // SAFETY: a number alone; one that is no descriptor is an error.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC == 0 {
        return Ok(());
    }
    let why = "another part of this program has taken it, or it was opened later";
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}
