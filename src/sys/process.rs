//! Child processes: forking, and hearing of their end without polling and without touching anybody else's
//! children.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::check;
use super::epoll::Epoll;

/// Which of the two a process is after a fork.
pub(crate) enum Forked {
    Parent { child: i32 },
    Child,
}

/// Forks, in a process that has one thread.
///
/// The child of a process with several threads has one, and whatever the others held locked stays locked
/// in it for ever, the memory allocator's locks among it. So this refuses, and names the threads.
///
/// # Errors
///
/// If there is another thread, and those of [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html).
pub(crate) fn fork() -> io::Result<Forked> {
    no_other_threads()?;
    // What the processor knows is found out here, and not in each child again: to ask it takes many microseconds on a
    // virtual machine.
    super::registers::empty();
    // SAFETY: there is one thread, as has just been seen, and only this thread could start another
    // one; so the child is a whole copy, in which everything may be called.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent { child }),
    }
}

/// Holds back SIGTERM and SIGINT until it is dropped. Around a fork: a child that is sent one before it has
/// its own way of taking it would take it as its parent does.
pub(crate) struct SignalsHeld {
    before: libc::sigset_t,
}

impl SignalsHeld {
    pub(crate) fn hold() -> Self {
        // SAFETY: all zeros is a valid sigset_t, which sigemptyset then makes an empty one; all pointers are
        // to live locals.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            let mut before = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: the set is the one that `hold` was given.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Whether a process may fork that is as this one is now.
///
/// # Errors
///
/// If there is another thread. They are named, and what to do in their place.
pub(crate) fn no_other_threads() -> io::Result<()> {
    let Some(names) = other_threads()? else { return Ok(()) };
    Err(io::Error::other(format!(
        "the process has other threads ({names}), whose locks would stay locked in the child; have what they do \
         done by the service_actions of the server's hooks or by another process, or take Threading"
    )))
}

/// The names of the process's threads, if there is more than this one.
fn other_threads() -> io::Result<Option<String>> {
    // A folder has one link for each folder in it, its own entry and its parent's: with one thread,
    // three. Where the first question may not be asked, that is the second one.
    if has_one_thread() || fs::metadata("/proc/self/task")?.nlink() == 3 {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        // A thread may end while it is looked at.
        if let Ok(name) = fs::read_to_string(entry?.path().join("comm")) {
            names.push(name.trim_end().to_owned());
        }
    }
    if names.len() < 2 {
        return Ok(None);
    }
    names.sort();
    names.dedup();
    Ok(Some(names.join(", ")))
}

/// Whether there is no other thread. A no may also mean that it cannot be known.
///
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html) does nothing at all for a process with one
/// thread that asks it to part its threads, and fails for one that has more: the cheapest way to ask.
fn has_one_thread() -> bool {
    // SAFETY: no pointers, and nothing changes.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// How a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    Running,
    Exited(i32),
    Killed(i32),
    /// Somebody else has waited for it.
    Gone,
}

/// Looks at one child, and reaps it if it has ended. Never at any other: waiting for all children would
/// steal those of `std::process::Command`.
pub(crate) fn reap(child: i32) -> ChildState {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a live int.
        match check(unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) }) {
            Ok(0) => return ChildState::Running,
            Ok(_) if libc::WIFEXITED(status) => {
                return ChildState::Exited(libc::WEXITSTATUS(status));
            }
            Ok(_) => return ChildState::Killed(libc::WTERMSIG(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return ChildState::Gone,
        }
    }
}

/// A child that has ended, ours or not: it can still be reaped. None, if there is none.
/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html), WNOWAIT
pub(crate) fn ended_child() -> Option<i32> {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid siginfo_t, which the call fills in if there is such a child, and leaves
    // otherwise; the pointer is to a live one.
    let pid = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        check(libc::waitid(libc::P_ALL, 0, &raw mut info, how)).ok()?;
        info.si_pid()
    };
    (pid != 0).then_some(pid)
}

/// Sends a signal to a child. False if it has ended: who has been reaped has lost its number, which may be a
/// stranger's now.
pub(crate) fn signal(child: i32, signal: libc::c_int) -> bool {
    is_running(child) && {
        // SAFETY: no pointers.
        unsafe { libc::kill(child, signal) == 0 }
    }
}

/// Whether it is a child that has not ended.
fn is_running(child: i32) -> bool {
    let Ok(id) = libc::id_t::try_from(child) else { return false };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid siginfo_t, which the call fills in if the child has ended, and leaves otherwise;
    // the pointer is to a live one.
    unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        libc::waitid(libc::P_PID, id, &raw mut info, how) == 0 && info.si_pid() == 0
    }
}

/// Makes all of a set of children one descriptor, which is readable while one of them has ended and is
/// watched still.
#[derive(Debug)]
pub(crate) struct ExitWatch {
    set: Epoll,
}

/// The watch of one child.
#[derive(Debug)]
pub(crate) struct Watched {
    pidfd: OwnedFd,
}

impl ExitWatch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { set: Epoll::new()? })
    }

    /// Watches a child. [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3.
    pub(crate) fn add(&self, child: i32) -> io::Result<Watched> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
        let fd = check(libc::c_int::try_from(fd).unwrap_or(-1))?;
        let watched = Watched { pidfd: super::owned(fd) };
        let number = u64::try_from(child).unwrap_or(0);
        self.set.add(watched.pidfd.as_fd(), libc::EPOLLIN, number)?;
        Ok(watched)
    }

    /// Ends a watch. Closing alone would not: children that were forked meanwhile have a copy of the
    /// descriptor, and the kernel would go on reporting it.
    pub(crate) fn remove(&self, watched: Watched) {
        self.set.remove(watched.pidfd.as_fd());
        drop(watched);
    }

    /// Some of those that have ended; none, if none has.
    pub(crate) fn ended(&self) -> impl Iterator<Item = i32> + use<> {
        let ended = self.set.wait::<AT_ONCE>(false).into_iter().flatten();
        ended.filter_map(|child| i32::try_from(child).ok())
    }
}

/// How many ends are looked for at once. A loop that forks looks after each fork, and seldom finds two.
const AT_ONCE: usize = 8;

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
