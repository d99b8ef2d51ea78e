//! A worker without a request accepts the next one itself, so that the loop need not wake it.
//!
//! This changes on which thread a request is accepted, and nothing else. If more than an accept is needed, the loop
//! decides: a limit is reached, a rate is set, the listener fails, hooks of the loop are overridden
//! ([`Core::workers_may_accept`]).
//!
//! ```text
//! kernel: a client                 worker                             loop
//!   |                                |  waits in its epoll set          |  waits in the other one
//!   |-- wakes the worker ----------->|  (registered first)              |
//!   |                                |  lock                            |
//!   |                                |  room? -- no: wake_loop -------->|  lock, room?, accept, ..
//!   |                                |  accept                          |
//!   |                                |  unlock, run the request         |
//!   |-- no worker waits: wakes the loop ------------------------------->|
//! ```
//!
//! Every wake-up leads to an accept or to another wake-up: a worker that is woken and does not accept wakes the loop
//! ([`Core::leave_to_loop`]), unless the server stops. The kernel has reported the client once, and wakes nobody else for it.
//!
//! The lock is [`AcceptPoint::failures`]. A thread holds it from before its accept until the request is with its
//! worker, so that requests are served in the order in which they were accepted. Hooks run under this lock. That is
//! no danger, because only the loop and workers without a request take it, and no call of a hook does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::Core;
use super::accept_failure::WOKEN_AT_ONCE;
use super::accept_loop::take_request;
use super::catch_panic::{drop_catching, run_catching};
use super::run_events::Accepting;
use super::server_permit::ServerPermit;
use crate::mixin::{Accepted, WorkerAccept};
use crate::process::OwnerProcess;
use crate::sys::exclusive_epoll::ExclusiveEpoll;
use crate::transport::{AcceptAction, Transport};
use crate::wait::{self, Event};

/// The part of a server's `Core` that lets workers accept.
#[derive(Debug, Default)]
pub(super) struct WorkerAcceptor {
    /// Whether the mixin and the builder allow workers to accept.
    allowed: bool,
    /// The accept point, made when a worker accepts for the first time. `Some(None)` if it cannot be made: then only
    /// the loop accepts.
    point: OnceLock<Option<AcceptPoint>>,
    /// Whether a limit or a failure holds the loop back. Workers then leave every client to the loop.
    suspended: AtomicBool,
    listener: Mutex<ListenerCopy>,
}

/// A duplicate of the listener's descriptor, which is in both epoll sets. The transport may close its own descriptor at
/// any time; a worker that waits for the duplicate still wakes, and its accept fails.
#[derive(Debug, Default)]
struct ListenerCopy {
    /// `None` before the first worker accepts, and after the close.
    fd: Option<OwnedFd>,
    /// Set at the close: from then on no copy may be made, because a copy would keep the address in use.
    closed: bool,
}

/// The epoll sets in which a worker and the loop wait for the same listener. Made once, and dropped with the server.
#[derive(Debug)]
struct AcceptPoint {
    /// One set for the worker, one for the loop.
    epoll: ExclusiveEpoll,
    /// Makes the worker leave. The mixin notifies it under the lock of its queue, and clears it when the worker has left.
    interrupt: Event,
    /// The lock of the diagram at the top of the file. Its value counts how often in a row a worker has accepted
    /// nothing.
    failures: Mutex<u32>,
    /// The process in which the epoll sets were made.
    owner: OwnerProcess,
}

impl WorkerAcceptor {
    /// `allowed`: whether the mixin's workers may accept, and the program has not forbidden it. This takes no descriptor
    /// yet.
    pub(super) fn new(allowed: bool) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// The descriptor that the loop waits for in place of the listener. `None` if it waits for the listener itself.
    pub(super) fn loop_fd(&self) -> Option<BorrowedFd<'_>> {
        self.point().map(|point| point.epoll.loop_fd())
    }

    /// The accept point, if a worker has accepted before. This call makes none.
    fn point(&self) -> Option<&AcceptPoint> {
        self.point.get()?.as_ref()
    }

    /// Gives epoll sets of its own to a forked child that serves. `stop` is the event of the run's stop, which is the
    /// child's own by now. Does nothing if no worker has accepted before the fork, or if this process has done it
    /// already.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for the sets. The child must not serve then: its waits would take its parent's events.
    pub(super) fn enter_process(&self, stop: BorrowedFd<'_>) -> io::Result<()> {
        // The epoll sets are shared with the parent: see `sys/epoll.rs`.
        let inherited = self.point().filter(|point| !point.owner.is_noted());
        let (Some(point), Some(listener)) = (inherited, &self.listener.lock().fd) else {
            return Ok(());
        };
        // The parent's loop may have been held back when it forked, and this process's loop is not.
        self.suspend(false);
        point.interrupt.own()?;
        point.epoll.renew(listener.as_fd(), [stop, point.interrupt.waiting().fd])?;
        point.owner.become_noted();
        Ok(())
    }

    /// Waits until no worker is about to accept, and keeps workers from accepting until the guard is dropped. The loop
    /// calls this before it accepts. `None` if no worker has ever accepted.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, u32>> {
        self.point().map(|point| point.failures.lock())
    }

    /// Closes the duplicate, for good. This wakes no worker that waits: the stop, which came before, has done that.
    pub(super) fn close_listener(&self) {
        *self.listener.lock() = ListenerCopy { fd: None, closed: true };
    }

    /// Sets whether workers leave every client to the loop from now on. The loop calls this before each of its waits; a
    /// worker that has checked just before may take one client more.
    pub(super) fn suspend(&self, suspended: bool) {
        // Most calls change nothing, and a load is cheaper than a store.
        if self.suspended.load(Ordering::SeqCst) != suspended {
            self.suspended.store(suspended, Ordering::SeqCst);
        }
    }
}

impl<T: Transport> Core<T> {
    /// Whether a worker may accept here. It may not if requests come in batches, if a hook that only the loop calls
    /// is overridden, or on a thread that runs several requests at once. Makes the accept point if there is none yet.
    pub(super) fn workers_may_accept(&self) -> bool {
        self.worker_acceptor.allowed
            && self.overridden_hooks.are_default()
            && self.transport.waits_first()
            && !wait::is_parked_here()
            && self.accept_point().is_some()
    }

    /// Makes the accept point at the first call. If that fails, the loop accepts alone from then on.
    fn accept_point(&self) -> Option<&AcceptPoint> {
        let make = || {
            let fd = self.transport.fileno()?;
            let mut listener = self.worker_acceptor.listener.lock();
            // The listener may have been closed first, and a new copy must not undo that.
            if listener.closed {
                return None;
            }
            // A copy: the transport may close its own descriptor while a worker waits.
            let fd = fd.try_clone().ok()?;
            let interrupt = Event::new().ok()?;
            // An error below (descriptors are short, the kernel is too old) leaves accepting to the loop alone.
            let stop = self.context.runs.stop_waiting().fd;
            let epoll = ExclusiveEpoll::new(fd.as_fd(), [stop, interrupt.as_fd()]).ok()?;
            listener.fd = Some(fd);
            let (failures, owner) = (Mutex::default(), OwnerProcess::noted());
            Some(AcceptPoint { epoll, interrupt, failures, owner })
        };
        self.worker_acceptor.point.get_or_init(make).as_ref()
    }

    /// Whether only the loop may accept now: it is held back, or there is a rate, whose tokens the loop alone takes.
    fn loop_decides(&self) -> bool {
        self.worker_acceptor.suspended.load(Ordering::SeqCst) || self.context.rate.is_on()
    }

    /// Accepts a client, if one is there, as the loop does. Called in a worker that was just woken.
    fn accept_in_worker(
        self: &Arc<Self>,
        point: &AcceptPoint,
        room: &mut dyn FnMut() -> bool,
    ) -> Accepted {
        // Asked once more: the loop may have been held back while this worker waited.
        if self.loop_decides() {
            return self.leave_to_loop(point);
        }
        // Held until this returns, so that a pool serves in the order of the accepts.
        let mut failures = point.failures.lock();
        // The gate is asked first and the mixin second. If the mixin has no room, the permit goes back.
        let Some(permit) = ServerPermit::try_enter(self).filter(|_| room()) else {
            return self.leave_to_loop(point);
        };
        let taken = take_request(permit);
        // A request that was turned away is no failure: the listener works.
        *failures = if taken.is_ok() { 0 } else { failures.saturating_add(1) };
        match taken {
            Ok(Some(job)) => Accepted::Request(job),
            Ok(None) => Accepted::TryAgain,
            Err(error) => match self.transport.accept_action(&error) {
                // A wake-up without a client, many times in a row: the loop takes over, and pauses.
                AcceptAction::Wait if *failures > WOKEN_AT_ONCE => self.leave_to_loop(point),
                AcceptAction::Wait | AcceptAction::Retry => Accepted::TryAgain,
                AcceptAction::Skip => {
                    self.accept_skipped(&error);
                    // The loop counts skipped clients, and pauses after many.
                    self.leave_to_loop(point)
                }
                // To pause, to shed or to end the run is the loop's part. It meets the same error, and counts it.
                _ => self.leave_to_loop(point),
            },
        }
    }

    /// Wakes the loop for the client that has woken this worker, and that is still in the queue. After a close there is no
    /// listener to wake it by, and no need: the stop has woken it.
    fn leave_to_loop(&self, point: &AcceptPoint) -> Accepted {
        if let Some(listener) = &self.worker_acceptor.listener.lock().fd {
            point.epoll.wake_loop(listener.as_fd());
        }
        Accepted::Leave
    }
}

impl<T: Transport> WorkerAccept for Core<T> {
    fn accept(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Accepted {
        // The worker has not waited yet, so it was not woken for a client that it would have to leave to the loop.
        if self.loop_decides() {
            return Accepted::Leave;
        }
        let Some(point) = self.accept_point() else { return Accepted::Leave };
        // Counted as a loop until this returns: the run does not end while a client is in this worker's hands.
        let Some(_accepting) = Accepting::beside_loop(&self) else { return Accepted::Leave };
        if wait::for_worker_accept(&point.epoll).is_err() || self.context.runs.stop_requested() {
            return Accepted::Leave;
        }
        let mut accepted = None;
        run_catching(|| accepted = Some(self.accept_in_worker(point, room)));
        // A transport that has panicked here will panic in the loop too, and there the panic ends the run.
        let accepted = accepted.unwrap_or_else(|| self.leave_to_loop(point));
        // The next accept waits for the stop's event again: see `StopRequest`. (A worker that leaves waits for nothing.)
        if matches!(accepted, Accepted::TryAgain) {
            self.context.runs.settle();
        }
        accepted
    }

    fn interrupt(&self) {
        if let Some(point) = self.worker_acceptor.point() {
            point.interrupt.notify();
        }
    }

    fn clear_interrupt(&self) {
        if let Some(point) = self.worker_acceptor.point() {
            point.interrupt.clear();
        }
    }

    fn let_go(self: Arc<Self>) -> bool {
        Arc::into_inner(self).map(|last| drop(drop_catching(last))).is_some()
    }
}
