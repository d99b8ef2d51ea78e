//! How many descriptors this process, and each program that it starts, may have.
//!
//! The soft limit is what a process may use, and the process may raise it itself, up to the hard limit. Programs
//! inherit both limits by fork and exec. So a raised limit is set back in programs that handlers start.
//!
//! `run` raises the limit once, at its start. The usual soft limit is 1,024, for the sake of select(2), which cannot
//! watch a number above that; this crate never uses it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check;

/// The soft limit that programs get back: the one with which this process began.
///
/// There is no lock, because a child that a handler forks would find it held for ever if another thread held it at the fork.
/// `RAISED_FROM` is stored before [`RAISED_TO`], so that a thread that sees the second sees the first as well.
static RAISED_FROM: AtomicU64 = AtomicU64::new(0);

/// The limit that the first [`raise_descriptors`] has set; zero before that. If the process has a different limit by now, the
/// program has set it, and it stays.
static RAISED_TO: AtomicU64 = AtomicU64::new(0);

/// Raises the soft limit of descriptors to the hard one, and returns it.
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
pub(crate) fn raise_descriptors() -> io::Result<u64> {
    let mut limit = descriptor_limit()?;
    if limit.rlim_cur < limit.rlim_max {
        let from = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        set_descriptor_limit(&limit)?;
        // Only the first raise counts. Of two at once both have read the same limit, or one has found it raised.
        if RAISED_TO.load(Ordering::Acquire) == 0 {
            RAISED_FROM.store(from as u64, Ordering::Relaxed);
            RAISED_TO.store(limit.rlim_cur as u64, Ordering::Release);
        }
    }
    Ok(limit.rlim_cur as u64)
}

/// How many descriptors this process may have, and how many it has. None without `/proc`.
pub(crate) fn descriptors() -> Option<(u64, u64)> {
    let limit = descriptor_limit().ok()?;
    let open = match std::fs::read_dir("/proc/self/fd") {
        // One less than the entries: the read itself has the folder open.
        Ok(entries) => entries.count().saturating_sub(1) as u64,
        // No descriptor is left to open the folder with, so all are in use.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => limit.rlim_cur as u64,
        Err(_) => return None,
    };
    Some((limit.rlim_cur as u64, open))
}

/// How many descriptors are open, and how many may be. Cheaper than [`descriptors`]: since Linux 6.2 the
/// size of `/proc/self/fd` is the number of open descriptors. None before that.
pub(crate) fn descriptors_now() -> Option<(u64, u64)> {
    let limit = descriptor_limit().ok()?;
    let open = std::fs::metadata("/proc/self/fd").ok()?.len();
    (open > 0).then_some((open, limit.rlim_cur as u64))
}

/// The soft and the hard limit of RLIMIT_NOFILE. Takes no lock and no memory, so that it may run between fork and
/// exec.
pub(super) fn descriptor_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// A descriptor that is opened only to be closed when no other is free: the reserve of
/// `transport/stream_listener.rs`.
///
/// With none free, accept(2) fails with EMFILE and leaves the client in the queue, where it would keep the listener
/// readable. The reserve is closed, the client accepted and closed, and the reserve opened again.
pub(crate) fn spare_descriptor() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(Into::into)
}

/// Sets both limits: [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html). A soft limit up to the hard
/// one needs no privilege.
fn set_descriptor_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a live structure.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const *limit) }).map(drop)
}

/// Makes a program begin with the limit from before [`raise_descriptors`], if the process still has the raised one.
pub(crate) fn restore_descriptors(command: &mut Command) {
    let to = RAISED_TO.load(Ordering::Acquire);
    if to == 0 {
        return;
    }
    let from = RAISED_FROM.load(Ordering::Relaxed);
    let restore = move || {
        let mut limit = descriptor_limit()?;
        if limit.rlim_cur as u64 == to {
            limit.rlim_cur = from as libc::rlim_t;
            set_descriptor_limit(&limit)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and touches nothing but its own two numbers.
    unsafe { command.pre_exec(restore) };
}
