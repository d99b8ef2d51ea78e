//! Orphans: processes that this one has not started and has to wait for all the same, because it is the first of a
//! container, or has made itself a subreaper.
//!
//! Nothing in the system tells an adopted process from a child of one's own, and to wait for a child of
//! `std::process::Command` would be to steal its status. So whatever a request's process starts is marked by something
//! that every descendant inherits, also across `exec`, and that is still to be seen when it has ended: a limit of its
//! own for file locks, which Linux has not heeded since 2.4.25.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check;
use super::child_process::{ChildState, reap};

/// What marks the descendants of the children of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrphanMark {
    locks: u64,
}

/// Any number that nobody sets: what matters is that it differs from that of this process, and of its other servers.
const FIRST: u64 = 0x5350_0000;

/// How many marks there have been: another server of this process must not wait for the children of this one.
static MARKS: AtomicU64 = AtomicU64::new(0);

impl OrphanMark {
    /// One that nobody else has. None, if this process adopts nobody: then there is nothing to mark.
    pub(crate) fn if_orphans_come() -> Option<Self> {
        if std::process::id() != 1 && !is_subreaper() {
            return None;
        }
        let number = MARKS.fetch_add(1, Ordering::Relaxed);
        // A server may have been started by a handler of another.
        let own = limit_of(0).ok()?.rlim_cur as u64;
        let locks = FIRST + number;
        Some(Self { locks: if locks == own { locks + 0x1_0000 } else { locks } })
    }

    /// What it is known by; never zero.
    pub(crate) fn number(self) -> u64 {
        self.locks
    }

    /// The one of a number.
    pub(crate) fn of_number(number: u64) -> Option<Self> {
        (number != 0).then_some(Self { locks: number })
    }

    /// Marks this process and all that it starts from here on.
    pub(crate) fn put(self) {
        let Ok(mut limit) = limit_of(0) else { return };
        limit.rlim_cur = self.locks as libc::rlim_t;
        // Without the mark its orphans are not waited for.
        // SAFETY: the pointer is to a live structure.
        unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &raw const limit) };
    }

    /// Waits for this process, if it is marked and has ended. Says whether that is so.
    pub(crate) fn reap(self, orphan: i32) -> bool {
        let is_marked =
            limit_of(orphan).is_ok_and(|limit| limit.rlim_cur == self.locks as libc::rlim_t);
        is_marked && !matches!(reap(orphan), ChildState::Running)
    }
}

/// The limit of a process, this one by 0, whether it has ended or not.
/// [prlimit(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html)
fn limit_of(process: i32) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: nothing is set, and the other pointer is to a live structure.
    check(unsafe { libc::prlimit(process, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut limit) })?;
    Ok(limit)
}

fn is_subreaper() -> bool {
    let mut is: libc::c_int = 0;
    // SAFETY: the call writes an int, and the pointer is to a live one.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is) };
    result == 0 && is != 0
}

/// The children of this thread: of the process, if there is no other.
pub(crate) fn children() -> Vec<i32> {
    let listed = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    listed.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}
