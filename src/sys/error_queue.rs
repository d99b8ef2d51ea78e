//! The queue of errors of a socket, which some options fill.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use socket2::SockRef;

/// So many are taken at once; those that are left are met by the next wait.
const MOST: usize = 64;

/// Takes what is in it, and throws it away.
/// [recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html), MSG_ERRQUEUE
pub(super) fn empty(fd: BorrowedFd<'_>) {
    let socket = SockRef::from(&fd);
    let mut memory = [MaybeUninit::uninit(); 1];
    for _ in 0..MOST {
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        if socket.recv_with_flags(&mut memory, flags).is_err() {
            return;
        }
    }
}
