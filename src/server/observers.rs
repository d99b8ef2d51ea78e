//! Reports requests to the observers, and counts how they end. For a request in a forked child, the parent does both.
//!
//! Observers and hooks are the program's code. A panic of one is caught, and ends neither the request nor the loop.
//! Each call runs on the thread on which the event has happened, and that thread waits for it. A request is counted
//! before its end is reported: an observer that asks for the counts finds the request among them.
//!
//! In a child an observer would be a copy, with effects that nobody sees. So a child notes for its parent the things
//! that it alone knows: its client and a limit, in the shared rows of the request; and the text of a failed step, which
//! goes with its end. `served_by_child.rs` reports them. The hook `handle_error` alone runs in the child, where the error
//! is.

use std::fmt::Display;
use std::time::Duration;

use super::Core;
use super::catch_panic::run_catching;
use super::descriptor_budget::lowered_live;
use super::error_owner::ErrorOwner;
use super::failure::{Failure, Phase};
use crate::error::{HandlerError, chain};
use crate::events::{CloseReason, Limit, ServerEvent};
use crate::live::Entry;
use crate::mixin::WorkerWatch;
use crate::refused::Refused;
use crate::transport::Transport;

impl<T: Transport> Core<T> {
    /// Reports an event to the observers, in the order in which they were added. A forked child leaves that to its parent.
    pub(super) fn tell(&self, event: &ServerEvent<'_>) {
        if self.context.role().is_child() {
            return;
        }
        for observer in &self.observers {
            run_catching(|| observer(event));
        }
    }

    /// Shows a message to the operator, through the hook `warning`, whose panic ends nothing.
    pub(super) fn warn(&self, text: &str) {
        run_catching(|| self.hooks.warning(text));
    }

    /// Counts the end of a request that was served. A forked child counts nothing, because nobody reads its counts: its
    /// parent counts the request.
    #[inline]
    pub(super) fn count(&self, entry: &Entry, reason: CloseReason) {
        if !self.context.role().is_child() {
            self.count_here(entry, reason);
        }
    }

    /// Counts the end of a request. A request that was stopped before its peer had sent anything counts twice: as stopped,
    /// and as unheard.
    fn count_here(&self, entry: &Entry, reason: CloseReason) {
        self.context.counters.ended(reason);
        if reason == CloseReason::Stopped && entry.is_unheard() {
            self.context.counters.unheard();
        }
    }

    /// Whether there is an observer, which gets the events and with them the times of requests. Without an observer no
    /// clock is read for these times.
    pub(super) fn is_observed(&self) -> bool {
        !self.observers.is_empty()
    }

    /// Reports the last event of a request. Called once for each request that was announced, after its connection is
    /// closed.
    #[inline]
    pub(super) fn tell_of_end(
        &self,
        entry: &Entry,
        reason: CloseReason,
        refused: Option<&Refused>,
    ) {
        if self.is_observed() {
            self.tell_observers_of_end(entry, reason, refused);
        }
    }

    /// The rest of [`tell_of_end`](Self::tell_of_end), in a function of its own because most servers have no observer: the
    /// stacks of their workers then need no room for the large event.
    #[inline(never)]
    fn tell_observers_of_end(&self, entry: &Entry, reason: CloseReason, refused: Option<&Refused>) {
        let (bytes_in, bytes_out) = entry.bytes();
        let (clear_bytes_in, clear_bytes_out) = entry.clear_bytes();
        self.tell(&ServerEvent::RequestEnded {
            id: entry.id(),
            client_address: entry.client_address(),
            proxy_address: entry.proxy_address(),
            handler: self.handler_name,
            reason,
            refused,
            // A handler may have met a time limit and then ended for another reason: that limit is not reported.
            limit: entry.limit().filter(|_| reason.may_be_of_time()),
            age: entry.age(),
            times: entry.times(),
            bytes_in,
            bytes_out,
            clear_bytes_in,
            clear_bytes_out,
        });
    }

    /// Reports a client that a proxy has named. Does nothing for a request that no proxy has brought.
    pub(super) fn tell_of_client(&self, entry: &Entry) {
        if let Some(proxy_address) = entry.proxy_address() {
            let (id, client_address) = (entry.id(), entry.client_address());
            self.tell(&ServerEvent::ClientKnown { id, client_address, proxy_address });
        }
    }

    /// Reports the limit that a request is beyond. A child notes the limit for its parent.
    pub(super) fn tell_of_limit(&self, entry: &Entry, limit: Limit) {
        entry.note_beyond(limit);
        self.tell(&ServerEvent::LimitReached { limit });
    }

    /// Reports a step before the handler that has failed. A child notes the text for its parent.
    pub(super) fn tell_of_preface(&self, entry: &Entry, error: &HandlerError) {
        // The text of the error costs an allocation, and only an observer in the parent would read it.
        if self.is_observed() && self.context.role().is_child() {
            entry.note_failed_step(chain(&**error));
        }
        let (id, client_address) = (entry.id(), entry.client_address());
        self.tell(&ServerEvent::HandshakeFailed { id, client_address, error });
    }
}

/// For a mixin that runs many requests on each worker.
impl<T: Transport> WorkerWatch for Core<T> {
    fn worker_is_held(&self, request: u64, held: Duration) {
        // The request may have ended since the watchdog saw it.
        let Some(entry) = self.context.live.find(request) else { return };
        self.tell(&ServerEvent::WorkerHeld {
            id: entry.id(),
            client_address: entry.client_address(),
            handler: self.handler_name,
            held,
        });
    }

    /// Lowers the limit of live requests to `most`, if it is higher, and warns the operator. Clients beyond the limit then
    /// wait in the accept queue, as they do when descriptors are short.
    fn requests_are_bounded(&self, most: usize, why: &dyn Display) {
        // `None`: the limit was as low already, and nothing is reported.
        if let Some(lowered) = self.context.budget_workers(most.max(1)) {
            let lowered = lowered_live(&self.context.limits(), lowered);
            let address = self.context.server_address();
            self.warn(&format!("{address}: {lowered}: {why}"));
        }
    }
}

/// Calls the hook `handle_error`, after the subscriber of `tracing` has got the failure. A panic of the hook or of the
/// subscriber ends here, and the request is closed all the same.
///
/// Called before the request's end: the hook gets the error by reference, and may format it with its whole chain.
pub(super) fn handle_error<T: Transport>(
    core: &Core<T>,
    entry: &Entry,
    phase: Phase,
    error: &HandlerError,
) {
    handle_error_of(core, entry, ErrorOwner::of(entry), phase, error);
}

/// [`handle_error`], with the owner of the errors: the handler may have swapped its request for another one, whose
/// errors count too.
pub(super) fn handle_error_of<T: Transport>(
    core: &Core<T>,
    entry: &Entry,
    owner: ErrorOwner,
    phase: Phase,
    error: &HandlerError,
) {
    let client_address = entry.client_address();
    let (handler, is_traced) = (core.handler_name, false);
    // The hook learns whether a subscriber has the failure already, so that its default does not print it again.
    let mut failure = Failure { phase, error, owner, client_address, handler, is_traced };
    run_catching(|| failure.is_traced = core.spans.failed(&failure));
    run_catching(|| core.hooks.handle_error(&failure));
}

// The test runs a server on a kernel that bounds the number of coroutines' stacks, or seems to.
#[cfg(has_green)]
#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use parking_lot::Mutex;
    use test_support::{SOON, alone, eventually};

    use crate::events::{CloseReason, ServerEvent};
    use crate::handler::stream_fn;
    use crate::mixin::Green;
    use crate::server::{Builder, ServerHooks};
    use crate::sys::coroutine::FORCED_BOUND;
    use crate::transport::Tcp;

    /// Keeps the warnings for the operator.
    #[derive(Clone, Default)]
    struct Warned(Arc<Mutex<Vec<String>>>);

    impl ServerHooks for Warned {
        fn warning(&self, text: &str) {
            self.0.lock().push(text.to_owned());
        }
    }

    /// A client that has sent a line.
    struct Client(BufReader<TcpStream>);

    impl Client {
        fn at(address: std::net::SocketAddr) -> Self {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"hello\n").unwrap();
            Self(BufReader::new(stream))
        }

        /// Whether the answer comes in time.
        fn is_answered(&mut self, time: Duration) -> bool {
            self.0.get_ref().set_read_timeout(Some(time)).unwrap();
            let mut line = String::new();
            self.0.read_line(&mut line).is_ok_and(|_| line == "hello\n")
        }
    }

    #[test]
    fn clients_beyond_the_bound_of_classic_guards_wait_in_the_accept_queue() {
        const BOUND: usize = 32;
        const REQUESTS: usize = 30;
        let name = "server::observers::tests::clients_beyond_the_bound_of_classic_guards_wait_in_the_accept_queue";
        alone(name, || {
            FORCED_BOUND.set(BOUND).unwrap();
            let (warned, refused) = (Warned::default(), Arc::new(Mutex::new(Vec::new())));
            let ends = Arc::clone(&refused);
            let server = Builder::<Tcp, _>::new(Green::new().workers(2))
                .hooks(warned.clone())
                .observer(move |event| {
                    if let ServerEvent::RequestEnded { reason, .. } = event {
                        ends.lock().push(*reason);
                    }
                })
                .bind(
                    "127.0.0.1:0",
                    stream_fn(|request| {
                        let mut line = String::new();
                        while let Some(text) = request.next_line(&mut line)? {
                            writeln!(request, "{text}")?;
                        }
                        Ok(())
                    }),
                )
                .unwrap()
                .serve_in_background()
                .unwrap();
            let address = server.server_address().as_inet().unwrap();
            let mut clients: Vec<_> = (0..REQUESTS + 10).map(|_| Client::at(address)).collect();
            for client in &mut clients[..REQUESTS] {
                assert!(client.is_answered(SOON));
            }
            assert!(!clients[REQUESTS].is_answered(Duration::from_millis(100)));
            assert_eq!(server.context().live_count(), REQUESTS);
            assert_eq!(server.context().figures().busy.max, Some(REQUESTS as u64));

            // A higher limit lets no more clients in.
            server.context().set_limits(server.limits().live(1_000));
            assert!(!clients[REQUESTS].is_answered(Duration::from_millis(100)));

            // Each request that ends makes room for one.
            while clients.len() > REQUESTS {
                drop(clients.remove(0));
                assert!(clients[REQUESTS - 1].is_answered(SOON));
            }
            drop(clients);
            eventually("all have ended", || refused.lock().len() == REQUESTS + 10);
            assert!(refused.lock().iter().all(|reason| *reason == CloseReason::Completed));
            let told = warned.0.lock().clone();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("at most 30 requests at once, not "), "{told:?}");
            assert!(told[0].contains("room for 32 coroutines"), "{told:?}");
            let began = Instant::now();
            assert!(server.stop().unwrap().is_clean());
            assert!(began.elapsed() < SOON);
        });
    }
}
