//! One turn of the loop: room, request, verdict, worker; and what follows when accepting fails.

use std::io;
use std::time::{Duration, Instant};

use super::catch_panic::caught;
use super::hooks::AcceptFailure;
use super::job::{TypedJob, Verdict};
use super::server_permit::Admitted;
use super::{Core, Server};
use crate::error::{Error, Result};
use crate::events::{Limit, ServerEvent};
use crate::mixin::{Job, Mixin};
use crate::transport::{AcceptAction, Transport};

/// What `handle_request` has done. Python does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Turn {
    /// A request was given to its worker; under `Inline`, served.
    Handled,
    /// `verify_request` turned a request away.
    Rejected,
    /// The timeout passed without a request, and `handle_timeout` was called.
    TimedOut,
    /// Accepting failed, for the time being; `accept_error` was called.
    AcceptFailed,
    /// A shutdown was asked for.
    Stopped,
}

/// What one look at the transport came to.
#[derive(Debug)]
pub(super) enum Step {
    /// A request was taken, or lost.
    Served(Turn),
    /// Nothing happened, and nothing is wrong: look again.
    Again,
    /// There is no request.
    NoRequest,
    /// There is no room for one.
    NoRoom,
    /// Requests come faster than they may be accepted: leave the listener alone until then.
    TooFast(Instant),
    /// Resources have run out: leave the listener alone until then.
    Pause(Instant),
}

impl Step {
    /// Whether there may be a request that is not taken now.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Self::NoRoom | Self::TooFast(_) | Self::Pause(_))
    }
}

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Takes one request, if there is room and there is one. Python's `_handle_request_noblock`.
    pub(super) fn step(&self, backoff: &mut Backoff) -> Result<Step> {
        // Room first: whatever there is none for stays in the kernel's queue, where it costs nothing.
        let context = &self.core.context;
        let room = if self.mixin.ready() { Admitted::try_enter(&self.core) } else { None };
        let Some(admitted) = room else {
            backoff.reached(Limit::Live, &self.core);
            return Ok(Step::NoRoom);
        };
        if let Some(until) = context.rate.wait_until() {
            backoff.reached(Limit::AcceptRate, &self.core);
            return Ok(Step::TooFast(until));
        }
        let _exclusive = self.core.worker_acceptor.lock();
        let taken = match take_request(admitted) {
            Ok(taken) => taken,
            Err(error) => return self.accept_failed(&error, backoff),
        };
        backoff.reset();
        let Some(job) = taken else { return Ok(Step::Served(Turn::Rejected)) };
        self.mixin.process_request(job);
        Ok(Step::Served(Turn::Handled))
    }

    /// Does what follows from an error of accept.
    fn accept_failed(&self, error: &io::Error, backoff: &mut Backoff) -> Result<Step> {
        let core = &self.core;
        if core.context.runs.stop_requested() {
            // The listener may be closed already, and that is no fault of its.
            return Ok(Step::Again);
        }
        let action = core.transport.accept_action(error);
        match action {
            AcceptAction::Wait => {
                // A transport without a descriptor is looked at for other reasons as well.
                let told = core.transport.fileno().is_some();
                let pause = if told { backoff.woken_in_vain() } else { None };
                return Ok(
                    pause.map_or(Step::NoRequest, |pause| Step::Pause(Instant::now() + pause))
                );
            }
            AcceptAction::Retry => return Ok(Step::Again),
            AcceptAction::Fatal => {
                return Err(Error::io("accept at", self.server_address(), clone(error)));
            }
            AcceptAction::Skip | AcceptAction::BackOff | AcceptAction::Shed => {}
        }
        let skip = action == AcceptAction::Skip;
        let pause = if skip { backoff.pause_after_skip() } else { backoff.next_pause() };
        let is_first_or_due = !(skip && pause.is_zero()) && backoff.is_due();
        core.accept_error(error, action, backoff.in_a_row, pause, is_first_or_due);
        if skip && pause.is_zero() {
            return Ok(Step::Served(Turn::AcceptFailed));
        }
        if action == AcceptAction::Shed {
            core.context.counters.shed(core.transport.shed() as u64);
        }
        Ok(Step::Pause(Instant::now() + pause))
    }
}

impl<T: Transport> Core<T> {
    /// One that has cost a client and nothing else, met where no loop is to be held back.
    pub(super) fn accept_skipped(&self, error: &io::Error) {
        self.accept_error(error, AcceptAction::Skip, 0, Duration::ZERO, false);
    }

    /// Counts an error of accept, and tells of it.
    fn accept_error(
        &self,
        error: &io::Error,
        action: AcceptAction,
        in_a_row: u64,
        pause: Duration,
        is_first_or_due: bool,
    ) {
        self.context.counters.accept_error();
        self.tell(&ServerEvent::AcceptFailed { error });
        let server = &self.context;
        let failure = AcceptFailure { error, action, server, in_a_row, pause, is_first_or_due };
        drop(caught(|| {
            self.hooks.accept_error(&failure);
            Ok(())
        }));
    }
}

/// Takes a request for which there is room. None: it is turned away.
pub(super) fn take_request<T: Transport>(admitted: Admitted<T>) -> io::Result<Option<Job>> {
    let job = accept(admitted)?;
    job.announce();
    Ok(admit(job))
}

/// Takes a request, and judges and tells nothing yet.
pub(super) fn accept<T: Transport>(admitted: Admitted<T>) -> io::Result<TypedJob<T>> {
    let (raw, peer) = admitted.transport.get_request()?;
    Ok(TypedJob::enter(admitted, raw, peer))
}

/// Turns a request away that is not to be served.
pub(super) fn admit<T: Transport>(mut job: TypedJob<T>) -> Option<Job> {
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
    }
}

/// How long to leave the listener alone while resources are short: 10 ms, doubled each time in a row, up
/// to a second: 10, 20, 40, 80, 160, 320, 640 ms, 1 s, 1 s. A rush is over in tens of milliseconds; a
/// leak never is, and then once a second is often enough to look.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    in_a_row: u64,
    /// Clients that were lost, one behind the other.
    skipped: u32,
    /// How often the listener was said to have somebody, and had nobody.
    in_vain: u32,
    reported: Option<Instant>,
    /// The limit that holds the loop back, until a request passes.
    held_by: Option<Limit>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many lost clients in a row are bad luck; a listener that has nothing else is not to have a processor for itself.
/// From then on there is a pause, which grows as the others do, from a millisecond on.
const SKIPPED_AT_ONCE: u32 = 16;
const FIRST_SHORT_PAUSE: Duration = Duration::from_millis(1);
/// So often others may have been faster, where several processes wait for one listener. More often it is something that
/// is wrong with the descriptor, and that nobody knows to mend: it is looked at less often then, but never later than
/// this, because clients may come all the same.
pub(super) const WOKEN_AT_ONCE: u32 = 16;
const LONGEST_SHORT_PAUSE: Duration = Duration::from_millis(10);
/// The time between two reports of the same trouble.
const REPORT_EVERY: Duration = Duration::from_secs(10);

impl Backoff {
    fn next_pause(&mut self) -> Duration {
        let doublings = u32::try_from(self.in_a_row.min(10)).unwrap_or(10);
        self.in_a_row += 1;
        (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    fn pause_after_skip(&mut self) -> Duration {
        self.skipped = self.skipped.saturating_add(1);
        doubled(self.skipped, SKIPPED_AT_ONCE)
            .map_or(Duration::ZERO, |pause| pause.min(LONGEST_PAUSE))
    }

    fn woken_in_vain(&mut self) -> Option<Duration> {
        self.in_vain = self.in_vain.saturating_add(1);
        Some(doubled(self.in_vain, WOKEN_AT_ONCE)?.min(LONGEST_SHORT_PAUSE))
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.reported.is_none_or(|last| now - last >= REPORT_EVERY);
        if due {
            self.reported = Some(now);
        }
        due
    }

    /// The trouble is over. What was reported stays remembered: trouble that comes and goes every few
    /// milliseconds is one trouble.
    fn reset(&mut self) {
        self.in_a_row = 0;
        self.skipped = 0;
        self.in_vain = 0;
        self.held_by = None;
    }

    /// Tells of a limit, once while it holds.
    fn reached<T: Transport>(&mut self, limit: Limit, core: &Core<T>) {
        if self.held_by.replace(limit) != Some(limit) {
            core.tell(&ServerEvent::LimitReached { limit });
        }
    }
}

/// A pause that doubles with each time beyond those that have none.
fn doubled(times: u32, at_once: u32) -> Option<Duration> {
    let doublings = times.checked_sub(at_once + 1)?.min(20);
    Some(FIRST_SHORT_PAUSE * 2u32.pow(doublings))
}

/// The same error once more: `io::Error` has no `Clone`, and a system's error is its number.
fn clone(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_begin_anew() {
        let mut backoff = Backoff::default();
        let millis: Vec<u128> = (0..9).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(backoff.is_due() && !backoff.is_due());
        backoff.reset();
        assert_eq!(backoff.next_pause().as_millis(), 10);
    }

    #[test]
    fn lost_clients_and_vain_looks_are_paused_for_when_there_are_many() {
        let mut backoff = Backoff::default();
        let millis: Vec<u128> = (0..40).map(|_| backoff.pause_after_skip().as_millis()).collect();
        assert_eq!(millis[..16], [0; 16]);
        assert_eq!(millis[16..28], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000, 1_000]);
        let millis: Vec<_> =
            (0..24).map(|_| backoff.woken_in_vain().map(|it| it.as_millis())).collect();
        assert_eq!(millis[..16], [None; 16]);
        assert_eq!(millis[16..], [1, 2, 4, 8, 10, 10, 10, 10].map(Some));
        backoff.reset();
        assert_eq!((backoff.pause_after_skip(), backoff.woken_in_vain()), (Duration::ZERO, None));
    }
}
