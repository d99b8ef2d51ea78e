//! [`Door`]: where a worker that has nothing to do waits for the next request itself, so that the loop need not
//! wake for it, and then wake a worker.

use std::fmt;
use std::sync::Arc;

use super::Job;

/// The way to a server's requests beside its loop.
#[derive(Clone)]
pub(crate) struct Door {
    way: Arc<dyn Way>,
}

/// What a wait at the door came to.
pub(crate) enum Came {
    Request(Job),
    /// A client that is gone again, or was turned away.
    Nobody,
    /// A call, a stop, or what is the loop's to decide: there is no point in waiting on.
    Called,
}

/// A door with its types erased: the server implements it.
pub(crate) trait Way: Send + Sync {
    fn next(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Came;
    fn call(&self);
    fn settle(&self);
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    pub(crate) fn new(way: Arc<dyn Way>) -> Self {
        Self { way }
    }

    /// Waits for a request; one worker at a time. `room` is asked before one is taken, and may take a place
    /// for it. If it says no, the loop is woken, which knows what to do with a request for which there is none.
    pub(super) fn next(&self, room: &mut dyn FnMut() -> bool) -> Came {
        Arc::clone(&self.way).next(room)
    }
}

/// Which of a mixin's workers waits at the door: one at most. The mixin keeps this under the lock of its queue.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Where somebody waits now.
    taken: Option<Door>,
    called: bool,
}

impl Post {
    pub(super) fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// The calling thread is about to wait there.
    pub(super) fn take(&mut self, door: &Door) {
        self.taken = Some(door.clone());
    }

    /// Calls who waits back to the queue. False: nobody does, or the call has been made already.
    pub(super) fn call(&mut self) -> bool {
        match &self.taken {
            Some(door) if !self.called => {
                door.way.call();
                self.called = true;
                true
            }
            _ => false,
        }
    }

    /// Who has waited is back. Says whether it was called: it may have come with a request all the same.
    pub(super) fn leave(&mut self) -> bool {
        let door = self.taken.take();
        let called = std::mem::take(&mut self.called);
        if let (Some(door), true) = (door, called) {
            door.way.settle();
        }
        called
    }
}
