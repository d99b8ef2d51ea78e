//! Child processes: forking, and hearing of their end without polling and without touching anybody else's
//! children.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use super::epoll::Epoll;
pub(crate) use super::orphan_reaper::{OrphanMark, children};
use super::signal::change_mask;
use super::{check, event};
use crate::process::OwnerProcess;

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
    match check(super::fork_count::uncounted(|| unsafe { libc::fork() }))? {
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent { child }),
    }
}

/// Holds back SIGTERM and SIGINT until it is dropped. Around a fork: a child that is sent one before it has
/// its own way of taking it would take it as its parent does.
pub(crate) struct SignalsHeld {
    before: libc::sigset_t,
    /// What a child has in its place. It is made before the fork: a call into one more page of the C library would be
    /// one more page that each child has to map.
    in_child: libc::sigset_t,
}

impl SignalsHeld {
    pub(crate) fn hold() -> Self {
        let before = change_mask(libc::SIG_BLOCK, &[libc::SIGTERM, libc::SIGINT]);
        let mut in_child = before;
        // SAFETY: the set is one that the system has given.
        unsafe { libc::sigdelset(&raw mut in_child, libc::SIGTERM) };
        Self { before, in_child }
    }

    /// In the child: SIGTERM comes through, also if the parent blocks it. It is how the parent says that it drains.
    pub(crate) fn release_in_child(mut self) {
        self.before = self.in_child;
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
///
/// A child is watched by a pidfd, which says exactly who has ended. Where there is none to be had (before Linux 5.3, in
/// a container whose filter refuses the call, or without a descriptor left) SIGCHLD rings a bell in the same set.
#[derive(Debug)]
pub(crate) struct ExitWatch {
    set: Epoll,
    bell: Arc<event::Ends>,
    sigchld: OnceLock<Sigchld>,
    /// Whose children they are; the others that SIGCHLD tells this of are those of children.
    owner: Arc<OwnerProcess>,
}

/// How one child is watched.
#[derive(Debug)]
pub(crate) enum Watched {
    ByDescriptor(OwnedFd),
    /// SIGCHLD says that somebody has ended, and not who.
    BySignal,
}

/// The number of the bell in the set; no process has it.
const BELL: u64 = 0;

impl ExitWatch {
    pub(crate) fn new() -> io::Result<Self> {
        let (set, bell) = (Epoll::new()?, Arc::new(event::new()?));
        set.add(event::reader(&bell), libc::EPOLLIN, BELL)?;
        Ok(Self {
            set,
            bell,
            sigchld: OnceLock::new(),
            owner: Arc::new(OwnerProcess::this_process()),
        })
    }

    /// In a forked child that goes on for itself: makes it one of its own, which watches nobody yet.
    pub(crate) fn renew(&self) -> io::Result<()> {
        event::renew(&self.bell)?;
        self.set.renew()?;
        self.set.add(event::reader(&self.bell), libc::EPOLLIN, BELL)?;
        self.owner.become_noted();
        Ok(())
    }

    /// Watches a child. Whether it has ended before has to be looked at afterwards.
    pub(crate) fn add(&self, child: i32) -> io::Result<Watched> {
        match self.add_descriptor(child) {
            Ok(pidfd) => Ok(Watched::ByDescriptor(pidfd)),
            // There is no such child any more.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(error),
            Err(_) => self.watch_by_signal().map(|()| Watched::BySignal),
        }
    }

    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3.
    fn add_descriptor(&self, child: i32) -> io::Result<OwnedFd> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
        let pidfd = super::owned(check(libc::c_int::try_from(fd).unwrap_or(-1))?);
        self.set.add(pidfd.as_fd(), libc::EPOLLIN, u64::try_from(child).unwrap_or(BELL))?;
        Ok(pidfd)
    }

    /// Has each child's end ring the bell from here on, also that of a foreign one.
    pub(crate) fn watch_by_signal(&self) -> io::Result<()> {
        if self.sigchld.get().is_none() {
            let sigchld = Sigchld::ring(Arc::clone(&self.bell), Arc::clone(&self.owner))?;
            let _ = self.sigchld.set(sigchld);
        }
        Ok(())
    }

    /// Whether each child's end rings the bell.
    pub(crate) fn watches_by_signal(&self) -> bool {
        self.sigchld.get().is_some()
    }

    /// Whether children whose end rings the bell leave no status behind, and have to be asked for one by one.
    pub(crate) fn are_reaped_by_the_kernel(&self) -> bool {
        self.sigchld.get().is_some_and(|sigchld| sigchld.reaped_by_the_kernel)
    }

    /// Ends a watch. Closing alone would not: children that were forked meanwhile have a copy of the
    /// descriptor, and the kernel would go on reporting it.
    pub(crate) fn remove(&self, watched: Watched) {
        if let Watched::ByDescriptor(pidfd) = watched {
            self.set.remove(pidfd.as_fd());
        }
    }

    /// Some of those that have ended.
    pub(crate) fn ended(&self) -> Ended {
        let mut ended = Ended { signalled: false, children: [0; AT_ONCE] };
        let found = self.set.wait::<AT_ONCE>(super::Mode::Try).into_iter().flatten();
        for (place, number) in ended.children.iter_mut().zip(found) {
            if number == BELL {
                // Before anybody looks, so that the end that comes after the look rings it again.
                event::clear(&self.bell);
                ended.signalled = true;
            } else {
                *place = i32::try_from(number).unwrap_or(0);
            }
        }
        ended
    }
}

/// What an [`ExitWatch`] has heard.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The bell has signalled: somebody has ended, perhaps one that is not watched by a descriptor.
    pub(crate) signalled: bool,
    children: [i32; AT_ONCE],
}

impl Ended {
    /// Those that are watched by a descriptor.
    pub(crate) fn children(&self) -> impl Iterator<Item = i32> + use<> {
        self.children.into_iter().filter(|child| *child != 0)
    }
}

/// How many ends are looked for at once. A loop that forks looks after each fork, and seldom finds two.
const AT_ONCE: usize = 8;

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// SIGCHLD rings a bell, beside what it did before, until this is dropped.
#[derive(Debug)]
struct Sigchld {
    id: signal_hook::SigId,
    reaped_by_the_kernel: bool,
}

impl Sigchld {
    fn ring(bell: Arc<event::Ends>, owner: Arc<OwnerProcess>) -> io::Result<Self> {
        let action = move || {
            // A forked child inherits this, and must not wake its parent.
            if owner.is_this_process() {
                event::notify(&bell);
            }
        };
        let before = sigchld_action()?;
        // SAFETY: the action asks for a number and writes to a descriptor.
        let id = unsafe { signal_hook::low_level::register(libc::SIGCHLD, action) }?;
        // Ignoring the signal has the kernel reap, and that is not ours to change.
        let ignored = before.sa_sigaction == libc::SIG_IGN;
        let mut keep = before.sa_flags & (libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP);
        if ignored {
            keep |= libc::SA_NOCLDWAIT;
        }
        let mut action = sigchld_action()?;
        action.sa_flags |= keep;
        // SAFETY: the action is the one that has just been installed, with flags that change nothing for its handler;
        // and the pointer to it is to a live local.
        unsafe {
            check(libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()))?;
        }
        // Whoever has started us may have blocked it, and then nothing would ring.
        change_mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD]);
        Ok(Self { id, reaped_by_the_kernel: keep & libc::SA_NOCLDWAIT != 0 })
    }
}

impl Drop for Sigchld {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}

fn sigchld_action() -> io::Result<libc::sigaction> {
    // SAFETY: all zeros is a valid sigaction, and the pointer is to a live one; nothing is set.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        check(libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action))?;
        Ok(action)
    }
}
