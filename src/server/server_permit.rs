//! [`ServerPermit`]: the server, as a request holds it that has a place in it.

use std::ops::Deref;
use std::sync::Arc;

use super::Core;
use crate::transport::Transport;

/// A place among `Limits::live`, and the server that it is in: one pointer for both. It is given back when
/// this is dropped.
pub(super) struct ServerPermit<T: Transport> {
    core: Arc<Core<T>>,
}

impl<T: Transport> ServerPermit<T> {
    /// Takes a place, if there is one.
    pub(super) fn try_enter(core: &Arc<Core<T>>) -> Option<Self> {
        core.context.gate.enter().then(|| Self { core: Arc::clone(core) })
    }

    /// The server without the place.
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
