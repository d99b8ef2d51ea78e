//! What follows from an error of accept: one table, for every transport and every mixin.

use std::io;

/// What follows from an error of `get_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptAction {
    /// There is nothing to accept: wait.
    Wait,
    /// Nothing is wrong: try again at once.
    Retry,
    /// This one connection is lost, before it was one: count it and go on.
    Skip,
    /// The system is short of something that others use up: wait a little, longer each time.
    BackOff,
    /// This process is out of descriptors: end the waiting clients with the one in reserve, then
    /// back off. They learn at once what they would otherwise wait for in vain.
    Shed,
    /// The listener itself is broken: the run ends with this error.
    Fatal,
}

/// The table. An error that it does not know is backed off from: neither a spin nor the end.
///
/// Its rows are what accept(2) of Linux and the BSDs documents and what servers have met; each class
/// says whose condition it is.
#[must_use]
pub fn accept_action(error: &io::Error) -> AcceptAction {
    use AcceptAction::{BackOff, Fatal, Retry, Shed, Skip, Wait};

    // EAGAIN and EWOULDBLOCK are one number on Linux and two elsewhere, which a match cannot say.
    if error.kind() == io::ErrorKind::WouldBlock {
        return Wait;
    }
    match error.raw_os_error() {
        Some(libc::EINTR) => Retry,
        // The peer's: it has gone, or the network between has, before we took the connection. Linux
        // hands errors that wait on the new socket to accept.
        Some(
            libc::ECONNABORTED | libc::ECONNRESET | libc::ECONNREFUSED | libc::EPROTO
            | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::ETIMEDOUT
            // The firewall's: it has forbidden this one.
            | libc::EPERM,
        ) => Skip,
        // This process's own limit.
        Some(libc::EMFILE) => Shed,
        // The whole system's.
        Some(libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => BackOff,
        // The listener's: it is closed, was replaced, or no longer listens.
        Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => Fatal,
        _ => BackOff,
    }
}
