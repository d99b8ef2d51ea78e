//! Other systems keep these figures elsewhere, or not at all.

use std::os::fd::BorrowedFd;

/// The kernel's figures of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketFigures {
    /// See the form for Linux, in `sys/socket_figures.rs`. None of the four figures is ever known here.
    pub(crate) accept_queue: Option<(u64, u64)>,
    pub(crate) accept_drops: Option<u64>,
    pub(crate) receive_buffer: Option<(u64, u64)>,
    pub(crate) datagram_drops: Option<u64>,
}

/// Nothing is known.
pub(crate) fn socket_figures(_fd: BorrowedFd<'_>) -> SocketFigures {
    SocketFigures::default()
}
