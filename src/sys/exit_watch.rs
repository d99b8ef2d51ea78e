//! [`ExitWatch`]: the ends of children as one descriptor, without polling.
//!
//! The parent's accept loop has the descriptor in its wait, and asks `ended` when it is readable
//! (`mixin/forking/reaper.rs`). A pidfd is an event and no more: the status stays with the child until
//! [`reap`](super::child_process::reap) takes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::epoll::Epoll;
use super::signal::{action_of, change_mask};
use super::{check, event};
use crate::process::OwnerProcess;

/// A descriptor that is readable while one of the watched children has ended.
///
/// It is an epoll set. A child is watched by a pidfd in the set, which tells exactly which child has ended. If there
/// is no pidfd (before Linux 5.3, in a container whose filter refuses the call, or without a descriptor left),
/// SIGCHLD notifies an event in the same set:
///
/// ```text
/// pidfd of child 1 --+
/// pidfd of child 2 --+--> epoll set --> readable: `ended` names the children, or says that a signal came
/// event <- SIGCHLD --+
/// ```
///
/// From the first child without a pidfd on, the signal is taken for all children. The event is cleared before the
/// caller looks for ended children, so that a child that ends after the look notifies it again.
#[derive(Debug)]
pub(crate) struct ExitWatch {
    /// The epoll set. Its numbers are those of the children, and [`SIGCHLD_EVENT`].
    set: Epoll,
    /// The event that SIGCHLD notifies. It is in the set from the beginning, but is notified only once `sigchld` is set.
    sigchld_event: Arc<event::Ends>,
    /// Set by [`watch_by_signal`](Self::watch_by_signal), and for good.
    sigchld: OnceLock<Sigchld>,
    /// The process whose children are watched. A forked child inherits the action of SIGCHLD, and must not notify its
    /// parent's event.
    owner: Arc<OwnerProcess>,
}

/// How one child is watched.
#[derive(Debug)]
pub(crate) enum Watched {
    /// The child's pidfd, which is readable from the child's end on. It says nothing about the status.
    ByDescriptor(OwnedFd),
    /// SIGCHLD says that a child has ended, and not which one.
    BySignal,
}

/// The number of the event in the set; no process has it.
const SIGCHLD_EVENT: u64 = 0;

impl ExitWatch {
    /// Makes a watch, which watches nothing yet and leaves SIGCHLD alone.
    pub(crate) fn new() -> io::Result<Self> {
        let (set, sigchld_event) = (Epoll::new()?, Arc::new(event::new()?));
        set.add(event::reader(&sigchld_event), libc::EPOLLIN, SIGCHLD_EVENT)?;
        Ok(Self {
            set,
            sigchld_event,
            sigchld: OnceLock::new(),
            owner: Arc::new(OwnerProcess::this_process()),
        })
    }

    /// In a forked child that goes on to run the server itself: makes the watch the child's own. It watches no child yet.
    ///
    /// The inherited action of SIGCHLD writes to the same descriptor number, which belongs to the new event from here on.
    pub(crate) fn renew(&self) -> io::Result<()> {
        event::renew(&self.sigchld_event)?;
        self.set.renew()?;
        self.set.add(event::reader(&self.sigchld_event), libc::EPOLLIN, SIGCHLD_EVENT)?;
        self.owner.become_noted();
        Ok(())
    }

    /// Watches a child. If the child has ended before this call, no event follows: call
    /// [`reap`](super::child_process::reap) afterwards.
    ///
    /// # Errors
    ///
    /// ESRCH if the process has no such child any more; another error if the child has no pidfd and the action of SIGCHLD
    /// cannot be set.
    pub(crate) fn add(&self, child: i32) -> io::Result<Watched> {
        match self.add_descriptor(child) {
            Ok(pidfd) => Ok(Watched::ByDescriptor(pidfd)),
            // There is no such child any more.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(error),
            Err(_) => self.watch_by_signal().map(|()| Watched::BySignal),
        }
    }

    /// Watches a child by a pidfd: [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3.
    ///
    /// ESRCH: the child has been reaped. ENOSYS, EPERM: the kernel has no pidfds, or a filter refuses them. EMFILE, ENFILE,
    /// ENOMEM: no descriptor or no memory is left; ENOSPC: the set takes no more.
    fn add_descriptor(&self, child: i32) -> io::Result<OwnedFd> {
        // SAFETY: no pointers; a descriptor or -1 comes back.
        // glibc has a function for it since 2.36 only. The kernel makes it close-on-exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
        let pidfd = super::owned(check(libc::c_int::try_from(fd).unwrap_or(-1))?);
        self.set.add(
            pidfd.as_fd(),
            libc::EPOLLIN,
            u64::try_from(child).unwrap_or(SIGCHLD_EVENT),
        )?;
        Ok(pidfd)
    }

    /// Makes each SIGCHLD notify the event from here on, whether the child is watched or not.
    ///
    /// Called on one thread at a time, the loop's. Fails if the system refuses the action.
    pub(crate) fn watch_by_signal(&self) -> io::Result<()> {
        if self.sigchld.get().is_none() {
            let sigchld =
                Sigchld::notify(Arc::clone(&self.sigchld_event), Arc::clone(&self.owner))?;
            let _ = self.sigchld.set(sigchld);
        }
        Ok(())
    }

    /// Whether SIGCHLD notifies the event.
    pub(crate) fn watches_by_signal(&self) -> bool {
        self.sigchld.get().is_some()
    }

    /// Whether children leave no status behind, because SIGCHLD is ignored. They then have to be checked one by one.
    pub(crate) fn are_reaped_by_the_kernel(&self) -> bool {
        self.sigchld.get().is_some_and(|sigchld| sigchld.reaped_by_the_kernel)
    }

    /// Ends a watch. Closing the pidfd would not end it: children that were forked in between have copies, and the kernel
    /// would go on reporting the child's end.
    pub(crate) fn remove(&self, watched: Watched) {
        if let Watched::ByDescriptor(pidfd) = watched {
            self.set.remove(pidfd.as_fd());
        }
    }

    /// Some of the children that have ended, at most [`ENDS_AT_ONCE`]. The others keep the descriptor readable.
    ///
    /// Never waits, and takes no memory. If the set cannot be asked, no ends are reported.
    pub(crate) fn ended(&self) -> Ended {
        let mut ended = Ended { signalled: false, children: [0; ENDS_AT_ONCE] };
        let found = self.set.wait::<ENDS_AT_ONCE>(super::Mode::Try).into_iter().flatten();
        for (place, number) in ended.children.iter_mut().zip(found) {
            // The event is cleared before the caller checks its children: an end after the check notifies it again.
            if number == SIGCHLD_EVENT {
                event::clear(&self.sigchld_event);
                ended.signalled = true;
            } else {
                *place = i32::try_from(number).unwrap_or(0);
            }
        }
        ended
    }
}

/// The answer of [`ExitWatch::ended`].
#[derive(Debug)]
pub(crate) struct Ended {
    /// SIGCHLD has come: a child has ended, perhaps one that is not watched by a descriptor.
    pub(crate) signalled: bool,
    /// The numbers of children. Zero marks an empty place: no process has this number.
    children: [i32; ENDS_AT_ONCE],
}

impl Ended {
    /// Children that are watched by a descriptor.
    pub(crate) fn children(&self) -> impl Iterator<Item = i32> + use<> {
        self.children.into_iter().filter(|child| *child != 0)
    }
}

/// The most children that one call of [`ExitWatch::ended`] reports. The reaper calls it after each request and each wait, and
/// seldom finds two.
const ENDS_AT_ONCE: usize = 8;

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Makes SIGCHLD notify an event, in addition to its earlier action, until this is dropped.
///
/// A server whose children all have pidfds never makes one, and leaves SIGCHLD alone, unless it adopts orphans.
#[derive(Debug)]
struct Sigchld {
    /// The registration of the action, for its removal.
    id: signal_hook_registry::SigId,
    /// SIGCHLD was ignored before this, or had SA_NOCLDWAIT. Then waitpid(2) finds no ended child.
    reaped_by_the_kernel: bool,
}

impl Sigchld {
    /// Adds the action, and keeps what the program has decided about its children: see sigaction(2), SA_NOCLDWAIT and
    /// SA_NOCLDSTOP, which signal-hook-registry does not pass on.
    fn notify(sigchld_event: Arc<event::Ends>, owner: Arc<OwnerProcess>) -> io::Result<Self> {
        let action = move || {
            // A forked child inherits this, and must not wake its parent.
            if owner.is_this_process() {
                event::notify(&sigchld_event);
            }
        };
        let before = action_of(libc::SIGCHLD)?;
        // SAFETY: the action asks for the process number and writes to a descriptor.
        let id = unsafe { signal_hook_registry::register(libc::SIGCHLD, action) }?;
        // If the signal was ignored, the kernel has reaped children so far. With SA_NOCLDWAIT it goes on doing so.
        let ignored = before.sa_sigaction == libc::SIG_IGN;
        let mut keep = before.sa_flags & (libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP);
        if ignored {
            keep |= libc::SA_NOCLDWAIT;
        }
        let mut action = action_of(libc::SIGCHLD)?;
        action.sa_flags |= keep;
        // SAFETY: the action is the one that has just been installed, with flags that change nothing for its handler;
        // and the pointer to it is to a live local.
        unsafe {
            check(libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()))?;
        }
        // The program that has started this one may have blocked it.
        change_mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD]);
        Ok(Self { id, reaped_by_the_kernel: keep & libc::SA_NOCLDWAIT != 0 })
    }
}

impl Drop for Sigchld {
    fn drop(&mut self) {
        signal_hook_registry::unregister(self.id);
    }
}
