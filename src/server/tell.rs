//! Reports requests to the observers, and counts how they end. In a forked child the parent does both.

use std::fmt::Display;
use std::time::Duration;

use super::Core;
use super::catch_panic::run_catching;
use super::error_owner::ErrorOwner;
use super::failure::{Failure, Phase};
use crate::error::HandlerError;
use crate::events::{CloseReason, ServerEvent};
use crate::live::Entry;
use crate::mixin::WorkerWatch;
use crate::refused::Refused;
use crate::transport::Transport;

impl<T: Transport> Core<T> {
    /// Reports an event to the observers. A forked child leaves that to its parent.
    pub(super) fn tell(&self, event: &ServerEvent<'_>) {
        if self.context.role().is_child() {
            return;
        }
        for observer in &self.observers {
            run_catching(|| observer(event));
        }
    }

    /// Counts the end of a request that was served. A forked child does not, because nobody reads its counts, and the
    /// parent counts.
    pub(super) fn count(&self, entry: &Entry, reason: CloseReason) {
        if self.context.role().is_child() {
            return;
        }
        self.context.counters.ended(reason);
        if reason == CloseReason::Stopped && entry.is_unheard() {
            self.context.counters.unheard();
        }
    }

    /// Whether anybody gets the events, and with them the times of requests. Without an observer no clock is read for
    /// these times.
    pub(super) fn is_observed(&self) -> bool {
        !self.observers.is_empty()
    }

    pub(super) fn tell_of_end(
        &self,
        entry: &Entry,
        reason: CloseReason,
        refused: Option<&Refused>,
    ) {
        if !self.is_observed() {
            return;
        }
        let (bytes_in, bytes_out) = entry.bytes();
        let (clear_bytes_in, clear_bytes_out) = entry.clear_bytes();
        self.tell(&ServerEvent::RequestEnded {
            id: entry.id(),
            client_address: entry.client_address(),
            proxy_address: entry.proxy_address(),
            handler: self.handler_name,
            reason,
            refused,
            // A handler may have met a limit and ended in another way.
            limit: entry.limit().filter(|_| reason.may_be_of_time()),
            age: entry.age(),
            times: entry.times(),
            bytes_in,
            bytes_out,
            clear_bytes_in,
            clear_bytes_out,
        });
    }

    /// Reports a client that a proxy has named.
    pub(super) fn tell_of_client(&self, entry: &Entry) {
        if let Some(proxy_address) = entry.proxy_address() {
            let (id, client_address) = (entry.id(), entry.client_address());
            self.tell(&ServerEvent::ClientKnown { id, client_address, proxy_address });
        }
    }

    /// Reports a step before the handler that has failed; and the limit that the request is beyond, if that is the
    /// cause.
    pub(super) fn tell_of_preface(&self, entry: &Entry, error: &HandlerError) {
        let (id, client_address) = (entry.id(), entry.client_address());
        self.tell(&ServerEvent::HandshakeFailed { id, client_address, error });
    }
}

/// For a mixin that runs many requests on each worker.
impl<T: Transport> WorkerWatch for Core<T> {
    fn worker_is_held(&self, request: u64, held: Duration) {
        let Some(entry) = self.context.live.find(request) else { return };
        self.tell(&ServerEvent::WorkerHeld {
            id: entry.id(),
            client_address: entry.client_address(),
            handler: self.handler_name,
            held,
        });
    }

    /// Warns the operator, if `Limits::live` lets more requests in than that. The excess requests are refused when
    /// they come.
    fn requests_are_bounded(&self, most: usize, why: &dyn Display) {
        let live = self.context.limits().live;
        if most < live {
            run_catching(|| {
                self.hooks.warning(&format!("not all of Limits::live = {live}: {why}"));
            });
        }
    }
}

/// Calls the hook. An error or a panic of the hook ends here, and the request is closed all the same.
pub(super) fn handle_error<T: Transport>(
    core: &Core<T>,
    entry: &Entry,
    phase: Phase,
    error: &HandlerError,
) {
    let (owner, client_address) = (ErrorOwner::of(entry), entry.client_address());
    let (handler, is_traced) = (core.handler_name, false);
    let mut failure = Failure { phase, error, owner, client_address, handler, is_traced };
    run_catching(|| failure.is_traced = core.spans.failed(&failure));
    run_catching(|| core.hooks.handle_error(&failure));
}
