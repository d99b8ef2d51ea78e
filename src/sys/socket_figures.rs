//! Figures that the kernel keeps of a server's socket: its accept queue, its receive buffer, what it has dropped.
//!
//! Other systems keep such figures elsewhere or not at all. Sockets of other kinds, and descriptors that are no
//! sockets, have none.
//!
//! | socket | figures | by |
//! |---|---|---|
//! | TCP listener | accept queue; dropped attempts | TCP_INFO; SO_MEMINFO |
//! | UDP | receive buffer; dropped datagrams | SO_MEMINFO |
//! | Unix stream listener | accept queue | netlink, sock_diag |
//! | Unix datagram | none: its senders wait | |
//!
//! `ServerContext` asks when a program or a metric wants the figures: seldom, and on any thread. A figure tells of one
//! moment: the next client may change it. Drops are counted since the socket was made and never go back. They are the only sign
//! of a backlog or a receive buffer that is too small, because the server never sees the dropped clients.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How much is used, and the maximum.
type Used = (u64, u64);

/// The kernel's figures of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketFigures {
    /// Connections that wait to be accepted. The maximum is the backlog.
    pub(crate) accept_queue: Option<Used>,
    /// Attempts to connect that were dropped.
    pub(crate) accept_drops: Option<u64>,
    /// Bytes in the receive buffer.
    pub(crate) receive_buffer: Option<Used>,
    /// Datagrams that were dropped.
    pub(crate) datagram_drops: Option<u64>,
}

/// Asks the kernel: up to four system calls, and about a dozen for a Unix listener.
pub(crate) fn socket_figures(fd: BorrowedFd<'_>) -> SocketFigures {
    let socket = SockRef::from(&fd);
    let kind = socket.domain().and_then(|domain| Ok((domain, socket.r#type()?)));
    match kind {
        Ok((Domain::IPV4 | Domain::IPV6, Type::STREAM)) => SocketFigures {
            accept_queue: super::tcp_info::accept_queue(fd),
            accept_drops: memory(fd).map(|memory| memory[DROPS].into()),
            ..SocketFigures::default()
        },
        Ok((Domain::IPV4 | Domain::IPV6, Type::DGRAM)) => {
            let memory = memory(fd);
            SocketFigures {
                receive_buffer: memory
                    .map(|memory| (memory[RECEIVED].into(), memory[RECEIVE_BUFFER].into())),
                datagram_drops: memory.map(|memory| memory[DROPS].into()),
                ..SocketFigures::default()
            }
        }
        // There are no drops: a client that finds the queue full waits, or gets EAGAIN if it does not block.
        Ok((Domain::UNIX, Type::STREAM)) => SocketFigures {
            accept_queue: unix_accept_queue(fd).ok().flatten(),
            ..SocketFigures::default()
        },
        // A datagram that is not received yet counts in the sender's buffer, and the kernel makes the sender wait.
        _ => SocketFigures::default(),
    }
}

/// `SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_RCVBUF` and `SK_MEMINFO_DROPS` of linux/sock_diag.h.
const RECEIVED: usize = 0;
const RECEIVE_BUFFER: usize = 1;
const DROPS: usize = 8;

/// The memory that a socket uses, and its drops: [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html),
/// SO_MEMINFO, since Linux 4.12.
///
/// The kernel writes an array of 32-bit numbers, and may know more of them than are asked for here. The drops are the
/// last, so an older kernel with a shorter array tells none of the three.
fn memory(fd: BorrowedFd<'_>) -> Option<[u32; 9]> {
    let mut memory = [0; 9];
    let len =
        super::socket::get_option(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory).ok()?;
    (len == size_of_val(&memory)).then_some(memory)
}

/// The accept queue of a Unix socket, which only
/// [sock_diag(7)](https://man7.org/linux/man-pages/man7/sock_diag.7.html) tells. The request names the socket by its
/// inode and asks for queue lengths.
///
/// ```text
/// request   [length|type 20|flags|sequence|port]  [family|states|inode|show|cookie]                16 + 24 bytes
/// answer    [length|type 20|flags|sequence|port]  [family|kind|state|inode|cookie]  [attribute]..  16 + 16 bytes, then attributes
/// attribute [length|kind]  [value, padded to 4]
/// ```
///
/// netlink answers while the request is written, into the buffer of this socket, so nothing is waited for. Every length
/// in the answer is checked, though it is the kernel's: a version may differ. Returns an error or None if a filter refuses
/// netlink, or if the kernel was built without unix_diag.
fn unix_accept_queue(fd: BorrowedFd<'_>) -> io::Result<Option<Used>> {
    /// `SOCK_DIAG_BY_FAMILY`, `UNIX_DIAG_RQLEN` and `UDIAG_SHOW_RQLEN` of linux/sock_diag.h and linux/unix_diag.h.
    const BY_FAMILY: u16 = 20;
    const QUEUES: u16 = 4;
    const SHOW_QUEUES: u32 = 0x10;
    const REQUEST_BYTES: usize = 40;
    /// The length of the answer's header and of the socket's structure. Attributes follow them.
    const ATTRIBUTES: usize = 32;

    let inode = u32::try_from(File::from(fd.try_clone_to_owned()?).metadata()?.ino())
        .map_err(io::Error::other)?;
    let mut netlink = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )?;
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    // The header of netlink: length, type, flags (NLM_F_REQUEST), sequence, port.
    request.extend((REQUEST_BYTES as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(1u16.to_ne_bytes());
    request.extend([0; 8]);
    // The question: family and padding, all states, the inode, what to show, no cookie.
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for number in [u32::MAX, inode, SHOW_QUEUES, u32::MAX, u32::MAX] {
        request.extend(number.to_ne_bytes());
    }
    netlink.write_all(&request)?;
    // The kernel has answered by then: the read waits for nothing.
    netlink.set_nonblocking(true)?;
    let mut answer = [0; 1_024];
    let len = netlink.read(&mut answer)?;
    let answer = &answer[..len];
    if short(answer, 4) != Some(BY_FAMILY) {
        // The answer is an error: there is no such socket, or the kernel has no unix_diag.
        return Ok(None);
    }
    let mut rest = answer.get(ATTRIBUTES..).unwrap_or_default();
    while let (Some(len), Some(kind)) = (short(rest, 0), short(rest, 2)) {
        if kind == QUEUES {
            return Ok(word(rest, 4)
                .zip(word(rest, 8))
                .map(|(used, max)| (used.into(), max.into())));
        }
        // Attributes begin at multiples of four.
        let next = usize::from(len).max(4).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(None)
}

/// Two bytes in the machine's own order, as netlink has them. None beyond the end.
fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes in the machine's own order. None beyond the end.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn accept_queues_are_told_with_their_maximum() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let figures = socket_figures(tcp.as_fd());
        let (0, max) = figures.accept_queue.unwrap() else { panic!("{figures:?}") };
        assert!(max > 0 && figures.accept_drops == Some(0), "{figures:?}");
        let _clients = [(); 2].map(|()| TcpStream::connect(tcp.local_addr().unwrap()).unwrap());
        assert_eq!(socket_figures(tcp.as_fd()).accept_queue, Some((2, max)));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let unix = UnixListener::bind(&path).unwrap();
        let figures = socket_figures(unix.as_fd());
        let (0, max) = figures.accept_queue.unwrap() else { panic!("{figures:?}") };
        assert_eq!(figures.accept_drops, None);
        let _clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        assert_eq!(socket_figures(unix.as_fd()).accept_queue, Some((3, max)));
    }

    #[test]
    fn a_full_receive_buffer_drops_datagrams_and_counts_them() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&socket).set_recv_buffer_size(4_096).unwrap();
        let before = socket_figures(socket.as_fd());
        assert_eq!(before.datagram_drops, Some(0));
        for _ in 0..50 {
            socket.send_to(&[0; 1_000], socket.local_addr().unwrap()).unwrap();
        }
        let after = socket_figures(socket.as_fd());
        assert!(after.datagram_drops.unwrap() >= 40, "{after:?}");
        assert!(after.receive_buffer.unwrap().0 > 0, "{after:?}");
    }

    #[test]
    fn other_descriptors_have_none() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(socket_figures(a.as_fd()).accept_drops, None);
        let file = File::open("/dev/null").unwrap();
        assert_eq!(socket_figures(file.as_fd()), SocketFigures::default());
    }
}
