//! The other servers of a process, whose sockets a forked child closes as well: it keeps no port that is not its own
//! server's, when that one is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Core;
use crate::transport::Transport;

/// All servers of this process.
static SERVERS: Mutex<Vec<Weak<dyn Sibling>>> = Mutex::new(Vec::new());

/// How many they are. Beside it a child of the only one looks at nothing, and the lock above is written to by none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A server with its types erased.
trait Sibling: Send + Sync {
    fn close_in_others_child(&self);
    fn address(&self) -> *const ();
}

impl<T: Transport> Sibling for Core<T> {
    fn close_in_others_child(&self) {
        self.doorway.close_listener();
        self.transport.close_in_others_child();
    }

    fn address(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }
}

/// A server has been made.
pub(super) fn enter<T: Transport>(core: &Arc<Core<T>>) {
    let core = Arc::clone(core) as Arc<dyn Sibling>;
    SERVERS.lock().push(Arc::downgrade(&core));
    COUNT.fetch_add(1, Ordering::SeqCst);
}

/// A server is gone.
pub(super) fn leave() {
    SERVERS.lock().retain(|server| server.strong_count() > 0);
    COUNT.fetch_sub(1, Ordering::SeqCst);
}

/// In a child that this server has forked.
pub(super) fn close_others<T: Transport>(core: &Core<T>) {
    if COUNT.load(Ordering::SeqCst) < 2 {
        return;
    }
    let all: Vec<_> = SERVERS.lock().iter().filter_map(Weak::upgrade).collect();
    for server in all {
        if !std::ptr::addr_eq(server.address(), core.address()) {
            server.close_in_others_child();
        }
        // The last one that holds it would drop what is the parent's.
        std::mem::forget(server);
    }
}
