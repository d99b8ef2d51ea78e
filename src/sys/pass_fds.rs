//! Descriptors passed from one process to another: over a Unix socket (SCM_RIGHTS), or across an exec.
//!
//! Over a socket the kernel makes new descriptors of the same open files in the receiver. It makes them during the receive,
//! whether they were asked for or not. So [`receive_fds`] owns all of them from the first moment on.
//!
//! The handover of a server's sockets to the next process uses both ways (`server/handover`): the successor inherits one
//! end of a socket pair across exec, or connects to a Unix socket; the listeners come over that socket as SCM_RIGHTS.
//!
//! ```text
//! sendmsg  [bytes] + SCM_RIGHTS 5, 7      the kernel holds the files while they are on the way
//! recvmsg  [bytes] + SCM_RIGHTS 4, 9      new numbers here; the open files, their modes and queues are the sender's
//! ```
//!
//! Descriptors come with the first byte of their send. A receive may begin with bytes of earlier sends, and never goes
//! beyond the send that has brought descriptors. A receive without room for control messages would make the kernel close
//! the descriptors.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;
use std::sync::Mutex;

use super::socket::SEND_FLAGS;
use super::{PerProcess, check, check_len, fork_count, owned, uninterrupted};

/// The most descriptors of one message: the kernel's own maximum (`SCM_MAX_FD`,
/// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
pub(crate) const MAX_FDS: usize = 253;

/// The bytes of a control message with [`MAX_FDS`] descriptors.
// SAFETY: `CMSG_SPACE` computes with its argument and touches no memory.
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((MAX_FDS * mem::size_of::<RawFd>()) as libc::c_uint) } as usize;

/// Room for a control message, aligned as `cmsghdr` wants.
///
/// It has room for the largest message, so MSG_CTRUNC mostly means that the receiver is out of descriptors.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Sets close-on-exec in the same call, where the system can. Between two calls a fork of another thread could get a copy
/// that an exec keeps.
#[cfg(not(target_vendor = "apple"))]
const RECEIVE_FLAGS: libc::c_int = libc::MSG_CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const RECEIVE_FLAGS: libc::c_int = 0;

/// Sends bytes, and descriptors with the first of them. Never waits. Returns how many bytes were sent: fewer than
/// all, if the receiver's buffer is full.
///
/// # Panics
///
/// With more than [`MAX_FDS`] descriptors.
///
/// # Errors
///
/// `WouldBlock` without room; EPIPE or ECONNRESET if the receiver is gone; ETOOMANYREFS if this user has too many
/// descriptors on the way already. [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), SCM_RIGHTS
pub(crate) fn send_fds(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    assert!(fds.len() <= MAX_FDS, "{} descriptors in one message", fds.len());
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid msghdr: no name, no parts, no control messages.
    let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let len = mem::size_of_val(&*numbers) as libc::c_uint;
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: both functions compute with their argument and touch no memory.
        let (whole, filled) = unsafe { (libc::CMSG_SPACE(len), libc::CMSG_LEN(len)) };
        header.msg_controllen = whole as _;
        let message = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `control` is aligned for a header, and has room for `MAX_FDS` numbers after it; `fds` has no more (asserted
        // above). CMSG_DATA only computes.
        unsafe {
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = filled as _;
            let data = libc::CMSG_DATA(message);
            ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), data, len as usize);
        }
    }
    let flags = SEND_FLAGS | libc::MSG_DONTWAIT;
    uninterrupted(|| {
        // SAFETY: `header` has the addresses and lengths of `part` and `control`, and `part` has those of `bytes`. All three
        // outlive the call, which only reads them.
        check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) })
    })
}

/// Receives bytes and the descriptors that come with them, which are close-on-exec. Never waits. Zero bytes mean the
/// end.
///
/// # Errors
///
/// `WouldBlock` if nothing has come; `InvalidData` if the kernel could not make all of the descriptors (EMFILE), or
/// if more came than fit. The descriptors that it has made are closed.
pub(crate) fn receive_fds(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let flags = RECEIVE_FLAGS | libc::MSG_DONTWAIT;
    let count = uninterrupted(|| {
        // SAFETY: `header` has the addresses and lengths of `part` and `control`, and `part` has those of `buffer`. All three
        // outlive the call, and any bytes are valid in `buffer`.
        check_len(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) })
    })?;
    let fds = descriptors_of(&header);
    if RECEIVE_FLAGS == 0 {
        for fd in &fds {
            socket2::SockRef::from(fd).set_cloexec(true)?;
        }
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        let why = "not all of the descriptors could be received";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok((count, fds))
}

/// Owns the descriptors of a message that the kernel has filled in. It is called once for each message.
fn descriptors_of(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the header is one that recvmsg(2) has filled in, so its control messages are whole, and both functions
    // stay within them.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: a message that is not null is a header within the buffer, as above.
        let (level, kind, len) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len as usize) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: `CMSG_LEN` computes with its argument.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            for index in 0..len.saturating_sub(before) / mem::size_of::<RawFd>() {
                // SAFETY: `index` is below the count of numbers after the header, which need not be aligned. Each number is
                // that of a new descriptor, which the kernel has given to this receive and to nobody else.
                fds.push(unsafe {
                    let numbers = libc::CMSG_DATA(message).cast::<RawFd>();
                    OwnedFd::from_raw_fd(numbers.add(index).read_unaligned())
                });
            }
        }
        // SAFETY: as for the first.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    fds
}

/// Starts a program that has `fd` open under the same number. Everything else is as the command says.
///
/// The fork is not counted ([`fork_count`]), because the program keeps nothing else that this process has opened.
pub(crate) fn spawn_with(command: &mut Command, fd: BorrowedFd<'_>) -> io::Result<Child> {
    let number = fd.as_raw_fd();
    // SAFETY: one system call with numbers alone. It runs in the child, which has a table of descriptors of its own.
    unsafe {
        command.pre_exec(move || check(libc::fcntl(number, libc::F_SETFD, 0)).map(drop));
    }
    fork_count::uncounted(|| command.spawn())
}

/// Owns a descriptor that this process was started with. The process that has started this one has named its number, and
/// `is_it` decides whether it is the descriptor that was meant. From here on it is close-on-exec.
///
/// # Errors
///
/// If there is no such descriptor; or if this process has made it itself, or has taken it before (those are
/// close-on-exec).
pub(crate) fn take_from_starter(
    number: RawFd,
    is_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<bool>,
) -> io::Result<OwnedFd> {
    static ONE_AT_A_TIME: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
    let _lock = ONE_AT_A_TIME.get().lock();
    // SAFETY: no pointers; a number that is no descriptor is an error.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // The three standard ones belong to std, which never closes them.
    let was_inherited = flags & libc::FD_CLOEXEC == 0 && number > 2;
    // SAFETY: it is open, and is borrowed for this call. A program that closes it meanwhile closes what it does not own.
    if !was_inherited || !is_it(unsafe { BorrowedFd::borrow_raw(number) })? {
        let why = "it was not inherited";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // Descriptors of std and of this crate are close-on-exec, and this one was not: so nobody owns it yet. From now on it is
    // close-on-exec too, so this function does not take it twice.
    Ok(owned(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn is_cloexec(fd: &impl AsFd) -> bool {
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) };
        flags & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn descriptors_arrive_with_the_first_byte_and_are_not_inherited() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let fds = [write.as_fd(); MAX_FDS];
        assert_eq!(send_fds(one.as_fd(), b"abc", &fds).unwrap(), 3);
        drop(write);
        let mut first = [0];
        let (count, received) = receive_fds(other.as_fd(), &mut first).unwrap();
        assert_eq!((count, &first, received.len()), (1, b"a", MAX_FDS));
        assert!(received.iter().all(is_cloexec));
        let mut rest = [0; 8];
        let (count, none) = receive_fds(other.as_fd(), &mut rest).unwrap();
        assert!(count == 2 && none.is_empty());
        std::fs::File::from(received[7].try_clone().unwrap()).write_all(b"x").unwrap();
        drop(received);
        let mut all = Vec::new();
        read.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"x");
        drop(one);
        assert_eq!(receive_fds(other.as_fd(), &mut rest).unwrap().0, 0);
    }

    #[test]
    fn nothing_there_is_not_waited_for() {
        let (_one, other) = UnixStream::pair().unwrap();
        let error = receive_fds(other.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_of_the_process_itself_is_not_taken() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(take_from_starter(one.as_raw_fd(), |_| Ok(true)).is_err());
        assert!(take_from_starter(2, |_| Ok(true)).is_err());
        assert!(take_from_starter(987_654, |_| Ok(true)).is_err());
    }
}
