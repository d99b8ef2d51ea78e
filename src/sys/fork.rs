//! Forking, in a process that has one thread.
//!
//! ```text
//! no_other_threads      before a run: `serve` fails with the names
//! SignalsHeld::hold     a signal must not reach a child that does not know its request
//! fork                  checks again: a thread may have been started since
//!   parent: drop        the mask is as it was
//!   child: release      SIGTERM comes through: the drain
//! ```
//!
//! `Forking` calls these on the accept loop's thread, once for each request. In the child only that thread exists, at
//! the place where it was, with a copy of all memory. The pages are shared until one of the two processes writes to
//! one: each page that the child writes to is copied, at the price of a fault. So the code that runs in a child writes
//! little, and some calls here are made by number because the C library's own function would touch one more page.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::check;
use super::signal::change_mask;

/// Which of the two processes this is after a fork. The parent gets the child's number, which stays the child's until
/// it is reaped.
pub(crate) enum Forked {
    /// The process that has forked. It reaps the child (`child_process::reap`), or the child stays a zombie.
    Parent { child: i32 },
    /// The new process. It serves one request and ends by `exit_now`: it must not return into the accept loop.
    Child,
}

/// Forks, in a process that has one thread.
///
/// The child of a process with several threads has only one thread. Locks that the other threads held stay locked in
/// the child for ever, those of the memory allocator among them. So a process with several threads is refused.
///
/// # Errors
///
/// If there is another thread, by [`no_other_threads`]; and those of
/// [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html): EAGAIN (RLIMIT_NPROC, or a container's limit of
/// processes) and ENOMEM.
#[inline]
pub(crate) fn fork() -> io::Result<Forked> {
    no_other_threads()?;
    // The processor's features are found out here, and not in each child again: to ask the processor takes many
    // microseconds on a virtual machine.
    super::registers::empty();
    // SAFETY: there is one thread, as has just been seen, and only this thread could start another
    // one; so the child is a whole copy, in which everything may be called.
    match check(super::fork_count::uncounted(|| unsafe { libc::fork() }))? {
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent { child }),
    }
}

/// Holds back SIGTERM and SIGINT until it is dropped. It is held across a fork: a child that gets a signal before it
/// has noted its request would act on it as its parent does.
pub(crate) struct SignalsHeld {
    /// The mask to return to: the one that the thread had before; in a child, `in_child`.
    before: libc::sigset_t,
    /// The mask of a child. It is made before the fork, because in the child the call would need one more page of the
    /// C library, and each child would have to map that page.
    in_child: libc::sigset_t,
}

impl SignalsHeld {
    /// Blocks both signals. Called before the fork, by the thread that forks: a mask is a thread's own, and the child
    /// inherits it.
    ///
    /// ```text
    /// parent                                  child
    /// hold: SIGTERM, SIGINT blocked
    /// fork ---------------------------------> begins with both blocked
    /// drop: the mask is as it was             notes its request
    ///                                         release_in_child: SIGTERM comes through now, if it was sent meanwhile
    /// ```
    pub(crate) fn hold() -> Self {
        let before = change_mask(libc::SIG_BLOCK, &[libc::SIGTERM, libc::SIGINT]);
        let mut in_child = before;
        // SAFETY: the set is one that the system has given.
        // SIGINT is as it was before this guard: a child blocks it if its parent does.
        unsafe { libc::sigdelset(&raw mut in_child, libc::SIGTERM) };
        Self { before, in_child }
    }

    /// In the child: lets SIGTERM through, even if the parent blocks it, because the parent tells of a drain by this
    /// signal.
    #[inline]
    pub(crate) fn release_in_child(mut self) {
        self.before = self.in_child;
    }
}

/// The bytes of a set of signals as the kernel has it, on nearly all processors.
const KERNEL_SET: usize = 8;

impl Drop for SignalsHeld {
    #[inline]
    fn drop(&mut self) {
        let (set, none) = (&raw const self.before, std::ptr::null_mut::<libc::sigset_t>());
        // The call is made by its number: the C library's `syscall` lies on a page that a child needs anyway, and
        // `pthread_sigmask` does not.
        // SAFETY: the set is the one that `hold` was given, and is at least as long as the kernel's.
        let done = unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, none, KERNEL_SET)
        };
        // The call fails on processors where the kernel's set is longer.
        if done != 0 {
            // SAFETY: as above.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, none) };
        }
    }
}

/// Whether this process may fork: whether it has one thread.
///
/// # Errors
///
/// If there is another thread. The error names all threads, and says what to use instead.
pub(crate) fn no_other_threads() -> io::Result<()> {
    let Some(names) = other_threads()? else { return Ok(()) };
    Err(io::Error::other(format!(
        "the process has other threads ({names}), whose locks would stay locked in the child; do their \
         work in the hook service_actions or in another process, or use Threading"
    )))
}

/// The names of the process's threads, if it has more than one.
///
/// None also if all but one have ended while they were counted. Without `/proc` this fails, unless the first check has
/// found one thread.
fn other_threads() -> io::Result<Option<String>> {
    // The first check is one system call. The second takes several and needs /proc; it is for a process whose filter
    // refuses the first one. A directory has two links, and one for each directory in it: with one thread, three.
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
    // Threads of a pool often share one name, which the message then shows once.
    names.sort();
    names.dedup();
    Ok(Some(names.join(", ")))
}

/// Whether there is no other thread. False also where a filter refuses the call.
///
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html) is asked to separate the threads of the
/// process. With one thread it does nothing at all, and with more it fails: the cheapest way to ask.
///
/// EINVAL means that there is another thread. EPERM and ENOSYS are the answers of filters.
fn has_one_thread() -> bool {
    // SAFETY: no pointers, and nothing changes.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}
