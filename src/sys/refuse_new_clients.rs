//! Ends the accept queue of a listener: the kernel refuses new clients, and keeps those that wait to be accepted.

use std::os::fd::BorrowedFd;

use socket2::{SockFilter, SockRef};

/// Makes the kernel take no new clients at a listening socket, for good and in every process that has the socket. So
/// the listener must be about to close, and belong to this process alone. Clients in the accept queue can still be
/// accepted.
///
/// Over TCP the kernel drops SYN segments from then on. A client sends its SYN again after a second. By then the
/// listener is closed, and the client is refused, or the next server accepts it. (A plain close would reset the
/// clients that arrive between the last look into the queue and the close.) Over Unix sockets clients are refused at
/// once.
pub(crate) fn refuse_clients(listener: BorrowedFd<'_>) {
    let socket = SockRef::from(&listener);
    // On a TCP listener shutdown(2) would also end the accept queue, and reset the clients in it.
    let is_unix = socket.local_addr().is_ok_and(|address| address.is_unix());
    // If it fails, clients that arrive before the close are reset by it.
    let _ = if is_unix {
        socket.shutdown(std::net::Shutdown::Read)
    } else {
        socket.attach_filter(&NO_SYN)
    };
}

/// A classic BPF program, which sees the segment from TCP's header on. Byte 13 has the flags: a segment with SYN (2) and
/// without ACK (16) is dropped, all others are kept whole. Opcodes: 0x30 load a byte, 0x54 and, 0x15 jump if equal, 0x06
/// return how many bytes to keep.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];
