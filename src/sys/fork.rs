//! Forking, in a process that has one thread.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::check;
use super::signal::change_mask;

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
