//! [`Children`]: the children of a server that have not been reaped. `reaper.rs` says how the parent learns of their ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::RequestOfChild;
use super::reaper::{Reports, report_orphans};
use super::text_pipe::TextPipe;
use crate::console;
use crate::process::OwnerProcess;
use crate::sys::child_process;
use crate::sys::exit_watch::{ExitWatch, Watched};

/// The children of one [`Forking`](super::Forking), and the means by which it learns of their ends. Only the thread of the
/// loop forks and reaps; any thread may ask for `active_children`.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// Children from their fork until they are reaped.
    pub(super) table: Mutex<Table>,
    /// Made when the first run begins: a mixin that serves nothing takes no descriptors.
    pub(super) reports: OnceLock<Reports>,
}

/// Children by their process numbers, in no order. It is searched from its beginning: `max_children` keeps it short.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The first few children, stored beside the lock. The memory of a vector would be one more page that the parent writes
    /// to between two forks, and that the kernel then copies.
    near: [Option<Child>; 8],
    /// The other children, in no order.
    more: Vec<Child>,
}

impl Table {
    /// All children; the free places of `near` are skipped.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Child> {
        self.near.iter().flatten().chain(&self.more)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        self.near.iter_mut().flatten().chain(&mut self.more)
    }

    fn push(&mut self, child: Child) {
        match self.near.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(child),
            None => self.more.push(child),
        }
    }

    pub(super) fn has(&self, pid: i32) -> bool {
        self.iter().any(|child| child.pid == pid)
    }

    /// Takes a child out, if it is there.
    pub(super) fn take(&mut self, pid: i32) -> Option<Child> {
        let near = self.near.iter_mut().find_map(|place| place.take_if(|child| child.pid == pid));
        near.or_else(|| {
            let index = self.more.iter().position(|child| child.pid == pid)?;
            Some(self.more.swap_remove(index))
        })
    }
}

/// A child that has not been reaped.
pub(super) struct Child {
    /// The process number. Only `collect_one` reaps it.
    pub(super) pid: i32,
    /// The request that the child serves; its `ended` is called when the child is reaped. Always there in practice, as a
    /// job without its work starts no child.
    pub(super) request: Option<Box<dyn RequestOfChild>>,
    /// How the end of the child is reported. None until the loop first waits: to watch a child costs more than to ask after
    /// each request which child has ended.
    pub(super) watched: Option<Watched>,
}

impl Child {
    /// Whether a descriptor of the child's own (a pidfd) reports the child's end.
    pub(super) fn is_watched(&self) -> bool {
        matches!(self.watched, Some(Watched::ByDescriptor(_)))
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Children {
    /// The process numbers of all children. A copy, so that the caller does not work with the table locked.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.table.lock().iter().map(|child| child.pid).collect()
    }

    /// The number of children that have not been reaped: those that run, and those whose end has not been noticed yet.
    pub(super) fn len(&self) -> usize {
        self.table.lock().iter().count()
    }

    /// Adds a child, right after the fork. The child may have ended already.
    pub(super) fn add(&self, pid: i32, request: Option<Box<dyn RequestOfChild>>) {
        self.table.lock().push(Child { pid, request, watched: None });
    }

    /// The reports. The first call makes them, and takes six descriptors. It comes before the first fork of a run, so that
    /// a lack of descriptors ends the run with an error and refuses no request.
    pub(super) fn reports(&self) -> io::Result<&Reports> {
        if let Some(reports) = self.reports.get() {
            return Ok(reports);
        }
        // This needs no lock, because only the thread of the loop gets here. If one part cannot be made, the earlier parts
        // are dropped.
        let (exits, owner) = (ExitWatch::new()?, OwnerProcess::noted());
        let (fatal, steps) = (TextPipe::new()?, TextPipe::new()?);
        // The memory that children share with this process has to exist before the first fork.
        console::share_with_children();
        let mark = AtomicU64::new(report_orphans(&exits)?);
        Ok(self.reports.get_or_init(|| Reports { exits, fatal, steps, owner, mark }))
    }

    /// Called before a run. If this process is a forked child that goes on to run the server itself, the children in the
    /// table are its parent's: they are forgotten, and the reports are renewed.
    pub(super) fn enter_process(&self) -> io::Result<()> {
        let reports = self.reports()?;
        if reports.owner.is_noted() {
            return Ok(());
        }
        // The children are forgotten and not dropped: their watches and permits are the parent's to give back.
        std::mem::forget(std::mem::take(&mut *self.table.lock()));
        // The owner is noted last: if one of these steps fails, the next run tries all of them again.
        reports.exits.renew()?;
        reports.fatal.renew()?;
        reports.steps.renew()?;
        reports.mark.store(report_orphans(&reports.exits)?, Ordering::SeqCst);
        reports.owner.become_noted();
        Ok(())
    }

    /// A descriptor that is readable while a watched child has ended and is not reaped. None before the first run.
    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.reports.get().map(|reports| reports.exits.as_fd())
    }

    /// Signals each child that has not ended. The caller has called [`watch`](Self::watch), which takes the children out
    /// of the table that another part of the program has reaped.
    pub(super) fn signal_all(&self, signal: libc::c_int) {
        for child in self.table.lock().iter() {
            child_process::signal(child.pid, signal);
        }
    }
}
