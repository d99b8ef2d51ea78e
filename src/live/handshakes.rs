//! [`Handshakes`]: the unfinished handshakes of a server, and which of them ends when there are too many.
//!
//! When there are too many, the oldest one ends. To refuse the newest would let a peer that opens connections and
//! stays silent keep everybody else out. An honest client is done after two round trips, so the handshake that has
//! waited longest is the least likely to be one.
//!
//! ```text
//! worker: enter     under the lock: it is the newest; beyond the maximum the oldest leaves, and is cut (Crowded)
//!         ...       its worker finds the cut at its next receive, or is woken by it
//!         leave     under the lock: from here on nobody cuts it, so a look at the cut after this is final
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::Shutdown;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Cut, Entry};

/// A forked child has a copy, and one handshake.
#[derive(Default)]
pub(crate) struct Handshakes {
    unfinished: Mutex<InOrder>,
}

/// In the order in which the handshakes have begun. This need not be the order of the requests: with STARTTLS an old
/// connection begins a handshake late.
#[derive(Default)]
struct InOrder {
    /// How many have ever begun.
    begun: u64,
    unfinished: BTreeMap<u64, Arc<Entry>>,
}

impl Handshakes {
    /// A handshake begins. It ends when the guard is dropped. Beyond the maximum the oldest handshake is ended.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS has handshakes"))]
    pub(crate) fn enter(&self, entry: &Arc<Entry>, max: usize) -> Unfinished<'_> {
        let (number, oldest) = {
            let InOrder { begun, unfinished } = &mut *self.unfinished.lock();
            *begun += 1;
            unfinished.insert(*begun, Arc::clone(entry));
            let is_one_too_many = unfinished.len() > max.max(1);
            (*begun, is_one_too_many.then(|| unfinished.pop_first()).flatten())
        };
        // Without the lock: it is a system call, and wakes a worker that wants the lock.
        if let Some((_, oldest)) = oldest {
            oldest.shut_down(Cut::Crowded, Shutdown::Both);
        }
        Unfinished { all: self, number }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.unfinished.lock().unfinished.len()
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshakes({} unfinished)", self.len())
    }
}

/// An unfinished handshake. Its drop takes it off the list.
pub(crate) struct Unfinished<'a> {
    all: &'a Handshakes,
    number: u64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.all.unfinished.lock().unfinished.remove(&self.number);
    }
}
