//! The companions of a request: connections that its handler has made, and that end when the request is cut off.
//!
//! A handler that waits for another server does not notice the end of its own connection. So a cut of that connection
//! also ends the others, and this wakes the handler.
//!
//! ```text
//! the handler                        a thread that cuts the request off
//! add_companion: pushes              stores the cut
//!   is it cut off? ends it           end_companions: ends all that are in the list
//! ```
//!
//! At least one of the two sees the other, so no connection that was made during a cut is forgotten. Both may: `end` may
//! be called twice. A request without companions pays one load when it is cut off.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Entry;

/// A connection that can be ended from any thread.
pub(crate) trait Companion: Send + Sync {
    /// Ends it, without waiting. A call that waits for it fails. Called under the lock of the companions, and at the deadline
    /// of a drain also under the lock of the list: it must take neither.
    fn end(&self);
}

/// The companions of one request. Some may end before the request does, so the references are weak and keep none of
/// them open.
pub(super) type Companions = Mutex<Vec<Weak<dyn Companion>>>;

impl Entry {
    /// Adds a companion, which ends when the request is cut off. If the request is cut off already, the companion
    /// ends at once.
    pub(crate) fn add_companion(&self, companion: &Arc<dyn Companion>) {
        {
            let mut list = self.marks.rare.get_or_init(Box::default).companions.lock();
            // A handler that makes one connection after another must not grow the list: ended ones are dropped here.
            list.retain(|companion| companion.strong_count() > 0);
            list.push(Arc::downgrade(companion));
        }
        // After the push: a cut that comes now either finds the companion in the list, or is seen here.
        if self.is_cut_off() {
            companion.end();
        }
    }

    /// Ends all companions: the request has been cut off.
    pub(super) fn end_companions(&self) {
        let Some(rare) = self.marks.rare.get() else { return };
        for companion in rare.companions.lock().iter().filter_map(Weak::upgrade) {
            companion.end();
        }
    }
}
