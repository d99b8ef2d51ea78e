//! [`Progress`]: whether bytes have moved on a connection, by the request itself, by its outbox, or by another process
//! that has a copy of the descriptor. The idle reaper asks this, and so does a wait whose own timeout for silence has
//! passed.

use std::os::fd::BorrowedFd;

use crate::sys::tcp_info;

/// How many bytes have moved in both directions. If the values of two moments differ, bytes have moved in between, and the
/// peer is there: a peer that sends nothing but takes what it is sent is not idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many bytes the request has received.
    bytes_in: u64,
    /// A count of the other bytes that have moved. Where the system counts, these are the bytes that the peer's system
    /// has acknowledged, and those that copies of the descriptor have sent and received; elsewhere, the bytes that were
    /// sent by the request or for it. The system's count is better, because a buffer still takes bytes when the peer is
    /// gone.
    taken: u64,
    /// How many bytes wait for the peer, where the system does not count.
    waits: usize,
}

impl Progress {
    /// The progress at this moment. `bytes`: how many the request has received and sent; without a descriptor nothing
    /// else is known.
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
