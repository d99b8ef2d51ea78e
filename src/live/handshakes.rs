//! [`Handshakes`]: the unfinished handshakes of a server, and which of them ends when there are too many.
//!
//! When there are too many, the oldest one ends. To refuse the newest would let a peer that opens connections and stays
//! silent keep everybody else out. An honest client is done after two round trips, so the handshake that has lasted
//! longest is the least likely to be an honest client's.
//!
//! ```text
//! worker: enter     under the lock: it is the newest; beyond the maximum the oldest leaves, and is cut (Crowded)
//!         ...       its worker finds the cut at its next receive, or is woken by it
//!         leave     under the lock: from here on nobody cuts it, so a check for the cut after this is final
//! ```
//!
//! Under `Forking` each child has one handshake, and knows no other. So the state of each handshake is in memory that all
//! processes share (`clear_counters.rs`), and the parent reads it whenever it is about to fork a further child:
//!
//! ```text
//! parent: make_room      counts the next child's handshake too; beyond the maximum the oldest becomes `crowded out`, and
//!                        SIGTERM follows
//! child:  enter          unfinished
//!         SIGTERM        crowded out? then the connection is cut (Crowded), and the signal begins no drain
//!         leave          from here on the parent cuts it no more
//! ```
//!
//! The handler's own TLS, in a wrapper that this crate does not know, is no handshake here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Cut, Entry, LiveList, clear_counters};
use crate::sys;

/// The unfinished handshakes of one server, in its context. A forked child has a copy, and does not use it.
#[derive(Default)]
pub(crate) struct Handshakes {
    unfinished: Mutex<InOrder>,
}

/// The unfinished handshakes, in the order in which they have begun. This need not be the order of the requests: with
/// STARTTLS an old connection begins a handshake late.
#[derive(Default)]
struct InOrder {
    /// How many handshakes have ever begun: the number of the newest. Numbers are not used again, so a guard never removes
    /// another guard's handshake.
    begun: u64,
    unfinished: BTreeMap<u64, Arc<Entry>>,
}

impl Handshakes {
    /// Begins a handshake, which ends when the guard is dropped. Beyond the maximum (`Limits::handshakes`, of this
    /// request) the oldest handshake is ended. The worker calls this before the first byte of the handshake. It takes a
    /// lock, and never waits.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS has handshakes"))]
    pub(crate) fn enter<'a>(&'a self, entry: &'a Arc<Entry>, max: usize) -> Unfinished<'a> {
        if entry.clear.begin_handshake() {
            return Unfinished::InCommon(entry);
        }
        let (number, oldest) = {
            let InOrder { begun, unfinished } = &mut *self.unfinished.lock();
            *begun += 1;
            unfinished.insert(*begun, Arc::clone(entry));
            // With a maximum of zero the newest one still goes on: otherwise no handshake would ever succeed.
            let is_one_too_many = unfinished.len() > max.max(1);
            (*begun, is_one_too_many.then(|| unfinished.pop_first()).flatten())
        };
        // The lock is not held here: the shutdown is a system call, and wakes a worker that wants the lock.
        if let Some((_, oldest)) = oldest {
            oldest.shut_down(Cut::Crowded, Shutdown::Both);
        }
        Unfinished::Here { all: self, number }
    }

    /// How many handshakes are in the list of this process.
    pub(crate) fn len(&self) -> usize {
        self.unfinished.lock().unfinished.len()
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshakes({} unfinished)", self.len())
    }
}

/// An unfinished handshake. Its drop takes the handshake off the list, unless it was ended to make room and is off the
/// list already.
pub(crate) enum Unfinished<'a> {
    /// A handshake with this number in the list of this process.
    Here { all: &'a Handshakes, number: u64 },
    /// A handshake whose state is in memory that parent and child have in common.
    InCommon(&'a Entry),
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        match *self {
            Self::Here { all, number } => _ = all.unfinished.lock().unfinished.remove(&number),
            Self::InCommon(entry) => entry.clear.end_handshake(),
        }
    }
}

impl LiveList {
    /// Ends the oldest unfinished handshakes of children, if there are too many. The parent calls this before it forks
    /// for a request.
    ///
    /// `begins`: whether the request begins with a handshake. `children`: how many children there may be at once.
    ///
    /// The places that other requests leave are for handshakes. A quarter of these places, and at least one, stays free
    /// for requests that come: a parent without a free place does not get here, and so could make no room. (If only one
    /// place is left, the newest handshake gets it.)
    pub(crate) fn make_room(&self, entry: &Entry, begins: bool, children: usize) {
        let slots = self.slots.lock();
        // As long as no child has ever begun a handshake, no row is read.
        if begins {
            entry.clear.begin_handshake();
        } else if !slots.clear.as_ref().is_some_and(|rows| clear_counters::have_handshakes(rows)) {
            return;
        }
        let since = |entry: &Arc<Entry>| Some((entry.clear.unfinished_since()?, Arc::clone(entry)));
        let mut unfinished: Vec<_> = slots.live().filter_map(since).collect();
        // With 40 children of which 20 serve other requests, 20 places are left. A quarter stays free: 15 handshakes at
        // most.
        let others = slots.live().count() - unfinished.len();
        let places = children.min(entry.limits.live).min(slots.budget).saturating_sub(others);
        // The lock is released before the signals, which are system calls.
        drop(slots);
        let max = entry.limits.handshakes.min(places - places.div_ceil(4)).max(1);
        let Some(beyond) = unfinished.len().checked_sub(max) else { return };
        unfinished.sort_unstable_by_key(|(since, _)| *since);
        for (_, oldest) in &unfinished[..beyond] {
            oldest.crowd_out_of_child();
        }
    }
}

impl Entry {
    /// Makes the child of this entry end its handshake, unless the handshake is over. The parent calls this. The entry
    /// of the request for which it is about to fork has no child yet, and is passed over.
    fn crowd_out_of_child(&self) {
        let child = self.marks.process.load(Ordering::Relaxed);
        if child > 0 && self.clear.crowd_out() {
            sys::child_process::signal(child, libc::SIGTERM);
        }
    }

    /// Whether the request's handshake was ended to make room: by another worker, or in a child by its parent. The
    /// answer is final once the guard is dropped.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS has handshakes"))]
    pub(crate) fn is_crowded_out(&self) -> bool {
        self.cut() == Some(Cut::Crowded) || self.clear.is_crowded_out()
    }

    /// Ends the connection of a child if its handshake has to make room. The child's signal handler calls this, so this
    /// only tries the lock. Returns false if the signal means something else, as every later signal does.
    pub(crate) fn end_if_crowded_out(&self) -> bool {
        let crowded = Cut::Crowded as u8;
        let begins = self.clear.is_crowded_out()
            && self.marks.cut.swap(crowded, Ordering::SeqCst) != crowded;
        if begins {
            self.try_shut_connection(Shutdown::Both);
        }
        begins
    }
}
