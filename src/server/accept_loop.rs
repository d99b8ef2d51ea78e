//! The accept loop: room, request, verdict, worker, and the waits in between. [`Server::serve_forever`] shows the
//! sequence.
//!
//! `serve_forever` and `handle_request` are two loops over one attempt, which never waits:
//!
//! ```text
//! attempt                  serve_forever                        handle_request
//!   no permit, not ready     waits for the gate, the mixin        the same, until the timeout
//!   rate: not yet            pauses until then                    the same, until the timeout
//!   get_request: none        waits for the listener, or pauses    the same, until the timeout
//!                an error    accept_failure.rs: goes on, pauses   goes on, or returns AcceptFailed
//!   verify_request: no       service_actions                      returns Rejected
//!   process_request          service_actions                      returns Handled
//! ```
//!
//! - **A permit comes before the accept**, and is given back if there is no request. So a client for which there is no room
//!   stays in the kernel's queue.
//! - **Every wait includes the stop.** A wait for a request or for room includes the mixin's event as well. The mixin clears
//!   that event in `service_actions`, so this call follows every wait.
//! - **The listener and the gate are never waited for together.** While there is no room, clients must not wake the loop.
//! - A worker may accept beside this loop. Both hold the lock of `worker_accept.rs` from their accept until the request is
//!   with the mixin.
//!
//! The mixin calls the loop on a thread of its choice, on several, or as a coroutine ([`AcceptLoop::enter`]). So nothing
//! here is kept in the server between two turns: the backoff, the clock and the membership are variables of one call.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept_failure::Backoff;
use super::handover::Coordinator;
use super::job::{TypedJob, Verdict};
use super::loop_clock::LoopClock;
use super::run_events::Accepting;
use super::server_permit::ServerPermit;
use super::{Core, Server};
use crate::error::{Error, Result};
use crate::events::Limit;
use crate::mixin::{Job, Mixin};
use crate::service_group::{Membership, ServiceGroup};
use crate::sys;
use crate::transport::Transport;
use crate::wait::{self, FlushPromise, Interest, Waiting};
use crate::write_stall::earlier;

/// The result of [`handle_request`](Server::handle_request). Python's `handle_request` returns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptOutcome {
    /// A request was given to its worker; under `Inline`, served.
    Handled,
    /// A request was turned away: by `verify_request`, or because its peer is beyond a limit.
    Rejected,
    /// The timeout passed without a request, and `handle_timeout` was called.
    TimedOut,
    /// Accepting failed, for the time being, and `accept_error` was called.
    AcceptFailed,
    /// A shutdown was asked for.
    Stopped,
}

/// The result of one attempt to accept. The two loops differ only in their answers to it.
#[derive(Debug)]
pub(super) enum Attempt {
    /// A request was taken, or lost.
    Done(AcceptOutcome),
    /// Nothing happened, and nothing is wrong: try again at once.
    Again,
    /// There is no request.
    NoRequest,
    /// There is no room for a request: the gate of `Limits::live` is closed, or the mixin is not ready. Nothing was
    /// accepted.
    NoRoom,
    /// Requests come faster than they may be accepted, or the listener has woken the loop in vain too often: leave it
    /// alone until this moment. Nothing has failed.
    NotYet(Instant),
    /// Resources have run out, or too many clients in a row were lost, and `accept_error` was called: leave the listener
    /// alone until this moment.
    Pause(Instant),
}

/// The reason for which the loop waits. A stop and the mixin's event end the wait in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitUntil {
    /// The listener has a client, or the transport cannot say.
    Request,
    /// The gate of `Limits::live` is open, and the mixin is ready. The listener is not waited for.
    Room,
}

/// The parts of a server that its accept loop uses. It owns them: a mixin may run the loop on a stack of its own, and leave it
/// there when the server is closed and dropped.
pub(super) struct AcceptLoop<T: Transport, M> {
    /// The core, with the transport and the hooks. They live as long as the loop: a suspended loop may go on after the
    /// server's drop.
    pub(super) core: Arc<Core<T>>,
    /// The mixin: it is asked for room before each accept, and gets each request that is to be served.
    pub(super) mixin: Arc<M>,
    /// The times that the builder was given. They never change.
    pub(super) timing: Timing,
}

/// The longest waits of a loop, and the idle time after which it stops.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    /// The longest wait of `handle_request`; `serve_forever` ignores this field, as in Python.
    pub(super) timeout: Option<Duration>,
    /// `Builder::stop_when_idle`, which `handle_request` ignores. Stops the runs of a server that has served nobody for
    /// this time.
    pub(super) idle_limit: Option<Duration>,
    /// The longest time between two `service_actions`; with `None` they run only after requests.
    pub(super) poll_interval: Option<Duration>,
}

impl<T: Transport, M: Mixin> AcceptLoop<T, M> {
    /// A loop of this server. It has no state of its own: several loops of one server may run at the same time.
    pub(super) fn of(server: &Server<T, M>) -> Self {
        let Server { core, mixin, timing } = server;
        Self { core: Arc::clone(core), mixin: Arc::clone(mixin), timing: *timing }
    }

    /// Runs a loop as a part of the current run. [`Mixin::serve`] calls this. Without a run nothing happens: the mixin
    /// has then kept the loop for longer than its run.
    pub(super) fn enter(&self, accept: &impl Fn(&Self) -> Result<()>) -> Result<()> {
        // A mixin may call this on several threads: each call is a loop of its own.
        let Some(accepting) = Accepting::of_loop(&self.core) else { return Ok(()) };
        let served = accept(self);
        // Dropped first: the call below closes the mixin only if the last loop has ended.
        drop(accepting);
        self.core.close_mixin_after_loops(&*self.mixin);
        served
    }

    /// The loop of `serve_forever`, until a stop.
    ///
    /// # Errors
    ///
    /// Those of a wait, and an error of accept that is `Fatal`. Then the backlog is not served.
    pub(super) fn accept_forever(&self) -> Result<()> {
        let runs = &self.core.context.runs;
        // A batch of datagrams may be answered together: the replies leave before the next wait.
        let _promise = FlushPromise::start_in_loop();
        let mut backoff = Backoff::default();
        let membership = self.membership();
        let beat_every = membership
            .as_ref()
            .and_then(|membership| membership.beat_every(self.timing.idle_limit));
        let mut clock = LoopClock::new(self.timing.poll_interval, beat_every);
        // A fruitless accept costs more than a poll(2) that finds a client: see DESIGN.md, section 7.
        let waits_first = self.core.transport.waits_first();
        while !runs.stop_requested() {
            let attempt = self.handle_request_noblock(&mut backoff)?;
            let held_back =
                matches!(attempt, Attempt::NoRoom | Attempt::NotYet(_) | Attempt::Pause(_));
            // Set before the wait: a worker must not take a client that the loop leaves in the queue.
            self.core.worker_acceptor.suspend(held_back);
            match attempt {
                Attempt::Done(_) => {
                    self.core.service_actions();
                    // Without room the loop does not wait here: the next attempt first reports the limit.
                    if waits_first && self.core.context.gate.is_open() && self.mixin.ready() {
                        self.wait_for_request(&mut clock, membership.as_ref())?;
                    }
                }
                Attempt::Again => {}
                Attempt::NoRequest => self.wait_for_request(&mut clock, membership.as_ref())?,
                Attempt::NoRoom => _ = self.wait(WaitUntil::Room, clock.next())?,
                Attempt::NotYet(until) | Attempt::Pause(until) => {
                    self.pause(earlier(Some(until), clock.next()))?;
                }
            }
            self.housekeeping(&mut clock, membership.as_ref());
        }
        self.serve_backlog()
    }

    /// Waits until there may be a request, and does the housekeeping meanwhile.
    ///
    /// An error of the wait ends the run. A tick and the mixin's event do not end the wait.
    fn wait_for_request(
        &self,
        clock: &mut LoopClock,
        membership: Option<&Membership>,
    ) -> Result<()> {
        let runs = &self.core.context.runs;
        while !self.wait(WaitUntil::Request, clock.next())? && !runs.stop_requested() {
            self.housekeeping(clock, membership);
        }
        Ok(())
    }

    /// Calls `service_actions` of the mixin, obeys orders, and does what is due by the clock. It is called after each
    /// request and each wait, so it must cost next to nothing when nothing is due: two loads for the orders, and none
    /// for a clock without moments.
    fn housekeeping(&self, clock: &mut LoopClock, membership: Option<&Membership>) {
        self.mixin.service_actions();
        let core = &self.core;
        // Empty if a thread that waits to close the server obeys the orders in place of this loop.
        let orders = core.context.runs.orders.take_in_loop();
        if orders.reload {
            core.reload();
        }
        if let Some(coordinator) = self.coordinator_of_parent() {
            coordinator.turn();
        }
        if orders.retire {
            // No thread closes this server, so the loop keeps the lame duck by its clock, and then stops by itself.
            core.tell_of_stopping();
            clock.begin_lame_duck(core.context.limits().lame_duck);
        }
        let due = clock.due();
        if due.tick {
            core.service_actions();
        }
        if let (true, Some(membership)) = (due.beat, membership) {
            membership.beat(core.context.load(), self.timing.idle_limit);
        }
        if due.lame_duck {
            core.context.runs.request_stop();
        }
    }

    /// The server's membership in the run of a [`ServiceGroup`]. Outside [`run`](Server::run) the server is a group of
    /// its own, and has a membership only if it stops when it is idle.
    fn membership(&self) -> Option<Membership> {
        let context = &self.core.context;
        let alone = || {
            self.timing.idle_limit?;
            let (address, handle) =
                (context.server_address().to_string(), context.shutdown_handle());
            let membership =
                ServiceGroup::memberships(std::iter::once((address, handle)), None).pop()?;
            // A group counts as idle only when all its servers are ready, and nothing else marks this server as ready.
            membership.ready();
            Some(membership)
        };
        context.membership().or_else(alone)
    }

    /// The coordinator of handovers, if this loop has to take its turns: a server that forks has no thread for that.
    fn coordinator_of_parent(&self) -> Option<&Coordinator> {
        if self.core.context.role().is_parent() { self.core.coordinator() } else { None }
    }

    /// The loop of `handle_request`, until a request or the timeout.
    ///
    /// It takes the same steps as [`accept_forever`](Self::accept_forever), with a deadline in place of ticks. An error
    /// at which `accept_forever` pauses ends this loop: the program's own loop decides how to go on.
    pub(super) fn accept_one(&self) -> Result<AcceptOutcome> {
        let runs = &self.core.context.runs;
        let _promise = FlushPromise::start_in_loop();
        let deadline = self.timing.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut backoff = Backoff::default();
        while !runs.stop_requested() {
            let attempt = self.handle_request_noblock(&mut backoff)?;
            // Called for every outcome, because the mixin's event must be cleared in any case.
            self.mixin.service_actions();
            let wait_until = match attempt {
                Attempt::Done(turn) => return Ok(turn),
                Attempt::Pause(_) => return Ok(AcceptOutcome::AcceptFailed),
                // The next attempt follows at once, and the deadline is checked after it.
                Attempt::Again => continue,
                Attempt::NotYet(until) => {
                    // Neither the gate of the rate nor a pause has an event, so the loop sleeps until the moment.
                    self.pause(earlier(Some(until), deadline))?;
                    None
                }
                Attempt::NoRequest => Some(WaitUntil::Request),
                Attempt::NoRoom => Some(WaitUntil::Room),
            };
            // Checked after the attempt, so that a timeout of zero takes a request that is there.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.core.hooks.handle_timeout();
                return Ok(AcceptOutcome::TimedOut);
            }
            if let Some(wait_until) = wait_until {
                self.wait(wait_until, deadline)?;
            }
        }
        // The result reports the stop to the caller, so the stop ends with this call.
        runs.report_stop();
        self.serve_backlog()?;
        Ok(AcceptOutcome::Stopped)
    }

    /// Takes one request, if there is a request and room for it. Never waits. Python's `_handle_request_noblock`.
    fn handle_request_noblock(&self, backoff: &mut Backoff) -> Result<Attempt> {
        let core = &self.core;
        // Room is checked first: a client without room stays in the kernel's queue, where it costs nothing. The mixin is
        // asked before the gate, because a permit that is taken in vain and given back can wake this very loop.
        let room = if self.mixin.ready() { ServerPermit::try_enter(core) } else { None };
        let Some(permit) = room else {
            backoff.reached(Limit::Live, core);
            return Ok(Attempt::NoRoom);
        };
        // The permit is held during this check; if the rate is exceeded, its drop gives it back.
        if let Some(until) = core.context.rate.wait_until() {
            backoff.reached(Limit::AcceptRate, core);
            return Ok(Attempt::NotYet(until));
        }
        // Held until the request is with the mixin: a worker must not overtake it.
        let _exclusive = core.worker_acceptor.lock();
        match take_request(permit) {
            Ok(taken) => {
                backoff.reset();
                let Some(job) = taken else { return Ok(Attempt::Done(AcceptOutcome::Rejected)) };
                self.mixin.process_request(job);
                Ok(Attempt::Done(AcceptOutcome::Handled))
            }
            Err(error) => self.accept_failed(&error, backoff),
        }
    }

    /// Waits for a request or for room, for a stop, and for the mixin's event. Returns whether a request may have come or
    /// there may be room.
    fn wait(&self, until: WaitUntil, deadline: Option<Instant>) -> Result<bool> {
        let context = &self.core.context;
        let for_room = until == WaitUntil::Room;
        // The gate is asked again, because only the `false` of `is_open` promises a wake-up, and without the promise
        // there must be no wait. (The attempt has asked for a permit, and a permit that is denied promises nothing.)
        let gate_is_open = !for_room || context.gate.is_open();
        if for_room && gate_is_open && self.mixin.ready() {
            return Ok(true);
        }
        let listener = if for_room { None } else { self.core.transport.fileno() };
        // A mixin that forks makes a pidfd for each child when it waits. A client in the queue makes the wait, and this
        // cost, needless.
        if let (Some(fd), true) = (&listener, context.role().is_parent()) {
            if matches!(sys::is_readable(fd.as_fd()), Ok(true)) {
                // No wait follows that would send the output that this thread holds back.
                wait::flush();
                return Ok(true);
            }
        }
        // A worker may wait for the listener as well: a client then wakes only one of the two.
        let loop_fd = self.core.worker_acceptor.loop_fd();
        let readable = |fd| Waiting { fd, interest: Interest::Read, slot: None };
        let stop = context.runs.stop_waiting();
        // Noted now, because a duplicate may take the listener's place below.
        let has_listener = listener.is_some();
        let parked = |fd: &Arc<OwnedFd>| self.core.parked_listener.of(fd.as_fd(), stop.fd);
        let duplicate = listener.as_ref().and_then(|fd| loop_fd.or_else(|| parked(fd)));
        // A loop that waits on a copy does not keep the listener itself open, however long it is suspended.
        let listener = listener.filter(|_| duplicate.is_none());
        let listens = duplicate.or_else(|| listener.as_ref().map(|fd| fd.as_fd()));
        let coordinator = self.coordinator_of_parent();
        let (asks, limit) = coordinator.map_or((None, None), Coordinator::waits);
        let deadline = earlier(deadline, limit);
        // `wait::any` returns whether the first of its descriptors is ready: the listener, or in a wait for room the
        // event of the gate or of the mixin.
        let wanted = [
            listens.map(readable),
            (!gate_is_open).then(|| readable(context.gate.event_fd())),
            self.mixin.event_fd().map(readable),
            context.runs.orders.waiting_in_loop(),
            coordinator.map(Coordinator::wake_event),
            asks.as_ref().map(|fd| readable(fd.as_fd())),
        ];
        // The loop waits for the listener or for the gate, never for both: so there are at most `MAX_WAITED`
        // descriptors.
        let mut waiting = [stop; wait::MAX_WAITED];
        let mut count = 0;
        for one in wanted.into_iter().flatten() {
            waiting[count] = one;
            count += 1;
        }
        // The unused places of the array all hold the stop. One of them is included in the wait.
        let waited = wait::any(&waiting[..=count], deadline);
        context.runs.settle();
        // A transport without a descriptor cannot announce a request, so the loop tries after any wake-up.
        Ok(self.waited(waited)? || !has_listener)
    }

    /// Waits until the given moment, or until a stop.
    ///
    /// The mixin's event does not end this wait, which is short; the caller calls `service_actions` after it.
    fn pause(&self, until: Option<Instant>) -> Result<()> {
        let runs = &self.core.context.runs;
        let waited = wait::any(&[runs.stop_waiting()], until);
        runs.settle();
        self.waited(waited).map(|_stopped| ())
    }

    /// Names the listener in the error of a wait.
    pub(super) fn waited(&self, result: io::Result<bool>) -> Result<bool> {
        result.map_err(|error| {
            Error::io("wait for requests at", self.core.context.server_address(), error)
        })
    }
}

/// Takes a request for which there is room. Returns `None` if the request was turned away.
///
/// It runs hooks, on the thread of the loop or of a worker, and the caller holds the lock of `worker_accept.rs`. An
/// error or a rejection gives the permit back. Never waits, except in a hook.
pub(super) fn take_request<T: Transport>(permit: ServerPermit<T>) -> io::Result<Option<Job>> {
    let job = accept(permit)?;
    job.announce();
    Ok(verify(job))
}

/// Takes a request. No hook is called and no event is sent yet, so that a thread which closes the server may call this
/// while another one is in a hook: see `drain_backlog.rs`.
pub(super) fn accept<T: Transport>(permit: ServerPermit<T>) -> io::Result<TypedJob<T>> {
    let (raw, peer) = permit.transport.get_request()?;
    Ok(TypedJob::enter(permit, raw, peer))
}

/// Turns a request away if its peer is beyond a limit, or if `verify_request` says so.
///
/// The limits of one peer come first; the hook sees only requests within them.
pub(super) fn verify<T: Transport>(mut job: TypedJob<T>) -> Option<Job> {
    if let Some(why) = job.is_beyond() {
        Job::new(Box::new(job)).refuse(why);
        return None;
    }
    match job.verify_request() {
        Verdict::Serve => Some(Job::new(Box::new(job))),
        Verdict::Reject => {
            job.reject();
            None
        }
        Verdict::Retire(payload) => {
            job.reject();
            // The loop is retired: the hook's wait has begun to unwind it, and `catch_panic` has caught that unwinding.
            // It goes on here.
            panic::resume_unwind(Box::new(payload))
        }
    }
}
