//! [`Progress`]: whether bytes have moved on a connection, by the request or past it.

use std::os::fd::BorrowedFd;

use crate::sys::tcp_info;

/// How many bytes have moved in both directions. If two values differ, bytes have moved between them, and the peer is
/// there: one that is silent and takes what it is sent is not idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Received by the request.
    bytes_in: u64,
    /// Where the system counts: what the peer's system has acknowledged, and what copies of the descriptor have sent
    /// and received. Elsewhere: what was sent by the request or for it. The first is better, because a buffer takes
    /// bytes for a peer that is gone.
    taken: u64,
    /// How much waits for the peer, where the system does not count.
    waits: usize,
}

impl Progress {
    /// `bytes`: what the request has received and sent. Without a descriptor nothing else is known.
    pub(crate) fn of(bytes: (u64, u64), fd: Option<BorrowedFd<'_>>) -> Self {
        let (bytes_in, bytes_out) = bytes;
        match fd.map(|fd| (tcp_info::bytes_transferred(fd), fd)) {
            Some((Some(taken), _)) => Self { bytes_in, taken, waits: 0 },
            Some((None, fd)) => {
                // Bytes that still wait for the peer become fewer as the peer takes them, even if nothing more is sent.
                let waits = tcp_info::unacknowledged(fd).unwrap_or(0);
                Self { bytes_in, taken: bytes_out, waits }
            }
            None => Self { bytes_in, taken: bytes_out, waits: 0 },
        }
    }
}
