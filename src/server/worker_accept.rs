//! The way to a server's requests beside its loop: for one worker that would have to be woken otherwise.
//!
//! It changes where a request is accepted and nothing else. What takes more than accepting stays with the loop: no
//! room, a rate, a listener that fails; the user's hooks that only the loop calls; and a mixin that wants to be asked for
//! each request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::Core;
use super::accept::{WOKEN_AT_ONCE, take_request};
use super::catch_panic::caught;
use super::run_events::Accepting;
use super::server_permit::Admitted;
use crate::mixin::{Came, Way};
use crate::sys;
use crate::transport::{AcceptAction, Transport};
use crate::wait::{self, Event};

/// The door of one server, made when a worker first waits at it. None inside: it cannot have one.
#[derive(Debug, Default)]
pub(super) struct Doorway {
    /// Whether workers may accept in this server at all.
    allowed: bool,
    made: OnceLock<Option<Made>>,
    /// The loop is held back, by a limit or by want of something, and lets nobody pass.
    closed: AtomicBool,
    listener: Mutex<Listener>,
}

/// The door's own descriptor of the listener: whatever becomes of the transport's, who waits here wakes when a client
/// comes, and finds out.
#[derive(Debug, Default)]
struct Listener {
    fd: Option<OwnedFd>,
    closed: bool,
}

#[derive(Debug)]
struct Made {
    door: sys::exclusive_epoll::Door,
    /// Calls the worker back to its mixin.
    call: Event,
    /// Whose turn it is, from the look for a request until it is in its worker's hands: who comes first is served first,
    /// and a worker that is here must not overtake what the loop has taken and not handed on yet. Hooks run within a turn,
    /// so only the loop and a worker without a request wait for it, and no call of the user's ever does. In it, how often
    /// in a row a worker was woken in vain.
    turn: Mutex<u32>,
    /// Whose door it is.
    process: AtomicU32,
}

impl Doorway {
    pub(super) fn new(allowed: bool) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// What the loop waits for in the listener's place, if there is a door.
    pub(super) fn back(&self) -> Option<BorrowedFd<'_>> {
        self.made().map(|made| made.door.back())
    }

    fn made(&self) -> Option<&Made> {
        self.made.get()?.as_ref()
    }

    /// In a forked child that goes on for itself: makes the door, if there is one, this process's own.
    pub(super) fn enter_process(&self, stop: BorrowedFd<'_>) -> io::Result<()> {
        let process = wait::noted_process();
        let made = self.made().filter(|made| made.process.load(Ordering::SeqCst) != process);
        let (Some(made), Some(listener)) = (made, &self.listener.lock().fd) else {
            return Ok(());
        };
        self.close(false);
        made.call.own()?;
        made.door.renew(listener.as_fd(), [stop, made.call.waiting().fd])?;
        made.process.store(process, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until nobody else is about to take a request. None: nobody else does. For the loop alone: see `Made::turn`.
    pub(super) fn turn(&self) -> Option<MutexGuard<'_, u32>> {
        self.made().map(|made| made.turn.lock())
    }

    /// Lets go of the listener, for good.
    pub(super) fn close_listener(&self) {
        *self.listener.lock() = Listener { fd: None, closed: true };
    }

    /// Has workers leave to the loop what comes, or not any more.
    pub(super) fn close(&self, closed: bool) {
        // Mostly nothing changes, and then a look costs less.
        if self.closed.load(Ordering::SeqCst) != closed {
            self.closed.store(closed, Ordering::SeqCst);
        }
    }
}

impl<T: Transport> Core<T> {
    /// Whether a worker may accept: not where requests come in batches, nor in a thread that has other requests to
    /// go on with. The door is made now, if it is not there yet.
    pub(super) fn has_door(&self) -> bool {
        self.doorway.allowed
            && self.loop_hooks.are_default()
            && self.transport.waits_first()
            && !wait::is_parked_here()
            && self.door().is_some()
    }

    fn door(&self) -> Option<&Made> {
        let make = || {
            let fd = self.transport.fileno()?;
            let mut listener = self.doorway.listener.lock();
            if listener.closed {
                return None;
            }
            let fd = fd.try_clone().ok()?;
            let call = Event::new().ok()?;
            let stop = self.context.runs.stop_waiting().fd;
            let door = sys::exclusive_epoll::Door::new(fd.as_fd(), [stop, call.as_fd()]).ok()?;
            listener.fd = Some(fd);
            let process = AtomicU32::new(wait::noted_process());
            Some(Made { door, call, turn: Mutex::default(), process })
        };
        self.doorway.made.get_or_init(make).as_ref()
    }

    /// Whether to accept takes more than room now.
    fn loop_decides(&self) -> bool {
        self.doorway.closed.load(Ordering::SeqCst) || self.context.rate.is_on()
    }

    /// Looks for a request, as a turn of the loop does.
    fn take_at_door(self: &Arc<Self>, made: &Made, room: &mut dyn FnMut() -> bool) -> Came {
        if self.loop_decides() {
            return self.leave_to_loop(made);
        }
        let mut in_vain = made.turn.lock();
        let Some(admitted) = Admitted::try_enter(self).filter(|_| room()) else {
            return self.leave_to_loop(made);
        };
        let taken = take_request(admitted);
        *in_vain = if taken.is_ok() { 0 } else { in_vain.saturating_add(1) };
        match taken {
            Ok(Some(job)) => Came::Request(job),
            Ok(None) => Came::Nobody,
            Err(error) => match self.transport.accept_action(&error) {
                // Where that is all that comes, it is for the loop to pause.
                AcceptAction::Wait if *in_vain > WOKEN_AT_ONCE => self.leave_to_loop(made),
                AcceptAction::Wait | AcceptAction::Retry => Came::Nobody,
                AcceptAction::Skip => {
                    self.accept_skipped(&error);
                    // The loop counts how many there are, and pauses.
                    self.leave_to_loop(made)
                }
                _ => self.leave_to_loop(made),
            },
        }
    }

    fn leave_to_loop(&self, made: &Made) -> Came {
        if let Some(listener) = &self.doorway.listener.lock().fd {
            made.door.pass_on(listener.as_fd());
        }
        Came::Called
    }
}

impl<T: Transport> Way for Core<T> {
    fn next(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Came {
        if self.loop_decides() {
            return Came::Called;
        }
        let Some(made) = self.door() else { return Came::Called };
        let Some(_accepting) = Accepting::beside_loop(&self) else { return Came::Called };
        if wait::at_door(&made.door).is_err() || self.context.runs.stop_requested() {
            return Came::Called;
        }
        let mut came = None;
        drop(caught(|| {
            came = Some(self.take_at_door(made, room));
            Ok(())
        }));
        // A transport that panics does so in the loop, where everybody sees it.
        let came = came.unwrap_or_else(|| self.leave_to_loop(made));
        if matches!(came, Came::Nobody) {
            self.context.runs.settle();
        }
        came
    }

    fn call(&self) {
        if let Some(made) = self.doorway.made() {
            made.call.notify();
        }
    }

    fn settle(&self) {
        if let Some(made) = self.doorway.made() {
            made.call.clear();
        }
    }
}
