//! [`OpenRequest`]: a request that has been made. It is wrapped, handled, judged by how that went, and ended.
//!
//! Everything here runs on the worker's thread, or for a refused request on the thread that refuses it. It is called by
//! `job.rs`, which has the order. Each call of the program's code is in a `catch_panic` of its own, so that a panic in
//! one step does not skip the next: a handler that has panicked is still dropped, reported, counted and closed.
//!
//! ```text
//! result of the steps          conclude                                 the request's end
//! Ok                           the server's own cut or stop, else Completed
//! Err(BeyondLimit)             Refused, and the hook `overflow`
//! Err(Fatal)                   Fatal: the run ends with the error
//! Err(any other)               close_reason.rs; `handle_error`, unless the server itself has ended it
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::catch_panic::{catch_panic, drop_catching, run_catching};
use super::close_reason::{ended_from_here, may_be_early, reason_of, refused_by};
use super::error_owner::ErrorOwner;
use super::failure::Phase;
use super::observers::{handle_error, handle_error_of};
use super::server_permit::ServerPermit;
use crate::error::{Error, Fatal, HandlerError, HandlerResult, Rejected};
use crate::events::CloseReason;
use crate::handler::BaseRequestHandler;
use crate::limits::Limits;
use crate::live::Entry;
use crate::peer_fault::find;
use crate::refused::Refused;
use crate::request::{BeyondLimit, Deadline, Request, handshake_deadline};
use crate::sys::exit_now;
use crate::sys::fork_count::is_in_child;
use crate::timed_out::{TimedOut, Timeout};
use crate::transport::Transport;
use crate::wait;

/// A job whose request has been made, with everything that is needed to run and to end it.
pub(super) struct OpenRequest<T: Transport> {
    /// The server and a permit of `Limits::live`, which the drop gives back.
    pub(super) core: ServerPermit<T>,
    /// The request's entry in the live list. The request's ticket has it too, but the end is reported after the request
    /// has been closed, and a handler may have swapped its request for another one.
    pub(super) entry: Arc<Entry>,
}

impl<T: Transport> OpenRequest<T> {
    /// Calls the hook `overflow` for a request that is refused. The hook may write an answer. Its error is ignored,
    /// because it says only that the peer has not got the answer.
    pub(super) fn overflow(&self, request: &mut T::Request, why: &Refused) {
        run_catching(|| {
            // This comes first: under TLS the hook must not write in the clear.
            self.core.prefaces.iter().for_each(|step| step.refuse(request));
            // Zero: the hook must not wait for the peer. Bytes that the socket's buffer does not take are lost.
            request.set_server_deadline(Deadline::after(Timeout::Write, Duration::ZERO));
            drop(self.core.hooks.overflow(request, why));
        });
    }

    /// Counts a request that is not run. Also reports it if `make_request` panicked.
    pub(super) fn refused(&self, made: HandlerResult, reason: CloseReason) {
        self.core.context.counters.ended(reason);
        if let Err(error) = made {
            handle_error(&self.core, &self.entry, Phase::Make, &error);
        }
    }

    /// Runs the steps before the handler and the hook, each within its limit, and then sets the deadline of the whole
    /// request.
    ///
    /// `limits`: `None` if there is no step and no hook. `whole`: the end of `Limits::request`, which no step may
    /// outlast.
    pub(super) fn wrap_request(
        &self,
        request: &mut T::Request,
        limits: Option<&Limits>,
        whole: Option<Deadline>,
    ) -> HandlerResult {
        let mut wrapped = Ok(());
        // Without a step or a hook nothing has to be bounded, and the clock is not read.
        if let Some(limits) = limits {
            self.entry.begin_preface();
            wrapped = catch_panic(|| {
                // In their order on the wire: a PROXY header comes before the handshake.
                for step in self.core.prefaces.iter() {
                    let own = step.deadline(limits);
                    request.set_server_deadline(Deadline::earlier(own, whole));
                    let taken = step.run(request);
                    if step.names_client(self.entry.peer_address()) {
                        self.core.tell_of_client(&self.entry);
                    }
                    taken.inspect_err(|error| self.core.tell_of_preface(&self.entry, error))?;
                }
                // A datagram has come as a whole, so that the hook waits for nothing and needs no deadline.
                if !request.is_whole() {
                    let own = handshake_deadline(limits);
                    request.set_server_deadline(Deadline::earlier(own, whole));
                }
                self.core.hooks.wrap_request(request)
            });
            self.entry.end_preface();
            // A deadline that the hook has set ends with the hook.
            request.set_deadline(None);
        }
        request.set_server_deadline(whole);
        wrapped
    }

    /// Makes the handler, runs it and drops it. The first error is reported, because it usually is the cause. (In Python an
    /// error of `finish` hides one of `handle`.)
    #[inline]
    pub(super) fn finish_request(
        &self,
        request: &mut T::Request,
    ) -> Result<(), (Phase, HandlerError)> {
        let was_in_child = is_in_child();
        let mut ran = None;
        let factory = &self.core.factory;
        let made = catch_panic(|| {
            // The factory lends the handler, so that it stays on this stack, without an allocation. It is dropped
            // before this returns, even after a panic.
            factory.finish_request(&mut |handler| ran = Some(run_handler(handler, request)));
            Ok(())
        });
        if is_in_child() && !was_in_child {
            end_child();
        }
        // A panic that is caught here comes from the closure that makes the handler, or from the handler's drop.
        let phase = if ran.is_some() { Phase::Finish } else { Phase::Setup };
        ran.unwrap_or(Ok(())).and(made.map_err(|error| (phase, error)))
    }

    /// The reason to refuse a request after its beginning, if there is one: a proxy has named a client that is beyond
    /// its limit, or the handshake was crowded out. Also reports the limit to the observers.
    fn beyond(&self, error: &HandlerError) -> Option<Refused> {
        // The error's `source` is the program's code.
        let found = catch_panic(|| Ok(find(&**error).map(|BeyondLimit { limit }| *limit)));
        let limit = found.ok()??;
        self.core.tell_of_limit(&self.entry, limit);
        Some(refused_by(limit))
    }

    /// Returns the reason of the request's end, and the refusal if the request is beyond a limit. It takes the result and
    /// drops the error in it, so that the error's own `Drop` has run when the peer sees the end.
    ///
    /// `held`: the request as the handler has left it; `None` if it was never made.
    pub(super) fn conclude(
        &self,
        result: Result<(), (Phase, HandlerError)>,
        held: Option<&T::Request>,
    ) -> (CloseReason, Option<Refused>) {
        let beyond = result.as_ref().err().and_then(|(_, error)| self.beyond(error));
        if beyond.is_none() {
            return (self.reason(result, held), None);
        }
        // The program may have wrapped the error in one of its own, and then the drop runs code of the program.
        drop(drop_catching(result));
        (CloseReason::Refused, beyond)
    }

    /// Returns how the request has ended, and reports and drops its error. A panic in the report or in the drop is
    /// reported as well, and is then the reason, unless the error was a `Fatal`.
    fn reason(
        &self,
        result: Result<(), (Phase, HandlerError)>,
        held: Option<&T::Request>,
    ) -> CloseReason {
        // A handler that has returned without an error may have been cut off all the same.
        let Err((phase, error)) = result else {
            return ended_from_here(&self.entry).unwrap_or(CloseReason::Completed);
        };
        // `judge` runs the error's `source` and `Display`, and the drop may panic as well: both are the user's code.
        let judged = catch_panic(|| Ok(self.judge(phase, &error, held)));
        let dropped = drop_catching(error);
        match (judged, dropped) {
            // The server is already ending with this error.
            (Ok(CloseReason::Fatal), _) => CloseReason::Fatal,
            (Ok(reason), Ok(())) => reason,
            (Err(panicked), _) | (Ok(_), Err(panicked)) => {
                handle_error(&self.core, &self.entry, phase, &panicked);
                CloseReason::Panicked
            }
        }
    }

    /// Returns how a failed request has ended, reports the failure, and stops the server if the error is [`Fatal`].
    fn judge(&self, phase: Phase, error: &HandlerError, held: Option<&T::Request>) -> CloseReason {
        // A `Fatal` comes before all else: it ends the run, whatever the request's own end was.
        if let Some(fatal) = Fatal::find(error) {
            self.core.context.runs.fail(Error::fatal(fatal.clone()));
            return CloseReason::Fatal;
        }
        let owner = match held.and_then(Request::ticket) {
            Some(ticket) => ErrorOwner::holding(&self.entry, ticket.entry()),
            None => ErrorOwner::of(&self.entry),
        };
        let reason = reason_of(error, owner, ended_from_here(&self.entry));
        // The time limit that has ended the request, for the event of the end.
        if let Some(timed_out) = owner.find::<TimedOut>(&**error) {
            self.entry.note_limit(timed_out.which());
        }
        // These are the reasons of requests that the server itself has ended, or the program by a `Rejected`: nothing has
        // failed.
        if !matches!(
            reason,
            CloseReason::Idle
                | CloseReason::Stopped
                | CloseReason::Forced
                | CloseReason::ClosedHere
        ) && find::<Rejected>(&**error).is_none()
        {
            handle_error_of(&self.core, &self.entry, owner, phase, error);
        }
        reason
    }

    /// Does `shutdown_request` and `close_request`, and tells the observer. Only then may the permit be given back. The
    /// request is taken out of its place, so that the caller's frame holds nothing of it any more.
    pub(super) fn end_request(
        &self,
        request: &mut Option<T::Request>,
        reason: CloseReason,
        refused: Option<&Refused>,
    ) {
        run_catching(|| {
            if let Some(mut request) = request.take() {
                // The peer may still be sending: a plain close would reset the connection, and the answer could be
                // lost.
                if may_be_early(reason) {
                    request.expect_more_input();
                }
                self.core.transport.end_request(request);
            }
        });
        self.core.tell_of_end(&self.entry, reason, refused);
    }
}

/// Ends a process that a handler has forked, when the handler returns in it. This thread is the only one here, and must not
/// go on: the end of the request is the parent's, locks on the way to it may be held for ever by the parent's threads, and
/// the worker would take its parent's requests. Messages of this process's own outboxes are sent first.
#[cold]
fn end_child() -> ! {
    wait::flush();
    exit_now(0)
}

/// Python's three steps. `finish` also runs after a `handle` that failed or panicked, but not after such a `setup`.
#[inline]
fn run_handler<R>(
    handler: &mut dyn BaseRequestHandler<R>,
    request: &mut R,
) -> Result<(), (Phase, HandlerError)> {
    catch_panic(|| handler.setup(request)).map_err(|error| (Phase::Setup, error))?;
    // `finish` runs in any case from here on: `setup` has succeeded.
    let handled = catch_panic(|| handler.handle(request)).map_err(|error| (Phase::Handle, error));
    let finished = catch_panic(|| handler.finish(request)).map_err(|error| (Phase::Finish, error));
    match handled {
        Ok(()) => finished,
        Err(earlier) => {
            // The first error is the cause. The one in `finished` is dropped, which may panic.
            drop(drop_catching(finished));
            Err(earlier)
        }
    }
}
