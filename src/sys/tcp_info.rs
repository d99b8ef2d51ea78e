//! How far a connection has got, by the system's own counts. They include the bytes of every process and thread that
//! has the socket.
//!
//! A send buffer still takes bytes when the peer is gone. Only acknowledgements show that the peer is there. The idle
//! reaper asks for them, and so does a send that waits for room.
//!
//! Each function asks by one system call, which never waits and changes nothing. An error, or None, means that the system
//! does not tell, and the callers then go by their own counts.

use std::io;
#[cfg(linux_kernel)]
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How many bytes the peer's system has acknowledged, plus how many it has sent, since the connection began. `None`
/// if the socket is not TCP, or if the system does not keep these counts.
///
/// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), TCP_INFO: versions of the system have appended fields to the
/// structure and never moved one, so it is read as words. Linux has had the two numbers since 4.1.
#[cfg(linux_kernel)]
pub(crate) fn bytes_transferred(fd: BorrowedFd<'_>) -> Option<u64> {
    /// The offsets of `tcpi_bytes_acked` and `tcpi_bytes_received`, in words of eight bytes.
    const ACKNOWLEDGED: usize = 15;
    const RECEIVED: usize = 16;
    let mut info = [0u64; 32];
    let len = super::socket::get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    // The kernel's own structure may be shorter.
    let has_both = len >= (RECEIVED + 1) * size_of::<u64>();
    has_both.then(|| info[ACKNOWLEDGED].wrapping_add(info[RECEIVED]))
}

/// Other systems have other structures.
#[cfg(not(linux_kernel))]
pub(crate) fn bytes_transferred(_fd: BorrowedFd<'_>) -> Option<u64> {
    None
}

/// Whether the peer of a TCP connection may still send: it has not ended its output, and the connection is not broken.
/// `None` as for [`bytes_transferred`].
///
/// The system notes the end when it has arrived. Bytes from before it may still wait to be received.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer_may_send(fd: BorrowedFd<'_>) -> Option<bool> {
    /// The states in which input may arrive, as `tcpi_state`, the first byte, has them: TCP_ESTABLISHED, TCP_FIN_WAIT1,
    /// TCP_FIN_WAIT2.
    const OPEN_TO_INPUT: [u8; 3] = [1, 4, 5];
    let mut info = [0u32; 26];
    let len = super::socket::get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    (len > 0).then(|| OPEN_TO_INPUT.contains(&info[0].to_ne_bytes()[0]))
}

/// Other systems have other structures.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn peer_may_send(_fd: BorrowedFd<'_>) -> Option<bool> {
    None
}

/// How long ago a connection was established, if nothing has been sent over it. For a connection that has just been
/// accepted, this is its time in the accept queue. `None` as for [`bytes_transferred`]. The kernel counts in its own ticks,
/// of 1 to 10 ms.
///
/// `tcpi_last_data_sent`: the kernel sets the moment of the last send when it makes the socket, at the last packet of
/// TCP's handshake.
#[cfg(linux_kernel)]
pub(crate) fn since_connected(fd: BorrowedFd<'_>) -> Option<Duration> {
    /// The offset of `tcpi_last_data_sent`, in words of four bytes.
    const LAST_DATA_SENT: usize = 11;
    let mut info = [0u32; 26];
    let len = super::socket::get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let has_it = len >= (LAST_DATA_SENT + 1) * size_of::<u32>();
    has_it.then(|| Duration::from_millis(info[LAST_DATA_SENT].into()))
}

/// Other systems have other structures.
#[cfg(not(linux_kernel))]
pub(crate) fn since_connected(_fd: BorrowedFd<'_>) -> Option<Duration> {
    None
}

/// The accept queue of a listener: how many connections wait in it, and how many may wait. `None` for other sockets.
///
/// These are `tcpi_unacked` and `tcpi_sacked`, which have this meaning for a listener alone.
#[cfg(linux_kernel)]
pub(super) fn accept_queue(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    /// The state of a listener, in the first byte; and the offsets of the two numbers, in words of four bytes.
    const LISTENS: u8 = 10;
    const UNACKED: usize = 6;
    const SACKED: usize = 7;
    let mut info = [0u32; 26];
    let len = super::socket::get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let has_both = len >= (SACKED + 1) * size_of::<u32>();
    let listens = info[0].to_ne_bytes()[0] == LISTENS;
    (has_both && listens).then(|| (info[UNACKED].into(), info[SACKED].into()))
}

/// How many sent bytes the peer's system has not acknowledged. On a Unix socket: how much memory they take until they
/// are received. [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), SIOCOUTQ
///
/// On a UDP socket: the bytes in its own send buffer. EINVAL for a listener.
#[cfg(linux_kernel)]
pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ for a socket, writes an int, and the pointer is to a live one.
    super::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Other systems report this number by other names, or not at all.
#[cfg(not(linux_kernel))]
pub(crate) fn unacknowledged(_fd: BorrowedFd<'_>) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, linux_kernel))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn both_directions_count_whoever_has_sent_and_received() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let copy = ours.try_clone().unwrap();
        let before = bytes_transferred(copy.as_fd()).expect("a TCP connection");
        ours.write_all(b"four").unwrap();
        theirs.read_exact(&mut [0; 4]).unwrap();
        theirs.write_all(b"sixsix").unwrap();
        ours.read_exact(&mut [0; 6]).unwrap();
        // The bytes from the peer have acknowledged ours.
        assert_eq!(bytes_transferred(copy.as_fd()).unwrap() - before, 10);
        assert_eq!(unacknowledged(copy.as_fd()).unwrap(), 0);
    }

    #[test]
    fn a_peer_may_send_until_its_end_has_arrived_although_this_side_has_ended_the_input() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        assert_eq!(peer_may_send(ours.as_fd()), Some(true));
        ours.shutdown(Shutdown::Read).unwrap();
        assert_eq!(peer_may_send(ours.as_fd()), Some(true));
        theirs.write_all(b"rest").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let began = Instant::now();
        while peer_may_send(ours.as_fd()) != Some(false) {
            assert!(began.elapsed() < Duration::from_secs(10), "its end does not arrive");
        }
        let mut rest = String::new();
        ours.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest", "the bytes before its end are still there");
    }

    #[test]
    fn a_unix_socket_tells_only_what_waits_for_its_peer() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(bytes_transferred(ours.as_fd()), None);
        assert_eq!(peer_may_send(ours.as_fd()), None);
        ours.write_all(b"four").unwrap();
        assert!(unacknowledged(ours.as_fd()).unwrap() > 0);
        theirs.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unacknowledged(ours.as_fd()).unwrap(), 0);
    }
}
