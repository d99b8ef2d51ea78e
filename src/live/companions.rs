//! The companions of a request: connections that its handler has made, and that end when it is cut off.
//!
//! A handler that waits for another server hears nothing of the end of its own connection. So the end of that one ends the
//! others, which wakes the handler.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Entry;

/// A connection that can be ended from any thread.
pub(crate) trait Companion: Send + Sync {
    /// Ends it, without waiting. A call that waits for it fails.
    fn end(&self);
}

/// Those of one request. They may end before it does: a list of weak references keeps none of them open.
#[derive(Default)]
pub(super) struct Companions {
    list: Mutex<Vec<Weak<dyn Companion>>>,
}

impl std::fmt::Debug for Companions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} companions", self.list.lock().len())
    }
}

impl Entry {
    /// Ends this one when the request is cut off; at once, if it is already.
    pub(crate) fn add_companion(&self, companion: &Arc<dyn Companion>) {
        {
            let mut list = self.rare.get_or_init(Box::default).companions.list.lock();
            // A handler that makes one connection after another must not grow the list: ended ones are dropped here.
            list.retain(|companion| companion.strong_count() > 0);
            list.push(Arc::downgrade(companion));
        }
        // After the push: a cut that comes now either finds the companion in the list, or is seen here.
        if self.is_cut_off() {
            companion.end();
        }
    }

    /// The request has been cut off.
    pub(super) fn end_companions(&self) {
        let Some(rare) = self.rare.get() else { return };
        for companion in rare.companions.list.lock().iter().filter_map(Weak::upgrade) {
            companion.end();
        }
    }
}
