//! The linked connections of a request: connections that its handler has made, and that end when the request is cut off.
//!
//! A handler that waits for another server does not notice the end of its own connection. So a cut of its connection
//! also ends the connections to other servers, and this wakes the handler.
//!
//! ```text
//! the handler                        a thread that cuts the request off
//! link_connection: pushes            stores the cut
//!   is it cut off? ends it           end_linked_connections: ends all that are in the list
//! ```
//!
//! At least one of the two threads sees the other, so no connection that was made during a cut is forgotten. If each
//! sees the other, `end` is called twice. A request without linked connections pays one load when it is cut off.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Entry;

/// A connection that can be ended from any thread.
pub(crate) trait LinkedConnection: Send + Sync {
    /// Ends the connection, without waiting; a call that waits for the connection then fails. This is called under the
    /// lock of the request's linked connections, and at the deadline of a drain also under the lock of the live list, so
    /// it must take neither lock.
    fn end(&self);
}

/// The linked connections of one request. A connection may end before the request does, so the references are weak and
/// keep none open.
pub(super) type LinkedConnections = Mutex<Vec<Weak<dyn LinkedConnection>>>;

impl Entry {
    /// Links a connection, which ends when the request is cut off. If the request is cut off already, the connection
    /// ends at once.
    pub(crate) fn link_connection(&self, connection: &Arc<dyn LinkedConnection>) {
        {
            let mut list = self.marks.rare.get_or_init(Box::default).linked_connections.lock();
            // A handler that makes one connection after another must not grow the list: ended connections are dropped here.
            list.retain(|linked| linked.strong_count() > 0);
            list.push(Arc::downgrade(connection));
        }
        // This comes after the push: a cut at this moment either finds the connection in the list, or is seen here.
        if self.is_cut_off() {
            connection.end();
        }
    }

    /// Ends all linked connections: the request has been cut off.
    pub(super) fn end_linked_connections(&self) {
        let Some(rare) = self.marks.rare.get() else { return };
        for linked in rare.linked_connections.lock().iter().filter_map(Weak::upgrade) {
            linked.end();
        }
    }
}
