//! [`ServerPermit`]: a request's hold on its server.

use std::ops::Deref;
use std::sync::Arc;

use super::Core;
use crate::transport::Transport;

/// A permit of `Limits::live` and a reference to the server that gave it, in one pointer. A request has one from
/// before its accept until after its close. Dropping it returns the permit.
pub(super) struct ServerPermit<T: Transport> {
    /// The core; the permit was taken from its gate.
    core: Arc<Core<T>>,
}

impl<T: Transport> ServerPermit<T> {
    /// Takes a permit, if there is one.
    pub(super) fn try_enter(core: &Arc<Core<T>>) -> Option<Self> {
        // Only then is the reference counted: a refused attempt costs one look.
        core.context.gate.enter().then(|| Self { core: Arc::clone(core) })
    }

    /// The server without the permit.
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
        self.core.context.gate.leave();
    }
}
