//! [`ExitWatch`]: the ends of children as one descriptor, without polling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::epoll::Epoll;
use super::signal::change_mask;
use super::{check, event};
use crate::process::OwnerProcess;

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
