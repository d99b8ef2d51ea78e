//! [`ClearCounters`]: under TLS, the bytes that the handler reads and writes, in addition to those on the wire.
//!
//! A connection in the clear has no such counters: its bytes are those on the wire, and a server without TLS pays for
//! an empty field. Under `Forking` the counters are in a row of common memory, which also has the state of the
//! connection's handshake. Through that state the parent makes a child end its handshake, so that there is room for
//! others: `handshakes.rs`.
//!
//! ```text
//!  parent or child           child                     parent
//!  begin_handshake           begin                     crowd_out
//!  0 ----------------> 3, 4, .. ----------------> 1
//!                        | \--- end_handshake ---> 0   (it has failed)
//!                        \-----------------------> 2   and SIGTERM follows
//! ```
//!
//! Both processes change the state by one compare-and-exchange from the state that they have seen. So a handshake is
//! either ended by the parent or over before that, never both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::shared_row::SharedRow;
use crate::sys::Common;

/// The rows of requests that children serve. A row has the state of the connection, the bytes read and the bytes
/// written.
///
/// | state | meaning | set by |
/// |---|---|---|
/// | 0 | it is in the clear | the parent, for a new request |
/// | from 3 on | a handshake has begun; the lower, the earlier | the child, or the parent if a handshake is sure to come |
/// | 1 | it is encrypted | the child, unless the state is 2 |
/// | 2 | its handshake has to make room | the parent, if a handshake is unfinished; never changed again |
///
/// The first row belongs to no slot: its first number counts the handshakes that have begun.
pub(super) type ClearRows = Common<NUMBERS>;

const NUMBERS: usize = 3;

const IN_THE_CLEAR: u64 = 0;
const ENCRYPTED: u64 = 1;
const CROWDED: u64 = 2;

/// Whether a child has ever begun a handshake, or was sure to begin one. If none has, the parent reads no row before it forks.
pub(super) fn have_handshakes(rows: &ClearRows) -> bool {
    rows.rows()[0][0].load(Ordering::SeqCst) > 0
}

/// The counters of one request's bytes in the clear. They take no memory beyond the fields until a handshake has ended.
#[derive(Debug)]
pub(super) struct ClearCounters {
    /// Bytes read and bytes written. Set when the TLS wrapper is in its place.
    own: OnceLock<Box<[AtomicU64; 2]>>,
    /// The row that is used instead of `own` if a child may serve the request.
    common: Option<Box<SharedRow<NUMBERS>>>,
}

impl ClearCounters {
    /// The counters of a new request, whose bytes are in the clear so far.
    pub(super) fn new(rows: Option<&Arc<ClearRows>>, slot: usize) -> Self {
        let common = SharedRow::new(rows, slot + 1).map(Box::new);
        let mut new = Self { own: OnceLock::new(), common };
        new.renew();
        new
    }

    /// Prepares the row for a new request: the last request of this slot may have left its numbers.
    pub(super) fn renew(&mut self) {
        self.own = OnceLock::new();
        if let Some(common) = &self.common {
            let [state, read, written] = common.numbers();
            // A row that no request under TLS has used has no memory yet, and a write would give it some.
            if state.load(Ordering::Relaxed) != IN_THE_CLEAR {
                for number in [state, read, written] {
                    number.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether these counters have memory of their own.
    pub(super) fn is_large(&self) -> bool {
        self.own.get().is_some()
    }

    /// Notes that the handshake has ended, and that the connection is encrypted. A handshake that has to make room
    /// keeps its state.
    pub(super) fn begin(&self) {
        match self.common {
            Some(_) => _ = self.change_state(|state| (state != CROWDED).then_some(ENCRYPTED)),
            None => drop(self.own.get_or_init(Box::default)),
        }
    }

    /// The counters of bytes read and bytes written; `None` while the connection is in the clear.
    pub(super) fn get(&self) -> Option<[&AtomicU64; 2]> {
        if let Some(common) = &self.common {
            let [state, read, written] = common.numbers();
            return (state.load(Ordering::Relaxed) == ENCRYPTED).then_some([read, written]);
        }
        let [read, written] = &**self.own.get()?;
        Some([read, written])
    }

    /// The state, if it is in common memory. Otherwise no other process asks for it.
    fn state(&self) -> Option<&AtomicU64> {
        self.common.as_ref().map(|common| &common.numbers()[0])
    }

    /// Changes the state in one step, because parent and child both change it. Returns false if `change` returned
    /// `None`, or if there is no row.
    fn change_state(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        let Some(state) = self.state() else { return false };
        state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    /// Notes that a handshake begins, or is sure to come. Returns false if there is no row: the list of this process
    /// (`handshakes.rs`) then has the handshake.
    pub(super) fn begin_handshake(&self) -> bool {
        let Some(common) = &self.common else { return false };
        // The numbers of handshakes begin above all other states. In 64 bits they never wrap.
        let number = common.all()[0][0].fetch_add(1, Ordering::SeqCst) + 1 + CROWDED;
        // If the parent has noted the handshake already, the child's call changes nothing.
        self.change_state(|state| (state == IN_THE_CLEAR).then_some(number));
        true
    }

    /// Notes that the handshake is over, whether it succeeded or failed. After a success the state is `ENCRYPTED`
    /// already, and this changes nothing.
    pub(super) fn end_handshake(&self) {
        self.change_state(|state| (state > CROWDED).then_some(IN_THE_CLEAR));
    }

    /// The number of the unfinished handshake: the lower, the earlier it has begun. `None` if there is none.
    pub(super) fn unfinished_since(&self) -> Option<u64> {
        let state = self.state()?.load(Ordering::SeqCst);
        (state > CROWDED).then_some(state)
    }

    /// Makes an unfinished handshake end, for the sake of others. Returns false if it has ended already, or was chosen
    /// before.
    pub(super) fn crowd_out(&self) -> bool {
        self.change_state(|state| (state > CROWDED).then_some(CROWDED))
    }

    /// Whether the handshake has to end to make room for others.
    pub(super) fn is_crowded_out(&self) -> bool {
        self.state().is_some_and(|state| state.load(Ordering::SeqCst) == CROWDED)
    }
}
