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

/// The table and the reports of one mixin. Only the thread of the loop forks and reaps; `active_children` may be
/// asked from any.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// Children from their fork until they are reaped.
    pub(super) table: Mutex<Table>,
    /// Made when the first run begins: a mixin alone needs no descriptors.
    pub(super) reports: OnceLock<Reports>,
}

/// Searched from its beginning: `max_children` keeps it short.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The first few, beside the lock: the memory of a vector is one more page that the parent writes to between two forks,
    /// and that the kernel copies.
    near: [Option<Child>; 8],
    /// The others, in no order.
    more: Vec<Child>,
}

impl Table {
    /// All of them: a free place of the near ones is skipped.
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
    /// Reaped by `collect_one` alone.
    pub(super) pid: i32,
    /// Ended when the child is reaped. None for a job that was taken before.
    pub(super) request: Option<Box<dyn RequestOfChild>>,
    /// None until the loop first waits: to watch costs more than to look.
    pub(super) watched: Option<Watched>,
}

impl Child {
    /// Whether its descriptor tells of its end.
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
    /// A copy: nothing is called with the table locked.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.table.lock().iter().map(|child| child.pid).collect()
    }

    /// Those that are known to run, and those whose end has not been noticed yet.
    pub(super) fn len(&self) -> usize {
        self.table.lock().iter().count()
    }

    /// Adds a child, right after the fork. The child may have ended already.
    pub(super) fn add(&self, pid: i32, request: Option<Box<dyn RequestOfChild>>) {
        self.table.lock().push(Child { pid, request, watched: None });
    }

    /// Makes the reports at the first call, which takes six descriptors. Before the first fork of a run, so that a lack of
    /// descriptors ends the run with an error and refuses no request.
    pub(super) fn reports(&self) -> io::Result<&Reports> {
        if let Some(reports) = self.reports.get() {
            return Ok(reports);
        }
        // One after the other, and no lock: only the thread of the loop gets here. All or nothing: a set without the other parts
        // is dropped again.
        let (exits, owner) = (ExitWatch::new()?, OwnerProcess::noted());
        let (fatal, steps) = (TextPipe::new()?, TextPipe::new()?);
        // Before the first fork: the memory that is shared has to be there then.
        console::share_with_children();
        let mark = AtomicU64::new(report_orphans(&exits)?);
        Ok(self.reports.get_or_init(|| Reports { exits, fatal, steps, owner, mark }))
    }

    /// Before a run. In a forked child that goes on for itself, the children so far are its parent's.
    pub(super) fn enter_process(&self) -> io::Result<()> {
        let reports = self.reports()?;
        if reports.owner.is_noted() {
            return Ok(());
        }
        // Neither the watch of a child nor its permit is this process's to give back.
        std::mem::forget(std::mem::take(&mut *self.table.lock()));
        // The owner last: if one of these fails, the next run tries all of them again.
        reports.exits.renew()?;
        reports.fatal.renew()?;
        reports.steps.renew()?;
        reports.mark.store(report_orphans(&reports.exits)?, Ordering::SeqCst);
        reports.owner.become_noted();
        Ok(())
    }

    /// Readable while a child that is watched has ended.
    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.reports.get().map(|reports| reports.exits.as_fd())
    }

    /// Signals each child that has not ended. [`watch`](Self::watch) comes before, so that each number is a child's.
    pub(super) fn signal_all(&self, signal: libc::c_int) {
        for child in self.table.lock().iter() {
            child_process::signal(child.pid, signal);
        }
    }
}
