//! The operating system, as safe functions named for what they do.
//!
//! The only room with `unsafe` in it. Every choice between platforms is made here as well, so that no
//! `cfg` stands inside a function body elsewhere.

use std::fs::File;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "child_process_other.rs")]
pub(crate) mod child_process;
mod console;
pub(crate) mod datagram;
pub(crate) mod directory;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "error_queue_other.rs")]
mod error_queue;
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "exclusive_epoll_other.rs")]
pub(crate) mod exclusive_epoll;
pub(crate) mod fork_count;
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "late_input_other.rs")]
pub(crate) mod late_input;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod orphan_reaper;
mod recv_buf;
pub(crate) mod recv_cmsg;
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "refuse_clients_other.rs")]
pub(crate) mod refuse_clients;
mod registers;
mod rlimit;
pub(crate) mod send_cmsg;
mod shared_fd;
mod shared_memory;
mod signal;
pub(crate) mod socket_progress;
mod thread_limit;

pub(crate) use console::write_now;
pub(crate) use recv_buf::Room;
pub(crate) use rlimit::{
    descriptors, fill_standard_descriptors, inherit_only_stdio, raise_descriptors,
    restore_descriptors, spare_descriptor,
};
pub(crate) use shared_fd::SharedFd;
pub(crate) use shared_memory::Common;
pub(crate) use signal::{
    LetThrough, SignalGuard, is_ignored, keep_from_default, keep_from_file_size_signal,
    keep_statuses, on_signal, on_signal_for_good,
};
pub(crate) use thread_limit::most_threads;

/// Turns the -1 of a system call into the error behind it.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes a descriptor that a system call has just made.
fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: every caller has it from a call that makes a new descriptor, and gives it to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes the number of `old` stand for what `new` is, in this process alone: a forked child parts from its parent's
/// descriptor, and all that know the number keep it. [dup3(2)](https://man7.org/linux/man-pages/man2/dup3.2.html)
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn replace(old: &impl AsFd, new: OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers. The number stays open, and its owner's.
    check(unsafe { libc::dup3(new.as_raw_fd(), number(old), libc::O_CLOEXEC) })?;
    drop(new);
    Ok(())
}

/// See the Linux form.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn replace(old: &impl AsFd, new: OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers. The number stays open, and its owner's.
    check(unsafe { libc::dup2(new.as_raw_fd(), number(old)) })?;
    socket2::SockRef::from(old).set_cloexec(true)
}

/// Waits until one of the descriptors is ready, or until the deadline. Says whether one is.
///
/// A signal does not end the wait. [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html)
pub(crate) fn poll(fds: &mut [PollFd], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = match deadline {
            None => -1,
            // Rounded up: a wait that ends early would make its caller spin for the rest.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let millis = left.as_nanos().div_ceil(1_000_000);
                libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
            }
        };
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the pointer and the length are those of one live slice, and `PollFd` is a
        // `pollfd` (repr(transparent)).
        match check(unsafe { libc::poll(fds.as_mut_ptr().cast(), count, timeout) }) {
            Ok(0) if timeout == libc::c_int::MAX => {}
            Ok(ready) => {
                fds.iter().for_each(PollFd::forget_queued_errors);
                return Ok(ready > 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a descriptor is readable now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, false)];
    // SAFETY: one live `pollfd`, as above.
    Ok(check(unsafe { libc::poll(fds.as_mut_ptr().cast(), 1, 0) })? > 0)
}

/// One descriptor of a [`poll`].
#[repr(transparent)]
pub(crate) struct PollFd(libc::pollfd);

impl PollFd {
    pub(crate) fn new(fd: BorrowedFd<'_>, write: bool) -> Self {
        let events = if write { libc::POLLOUT } else { libc::POLLIN };
        Self(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 })
    }

    /// One that is never ready.
    pub(crate) const fn nobody() -> Self {
        Self(libc::pollfd { fd: -1, events: 0, revents: 0 })
    }

    /// If the last poll has found nothing but an error: empties the socket's queue of errors, which an option such as
    /// IP_RECVERR fills, or a timestamp that nobody fetches. What stands there makes every poll return at once, and no
    /// receive and no send takes it away. An error that the next call is to meet is none of those, and stays.
    fn forget_queued_errors(&self) {
        if self.0.revents != libc::POLLERR {
            return;
        }
        // SAFETY: whoever waits for it holds it open; it is borrowed no longer than this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.fd) };
        error_queue::empty(fd);
    }

    /// Whether the last poll has found it ready, or broken.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// `eventfd` and its like: a descriptor that is readable from the first `notify` until a `clear`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod event {
    use super::{AsRawFd, BorrowedFd, OwnedFd, check, io};

    pub(crate) type Ends = OwnedFd;

    pub(crate) fn new() -> io::Result<Ends> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(super::owned(fd))
    }

    /// In a forked child: makes it one of its own, not notified, under the same number.
    pub(crate) fn renew(ends: &Ends) -> io::Result<()> {
        super::replace(ends, new()?)
    }

    pub(crate) fn reader(ends: &Ends) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(ends)
    }

    /// One write and nothing else, so that a signal handler may call it.
    pub(crate) fn notify(ends: &Ends) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A full counter (EAGAIN) is readable all the same.
        unsafe { libc::write(ends.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    pub(crate) fn clear(ends: &Ends) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes. An empty counter (EAGAIN) is clear already.
        unsafe { libc::read(ends.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// The portable form of the same: a pair of sockets.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) mod event {
    use super::{BorrowedFd, io};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    pub(crate) type Ends = (UnixStream, UnixStream);

    pub(crate) fn new() -> io::Result<Ends> {
        let ends = UnixStream::pair()?;
        ends.0.set_nonblocking(true)?;
        ends.1.set_nonblocking(true)?;
        Ok(ends)
    }

    pub(crate) fn renew(ends: &Ends) -> io::Result<()> {
        let (reader, writer) = new()?;
        super::replace(&ends.0, reader.into())?;
        super::replace(&ends.1, writer.into())
    }

    pub(crate) fn reader(ends: &Ends) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&ends.0)
    }

    pub(crate) fn notify(ends: &Ends) {
        let _full_is_readable_too = (&ends.1).write(&[1]);
    }

    pub(crate) fn clear(ends: &Ends) {
        let mut bytes = [0u8; 64];
        while matches!((&ends.0).read(&mut bytes), Ok(64)) {}
    }
}

/// MSG_NOSIGNAL: a peer that is gone is an error to handle, not a signal that ends the process.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
/// On Apple's systems the same is a socket option, which socket2 sets on what it creates.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: libc::c_int = 0;

/// MSG_MORE: what is sent waits in the kernel for what follows, so that both leave in one packet.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: libc::c_int = libc::MSG_MORE;
/// Where there is no such flag, it leaves at once.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: libc::c_int = 0;

fn wait_flag(wait: bool) -> libc::c_int {
    if wait { 0 } else { libc::MSG_DONTWAIT }
}

/// Sends once, possibly not all of it, and never blocks, whatever the descriptor's mode.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    send_with(fd, buf, 0)
}

/// Sends as [`send`] does, and says that the end of the output follows at once: the kernel puts both into
/// one packet. Whoever calls it has to close or to shut down next; the bytes would stay otherwise.
pub(crate) fn send_before_end(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    send_with(fd, buf, MORE)
}

fn send_with(fd: BorrowedFd<'_>, buf: &[u8], flags: libc::c_int) -> io::Result<usize> {
    let flags = SEND_FLAGS | libc::MSG_DONTWAIT | flags;
    // SAFETY: the pointer and the length are those of one live slice.
    check_len(unsafe { libc::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), flags) })
}

/// How many bytes have come and have not been received. It takes none of them, and that there are none is no
/// error. [ioctl(2)](https://man7.org/linux/man-pages/man2/ioctl.2.html), FIONREAD
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int, and the pointer is to a live one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Ends one direction of a connection, or both.
pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// Who is at the other end of a Unix socket, as the kernel recorded it at `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process, where the system tells it (Linux does).
    pub pid: Option<i32>,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

/// [SO_PEERCRED](https://man7.org/linux/man-pages/man7/unix.7.html)
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    // The kernel answers pid 0 and uid -1 for sockets that have no peer credentials, TCP for one.
    if !socket2::SockRef::from(&fd).local_addr()?.is_unix() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = socklen::<libc::ucred>();
    // SAFETY: the pointer and the length are those of `found`, which outlives the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    })?;
    Ok(Credentials { pid: Some(found.pid), uid: found.uid, gid: found.gid })
}

/// getpeereid(3)
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both pointers are to live locals.
    check(unsafe { libc::getpeereid(fd.as_raw_fd(), &raw mut uid, &raw mut gid) })?;
    Ok(Credentials { pid: None, uid, gid })
}

/// Sets a socket option whose value is an int.
fn set_int_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(fd, level, name, &value)
}

/// Sets a socket option. Its value is a structure of the system's, without pointers.
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

fn socklen<T>() -> libc::socklen_t {
    // Sizes of C structures are far below four thousand million.
    mem::size_of::<T>() as libc::socklen_t
}

/// Whether accepted sockets start with their listener's options (Linux copies the whole socket).
pub(crate) const ACCEPTED_INHERITS_OPTIONS: bool =
    cfg!(any(target_os = "linux", target_os = "android"));

/// Sets the permissions of a socket that is not bound yet, so that the file its `bind` makes never
/// has more of them, not even for a moment. Linux only: elsewhere the file's mode follows at once.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_mode_before_bind(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    Ok(())
}

/// See the Linux form.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn set_mode_before_bind(_fd: BorrowedFd<'_>, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Tries to take an exclusive lock on an open file or folder, until the file is closed.
/// [flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(())
}

/// Ends the process at once: no destructors, no exit handlers. For signal handlers.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` may be called anywhere, a signal's handler included.
    unsafe { libc::_exit(status) }
}

/// How long `SO_RCVTIMEO` may be at the shortest: a zero would mean for ever.
pub(crate) const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// Bounds every receive from here on; none lets them wait for ever.
/// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), SO_RCVTIMEO
pub(crate) fn set_receive_timeout(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.unwrap_or_default();
    let value = libc::timeval {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: timeout.subsec_micros() as libc::suseconds_t,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value)
}

/// The number of a descriptor, for messages and for finding a descriptor again in a table.
pub(crate) fn number(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}
