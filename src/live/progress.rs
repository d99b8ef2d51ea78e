//! [`Progress`]: how far a connection is in both directions, by whatever way its bytes have gone.

use std::os::fd::BorrowedFd;

use crate::sys::tcp_info;

/// How far a connection is in both directions. Two that differ are progress between them: a peer that is silent and
/// takes what it is sent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Received by the request.
    bytes_in: u64,
    /// Sent by the request or for it; where the system counts, what a peer's system has acknowledged instead, and
    /// with it what copies of the descriptor have sent and received. Bytes that a peer which is gone will never take
    /// fill a buffer first.
    taken: u64,
    /// What waits for the peer, where the system does not count.
    waits: usize,
}

impl Progress {
    /// `bytes`: what the request has received and sent. Without a descriptor that is all that is known.
    pub(crate) fn of(bytes: (u64, u64), fd: Option<BorrowedFd<'_>>) -> Self {
        let (bytes_in, bytes_out) = bytes;
        match fd.map(|fd| (tcp_info::bytes_transferred(fd), fd)) {
            Some((Some(taken), _)) => Self { bytes_in, taken, waits: 0 },
            Some((None, fd)) => {
                let waits = tcp_info::unacknowledged(fd).unwrap_or(0);
                Self { bytes_in, taken: bytes_out, waits }
            }
            None => Self { bytes_in, taken: bytes_out, waits: 0 },
        }
    }
}
