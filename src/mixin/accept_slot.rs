//! A worker without a request accepts the next one itself: the interface between a server and the workers of its mixin.
//!
//! ```text
//! worker                                 the others, under the lock of the mixin's queue
//! slot.enter(server)
//! server.accept(room)   ..waits..
//!                                        slot.interrupt()    there is a job in the queue; or the mixin closes
//!        ..returns..
//! slot.leave()          true: it was interrupted
//! ```
//!
//! An interruption lasts until `leave` takes it back. So it is not lost if it comes between `enter` and the wait.
//!
//! A worker that accepts saves the wake-up of a worker by the accept loop. A worker accepts only while the queue is empty,
//! and only for the server whose job it has just run: it has that server at hand. The server's side is in
//! `server/worker_accept.rs`.

use std::sync::Arc;

use super::Job;

/// Accepts requests on the thread of a worker. The server implements it, with its types erased.
pub(crate) trait WorkerAccept: Send + Sync {
    /// Waits for a request, on one thread at a time. `room` is called before a request is taken, and may reserve a place
    /// for it. If there is no room, the accept loop is woken; it refuses the request or waits.
    fn accept(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Accepted;

    /// Makes `accept` return, now or when it is called the next time.
    fn interrupt(&self);

    /// Takes `interrupt` back, when `accept` has returned.
    fn clear_interrupt(&self);

    /// Drops a reference. True: it was the last one, and the user's hooks and handlers have been dropped with it, so
    /// the caller must hold no lock. A panic in their drops ends here.
    fn let_go(self: Arc<Self>) -> bool;
}

/// The result of [`WorkerAccept::accept`].
pub(crate) enum Accepted {
    /// A request, which the worker runs.
    Request(Job),
    /// The client is gone or was turned away: accept again.
    TryAgain,
    /// The worker has to stop accepting: it was interrupted, or the server stops, or the accept loop has to judge the next
    /// request.
    Leave,
}

/// Says which worker of a mixin accepts: at most one does. This is a part of the state behind the lock of the mixin's
/// queue.
#[derive(Default)]
pub(super) struct AcceptSlot {
    /// The server for which a worker accepts; none while no worker accepts.
    server: Option<Arc<dyn WorkerAccept>>,
    /// The worker was called back, and has not left the slot yet.
    interrupted: bool,
}

impl AcceptSlot {
    /// Whether a worker accepts, or is about to.
    pub(super) fn is_taken(&self) -> bool {
        self.server.is_some()
    }

    /// Whether a worker accepts that was called back, and has not left the slot yet.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Notes that the calling worker is about to accept.
    pub(super) fn enter(&mut self, server: &Arc<dyn WorkerAccept>) {
        self.server = Some(Arc::clone(server));
    }

    /// Calls the worker back to the queue. False if no worker accepts, or if it has been called already.
    pub(super) fn interrupt(&mut self) -> bool {
        match &self.server {
            // A worker is called only once: a second interrupt would be cleared with the first, and its caller would count
            // on a worker that comes only once.
            Some(server) if !self.interrupted => {
                // The queue is locked here, so nothing may wait: an interrupt is one write to an event.
                server.interrupt();
                self.interrupted = true;
                true
            }
            _ => false,
        }
    }

    /// Vacates the slot. True if the worker was interrupted; it may have accepted a request all the same.
    pub(super) fn leave(&mut self) -> bool {
        let server = self.server.take();
        // The interrupt is taken back here and not by the worker's next `enter`, which may be at another server.
        let interrupted = std::mem::take(&mut self.interrupted);
        if let (Some(server), true) = (server, interrupted) {
            server.clear_interrupt();
        }
        interrupted
    }
}
