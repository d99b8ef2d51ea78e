//! Guards for a run and for a loop within it. Their drops end the run and the loop even after a panic. The hooks and events
//! of a run are here as well.
//!
//! ```text
//! Runs::begin succeeds   RunGuard::begun; then `serve_forever` calls tell_of_ready: Ready, its hook, the service manager
//! each loop              Accepting::of_loop; the drop of the last one ends the accepting
//! the mixin returns      RunGuard::end, or the guard's drop after a panic; then leave_ready: Bound, if it does not close
//! ```
//!
//! The guards are needed because a mixin or a hook may panic: the run then still ends properly, its accepted requests are
//! accounted for, and the panic goes on.
//!
//! The phases of a server are reached by several threads (one serves, others close). Each is reported once and in
//! order: see `phase_queue.rs`. A hook may call the server again from within, even to close it.

use std::mem::ManuallyDrop;

use super::Core;
use super::catch_panic::{catch_panic, drop_catching, run_catching};
use crate::error::Result;
use crate::events::ServerEvent;
use crate::run_phase::RunPhase;
use crate::transport::Transport;

impl<T: Transport> Core<T> {
    /// Reports the beginning of a run. If the hook `ready` panics, the run ends before it serves a request.
    pub(super) fn tell_of_ready(&self) {
        // A phase that another thread reaches during this turn (in a close, say) is reported after this one.
        let turn = self.phases.turn(|phase| self.tell_of_phase(phase));
        // Reached first, so that the hook finds the server ready, and a client that hears of the server from the hook is
        // served.
        self.reach(RunPhase::Ready);
        self.tell(&ServerEvent::Ready { server_address: &self.context.server_address() });
        // A panic of this one hook is not caught: it ends the run, which has served nobody yet.
        self.hooks.ready(&self.context);
        // The phase `Ready` is reported here, after the hook `ready`. Later phases, which other threads may have reached by
        // now, follow it.
        drop(turn);
        // This comes last: on this message the service manager starts the services that depend on this one.
        if let Some(membership) = self.context.membership() {
            membership.ready();
        }
    }

    /// Goes on to a phase, and reports it once. Does nothing in a forked child.
    pub(super) fn enter_phase(&self, phase: RunPhase) {
        if !self.context.role().is_child() {
            self.reach(phase);
            drop(self.phases.turn(|phase| self.tell_of_phase(phase)));
        }
    }

    /// Reports that the server listens.
    pub(super) fn tell_of_bound(&self) {
        self.tell_in_order(|| Some(RunPhase::Bound));
    }

    /// Ends a run: the server goes back to the phase `Bound`, and waits for its next run, unless it closes.
    pub(super) fn leave_ready(&self) {
        self.tell_in_order(|| self.context.runs.phase.go_back().then_some(RunPhase::Bound));
    }

    /// Goes on to a phase and queues its report. Returns false if this phase, or a later one, has been reached before.
    fn reach(&self, phase: RunPhase) -> bool {
        self.phases.push(|| self.context.runs.phase.advance(phase).then_some(phase))
    }

    /// Reaches a phase, and has it reported after the earlier ones: here, or by the thread that is reporting already.
    fn tell_in_order(&self, reach: impl FnOnce() -> Option<RunPhase>) {
        self.phases.push(reach);
        drop(self.phases.turn(|phase| self.tell_of_phase(phase)));
    }

    /// Reports one phase to the observers and the hook. It does not panic, because the turn of a
    /// [`PhaseTurn`](super::phase_queue::PhaseTurn) calls it in its drop.
    fn tell_of_phase(&self, phase: RunPhase) {
        let server_address = &self.context.server_address();
        self.tell(&ServerEvent::PhaseReached { server_address, phase });
        run_catching(|| self.hooks.run_phase(&self.context, phase));
    }

    /// Runs all functions that the program has registered for a reload, even if one of them fails. It runs on the
    /// thread that obeys orders, or on the one that calls `Server::reload`; two calls may run at once. The event has
    /// the first error.
    pub(super) fn reload(&self) {
        let membership = self.context.membership();
        if let Some(membership) = &membership {
            membership.reloading();
        }
        let mut failed = None;
        for reload in &self.context.reloads.0 {
            if let Err(error) = catch_panic(|| reload(&self.context)) {
                // The error's text and drop are the program's code, as the hook is.
                run_catching(|| {
                    let address = self.context.server_address();
                    self.warn(&format!("the reload of {address} failed: {error}"));
                });
                if failed.is_none() {
                    failed = Some(error);
                } else {
                    drop(drop_catching(error));
                }
            }
        }
        let server_address = &self.context.server_address();
        self.tell(&ServerEvent::Reloaded { server_address, error: failed.as_ref() });
        drop(drop_catching(failed));
        // Reported even after a failure: the service goes on as it was, and the service manager must not wait.
        if let Some(membership) = &membership {
            membership.reloaded();
        }
    }

    /// Reports that the close begins, with the lame duck if there is one. This is reported once, and not by a forked child.
    /// Called by each close, and by the loop of a server that forks.
    ///
    /// The hook `stopping` runs on this thread in any case, because the close goes on only after it. If another
    /// thread is reporting phases (the hook `ready` has not returned, say), that thread may report `LameDuck` before
    /// `stopping` has returned.
    pub(super) fn tell_of_stopping(&self) {
        if self.context.role().is_child() {
            return;
        }
        let turn = self.phases.turn(|phase| self.tell_of_phase(phase));
        // This comes first: the hook finds that the server is no longer ready. A second close finds the phase reached, and
        // reports nothing.
        if !self.reach(RunPhase::LameDuck) {
            return;
        }
        if let Some(membership) = self.context.membership() {
            let limits = self.context.limits();
            membership.stopping(limits.lame_duck.saturating_add(limits.drain), self.context.load());
        }
        // The message to the service manager comes before the hook, which may take longer than the time in that message.
        self.tell(&ServerEvent::Stopping { server_address: &self.context.server_address() });
        run_catching(|| self.hooks.stopping(&self.context));
        drop(turn);
    }
}

/// A run of this server, of which there is one at a time. `end` ends it; if a mixin or a hook has panicked, the drop does.
pub(super) struct RunGuard<'a, T: Transport>(&'a Core<T>);

impl<'a, T: Transport> RunGuard<'a, T> {
    /// The guard of a run that has begun: `Runs::begin` has succeeded.
    pub(super) fn begun(core: &'a Core<T>) -> Self {
        Self(core)
    }

    /// Ends the run. Returns the error with which a handler or another thread has ended it, if one has.
    pub(super) fn end(self) -> Result<()> {
        // The drop is only for a run that does not get here.
        let Self(core) = *ManuallyDrop::new(self);
        core.context.runs.end(|| core.loops_have_ended())
    }
}

impl<T: Transport> Drop for RunGuard<'_, T> {
    fn drop(&mut self) {
        // As in an orderly end, accepted requests are accounted for.
        self.0.release_backlog();
        // The panic goes on, and tells more than the error.
        let _ = self.0.context.runs.end(|| self.0.loops_have_ended());
    }
}

/// A loop or a worker that accepts. It accepts no more when this is dropped.
pub(super) struct Accepting<'a, T: Transport> {
    /// The server in whose runs the accepting thread is listed. The thread that made this also has to drop it.
    core: &'a Core<T>,
}

impl<'a, T: Transport> Accepting<'a, T> {
    /// An accept loop, on its own thread. `None` if no run goes on.
    pub(super) fn of_loop(core: &'a Core<T>) -> Option<Self> {
        core.context.runs.enter_loop().then_some(Self { core })
    }

    /// A worker that accepts beside the loop. `None` if no loop accepts.
    pub(super) fn beside_loop(core: &'a Core<T>) -> Option<Self> {
        core.context.runs.enter_worker().then_some(Self { core })
    }
}

impl<T: Transport> Drop for Accepting<'_, T> {
    fn drop(&mut self) {
        self.core.context.runs.leave_loop(|| self.core.loops_have_ended());
    }
}
