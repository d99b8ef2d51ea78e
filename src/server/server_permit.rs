//! [`ServerPermit`]: a request's hold on its server.
//!
//! ```text
//! the loop         try_enter: the gate counts one more          no permit: no accept
//! TypedJob, then   holds it; any thread may drop it
//! OpenRequest
//! drop             the gate counts one less, and wakes a loop that waits for room
//! ```

use std::ops::Deref;
use std::sync::Arc;

use super::Core;
use crate::transport::Transport;

/// A permit of `Limits::live` and a reference to the server that gave it, in one pointer. A request has one from
/// before its accept until after its close. Dropping it returns the permit.
pub(super) struct ServerPermit<T: Transport> {
    /// The core; the permit was taken from its gate. Dropped after the permit is back, so that the gate is still there.
    core: Arc<Core<T>>,
}

impl<T: Transport> ServerPermit<T> {
    /// Takes a permit, if there is one.
    pub(super) fn try_enter(core: &Arc<Core<T>>) -> Option<Self> {
        // The reference is counted only with a permit: a refused attempt costs one check, and a server that is full
        // refuses many.
        core.context.gate.enter().then(|| Self { core: Arc::clone(core) })
    }

    /// The server without the permit: for a worker that may accept the next request, and for the watchdog of workers.
    pub(super) fn share(&self) -> Arc<Core<T>> {
        Arc::clone(&self.core)
    }
}

impl<T: Transport> Deref for ServerPermit<T> {
    type Target = Core<T>;

    fn deref(&self) -> &Core<T> {
        &self.core
    }
}

impl<T: Transport> Drop for ServerPermit<T> {
    fn drop(&mut self) {
        // Any thread may do this: it takes no lock, and makes a system call only if a loop waits for room.
        self.core.context.gate.leave();
    }
}
