//! Orphans: processes that this one has not started but has to wait for all the same, because it is the first process
//! of a container, or a subreaper.
//!
//! The system does not tell an adopted process from a child of one's own, and waiting for a child of
//! `std::process::Command` would steal its status. So the children that serve requests carry a mark. All their
//! descendants inherit it, also across `exec`, and it can be read when they have ended: a limit for file locks
//! (`RLIMIT_LOCKS`), which Linux has not enforced since 2.4.25.
//!
//! ```text
//! parent: if_orphans_come       a mark for each server, or none
//! child: put                    before the handler runs; its descendants inherit it
//! parent: SIGCHLD               ended_child, or children, names a process
//!         reap                  marked: reaped; otherwise left to its own parent's code
//! ```

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check;
use super::child_process::{ChildState, reap};

/// The mark of the descendants of one server's children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrphanMark {
    /// The soft limit of RLIMIT_LOCKS that the marked processes have.
    locks: u64,
}

/// The first mark: a number that no program sets. A mark has to differ from the limit of this process, and from the
/// marks of its other servers.
const FIRST_MARK: u64 = 0x5350_0000;

/// How many marks there have been so far.
static MARK_COUNT: AtomicU64 = AtomicU64::new(0);

impl OrphanMark {
    /// A new mark. None, if this process adopts no orphans: then there is nothing to mark.
    pub(crate) fn if_orphans_come() -> Option<Self> {
        if std::process::id() != 1 && !is_subreaper() {
            return None;
        }
        let number = MARK_COUNT.fetch_add(1, Ordering::Relaxed);
        // A handler of another server may have started this process, which then has that server's mark.
        let own = limit_of(0).ok()?.rlim_cur as u64;
        let locks = FIRST_MARK + number;
        Some(Self { locks: if locks == own { locks + 0x1_0000 } else { locks } })
    }

    /// The number of the mark; never zero.
    pub(crate) fn number(self) -> u64 {
        self.locks
    }

    /// The mark with this number; none for zero.
    pub(crate) fn of_number(number: u64) -> Option<Self> {
        (number != 0).then_some(Self { locks: number })
    }

    /// Marks this process and all that it starts from here on.
    ///
    /// Called in the child, before it runs anything: a limit is inherited by fork and kept by exec.
    pub(crate) fn put(self) {
        let Ok(mut limit) = limit_of(0) else { return };
        limit.rlim_cur = self.locks as libc::rlim_t;
        // After a failure the process is unmarked, and its orphans are not reaped.
        // SAFETY: the pointer is to a live structure.
        unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &raw const limit) };
    }

    /// Reaps a process, if it has the mark and has ended. Returns whether it was reaped.
    ///
    /// The mark is read first. A process without the mark is not reaped, because it may be a child of
    /// `std::process::Command`.
    pub(crate) fn reap(self, orphan: i32) -> bool {
        let is_marked =
            limit_of(orphan).is_ok_and(|limit| limit.rlim_cur == self.locks as libc::rlim_t);
        is_marked && !matches!(reap(orphan), ChildState::Running)
    }
}

/// The limit of a process, whether it has ended or not; 0 stands for this process.
/// [prlimit(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html)
fn limit_of(process: i32) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: nothing is set, and the other pointer is to a live structure.
    check(unsafe { libc::prlimit(process, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut limit) })?;
    Ok(limit)
}

/// Whether orphans among this process's descendants become its children:
/// [prctl(2)](https://man7.org/linux/man-pages/man2/prctl.2.html), PR_GET_CHILD_SUBREAPER. False if the system does not
/// tell.
fn is_subreaper() -> bool {
    let mut is: libc::c_int = 0;
    // SAFETY: the call writes an int, and the pointer is to a live one.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is) };
    result == 0 && is != 0
}

/// The children of this thread: all children of the process, if it has no other thread.
///
/// [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html). Empty if the kernel was built without the list
/// (CONFIG_PROC_CHILDREN). Children that have ended and are not reaped are in the list.
pub(crate) fn children() -> Vec<i32> {
    let listed = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    listed.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}
