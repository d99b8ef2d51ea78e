//! Has the kernel refuse new clients of a listener, and keep those that wait to be accepted.

use std::os::fd::BorrowedFd;

use socket2::{SockFilter, SockRef};

/// By this the kernel takes no new clients at a listening socket from here on, in any process that has it, and for good:
/// for a listener that is about to close and that nobody else has. What it has taken already can be accepted.
///
/// Over TCP it throws away what begins a connection. A client sends that again after a second, when the listener is
/// closed, and is refused, or accepted by the next server. To close at once would lose those that come between the last
/// look into the queue and the close. Over Unix sockets clients are refused at once.
pub(crate) fn new_clients(listener: BorrowedFd<'_>) {
    let socket = SockRef::from(&listener);
    let is_unix = socket.local_addr().is_ok_and(|address| address.is_unix());
    // Where the kernel will not, the moment is a little longer.
    let _ = if is_unix {
        socket.shutdown(std::net::Shutdown::Read)
    } else {
        socket.attach_filter(&NO_SYN)
    };
}

/// The filter sees TCP's header. Byte 13 has the flags: a segment with SYN (2) and without ACK (16) is dropped, all others
/// are kept whole. (Opcodes: load a byte, and, jump if equal, return.)
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];
