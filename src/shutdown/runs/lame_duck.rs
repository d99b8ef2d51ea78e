//! The lame duck of a server: the orders to retire, and the waits of the thread that closes.
//!
//! ```text
//! a signal's action        the thread that closes                                  the last loop
//!                          wait_for_stop
//! request_retire
//!   the order, the event ->  returns: a lame duck begins
//!                          wait_in_lame_duck: leaves an event under the lock
//! request_stop  ---------->  returns early, or
//!                            the time is over, or  <------------------------------- end_accepting notifies the event
//!                          close
//! ```
//!
//! The event of the lame duck is put into the state under the lock under which the state is seen to be `Accepting`, and
//! the end of accepting takes it out under the same lock. So the wait cannot outlive the run.
//!
//! Without a thread that closes, as under `Forking`, the loop takes the orders between two requests, and serves on in the
//! lame duck until its time is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Runs;
use crate::run_phase::RunPhase;
use crate::shutdown::reload_and_retire::TakenOrders;
use crate::shutdown::run_state::{RunKind, RunState};
use crate::wait::{self, Event};

impl Runs {
    /// Orders the lame duck and the close after it, if the server is ready and has a lame duck; otherwise requests a
    /// stop. A signal's action may call it.
    pub(crate) fn request_retire(&self) {
        // In a forked child the order becomes a stop, of which the parent learns from the exit status.
        let is_lame_duck = self.has_lame_duck.load(Ordering::SeqCst)
            && self.phase.get() == RunPhase::Ready
            && self.stop.event.is_ours();
        if !is_lame_duck || !self.orders.give_retire() {
            self.request_stop();
        }
    }

    /// Notes whether there is a lame duck. Called with `Limits::lame_duck`, whenever that changes.
    pub(crate) fn set_lame_duck(&self, time: Duration) {
        self.has_lame_duck.store(!time.is_zero(), Ordering::SeqCst);
    }

    /// Waits until the lame duck is over; called in a thread that closes. A stop or the end of the run ends it early.
    /// If no `serve_forever` accepts, there is no lame duck.
    pub(crate) fn wait_in_lame_duck(&self, until: Instant) {
        // Without a descriptor the lame duck is skipped: the server closes, as it was asked to.
        let Ok(over) = Event::new().map(Arc::new) else { return };
        {
            let mut state = self.state.lock();
            if state.run != RunState::Accepting(RunKind::Forever) {
                return;
            }
            // A clone: the end of accepting takes this one out, and may do so before the wait below begins.
            state.lame_duck = Some(Arc::clone(&over));
        }
        while !self.stop_requested() && !over.is_set() && Instant::now() < until {
            let waited = wait::any(&[self.stop.waiting(), over.waiting()], Some(until));
            self.settle();
            if waited.is_err() {
                return;
            }
        }
    }

    /// Waits for a stop of the run that goes on, an order to retire, or for `over`. Other orders are obeyed
    /// meanwhile. A stop that was requested before the run began does not count: the run then returns by itself, and
    /// `over` follows.
    pub(crate) fn wait_for_stop(&self, over: &Event, obey: impl Fn(TakenOrders)) {
        loop {
            let mut events = vec![self.stop.waiting(), over.waiting()];
            events.extend(self.orders.waiting());
            // An error of the wait counts as a stop: a lame duck that ends early harms less than one that never ends.
            if wait::any(&events, None).is_err() || over.is_set() {
                return;
            }
            if self.stop_requested() {
                if self.is_accepting() {
                    return;
                }
                // The stop's event stays readable, so a wait that includes it would spin.
                let _ = wait::any(&[over.waiting()], None);
            }
            // Clears the event first, so an order that comes meanwhile makes the next wait return.
            let orders = self.orders.take();
            if orders.retire {
                return;
            }
            obey(orders);
            self.settle();
        }
    }
}
