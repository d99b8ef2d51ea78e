//! Accept failures: what the loop does after an error of `get_request`. One table, for every transport and every mixin.
//!
//! The decision is pure, and the loop acts on it (`server/accept_failure.rs`): so each row can be tested without a socket
//! that fails in this way. Errors that look alike differ in their cause. EMFILE is this process's own limit, and the
//! process can free a descriptor; ENFILE is the limit of the system, where any process may take a descriptor that is freed.
//! ECONNABORTED is the end of one client, EBADF the end of the listener.

use std::io;

/// The loop's action after an error of [`get_request`](super::Transport::get_request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptAction {
    /// There is nothing to accept: wait.
    Wait,
    /// Nothing is wrong: try again at once.
    Retry,
    /// This one connection was lost before it was accepted: count it, and try again.
    Skip,
    /// The system is short of memory, buffers or files: wait a little, longer each time.
    BackOff,
    /// This process is out of descriptors: close the waiting clients by means of the spare descriptor
    /// ([`shed`](super::Transport::shed)), and then back off. The clients fail at once, and do not wait in vain.
    Shed,
    /// The listener itself is broken: the run ends with this error.
    Fatal,
}

/// The table of errors, grouped by cause: the peer, this process, the system, the listener. After an unknown error the
/// loop backs off, so that it neither spins nor ends.
///
/// The rows are the errors of [accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html) on Linux and the BSDs,
/// and other errors that servers have seen.
#[must_use]
pub fn accept_action(error: &io::Error) -> AcceptAction {
    use AcceptAction::{BackOff, Fatal, Retry, Shed, Skip, Wait};

    // EAGAIN and EWOULDBLOCK are one number on Linux and two elsewhere, which a match cannot say.
    if error.kind() == io::ErrorKind::WouldBlock {
        return Wait;
    }
    match error.raw_os_error() {
        Some(libc::EINTR) => Retry,
        // The peer, or the network on the way to it, was gone before the connection was accepted. Linux reports errors
        // that are pending on the new socket as errors of accept.
        Some(
            libc::ECONNABORTED | libc::ECONNRESET | libc::ECONNREFUSED | libc::EPROTO
            | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::ETIMEDOUT
            // A firewall rule forbids this connection.
            | libc::EPERM,
        ) => Skip,
        // The error of this process's own limit.
        Some(libc::EMFILE) => Shed,
        // Errors of the whole system.
        Some(libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => BackOff,
        // Errors of the listener: it is closed, or another file has its number, or it does not listen.
        Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => Fatal,
        _ => BackOff,
    }
}
