//! The life of one request, from the loop to the close.
//!
//! 1. `verify_request`, in the loop;
//! 2. the worker makes the request out of what the transport gave, and `wrap_request` may wrap it;
//! 3. `finish_request`: the handler is made, and its `setup`, `handle` and `finish` run;
//! 4. what failed is reported to `handle_error`;
//! 5. `shutdown_request` and `close_request`.
//!
//! Panics of handlers and hooks end here and nowhere else.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::hooks::{Failure, Incoming, Phase};
use crate::address::Address;
use crate::error::{
    Error, Fatal, HandlerError, HandlerResult, Panicked, Stopping, TimedOut, Timeout, is_disconnect,
};
use crate::handler::BaseRequestHandler;
use crate::limits::Permit;
use crate::live::Activity;
use crate::mixin::{ChildEnd, Handed, Outcome, Refused, Work};
use crate::request::{Deadline, Request, Ticket};
use crate::shutdown::Runs;
use crate::transport::Transport;

/// A request with everything that it takes to serve it.
pub(super) struct TypedJob<T: Transport> {
    // Order matters: the connection closes before its place is given to another one.
    raw: T::Raw,
    ticket: Ticket,
    core: Arc<Core<T>>,
    /// Its place among `Limits::live`.
    permit: Permit,
}

/// Whether a request is to be served.
pub(super) enum Verdict {
    Serve,
    Reject,
}

impl<T: Transport> TypedJob<T> {
    pub(super) fn new(core: &Arc<Core<T>>, raw: T::Raw, peer: Address, permit: Permit) -> Self {
        let connection = T::connection(&raw);
        let live = core.context.live.enter(peer, core.handler_name, connection);
        let ticket = Ticket::new(live, Arc::clone(&core.context));
        core.context.counters.accepted();
        Self { raw, ticket, core: Arc::clone(core), permit }
    }

    /// Asks the hook. A hook that fails or panics rejects, and is reported.
    pub(super) fn verify_request(&self) -> Verdict {
        let connection = T::connection(&self.raw);
        let incoming = Incoming {
            ticket: &self.ticket,
            connection: connection.as_ref().map(std::os::fd::AsFd::as_fd),
        };
        let mut wanted = false;
        let asked = caught(|| {
            wanted = self.core.hooks.verify_request(&incoming)?;
            Ok(())
        });
        match asked {
            Ok(()) if wanted => Verdict::Serve,
            Ok(()) => Verdict::Reject,
            Err(error) => {
                self.report(Phase::Verify, &error);
                Verdict::Reject
            }
        }
    }

    /// Turns the request away: an orderly end, and no handler.
    pub(super) fn reject(self) {
        self.core.context.counters.rejected();
        let (mut request, end) = self.open();
        end.shutdown(&mut request);
        end.close(request);
    }

    fn report(&self, phase: Phase, error: &HandlerError) {
        report(&self.core, self.ticket.client_address(), phase, error);
    }

    /// Makes the request that handlers hold, and keeps what is needed to end it.
    fn open(self) -> (T::Request, End<T>) {
        let Self { raw, ticket, core, permit } = self;
        let request = core.transport.make_request(raw, ticket);
        (request, End { core, permit })
    }

    fn bound(limit: Timeout, after: Duration) -> Option<Deadline> {
        Some(Deadline { at: Instant::now().checked_add(after)?, limit, after })
    }
}

impl<T: Transport> Work for TypedJob<T> {
    fn run(self: Box<Self>) -> Outcome {
        self.ticket.set_activity(Activity::Running);
        let limits = *self.ticket.limits();
        let whole = limits.request.and_then(|after| Self::bound(Timeout::Request, after));
        let (mut request, end) = self.open();

        request.set_deadline(Self::bound(Timeout::Handshake, limits.handshake));
        let wrapped = caught(|| end.core.hooks.wrap_request(&mut request));
        request.set_deadline(whole);
        let result = match wrapped {
            Ok(()) => end.finish_request(&mut request),
            Err(error) => Err((Phase::Wrap, error)),
        };
        let outcome = end.conclude(request.client_address(), result);

        end.shutdown(&mut request);
        end.close(request);
        outcome
    }

    fn refuse(self: Box<Self>, why: Refused) {
        self.core.context.counters.refused();
        let (mut request, end) = self.open();
        // A moment that has passed already: what is written goes into the socket's buffer or nowhere.
        request.set_deadline(Self::bound(Timeout::Write, Duration::ZERO));
        match why {
            Refused::CannotStart(error) => {
                let error = Error::io("start a worker for", request.client_address(), error);
                report(&end.core, request.client_address(), Phase::Start, &error.into());
            }
            why => drop(caught(|| end.core.hooks.overflow(&mut request, &why))),
        }
        end.shutdown(&mut request);
        end.close(request);
    }

    fn release(self: Box<Self>) {
        self.core.context.counters.released();
    }

    fn hand_over(self: Box<Self>) -> Box<dyn Handed> {
        let Self { raw, ticket, core, permit } = *self;
        drop(raw);
        ticket.forget_connection();
        ticket.set_activity(Activity::Running);
        Box::new(HandedOver { _ticket: ticket, core, _permit: permit })
    }

    fn run_in_child(self: Box<Self>) -> ChildEnd {
        let core = Arc::clone(&self.core);
        core.transport.close_in_child();
        core.context.enter_child();
        let _signals = signals_of_a_child(&core.context.runs);
        let outcome = self.run();
        // The handler may have gathered replies, and there will be no other wait to send them before.
        crate::wait::flush();
        let fatal = core.context.runs.take_failure().map(|error| match error.as_fatal() {
            Some(fatal) => fatal.to_string(),
            None => error.to_string(),
        });
        ChildEnd { outcome, fatal, stop: core.context.runs.stop_requested() }
    }

    fn label(&self) -> &'static str {
        self.ticket.handler()
    }

    fn peer(&self) -> &Address {
        self.ticket.client_address()
    }
}

/// A signal that ends the parent in order tells its children of the drain: SIGTERM, by which the parent
/// tells them, and Ctrl-C, which a terminal sends to all, if the parent takes it.
fn signals_of_a_child(runs: &Arc<Runs>) -> Vec<crate::sys::SignalGuard> {
    let mut signals = vec![libc::SIGTERM];
    if runs.signals_handled().load(std::sync::atomic::Ordering::SeqCst) {
        signals.push(libc::SIGINT);
    }
    let on = |signal| {
        let runs = Arc::clone(runs);
        // An atomic store, in a signal's handler. Without it the signal does what it always does.
        crate::sys::on_signal(signal, move || runs.begin_drain()).ok()
    };
    signals.into_iter().filter_map(on).collect()
}

/// The parent's side of a request that a child serves: its place in the live list and its permit.
struct HandedOver<T: Transport> {
    _ticket: Ticket,
    core: Arc<Core<T>>,
    _permit: Permit,
}

impl<T: Transport> Handed for HandedOver<T> {
    fn ended(self: Box<Self>, end: ChildEnd) {
        let Core { context, .. } = &*self.core;
        match end.outcome {
            Outcome::Completed => context.counters.completed(),
            Outcome::Panicked => context.counters.panicked(),
            Outcome::Failed | Outcome::Fatal => context.counters.failed(),
        }
        if end.outcome == Outcome::Fatal {
            let text = end.fatal.unwrap_or_else(|| "a child process said so".to_owned());
            context.runs.fail(Error::fatal(Fatal::new(text)));
        }
        if end.stop {
            context.runs.request_stop();
        }
    }
}

/// What is left of a job when its request has been made: what it takes to end it.
struct End<T: Transport> {
    core: Arc<Core<T>>,
    permit: Permit,
}

impl<T: Transport> End<T> {
    /// Makes the handler and runs it. Whatever fails first is what is reported, as in Python, where
    /// only an error of `finish` hides one of `handle`; here the earlier one is kept, because it is
    /// the cause more often than not.
    fn finish_request(&self, request: &mut T::Request) -> Result<(), (Phase, HandlerError)> {
        let mut result = Ok(());
        let made = caught(|| {
            self.core.factory.finish_request(&mut |handler| result = run_handler(handler, request));
            Ok(())
        });
        // What is caught here is the making of the handler, or its destructor.
        result.and(made.map_err(|error| (Phase::Setup, error)))
    }

    /// Counts, reports, and stops the server if that is what the handler wants.
    fn conclude(&self, peer: &Address, result: Result<(), (Phase, HandlerError)>) -> Outcome {
        let counters = &self.core.context.counters;
        let Err((phase, error)) = result else {
            counters.completed();
            return Outcome::Completed;
        };
        if let Some(fatal) = Fatal::find(&error) {
            counters.failed();
            self.core.context.runs.fail(Error::fatal(fatal.clone()));
            return Outcome::Fatal;
        }
        // Two ends that are nobody's failure.
        if Stopping::find(&*error).is_some() {
            counters.stopped();
            return Outcome::Completed;
        }
        if TimedOut::find(&*error).is_some_and(|timeout| timeout.which() == Timeout::Idle) {
            counters.idle();
            return Outcome::Completed;
        }
        report(&self.core, peer, phase, &error);
        if error.is::<Panicked>() {
            counters.panicked();
            return Outcome::Panicked;
        }
        if is_disconnect(&*error) {
            counters.disconnected();
        } else {
            counters.failed();
        }
        Outcome::Failed
    }

    fn shutdown(&self, request: &mut T::Request) {
        drop(caught(|| {
            self.core.transport.shutdown_request(request);
            Ok(())
        }));
    }

    /// Closes the request, and only then gives its place to another one.
    fn close(self, request: T::Request) {
        drop(caught(|| {
            self.core.transport.close_request(request);
            Ok(())
        }));
        drop(self.permit);
    }
}

/// Python's three steps. `finish` runs after a `handle` that failed or panicked, not after a `setup`
/// that did.
fn run_handler<R>(
    handler: &mut dyn BaseRequestHandler<R>,
    request: &mut R,
) -> Result<(), (Phase, HandlerError)> {
    caught(|| handler.setup(request)).map_err(|error| (Phase::Setup, error))?;
    let handled = caught(|| handler.handle(request)).map_err(|error| (Phase::Handle, error));
    let finished = caught(|| handler.finish(request)).map_err(|error| (Phase::Finish, error));
    handled.and(finished)
}

/// Tells the hook. What the hook itself does wrong ends here: the request is closed all the same.
fn report<T: Transport>(core: &Core<T>, peer: &Address, phase: Phase, error: &HandlerError) {
    let failure = Failure { phase, error, client_address: peer, handler: core.handler_name };
    drop(caught(|| {
        core.hooks.handle_error(&failure);
        Ok(())
    }));
}

/// Runs what belongs to the user. A panic becomes an error.
///
/// Unwind safety: what a panic may have left half-changed is the handler, which is dropped, and the
/// request, of which only `finish` and the close are left to see anything.
pub(super) fn caught(run: impl FnOnce() -> HandlerResult) -> HandlerResult {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(payload) => Err(Panicked::new(&*payload).into()),
    }
}
