//! Calls of the operating system that std does not offer: the only `unsafe` code of this crate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int, what: &str) {
    assert_ne!(result, -1, "{what}: {}", io::Error::last_os_error());
}

/// Sends a signal to a process that this one has started and not yet waited for.
pub fn send_signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }, "kill");
}

/// Has a UDP socket send without checksums.
#[cfg(target_os = "linux")]
pub fn send_without_checksums(fd: &impl AsFd) {
    let fd = fd.as_fd().as_raw_fd();
    let yes: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&yes)).unwrap();
    let value = (&raw const yes).cast();
    // SAFETY: the pointer is to a live local of that length.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, value, len) };
    check(result, "setsockopt");
}

/// Makes a terminal: its user's end and its program's end.
pub fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut user, mut program) = (-1, -1);
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: two pointers to live locals; the others may be null.
    let made = unsafe {
        libc::openpty(&raw mut user, &raw mut program, none.cast(), none.cast(), none.cast())
    };
    check(made, "openpty");
    // SAFETY: both were just made, and have no other owner.
    unsafe { (OwnedFd::from_raw_fd(user), OwnedFd::from_raw_fd(program)) }
}

/// Bounds the number of this process's descriptors from here on.
pub fn limit_descriptors(count: u64) {
    let (_, hard) = descriptor_limits();
    set_descriptor_limits(count, hard);
}

/// How many descriptors this process may have, and the number up to which it may raise this limit.
pub fn descriptor_limits() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live local.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, "getrlimit");
    (limit.rlim_cur, limit.rlim_max)
}

/// Sets both limits of this process's descriptors.
pub fn set_descriptor_limits(soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the pointer is to a live local.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, "setrlimit");
}

/// Makes the number of `fd` a duplicate of `other`. The old file is closed without its owner's knowledge.
pub fn replace(fd: &impl AsFd, other: &impl AsFd) {
    let (fd, other) = (fd.as_fd().as_raw_fd(), other.as_fd().as_raw_fd());
    // SAFETY: no pointers. The number stays open, so that its owner closes no other file.
    check(unsafe { libc::dup2(other, fd) }, "dup2");
}

/// The processor time that this process has used, in seconds.
pub fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    check(result, "clock_gettime");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// How many packets a TCP connection has received so far.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn packets_received(connection: &impl AsFd) -> u32 {
    // SAFETY: all zeros is a valid tcp_info.
    let mut info = unsafe { std::mem::zeroed::<libc::tcp_info>() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    let fd = connection.as_fd().as_raw_fd();
    let into = (&raw mut info).cast();
    // SAFETY: the pointer and the length are those of `info`, which outlives the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut len) };
    check(result, "getsockopt");
    info.tcpi_segs_in
}

/// A number of /proc/self/status: kibibytes for `VmHWM` (the most memory so far) and `VmRSS` (memory now), a count for
/// `Threads`.
pub fn own_status(name: &str) -> usize {
    status_of(std::process::id(), name)
}

/// A number of another process's status, as [`own_status`] has it.
pub fn status_of(process: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a line of numbers")
}

/// Locks a file or a folder against others who lock it, until the returned file is closed.
pub fn lock_file(path: &std::path::Path) -> std::fs::File {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, "flock");
    file
}

/// Sets an option of a socket's that is a number. Fails if the system does not have it.
pub fn set_option(fd: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the pointer is to a live local of that length.
    match unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Resets ignored signals, so that programs take them as in the foreground of a terminal: a script's shell makes programs
/// in the background ignore SIGINT, and the programs of the tests would inherit that.
pub fn undo_ignored_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: all zeros is a valid sigaction, and the pointer is to a live one; no handler is installed, and none
        // is replaced.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            check(libc::sigaction(signal, std::ptr::null(), &raw mut action), "sigaction");
            if action.sa_sigaction == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}
