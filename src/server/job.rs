//! The life of one request, from its acceptance to its close.
//!
//! ```text
//! loop (or a worker that accepts)        worker: TypedJob::serve
//!   TypedJob::enter   the live list        make_request      the transport, from what get_request gave
//!   announce          the observer       then OpenRequest:
//!                                          wrap_request      hook, within Limits::handshake
//!   verify_request    hook                 finish_request    the handler: setup, handle, finish
//!   process_request   the mixin  ------->  handle_error      hook, if one of these failed
//!                                          end_request       shutdown_request and close_request
//!                                          tell_of_end       the observer
//! ```
//!
//! A request that is not served takes a shorter way to `end_request`: [`reject`](TypedJob::reject) after `verify_request`,
//! [`refuse`](Work::refuse) if the mixin or a limit has no room for it, [`release`](Work::release) if nobody will serve
//! it.
//!
//! All user code of a request (hooks, handler, observer, the `make_request` of a custom transport, the drop of an
//! error) runs in `catch_panic`, which turns a panic into an error.
//!
//! The order of the end is a promise to clients and operators: a request is counted, then its peer sees the end of the
//! connection and it leaves the live list, then the observer gets the event, and its permit is given back last. So a client that
//! has seen the end finds itself counted, and `Limits::live` counts every descriptor that is open.

use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use super::accept_failure::clone_error;
use super::catch_panic::{catch_panic, drop_catching};
use super::close_reason::refused_by;
use super::failure::Phase;
use super::incoming::Incoming;
use super::observers::handle_error;
use super::open_request::OpenRequest;
use super::overridden_hooks::LoopHook;
use super::served_by_thread::start_serving;
use super::server_permit::ServerPermit;
use crate::address::Address;
use crate::error::{Error, HandlerResult};
use crate::events::{CloseReason, ServerEvent};
use crate::live::{Activity, CountStep, Entry, PeerIs};
use crate::mixin::{Work, WorkerAccept, WorkerWatch};
use crate::refused::Refused;
use crate::request::{Deadline, Ticket};
use crate::sys::tcp_info;
use crate::timed_out::Timeout;
use crate::transport::{CloseWhen, Transport};
use crate::wait::{FlushPromise, RetiredUnwind};

/// A request with everything that is needed to serve it.
pub(super) struct TypedJob<T: Transport> {
    // Order matters: the connection closes before its permit is given back.
    /// The connection or the datagram, as `get_request` gave it.
    pub(super) raw: T::Raw,
    /// The request's slot in the live list. Its drop takes the request off the list. `make_request` gives it to the
    /// request.
    pub(super) ticket: Ticket,
    /// The permit of `Limits::live`, taken before the accept. It goes on into the [`OpenRequest`].
    pub(super) core: ServerPermit<T>,
    /// Two references to the entry for a forked child, counted before the fork. To count one in the child would write
    /// to the entry's page, and so copy it; the parent writes to that page anyway.
    pub(super) counted: Option<[Arc<Entry>; 2]>,
}

/// Whether a request is to be served.
pub(super) enum Verdict {
    /// Hand the request to the mixin.
    Serve,
    /// Close the request properly, without a handler.
    Reject,
    /// Close the request as after `Reject`, and end the loop too, which was retired while the hook waited.
    Retire(RetiredUnwind),
}

/// Whether `make_request` has panicked, and the rest of the job.
type Made<T> = (HandlerResult, OpenRequest<T>);

impl<T: Transport> TypedJob<T> {
    /// Enters a request into the live list. No user code runs here, except a transport's own `connection` and `received`.
    pub(super) fn enter(core: ServerPermit<T>, raw: T::Raw, peer: Address) -> Self {
        let connection = T::connection(&raw);
        let received = T::received(&raw);
        // One system call, only if the program has asked for this figure.
        let timed = connection.as_ref().filter(|_| core.times_accept_queue);
        let in_accept_queue = timed.and_then(|timed| tcp_info::since_connected(timed.as_fd()));
        // Most servers have no preface, and this then does nothing.
        let is_proxy = core.prefaces.name_client(&peer);
        let peer_is = if is_proxy { PeerIs::Proxy } else { PeerIs::Client };
        let (live, handler) = (&core.context.live, core.handler_name);
        let registration =
            live.enter(peer, peer_is, handler, received, connection, in_accept_queue);
        let ticket = Ticket::new(registration, Arc::clone(&core.context));
        // Called in this process, which may be about to fork: TLS renews the keys of its tickets here, for all children.
        core.prefaces.iter().for_each(crate::request::Preface::prepare);
        // A request beyond its peer's limits does not use up the rate of the server: otherwise a peer that connects again
        // and again would keep the others out.
        if ticket.beyond().is_none() {
            core.context.rate.pass();
        }
        Self { raw, ticket, core, counted: None }
    }

    /// Tells the observer that the request has begun. Called once for each request, before any other event of it.
    pub(super) fn announce(&self) {
        self.core.tell(&ServerEvent::RequestStarted {
            id: self.ticket.entry().id(),
            client_address: self.ticket.client_address(),
            handler: self.core.handler_name,
        });
    }

    /// Why the request is refused, if it is beyond a limit for one peer. The live list decided this under its lock when
    /// the request entered. The observer is told of the limit here.
    pub(super) fn is_beyond(&self) -> Option<Refused> {
        let limit = self.ticket.beyond()?;
        self.core.tell(&ServerEvent::LimitReached { limit });
        Some(refused_by(limit))
    }

    /// Asks the hook `verify_request`. If the hook fails or panics, that is reported, and the request is rejected.
    /// Nothing is accepted until this returns.
    pub(super) fn verify_request(&mut self) -> Verdict {
        let core = &self.core;
        // After the first request a hook that is still the default is not called.
        if core.overridden_hooks.are_default() {
            return Verdict::Serve;
        }
        let asked = catch_panic(|| {
            let connection = T::connection(&self.raw);
            let connection = connection.as_ref().map(AsFd::as_fd);
            let incoming = Incoming::new(&self.ticket, connection);
            let verify = || core.hooks.verify_request(&incoming);
            let asked = core.overridden_hooks.call(LoopHook::VerifyRequest, verify);
            // The extension is kept even if the hook says no: it is dropped with the request.
            self.ticket.extension = incoming.extension.into_inner();
            asked
        });
        match asked {
            Ok(true) => Verdict::Serve,
            Ok(false) => Verdict::Reject,
            Err(error) if error.is::<RetiredUnwind>() => Verdict::Retire(RetiredUnwind),
            Err(error) => {
                let entry = self.ticket.entry();
                handle_error(&self.core, entry, Phase::Verify, &error);
                // The error may be of a type of the program's, and then its drop runs code of the program.
                if let Err(panicked) = drop_catching(error) {
                    handle_error(&self.core, entry, Phase::Verify, &panicked);
                }
                Verdict::Reject
            }
        }
    }

    /// Turns the request away: closes it properly, without a handler.
    pub(super) fn reject(self) {
        // An observer or a transport that closes this server from here must not wait for this request.
        let _serving = start_serving(&self.core.context);
        let mut request = None;
        let (made, open) = self.make_request(&mut request);
        open.refused(made, CloseReason::Rejected);
        open.end_request(&mut request, CloseReason::Rejected, None);
    }

    /// Serves the request: Python's verbs, in their order.
    fn serve(self: Box<Self>) -> CloseReason {
        Self::serve_by(self, Self::make_boxed_request, |open, reason| {
            drop(open);
            reason
        })
    }

    /// Serves the job, whose request `make` makes, and leaves by `end`.
    ///
    /// In a worker `make` takes the job out of its box, and `end` drops what is left. In a forked child neither gives
    /// anything back, and `end` does not return: see `fork.rs`.
    #[inline]
    pub(super) fn serve_by<J: Deref<Target = Self>, R>(
        job: J,
        make: impl FnOnce(J, &mut Option<T::Request>) -> Made<T>,
        end: impl FnOnce(OpenRequest<T>, CloseReason) -> R,
    ) -> R {
        // Datagrams and outbox messages that the handler sends leave when it waits, and at the latest when it has ended.
        let _promise = FlushPromise::start();
        // In a child the loop's own thread runs the request, and a drain knows that thread already.
        let context = &job.core.context;
        let _serving = (!context.role().is_child()).then(|| start_serving(context));
        job.ticket.entry().show_activity(Activity::Running);
        let span = job.core.spans.enter(context, job.ticket.entry());
        // A request that is timed reads the clock at each step; without an observer nobody would get the times.
        let is_timed = job.core.is_observed();
        if is_timed {
            job.ticket.entry().begin_step(CountStep::Worker);
        }
        // The limits are shared only if something may run before the handler, because sharing counts a reference.
        let has_steps = job.core.overridden_hooks.are_given() || !job.core.prefaces.are_none();
        let limits = has_steps.then(|| job.ticket.share_limits());
        // The time of the whole request begins before the handshake, which is a part of it.
        let whole =
            job.ticket.limits().request.and_then(|after| Deadline::after(Timeout::Request, after));
        let mut request = None;
        let (made, open) = make(job, &mut request);
        let result = match &mut request {
            Some(request) => {
                match catch_panic(|| open.wrap_request(request, limits.as_deref(), whole)) {
                    Ok(()) => {
                        span.name_client(&open.entry);
                        match limits {
                            _ if !is_timed => {}
                            Some(_) => open.entry.begin_step(CountStep::Handler),
                            None => open.entry.begin_handler_at_once(),
                        }
                        open.finish_request(request)
                    }
                    // No handler is made for this request, and so no `finish` runs either.
                    Err(error) => Err((Phase::Wrap, error)),
                }
            }
            None => made.map_err(|panicked| (Phase::Make, panicked)),
        };
        if is_timed {
            open.entry.begin_step(CountStep::End);
        }
        // Judged before the request ends: the handler may have swapped it for another one, whose errors count too.
        let (reason, beyond) = open.conclude(result, request.as_ref());
        // Counted before the end: a client that sees the end of its connection must find itself counted.
        open.core.count(&open.entry, reason);
        if let (Some(why), Some(request)) = (&beyond, &mut request) {
            open.overflow(request, why);
        }
        span.end(&open.entry, reason);
        open.end_request(&mut request, reason, beyond.as_ref());
        // The span is left here, and not in its drop, because `end` may not return.
        span.leave();
        end(open, reason)
    }

    /// Makes the request that handlers hold, directly in the caller's variable: a copy would stay on the stack of a
    /// waiting thread for as long as the request lasts. After a panic of the transport the variable stays empty.
    #[inline]
    pub(super) fn make_request(self, place: &mut Option<T::Request>) -> Made<T> {
        let entry = Arc::clone(self.ticket.entry());
        self.make_request_of(entry, place)
    }

    /// [`make_request`](Self::make_request), with a reference to the job's entry that has been counted already.
    #[inline]
    pub(super) fn make_request_of(
        self,
        entry: Arc<Entry>,
        place: &mut Option<T::Request>,
    ) -> Made<T> {
        let Self { raw, ticket, core, .. } = self;
        let made = catch_panic(|| {
            *place = Some(core.transport.make_request(raw, ticket));
            Ok(())
        });
        (made, OpenRequest { core, entry })
    }

    /// [`make_request`](Self::make_request) for a job in a box. The box is freed here, and not by its owner, which may
    /// wait for long.
    #[expect(clippy::boxed_local, reason = "this is where the memory of the box ends")]
    fn make_boxed_request(self: Box<Self>, place: &mut Option<T::Request>) -> Made<T> {
        (*self).make_request(place)
    }
}

impl<T: Transport> Work for TypedJob<T> {
    fn run(self: Box<Self>) -> CloseReason {
        self.serve()
    }

    /// Refuses the request, on the thread that has found no room: usually the loop's. So nothing here waits for the peer.
    fn refuse(self: Box<Self>, why: Refused) {
        let _serving = start_serving(&self.core.context);
        let mut request = None;
        let (made, open) = self.make_request(&mut request);
        // Counted before the hook runs: the hook may tell the peer of the refusal, and the peer may ask for the counts.
        open.refused(made, CloseReason::Refused);
        // `CannotStart` is a failure, of which an operator has to know. The other refusals are intended.
        if let Refused::CannotStart(error) = &why {
            let peer = open.entry.client_address();
            let error = Error::io("start a worker for", peer, clone_error(error));
            handle_error(&open.core, &open.entry, Phase::Start, &error.into());
        } else if let Some(request) = &mut request {
            open.overflow(request, &why);
        }
        open.end_request(&mut request, CloseReason::Refused, Some(&why));
    }

    /// Closes a request that nobody will serve: the mixin has dropped the job, or the run has ended by an error. It may
    /// be called on any thread.
    fn release(self: Box<Self>) {
        let _serving = start_serving(&self.core.context);
        let Self { raw, ticket, core, .. } = *self;
        let entry = Arc::clone(ticket.entry());
        // Closed without an orderly end: no worker serves this request.
        drop(drop_catching((raw, ticket)));
        core.context.counters.ended(CloseReason::Released);
        core.tell_of_end(&entry, CloseReason::Released, None);
    }

    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        // The server without the permit: a worker that waits for a client holds none.
        if self.core.workers_may_accept() { Some(self.core.share()) } else { None }
    }

    fn id(&self) -> u64 {
        self.ticket.entry().id()
    }

    fn worker_watch(&self) -> Weak<dyn WorkerWatch> {
        let core: Arc<dyn WorkerWatch> = self.core.share();
        Arc::downgrade(&core)
    }

    fn stays_with_acceptor(&self) -> bool {
        // Only a datagram has no connection. Its reply leaves by the server's own socket, together with others of the same
        // thread; on another worker it would leave alone.
        T::connection(&self.raw).is_none()
            && self.core.transport.close_when() == CloseWhen::RequestsHaveEnded
    }

    fn label(&self) -> &'static str {
        self.ticket.entry().handler()
    }

    fn peer(&self) -> &Address {
        self.ticket.client_address()
    }
}
