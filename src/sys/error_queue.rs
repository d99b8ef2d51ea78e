//! The error queue of a socket, which options such as IP_RECVERR fill.
//!
//! ICMP messages, and the moments at which sent packets have left (SO_TIMESTAMPING), wait there when a program has
//! asked for them. This crate asks for neither. Handlers and hooks may have set such an option, and a queue that nobody
//! reads makes every poll(2) return at once (POLLERR); so `poll.rs` empties it, and the messages are lost.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use socket2::SockRef;

/// How many errors one call takes. The next wait finds the others.
///
/// There is a bound because a peer may go on causing errors, and must not hold the thread here.
const MAX_ERRORS: usize = 64;

/// Empties the error queue. [recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html), MSG_ERRQUEUE
pub(super) fn empty(fd: BorrowedFd<'_>) {
    let socket = SockRef::from(&fd);
    let mut memory = [MaybeUninit::uninit(); 1];
    for _ in 0..MAX_ERRORS {
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        if socket.recv_with_flags(&mut memory, flags).is_err() {
            return;
        }
    }
}
