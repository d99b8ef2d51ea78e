//! `server_close`: how a server stops accepting, waits for its requests, and ends those that are left.
//!
//! Any thread may call `server_close`, even several at once or from a hook or a handler. `server_close` holds no lock
//! while it waits or while user code runs. Each step may be taken twice: a second close finds it done, and waits for the
//! same requests within its own grace.
//!
//! ```text
//! server_close                             handlers                    loop and workers
//!   hook `stopping`                                                      LameDuck: they go on accepting
//!   waits: Limits::lame_duck, or a stop
//!   backlog.begin                                                        a loop that ends waits for it
//!   runs.close, stop tokens                  is_stopping is true         no more accepts
//!   takes the backlog, closes the listener                               Closed: the loop serves the backlog
//!                                                                        Draining
//!   ends idle waits                          Stopping
//!   waits: half of the grace at most
//!   ends first reads                         Stopping
//!   waits until the deadline
//!   forces: cuts connections, SIGKILL        reads and writes fail       Forced
//!   waits AFTER_FORCE
//!   mixin.server_close: joins threads                                    Ended
//! ```
//!
//! With the defaults (a grace of 10 s, 1 s for first reads) idle connections end at once; those that have sent nothing have
//! until 1 s, requests that run until 10 s, and forced handlers until 10.075 s. A close ends as soon as nothing is left, so
//! that an idle server closes in about the time of its system calls.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::drain_report::DrainReport;
use super::served_by_thread::is_serving;
use super::{Core, Server};
use crate::error::Result;
use crate::live::{FirstReads, LiveRequest};
use crate::mixin::Mixin;
use crate::run_phase::RunPhase;
use crate::server_context::ServerContext;
use crate::shutdown::Closer;
use crate::transport::{CloseWhen, Transport};
use crate::wait;

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Closes the server: [`server_close_within`](Self::server_close_within) `Limits::drain`.
    pub fn server_close(&self) -> DrainReport {
        self.server_close_within(self.limits().drain)
    }

    /// Closes the server within `grace`, in this order, after the hook [`stopping`](crate::ServerHooks::stopping) and the
    /// [lame duck](field@crate::Limits::lame_duck), if there is one:
    ///
    /// 1. It stops accepting, and the listener is closed at once, even while the loop is busy (under `Inline`, with a
    ///    request). Clients in the backlog are accepted before that, as many as `Limits` allow, and served within the
    ///    grace; but only if no other process has the listener. A datagram socket is needed for replies, and is closed
    ///    after step 5.
    /// 2. Handlers are told: `is_stopping` is true, and a read that waits for the beginning of a next request fails
    ///    with [`Stopping`](crate::request::Stopping), which is not reported. A read that waits for the first request
    ///    of its connection fails only when [`Limits::first_read`](crate::Limits::first_read) has passed.
    /// 3. Running requests have until the deadline.
    /// 4. At the deadline the connections of the remaining requests are shut down, and their reads fail as in step 2.
    /// 5. The mixin's threads are joined.
    ///
    /// A mixin whose `block_on_close` is off has no lame duck, and steps 1 and 2 only (and a child of
    /// [`Forking`](crate::Forking) has no time for a first read). The same holds for a call by the thread that serves, or
    /// by a handler of the server itself, because such a call would wait for itself. In a child of `Forking` the call asks
    /// the parent to stop, as a shutdown does. `server_close` may be called more than once.
    pub fn server_close_within(&self, grace: Duration) -> DrainReport {
        self.core.tell_of_stopping();
        let context = &self.core.context;
        // In a forked child the runs may still be the parent's. Without descriptors for its own, the server is closed as far
        // as possible.
        let _ = self.core.enter_process();
        let wait_for = self.close_waits_for();
        if wait_for == WaitFor::Requests && !context.role().is_child() {
            self.lame_duck();
        }
        // The time that the service manager got when the lame duck began is replaced by the grace alone.
        if let Some(membership) = context.membership() {
            membership.extend(grace);
        }
        // After the hook and the lame duck: the grace begins now.
        let began = Instant::now();
        let deadline = wait::moment_after(began, grace);
        let mut report = DrainReport::new(self.server_address(), grace);
        if context.role().is_child() {
            // A child has copies of the parent's state. The parent hears of this at the child's end, by its exit status.
            context.runs.close();
            context.live.tell_of_stop();
            return report;
        }
        // The report is about this close: these earlier counts are subtracted at the end.
        let counted = context.counts();
        // Counted before the backlog is taken, because its requests enter the list at once.
        report.open_at_start = context.live.len();
        report.open_at_start += self.stop_accepting(wait_for);
        self.core.enter_phase(RunPhase::Closed);
        self.core.enter_phase(RunPhase::Draining);
        // Done after the stop is announced: a request that becomes idle from here on finds the drain by itself.
        context.live.end_input_of_idle(FirstReads::Awaited);
        // At most half of the grace: a request that begins in the time of first reads has to be served as well.
        let half = deadline.saturating_duration_since(began) / 2;
        let first_reads = began + self.limits().first_read.min(half);
        match wait_for {
            WaitFor::Requests => {
                report.forced = self.wait_and_force(first_reads, deadline);
                self.core.enter_phase(RunPhase::Ended);
            }
            WaitFor::Nothing => {
                // This call returns at once, so another thread has to end the first reads.
                context.end_first_reads_at(first_reads);
                self.core.mixin_closed_late.store(true, Ordering::SeqCst);
                self.core.close_mixin_after_loops(&*self.mixin);
            }
        }
        let counts = context.counts();
        report.stopped = usize::try_from(counts.stopped - counted.stopped).unwrap_or(usize::MAX);
        report.unheard = usize::try_from(counts.unheard - counted.unheard).unwrap_or(usize::MAX);
        report.left_running = context.live.view();
        // The deadline cuts no datagram off: one whose handler goes on is only in `left_running`.
        let is_uncut = |left: &&LiveRequest| left.cut.is_none();
        let uncut: HashSet<u64> =
            report.left_running.iter().filter(is_uncut).map(|it| it.id).collect();
        report.forced.retain(|forced| !uncut.contains(&forced.id));
        report.took = began.elapsed();
        report
    }

    /// Waits for the end of the lame duck, in which the loop goes on accepting. Only the first close waits; a second one
    /// ends the lame duck.
    fn lame_duck(&self) {
        let time = self.limits().lame_duck;
        if !time.is_zero() && !self.core.lame_duck_is_begun.swap(true, Ordering::SeqCst) {
            self.core.context.runs.wait_in_lame_duck(wait::moment_after(Instant::now(), time));
        }
    }

    /// Whether this close waits: a thread that serves a request, or accepts, would wait for itself.
    fn close_waits_for(&self) -> WaitFor {
        let context = &self.core.context;
        // A handler of another server may wait for this close. Only a handler of this server must not.
        let is_own_thread = context.runs.is_loop_thread() || is_serving(context);
        if self.mixin.block_on_close() && !is_own_thread {
            WaitFor::Requests
        } else {
            WaitFor::Nothing
        }
    }

    /// Begins the close: no more clients are accepted. Returns how many were taken out of the backlog.
    fn stop_accepting(&self, wait_for: WaitFor) -> usize {
        let core = &self.core;
        // Begun before `close`: a loop that ends at this time waits until the backlog is taken, and serves it. `None`:
        // another close has taken it.
        let taker = core.backlog.begin();
        if wait_for == WaitFor::Requests
            && core.transport.close_when() == CloseWhen::RequestsHaveEnded
        {
            // Set before the loops stop: the last loop reads it when it leaves. Never cleared: another close, which waits for
            // nothing, must not close the socket before this one.
            core.closed_late.store(true, Ordering::SeqCst);
        }
        // From here on no loop accepts a further request.
        let closer = core.context.runs.close();
        core.context.live.tell_of_stop();
        match closer {
            // The loop may be busy: this thread closes the listener, and the loop serves the clients that are taken
            // here.
            Closer::Loop => taker.map_or(0, |taker| core.stop_listening(taker)),
            Closer::Caller => {
                core.loops_have_ended();
                0
            }
        }
    }

    /// Takes steps 3 to 5 of `server_close_within`. Returns the requests that were cut off at the deadline.
    fn wait_and_force(&self, first_reads: Instant, deadline: Instant) -> Vec<LiveRequest> {
        let context = &self.core.context;
        let mut forced = Vec::new();
        // The mixin drains twice before the deadline: the second time it tells its children that first reads are over.
        self.drain_until(first_reads);
        context.end_first_reads();
        // The moment until which loops and threads are waited for. If no request is left, they have the rest of the grace.
        let last = if self.drain_until(deadline) {
            deadline.max(Instant::now() + AFTER_FORCE)
        } else {
            self.core.enter_phase(RunPhase::Forced);
            // One short wait for all that is left to do.
            let last = Instant::now() + AFTER_FORCE;
            forced = context.live.view();
            // The cut is noted before a child is killed: its parent learns from the cut that the end was forced.
            context.live.force();
            self.mixin.force();
            self.drain_until(last);
            last
        };
        // The loops have to end first: a closed mixin would refuse the jobs that they still bring.
        context.runs.wait_until_ended(Some(last));
        // A datagram socket was kept open until now: no request needs it for a reply any more, or its time is over.
        if self.core.closed_late.load(Ordering::SeqCst) {
            self.core.close_listener();
        }
        self.mixin.server_close(last);
        forced
    }

    /// Waits until no request is left, or the deadline has passed. Returns true if none is left.
    ///
    /// The mixin drains first: it reaps children and resumes coroutines, and without that the list never gets empty.
    fn drain_until(&self, deadline: Instant) -> bool {
        self.mixin.drain(deadline);
        self.core.context.live.wait_until_empty(deadline)
    }
}

impl<T: Transport> Core<T> {
    /// Returns the core, for a step that comes before a run.
    ///
    /// # Errors
    ///
    /// If the server is closed.
    pub(super) fn unless_closed(&self) -> Result<&Self> {
        self.context.runs.check_open(&self.context.server_address()).map(|()| self)
    }

    /// Closes the mixin for a close that waits for nothing, once the loop has handed the backlog to the mixin. Called by
    /// that close and at the end of each loop; the later of the two calls does it. The mixin joins no thread, because
    /// its deadline has passed already.
    pub(super) fn close_mixin_after_loops(&self, mixin: &impl Mixin) {
        let due = self.mixin_closed_late.load(Ordering::SeqCst);
        if due && !self.context.runs.is_accepting() {
            mixin.server_close(Instant::now());
        }
    }
}

impl ServerContext {
    /// Ends the waits for the first request of a connection, from here on. The flag is set before the list is read: a
    /// request that is just beginning such a wait sees the flag, or is found in the list.
    fn end_first_reads(&self) {
        self.runs.end_first_reads();
        self.live.end_input_of_idle(FirstReads::Over);
    }

    /// Ends the waits for first requests at a later moment: on a thread, if one may be started and there may be such
    /// waits; otherwise at once.
    fn end_first_reads_at(self: &Arc<Self>, when: Instant) {
        let context = Arc::clone(self);
        let end = move || {
            wait::sleep(when.saturating_duration_since(Instant::now()));
            context.end_first_reads();
        };
        // Where no thread can be started, first reads end at once, which is earlier than promised. If nobody is connected,
        // a thread would sleep for nothing.
        let nobody = self.live.len() == 0 || self.runs.first_reads_are_over();
        let later = !nobody && self.role().may_start_threads();
        if !later || thread::Builder::new().name("first reads".into()).spawn(end).is_err() {
            self.end_first_reads();
        }
    }
}

/// The things that a close waits for. Decided when the close begins; it does not change afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitFor {
    /// Running requests, and the mixin's threads.
    Requests,
    /// Nothing: the caller could be waiting for itself, or the mixin's `block_on_close` is off.
    Nothing,
}

/// How long forced handlers may take to notice that their connections are gone, and killed children to end. This time
/// comes after the deadline. It is short compared with any grace, and long enough for threads to get their turns on a busy
/// machine. A handler that goes on computing is left behind.
pub(super) const AFTER_FORCE: Duration = Duration::from_millis(75);
