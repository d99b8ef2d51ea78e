//! The life of one request, from the loop to the close.
//!
//! 1. `verify_request`, in the loop;
//! 2. the worker makes the request out of what the transport gave, and `wrap_request` may wrap it;
//! 3. `finish_request`: the handler is made, and its `setup`, `handle` and `finish` run;
//! 4. what failed is reported to `handle_error`;
//! 5. `shutdown_request` and `close_request`.
//!
//! Whatever of this is the user's may panic, and stands in `caught`: also the drop of an error.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::catch_panic::{caught, caught_drop};
use super::close_reason::{ended_from_here, may_be_early, reason_of};
use super::error_owner::Whose;
use super::hooks::{Failure, Phase};
use super::incoming::Incoming;
use super::overridden_hooks::LoopHook;
use super::server_permit::Admitted;
use crate::address::Address;
use crate::context::ServerContext;
use crate::error::{Error, Fatal, HandlerError, HandlerResult, Timeout};
use crate::events::{CloseReason, Limit, ServerEvent};
use crate::handler::BaseRequestHandler;
use crate::limits::Limits;
use crate::live::{Activity, Cut, Entry};
use crate::mixin::{Outcome, Refused, Work, WorkerAccept};
use crate::request::{Deadline, Request, Ticket};
use crate::transport::Transport;

/// A request with everything that it takes to serve it.
pub(super) struct TypedJob<T: Transport> {
    // Order matters: the connection closes before its place is given to another one.
    pub(super) raw: T::Raw,
    pub(super) ticket: Ticket,
    pub(super) core: Admitted<T>,
}

/// Whether a request is to be served.
pub(super) enum Verdict {
    Serve,
    Reject,
}

impl<T: Transport> TypedJob<T> {
    /// Gives a request its place. Nothing of the user's runs, and nobody is told yet.
    pub(super) fn enter(core: Admitted<T>, raw: T::Raw, peer: Address) -> Self {
        let connection = T::connection(&raw);
        let received = T::received(&raw);
        let registration = core.context.live.enter(peer, core.handler_name, received, connection);
        let ticket = Ticket::new(registration, Arc::clone(&core.context));
        // One that is refused for its peer's sake does not use up the rate of all: a peer that comes again and again
        // would keep the others out.
        if ticket.beyond().is_none() {
            core.context.rate.pass();
        }
        Self { raw, ticket, core }
    }

    /// Tells that it has begun.
    pub(super) fn announce(&self) {
        self.core.tell(&ServerEvent::RequestStarted {
            id: self.ticket.id(),
            client_address: self.ticket.client_address(),
            handler: self.core.handler_name,
        });
    }

    /// Whether it was cut off at the deadline of a close before it has begun.
    pub(super) fn is_forced(&self) -> bool {
        matches!(self.ticket.entry().cut(), Some(Cut::Forced))
    }

    /// Whether it is beyond a limit for one peer, which is told, and why it is not run then.
    pub(super) fn is_beyond(&self) -> Option<Refused> {
        let limit = self.ticket.beyond()?;
        self.core.tell(&ServerEvent::LimitReached { limit });
        Some(if limit == Limit::PeerRate {
            Refused::TooFastFromPeer
        } else {
            Refused::TooManyFromPeer
        })
    }

    /// Asks the hook. A hook that fails or panics rejects, and is reported.
    pub(super) fn verify_request(&mut self) -> Verdict {
        let core = &self.core;
        if core.loop_hooks.are_default() {
            return Verdict::Serve;
        }
        let asked = caught(|| {
            let connection = T::connection(&self.raw);
            let connection = connection.as_ref().map(std::os::fd::AsFd::as_fd);
            let incoming = Incoming::new(&self.ticket, connection);
            let verify = || core.hooks.verify_request(&incoming);
            let asked = core.loop_hooks.call(LoopHook::VerifyRequest, verify);
            self.ticket.extension = incoming.into_extension();
            asked
        });
        match asked {
            Ok(true) => Verdict::Serve,
            Ok(false) => Verdict::Reject,
            Err(error) => {
                let entry = self.ticket.entry();
                report(&self.core, entry, Phase::Verify, &error);
                if let Err(panicked) = caught_drop(error) {
                    report(&self.core, entry, Phase::Verify, &panicked);
                }
                Verdict::Reject
            }
        }
    }

    /// Turns the request away: an orderly end, and no handler.
    pub(super) fn reject(self) {
        let _serving = Serving::start(&self.core.context);
        let mut request = None;
        let (made, end) = self.open(&mut request);
        end.core.context.counters.ended(CloseReason::Rejected);
        end.report_unmade(made);
        end.close(&mut request, CloseReason::Rejected);
    }

    /// Makes the request that handlers hold, and keeps what is needed to end it.
    /// It stays in the place that the caller has for it: each copy of it would stand on the stack of a waiting
    /// thread for as long as the request lasts.
    fn open(self, place: &mut Option<T::Request>) -> (HandlerResult, End<T>) {
        let Self { raw, ticket, core } = self;
        let entry = Arc::clone(ticket.entry());
        let made = caught(|| {
            *place = Some(core.transport.make_request(raw, ticket));
            Ok(())
        });
        (made, End { core, entry })
    }

    /// Runs the request to its end.
    #[expect(
        clippy::boxed_local,
        reason = "on the stack it would stand there as long as the request lasts"
    )]
    pub(super) fn serve(self: Box<Self>) -> CloseReason {
        // What the handler sends to others leaves when it waits, and at the latest when it has ended.
        let _promise = crate::wait::FlushPromise::start();
        // In a child it is the loop's own thread that runs the request, and a drain knows that one.
        let context = &self.core.context;
        let _serving = (!context.role().is_child()).then(|| Serving::start(context));
        self.ticket.show_activity(Activity::Running);
        let &Limits { request: whole, handshake, .. } = self.ticket.limits();
        let whole = whole.and_then(|after| Deadline::after(Timeout::Request, after));
        let mut request = None;
        let (made, end) = self.open(&mut request);
        let result = match &mut request {
            Some(request) => match caught(|| end.wrap_request(request, handshake, whole)) {
                Ok(()) => end.finish_request(request),
                Err(error) => Err((Phase::Wrap, error)),
            },
            None => made.map_err(|panicked| (Phase::Make, panicked)),
        };
        let reason = end.conclude(result);
        end.core.count(&end.entry, reason);
        end.close(&mut request, reason);
        reason
    }
}

impl<T: Transport> Work for TypedJob<T> {
    fn run(self: Box<Self>) -> Outcome {
        self.serve().into()
    }

    fn refuse(self: Box<Self>, why: Refused) {
        let _serving = Serving::start(&self.core.context);
        let mut request = None;
        let (made, end) = self.open(&mut request);
        end.core.context.counters.ended(CloseReason::Refused);
        end.report_unmade(made);
        if let Refused::CannotStart(error) = why {
            let peer = end.entry.client_address();
            let error = Error::io("start a worker for", peer, error);
            report(&end.core, &end.entry, Phase::Start, &error.into());
        } else if let Some(request) = &mut request {
            drop(caught(|| {
                // A moment that has passed already: what is written goes into the socket's buffer or nowhere.
                request.set_server_deadline(Deadline::after(Timeout::Write, Duration::ZERO));
                drop(end.core.hooks.overflow(request, &why));
                Ok(())
            }));
        }
        end.close(&mut request, CloseReason::Refused);
    }

    fn release(self: Box<Self>) {
        let _serving = Serving::start(&self.core.context);
        let Self { raw, ticket, core } = *self;
        let entry = Arc::clone(ticket.entry());
        drop(caught_drop((raw, ticket)));
        core.context.counters.ended(CloseReason::Released);
        core.tell_of_end(&entry, CloseReason::Released);
    }

    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        if self.core.workers_may_accept() { Some(self.core.share()) } else { None }
    }

    fn label(&self) -> &'static str {
        self.ticket.handler()
    }

    fn peer(&self) -> &Address {
        self.ticket.client_address()
    }
}

impl<T: Transport> Core<T> {
    /// Tells the observer, if there is one. In a forked child there is none: the parent tells.
    pub(super) fn tell(&self, event: &ServerEvent<'_>) {
        let Some(observer) = &self.observer else { return };
        if self.context.role().is_child() {
            return;
        }
        drop(caught(|| {
            observer(event);
            Ok(())
        }));
    }

    /// Counts the end of a request that was served.
    pub(super) fn count(&self, entry: &Entry, reason: CloseReason) {
        self.context.counters.ended(reason);
        if reason == CloseReason::Stopped && entry.is_unheard() {
            self.context.counters.unheard();
        }
    }

    pub(super) fn tell_of_end(&self, entry: &Entry, reason: CloseReason) {
        if self.observer.is_none() {
            return;
        }
        let (bytes_in, bytes_out) = entry.bytes();
        self.tell(&ServerEvent::RequestEnded {
            id: entry.id(),
            client_address: entry.client_address(),
            handler: self.handler_name,
            reason,
            age: entry.age(),
            bytes_in,
            bytes_out,
        });
    }
}

/// What is left of a job when its request has been made: what it takes to end it.
struct End<T: Transport> {
    core: Admitted<T>,
    entry: Arc<Entry>,
}

impl<T: Transport> End<T> {
    /// Reports it, if there is no request because the transport has panicked when it was to make it.
    fn report_unmade(&self, made: HandlerResult) {
        if let Err(error) = made {
            report(&self.core, &self.entry, Phase::Make, &error);
        }
    }

    /// Has the hook wrap the request, within its limit; and sets the one for the whole request.
    fn wrap_request(
        &self,
        request: &mut T::Request,
        handshake: Duration,
        whole: Option<Deadline>,
    ) -> HandlerResult {
        let mut wrapped = Ok(());
        // Without hooks there is nothing to bound, and no reason to look at the clock.
        if self.core.hooked {
            if !request.is_whole() {
                let handshake = Deadline::after(Timeout::Handshake, handshake);
                request.set_server_deadline(Deadline::earlier(handshake, whole));
            }
            wrapped = caught(|| self.core.hooks.wrap_request(request));
            self.entry.end_preface();
            // What the hook has bounded is over.
            request.set_deadline(None);
        }
        request.set_server_deadline(whole);
        wrapped
    }

    /// Makes the handler, runs it and drops it. What fails first is what is reported, because it is the cause more often
    /// than not. (In Python an error of `finish` hides one of `handle`.)
    fn finish_request(&self, request: &mut T::Request) -> Result<(), (Phase, HandlerError)> {
        let mut ran = None;
        let factory = &self.core.factory;
        let made = caught(|| {
            factory.finish_request(&mut |handler| ran = Some(run_handler(handler, request)));
            Ok(())
        });
        // What is caught here is the making of the handler, or its drop.
        let phase = if ran.is_some() { Phase::Finish } else { Phase::Setup };
        ran.unwrap_or(Ok(())).and(made.map_err(|error| (phase, error)))
    }

    /// Finds out how the request has ended. What failed is judged and dropped here, and may panic at both.
    fn conclude(&self, result: Result<(), (Phase, HandlerError)>) -> CloseReason {
        let Err((phase, error)) = result else {
            return ended_from_here(&self.entry).unwrap_or(CloseReason::Completed);
        };
        let judged = caught(|| Ok(self.judge(phase, &error)));
        let dropped = caught_drop(error);
        match (judged, dropped) {
            // The server ends with it already.
            (Ok(CloseReason::Fatal), _) => CloseReason::Fatal,
            (Ok(reason), Ok(())) => reason,
            (Err(panicked), _) | (Ok(_), Err(panicked)) => {
                report(&self.core, &self.entry, phase, &panicked);
                CloseReason::Panicked
            }
        }
    }

    /// Finds out how a request has ended that failed, reports it, and stops the server if that is what the
    /// handler wants.
    fn judge(&self, phase: Phase, error: &HandlerError) -> CloseReason {
        if let Some(fatal) = Fatal::find(error) {
            self.core.context.runs.fail(Error::fatal(fatal.clone()));
            return CloseReason::Fatal;
        }
        let reason = reason_of(error, Whose::of(&self.entry), ended_from_here(&self.entry));
        if !matches!(
            reason,
            CloseReason::Idle
                | CloseReason::Stopped
                | CloseReason::Forced
                | CloseReason::ClosedHere
        ) {
            report(&self.core, &self.entry, phase, error);
        }
        reason
    }

    /// Ends and closes the request, tells of its end, and only then gives its place to another one.
    fn close(self, request: &mut Option<T::Request>, reason: CloseReason) {
        drop(caught(|| {
            if let Some(mut request) = request.take() {
                if may_be_early(reason) {
                    request.expect_more_input();
                }
                self.core.transport.end_request(request);
            }
            Ok(())
        }));
        self.core.tell_of_end(&self.entry, reason);
        if self.core.context.role().is_child() {
            // The parent keeps the books. Giving back here would be writing to shared memory, which copies it,
            // a moment before it is gone.
            std::mem::forget(self);
        }
    }
}

thread_local! {
    /// The servers whose requests this thread runs at the moment, by the addresses of their contexts.
    static SERVING: RefCell<Vec<*const ServerContext>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread runs a request, so that its handler does not wait for itself when it closes its
/// own server.
struct Serving {
    server: *const ServerContext,
}

impl Serving {
    fn start(context: &Arc<ServerContext>) -> Self {
        let server = Arc::as_ptr(context);
        SERVING.with_borrow_mut(|serving| serving.push(server));
        Self { server }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.with_borrow_mut(|serving| {
            if let Some(place) = serving.iter().rposition(|server| *server == self.server) {
                serving.swap_remove(place);
            }
        });
    }
}

/// Whether this thread runs a request of this server.
pub(super) fn is_serving(context: &Arc<ServerContext>) -> bool {
    SERVING.with_borrow(|serving| serving.contains(&Arc::as_ptr(context)))
}

/// Python's three steps. There is no `finish` after a `setup` that failed or panicked, but after such a `handle`.
fn run_handler<R>(
    handler: &mut dyn BaseRequestHandler<R>,
    request: &mut R,
) -> Result<(), (Phase, HandlerError)> {
    caught(|| handler.setup(request)).map_err(|error| (Phase::Setup, error))?;
    let handled = caught(|| handler.handle(request)).map_err(|error| (Phase::Handle, error));
    let finished = caught(|| handler.finish(request)).map_err(|error| (Phase::Finish, error));
    match handled {
        Ok(()) => finished,
        Err(earlier) => {
            drop(caught_drop(finished));
            Err(earlier)
        }
    }
}

/// Tells the hook. What the hook itself does wrong ends here: the request is closed all the same.
fn report<T: Transport>(core: &Core<T>, entry: &Entry, phase: Phase, error: &HandlerError) {
    let (whose, client_address) = (Whose::of(entry), entry.client_address());
    let failure = Failure { phase, error, whose, client_address, handler: core.handler_name };
    drop(caught(|| {
        core.hooks.handle_error(&failure);
        Ok(())
    }));
}
