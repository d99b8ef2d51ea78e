//! Peer credentials of Unix sockets: [`Credentials`].
//!
//! The peer need not send anything: the kernel notes its credentials at `connect`, and a program may decide by them
//! whether to serve (`Incoming::peer_credentials`).

use std::io;
use std::os::fd::BorrowedFd;

/// The process at the other end of a Unix socket, as the kernel recorded it at `connect`.
///
/// These are the credentials of the process that has connected, even if it has passed the socket on or changed its
/// user since. If that process has ended, its number may belong to another process by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The process, where the system tells it (Linux does).
    pub pid: Option<i32>,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

/// The credentials of a Unix socket's peer: [SO_PEERCRED](https://man7.org/linux/man-pages/man7/unix.7.html)
///
/// The `cfg` names the systems, and not `linux_kernel`: the other form cannot be compiled on Linux, which has no
/// getpeereid(3).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    // The kernel answers pid 0 and uid -1 for sockets that have no peer credentials, TCP for one.
    if !socket2::SockRef::from(&fd).local_addr()?.is_unix() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    super::socket::get_option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut found)?;
    Ok(Credentials { pid: Some(found.pid), uid: found.uid, gid: found.gid })
}

/// The effective user of this process. [geteuid(2)](https://man7.org/linux/man-pages/man2/geteuid.2.html)
///
/// The handover compares it with a peer's, and serves only its own user.
pub(crate) fn user() -> u32 {
    // SAFETY: no pointers; it never fails.
    unsafe { libc::geteuid() }
}

/// The credentials of a Unix socket's peer: getpeereid(3)
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both pointers are to live locals.
    super::check(unsafe {
        libc::getpeereid(std::os::fd::AsRawFd::as_raw_fd(&fd), &raw mut uid, &raw mut gid)
    })?;
    Ok(Credentials { pid: None, uid, gid })
}
