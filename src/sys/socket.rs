//! Calls on a socket that std does not have: sends that never wait and never raise a signal, options, and the number of
//! unread bytes.
//!
//! Connections stay in blocking mode, because the mode belongs to the open file description, which is shared by every
//! copy of the descriptor. Each call says by a flag of its own whether it may wait.
//!
//! | call | waits | on a TCP connection that the peer has reset |
//! |---|---|---|
//! | [`send`] | never: `WouldBlock` without room | ECONNRESET once, then EPIPE |
//! | `RecvBuf::recv` | as its [`Mode`] says | the bytes that came before, ECONNRESET once, then zero |
//! | [`shutdown`] | never | ENOTCONN |

use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::{check, check_len, recv_send};

/// MSG_NOSIGNAL: a send to a peer that is gone is an error, and not a signal that ends the process.
#[cfg(not(target_vendor = "apple"))]
pub(super) const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
/// On Apple's systems it is a socket option instead, which socket2 sets on the sockets that it makes.
#[cfg(target_vendor = "apple")]
pub(super) const SEND_FLAGS: libc::c_int = 0;

/// MSG_MORE: the bytes wait in the kernel for more bytes, so that both leave in one packet.
#[cfg(linux_kernel)]
const MORE_FLAG: libc::c_int = libc::MSG_MORE;
/// Without such a flag the bytes leave at once.
#[cfg(not(linux_kernel))]
const MORE_FLAG: libc::c_int = 0;

/// Whether a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The call waits, as long as the descriptor's own mode and timeout allow.
    Block,
    /// The call returns at once, with `WouldBlock` if it can do nothing, whatever the descriptor's mode.
    Try,
}

impl Mode {
    /// The flag of recv(2).
    ///
    /// MSG_DONTWAIT makes this one call non-blocking. fcntl(2) and O_NONBLOCK would do so for every process that shares
    /// the open file.
    pub(super) fn flag(self) -> libc::c_int {
        match self {
            Self::Block => 0,
            Self::Try => libc::MSG_DONTWAIT,
        }
    }
}

/// Sends once, possibly not all of the bytes, and never blocks, whatever the descriptor's mode.
///
/// A short count means that the send buffer is full: the caller waits for room, and goes on after these bytes. EINTR does
/// not come, because the call never waits.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    send_with(fd, buf, 0)
}

/// Sends the last bytes of a connection, as [`send`] does: the kernel puts them and the end of the output into one
/// packet. The caller has to close or to shut down next, because the bytes otherwise stay in the kernel (on Linux for
/// 200 ms).
#[inline]
pub(crate) fn send_before_end(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    send_with(fd, buf, MORE_FLAG)
}

/// [send(2)](https://man7.org/linux/man-pages/man2/send.2.html). `WouldBlock` if nothing fits, and EPIPE or
/// ECONNRESET if the peer is gone.
#[inline]
fn send_with(fd: BorrowedFd<'_>, buf: &[u8], flags: libc::c_int) -> io::Result<usize> {
    let flags = SEND_FLAGS | libc::MSG_DONTWAIT | flags;
    // SAFETY: the pointer and the length are those of one live slice.
    check_len(unsafe { recv_send::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), flags) })
}

/// How many bytes have arrived and are unread. Takes none of them.
/// [ioctl(2)](https://man7.org/linux/man-pages/man2/ioctl.2.html), FIONREAD
#[cfg(not(miri))]
#[inline]
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int, and the pointer is to a live one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// As above, by recv(2) with MSG_PEEK, for Miri, which has no FIONREAD. Counts one byte at the most.
#[cfg(miri)]
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let (mut byte, flags) = (0_u8, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: the pointer and the length are those of one live byte.
    let count = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    check_len(count).or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Ok(0),
        _ => Err(error),
    })
}

/// Ends one direction of a connection, or both.
///
/// [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html). It holds for every process and thread that
/// has the connection, and wakes those that wait for input. ENOTCONN if the connection is lost.
#[inline]
pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// Whether accepted sockets start with their listener's options (Linux copies the whole socket).
///
/// Elsewhere `stream_listener.rs` sets them on each accepted connection.
pub(crate) const ACCEPTED_INHERITS_OPTIONS: bool = cfg!(linux_kernel);

/// Sets a socket option whose value is an int.
pub(super) fn set_int_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(fd, level, name, &value)
}

/// Sets a socket option. Its value is a structure of the system's, without pointers.
///
/// For the folder's own structures only: a `T` with padding or pointers would give the kernel bytes that mean nothing.
fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, socklen::<T>()) })?;
    Ok(())
}

/// Whether a socket listens (SO_ACCEPTCONN). An error if the descriptor is no socket. `socket2` asks this on some systems
/// only.
pub(crate) fn is_listener(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut listens: libc::c_int = 0;
    get_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, &mut listens)?;
    Ok(listens != 0)
}

/// Reads a socket option, and returns how many bytes of the value the kernel has written: fewer, if the kernel's structure
/// is shorter. The value is a structure of the system's without pointers, or numbers; any bytes are a valid value.
///
/// ENOPROTOOPT from a kernel that does not know the option, EOPNOTSUPP from a socket of another kind. Callers take
/// either for "not known".
pub(super) fn get_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<usize> {
    let mut len = socklen::<T>();
    let value = std::ptr::from_mut(value).cast();
    // SAFETY: the pointer and the length are those of `value`, which outlives the call and takes any bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value, &raw mut len) })?;
    Ok(len as usize)
}

/// The size of a C structure, as the calls on sockets take it.
pub(super) fn socklen<T>() -> libc::socklen_t {
    // Every such structure is far smaller than 4 GiB.
    mem::size_of::<T>() as libc::socklen_t
}

/// The shortest value of `SO_RCVTIMEO` in use here: zero would mean for ever.
pub(crate) const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// Bounds every receive from here on. Without a timeout receives may wait for ever.
/// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), SO_RCVTIMEO
///
/// At the timeout the kernel ends the receive with EAGAIN, which is `WouldBlock`. So does a descriptor that does not block,
/// and the caller (`socket_io.rs`) tells the two apart by the time that has passed. A timeout costs a system call for each
/// change and none for each receive, so it is cheaper than a poll before every receive. It belongs to the open file, and so
/// holds for all copies of the descriptor.
pub(crate) fn set_receive_timeout(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.unwrap_or_default();
    let value = libc::timeval {
        // Less than a microsecond becomes zero, which is for ever; see SHORTEST_TIMEOUT.
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: timeout.subsec_micros() as libc::suseconds_t,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value)
}
