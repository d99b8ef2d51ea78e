//! How the parent learns that a child has ended, and reaps it: Python's `collect_children`.
//!
//! A busy loop does not watch its children. After each request it asks which children have ended
//! ([`collect`](Children::collect)), and reaps most of them in this way. Only before the loop waits does it have each child
//! watched, so that the child's end makes a descriptor readable ([`watch`](Children::watch)):
//!
//! ```text
//! fork, add --> not watched --+-- collect: one waitid for all of these --> reaped
//!                             |
//!                   the loop is about to wait: watch
//!                             |
//!                             v
//!                          watched ---- the wait wakes, collect asks those that the watch names --> reaped
//! ```
//!
//! `watch` then tries to reap each child that it has begun to watch: a child that has ended already may wake nothing.
//!
//! **Only our own.** The program may have children of its own, by `std::process::Command` say, and so may another server of
//! the process. So no call reaps whatever has ended: `waitid` is asked to leave what it finds (WNOWAIT), and a child is
//! reaped by its number, if the table has it. A foreign child that `waitid` finds hides ours; then each of ours is asked
//! for by its number.
//!
//! **The lock** is held only while the table is read or changed: not for a system call that reaps, and not for the end of a
//! request, which calls the observer. If two calls find the same child, the one that takes it out of the table ends its
//! request.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::ChildEnd;
use super::children::{Child, Children, Table};
use super::exit_status::{Status, end_of, ended_otherwise};
use super::text_pipe::TextPipe;
use crate::events::CloseReason;
use crate::process::OwnerProcess;
use crate::sys::child_process::{self, ChildState};
use crate::sys::exit_watch::{Ended, ExitWatch};
use crate::sys::orphan_reaper::{self, OrphanMark};
use crate::wait::{self, Interest, Waiting};

/// The means by which the parent learns of its children's ends.
#[derive(Debug)]
pub(super) struct Reports {
    /// Readable while a watched child has ended.
    pub(super) exits: ExitWatch,
    /// The texts of ends that stop the server (`Fatal`). Children write to it.
    pub(super) fatal: TextPipe,
    /// The texts of steps that have failed before a handler. Peers cause these, so they have a pipe of their own, and never
    /// fill the pipe of the fatal ends.
    pub(super) steps: TextPipe,
    /// The process that has forked the children.
    pub(super) owner: OwnerProcess,
    /// The number of an [`OrphanMark`], or zero if this process adopts no orphans. An atomic and not a lock: to take a lock
    /// between two forks would write to its page, which the kernel would then copy.
    pub(super) mark: AtomicU64,
}

/// If this process adopts orphans, has their ends reported as those of children are. Returns the number of the mark, or
/// zero if it adopts none. A process adopts orphans as process 1 of a container, or as a "subreaper": the children of a
/// handler's process become its own when the handler's process ends.
pub(super) fn report_orphans(exits: &ExitWatch) -> io::Result<u64> {
    let Some(mark) = OrphanMark::if_orphans_come() else { return Ok(0) };
    exits.watch_by_signal()?;
    Ok(mark.number())
}

impl Reports {
    /// The mark that each child puts on itself; none if no orphans come.
    pub(super) fn orphan_mark(&self) -> Option<OrphanMark> {
        OrphanMark::of_number(self.mark.load(Ordering::Relaxed))
    }

    /// Sends the text of a child's end, if it has one, to the parent. Called in the child, before it exits.
    #[inline]
    pub(super) fn send_text(&self, end: &ChildEnd) {
        if let Some(text) = &end.text {
            self.texts(end.reason).send(text);
        }
    }

    /// In the parent: finds out from a child's status, and its text, how its request has ended. The child has been reaped,
    /// and is still in the table.
    fn end(&self, child: i32, status: i32, table: &Mutex<Table>) -> ChildEnd {
        let Status { reason, stop, has_text } = end_of(status);
        let texts = self.texts(reason);
        let receive = || texts.receive_from(child, |other| table.lock().has(other));
        // The status says that there was a text, but the pipe had no room for it.
        let lost = || "a child process could not say more".to_owned();
        let text = has_text.then(|| receive().unwrap_or_else(lost));
        ChildEnd { reason, text, stop, cut_off: false }
    }

    /// The pipe for texts of this kind of end.
    fn texts(&self, reason: CloseReason) -> &TextPipe {
        if reason == CloseReason::Fatal { &self.fatal } else { &self.steps }
    }
}

impl Children {
    /// Watches all children: from here on the end of each wakes a wait for [`event_fd`](Self::event_fd). Called before
    /// waits, and before children are signalled: the number of a child that another part of the program has reaped may be a
    /// stranger's.
    pub(super) fn watch(&self) {
        let Some(reports) = self.reports.get() else { return };
        // Most waits find nothing new, and an empty vector takes no memory.
        let mut new = Vec::new();
        for child in self.table.lock().iter_mut().filter(|child| child.watched.is_none()) {
            // A child that cannot be watched stays unwatched, and `collect` asks for it after each request.
            child.watched = reports.exits.add(child.pid).ok();
            // A child that cannot be watched is on this list as well: it may have ended.
            new.push(child.pid);
        }
        for pid in new {
            self.collect_one(reports, pid);
        }
    }

    /// Reaps the children that have ended, and ends their requests: Python's `collect_children`. Never waits. Called after each
    /// request and each wait, so each of its steps costs nothing where it has nothing to do:
    ///
    /// 1. It reaps the children that the watch names. Without a watched child, the watch is not asked.
    /// 2. If the program ignores SIGCHLD, the kernel reaps, and reports only that some child has ended: each is asked for.
    /// 3. It reaps unwatched children, and orphans, one after the other, until none is left that has ended.
    pub(super) fn collect(&self) {
        let Some(reports) = self.reports.get() else { return };
        // The table is searched anew at each turn of the loop below, which changes it.
        let is_any = |is: fn(&Child) -> bool| self.table.lock().iter().any(is);
        // Without a watched child the watch has nothing to report, and the system call is spared.
        let asks_watch = is_any(Child::is_watched) || reports.exits.watches_by_signal();
        let ended = asks_watch.then(|| reports.exits.ended());
        for pid in ended.iter().flat_map(Ended::children) {
            self.collect_one(reports, pid);
        }
        let signalled = ended.is_some_and(|ended| ended.signalled);
        // The loop below never finds children that the kernel has reaped: they leave nothing to wait for.
        if signalled && reports.exits.are_reaped_by_the_kernel() {
            self.collect_each(reports);
        }
        // Only SIGCHLD reports the end of an orphan, so without the signal there is no orphan to reap.
        let mark = if signalled { reports.orphan_mark() } else { None };
        let reap_orphan = |pid| mark.is_some_and(|mark| mark.reap(pid));
        // One call asks for any child that has ended. If it names a foreign child, that child hides ours until it is reaped,
        // so each of ours is asked for by its number.
        while mark.is_some() || is_any(|child| !child.is_watched()) {
            // None: no child of this process has ended, be it this server's or not.
            let Some(pid) = child_process::ended_child() else { return };
            // Reaped: the next turn finds the next child.
            if self.collect_one(reports, pid) || reap_orphan(pid) {
                continue;
            }
            // Foreign: the next turn would find the same child, so this turn is the last.
            self.collect_each(reports);
            if mark.is_some() {
                for pid in orphan_reaper::children() {
                    reap_orphan(pid);
                }
            }
            return;
        }
    }

    /// Asks for each child by its number, which costs a system call for each.
    fn collect_each(&self, reports: &Reports) {
        for pid in self.pids() {
            self.collect_one(reports, pid);
        }
    }

    /// Reaps a child, if it is in the table and has ended, and ends its request. Returns true if this call has done so. A
    /// child that another part of the program has reaped is `Gone`, and its request counts as `Released`.
    fn collect_one(&self, reports: &Reports, pid: i32) -> bool {
        // The table decides: a foreign child's status is not this server's to take.
        if !self.table.lock().has(pid) {
            return false;
        }
        // The table is not locked here: this is a system call, and `active_children` may be asked meanwhile.
        let end = match child_process::reap(pid) {
            ChildState::Running => return false,
            ChildState::Exited(status) => reports.end(pid, status, &self.table),
            // SIGKILL is what this server sends; a crash ends by other signals.
            ChildState::Killed(signal) => {
                ended_otherwise(CloseReason::Killed, signal == libc::SIGKILL)
            }
            ChildState::Gone => ended_otherwise(CloseReason::Released, true),
        };
        let child = self.table.lock().take(pid);
        // None: another call has taken the child first, and ends its request.
        let Some(child) = child else { return false };
        // This comes before the drop that closes the pidfd: see `ExitWatch::remove`.
        if let Some(watched) = child.watched {
            reports.exits.remove(watched);
        }
        // The table is not locked here: this calls the observer, which may ask for the children.
        if let Some(request) = child.request {
            request.ended(end);
        }
        true
    }

    /// Waits for the children to end, until the deadline. Called in a drain, when the loop does not wait for them any more.
    pub(super) fn wait_until_none(&self, deadline: Instant) {
        let Some(exits) = self.event_fd() else { return };
        loop {
            // The order counts: no child may be unwatched when the wait begins.
            self.watch();
            self.collect();
            if self.len() == 0 || Instant::now() >= deadline {
                return;
            }
            let exit = Waiting { fd: exits, interest: Interest::Read, slot: None };
            if wait::any(&[exit], Some(deadline)).is_err() {
                return;
            }
        }
    }
}
