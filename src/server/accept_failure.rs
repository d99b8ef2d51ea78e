//! Accept failures: try again, skip the client, back off, shed, or end the run.
//!
//! `accept` fails for reasons that say nothing about the next call (the client has reset before it was accepted), and for
//! others that hold for a while (no descriptor is left). In the second case the client stays in the queue and the listener
//! stays readable: a loop that tried again at once would use a whole processor. So each loop has a [`Backoff`], and pauses.
//! During a pause the loop leaves the listener alone, and workers do not accept either (`WorkerAcceptor::suspend`).

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Core;
use super::accept_loop::{AcceptLoop, AcceptOutcome, Attempt};
use super::catch_panic::run_catching;
use super::failure::AcceptFailure;
use crate::error::{Error, Result};
use crate::events::{Limit, ServerEvent};
use crate::mixin::Mixin;
use crate::sys;
use crate::transport::{AcceptAction, Transport};

impl<T: Transport, M: Mixin> AcceptLoop<T, M> {
    /// Does what [`Transport::accept_action`] says.
    ///
    /// | action | then |
    /// |---|---|
    /// | `Wait` | there is no client: wait; after 16 fruitless wake-ups in a row, pause for up to 10 ms |
    /// | `Retry` | try again at once |
    /// | `Skip` | a client is lost: report, and try again; after 16 in a row pause for up to a second |
    /// | `BackOff` | report, and pause for 10 ms to a second |
    /// | `Shed` | as `BackOff`, and turn away the clients that wait |
    /// | `Fatal` | the run ends with the error |
    pub(super) fn accept_failed(
        &self,
        error: &io::Error,
        backoff: &mut Backoff,
    ) -> Result<Attempt> {
        let core = &self.core;
        if core.context.runs.stop_requested() {
            // The listener may have been closed on purpose.
            return Ok(Attempt::Again);
        }
        // The transport knows its errors, and the table above is all that the loop knows of them.
        let action = core.transport.accept_action(error);
        match action {
            AcceptAction::Wait => {
                // A transport without a descriptor is tried after every wake-up, and most of those wake-ups have other
                // causes.
                let has_fd = core.transport.fileno().is_some();
                let pause = if has_fd { backoff.woken_in_vain() } else { None };
                // Nothing has failed, so `handle_request` goes on as well. Another process may have taken the clients.
                return Ok(pause.map_or(Attempt::NoRequest, |time| Attempt::NotYet(after(time))));
            }
            AcceptAction::Retry => return Ok(Attempt::Again),
            AcceptAction::Fatal => {
                let address = core.context.server_address();
                return Err(Error::io("accept at", address, core.cause_of(error)));
            }
            AcceptAction::Skip | AcceptAction::BackOff | AcceptAction::Shed => {}
        }
        let skip = action == AcceptAction::Skip;
        let pause = if skip { backoff.pause_after_skip() } else { backoff.next_pause() };
        let goes_on = skip && pause.is_zero();
        // `is_due` also starts the time until the next report. So it is not called for a lost client that costs no
        // pause: the default hook does not print such a loss.
        let is_first_or_due = !goes_on && backoff.is_due();
        core.accept_error(error, action, backoff.in_a_row, pause, is_first_or_due);
        // The loop goes on as after a request: `service_actions` runs, and there is no pause. `handle_request` returns,
        // because its caller decides how often to try.
        if goes_on {
            return Ok(Attempt::Done(AcceptOutcome::AcceptFailed));
        }
        if action == AcceptAction::Shed {
            // The clients are turned away after the report, which says why.
            core.context.counters.shed(core.transport.shed() as u64);
        }
        Ok(Attempt::Pause(after(pause)))
    }
}

/// The end of a pause that begins now.
fn after(pause: Duration) -> Instant {
    Instant::now() + pause
}

impl<T: Transport> Core<T> {
    /// The cause of a fatal error. The system's text for a socket that does not listen, "Invalid argument", would help
    /// nobody who has left out a step of the server's start.
    fn cause_of(&self, error: &io::Error) -> io::Error {
        let listens = || sys::is_listener(self.transport.fileno()?.as_fd()).ok();
        if error.raw_os_error() == Some(libc::EINVAL) && listens() == Some(false) {
            let why = "the socket does not listen; server_activate makes it listen";
            return io::Error::new(error.kind(), why);
        }
        clone_error(error)
    }

    /// Reports a client that was lost in an accept outside the loop: by a worker, or by a close. No pause follows, and no
    /// loop's backoff counts the error. (A worker leaves the next client to the loop.)
    pub(super) fn accept_skipped(&self, error: &io::Error) {
        self.accept_error(error, AcceptAction::Skip, 0, Duration::ZERO, false);
    }

    /// Counts an error of accept, and tells the observer and the hook of it.
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
        let is_traced = self.spans.take_warnings();
        let failure =
            AcceptFailure { error, action, server, in_a_row, pause, is_first_or_due, is_traced };
        run_catching(|| self.hooks.accept_error(&failure));
    }
}

/// How long the loop leaves the listener alone. Each loop has its own value.
///
/// While resources are short, the pause is 10 ms, doubled with each failure in a row, up to a second: 10, 20, 40, 80,
/// 160, 320, 640 ms, 1 s, 1 s. A rush is over in tens of milliseconds. A leak never is, and then an attempt each second
/// is enough.
///
/// After lost clients there is no pause for the first 16 in a row; then 1, 2, 4 .. 512 ms, 1 s. After fruitless
/// wake-ups there is none for the first 16 in a row; then 1, 2, 4, 8, 10, 10 ms. One request that is accepted ends all
/// three series.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// How often in a row resources were short. The report has this number too.
    in_a_row: u64,
    /// How many clients in a row were lost.
    skipped: u32,
    /// How often in a row the listener was readable and had no client.
    in_vain: u32,
    /// When trouble was last reported. The one value that [`reset`](Self::reset) keeps.
    reported: Option<Instant>,
    /// The limit that holds the loop back, until a request passes.
    held_by: Option<Limit>,
}

/// The first pause while resources are short: see [`Backoff`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause, while resources are short and after lost clients.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// This many lost clients in a row are bad luck, and cost no pause. Each further one is followed by a pause, because
/// otherwise they could keep a processor busy. The pauses double, from a millisecond on.
const SKIPPED_AT_ONCE: u32 = 16;
/// The first of the pauses after lost clients or fruitless wake-ups; each further one is twice as long.
const FIRST_SHORT_PAUSE: Duration = Duration::from_millis(1);
/// This many fruitless wake-ups in a row cost no pause: where several processes wait for one listener, another process may
/// have been faster. If there are more, the descriptor is broken in some way. It is then tried less often, but at least
/// every 10 ms, because clients may come all the same.
pub(super) const WOKEN_AT_ONCE: u32 = 16;
/// The longest pause after fruitless wake-ups: see [`WOKEN_AT_ONCE`].
const LONGEST_SHORT_PAUSE: Duration = Duration::from_millis(10);
/// The shortest time between two reports of trouble.
const REPORT_EVERY: Duration = Duration::from_secs(10);

impl Backoff {
    /// The next pause while resources are short.
    fn next_pause(&mut self) -> Duration {
        // Ten doublings are beyond the longest pause.
        let doublings = u32::try_from(self.in_a_row.min(10)).unwrap_or(10);
        self.in_a_row += 1;
        (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    /// The pause after one more lost client; zero for the first [`SKIPPED_AT_ONCE`] of them.
    fn pause_after_skip(&mut self) -> Duration {
        one_more(&mut self.skipped, SKIPPED_AT_ONCE, LONGEST_PAUSE).unwrap_or_default()
    }

    /// The pause after one more fruitless wake-up; none for the first [`WOKEN_AT_ONCE`] of them.
    fn woken_in_vain(&mut self) -> Option<Duration> {
        one_more(&mut self.in_vain, WOKEN_AT_ONCE, LONGEST_SHORT_PAUSE)
    }

    /// Whether trouble is to be reported now.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.reported.is_none_or(|last| now - last >= REPORT_EVERY);
        if due {
            self.reported = Some(now);
        }
        due
    }

    /// Ends all three series, because a request was accepted. The time of the last report stays: trouble that comes and
    /// goes every few milliseconds is reported once.
    pub(super) fn reset(&mut self) {
        *self = Self { reported: self.reported, ..Self::default() };
    }

    /// Tells the observer that a limit holds the loop back, and does not repeat it until a request is accepted. (A loop
    /// that waits for room may wake several times and find none.)
    pub(super) fn reached<T: Transport>(&mut self, limit: Limit, core: &Core<T>) {
        if self.held_by.replace(limit) != Some(limit) {
            core.tell(&ServerEvent::LimitReached { limit });
        }
    }
}

/// Counts one more failure in a row, and returns the pause after it: `None` for the first `at_once` of them, then a
/// millisecond, doubled each time up to `longest`.
fn one_more(times: &mut u32, at_once: u32, longest: Duration) -> Option<Duration> {
    *times = times.saturating_add(1);
    // Twenty doublings make a quarter of an hour: longer than either longest pause, and without overflow.
    let doublings = times.checked_sub(at_once + 1)?.min(20);
    Some((FIRST_SHORT_PAUSE * 2u32.pow(doublings)).min(longest))
}

/// A second error with the same text: `io::Error` has no `Clone`. An error of the system is made again from its number;
/// of any other error only the kind and the text are kept.
pub(super) fn clone_error(error: &io::Error) -> io::Error {
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
