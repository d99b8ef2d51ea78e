//! The end of a server: stop accepting, tell the handlers, wait, force, join; and the report of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::Server;
use super::job::is_serving;
use crate::address::Address;
use crate::live::LiveRequest;
use crate::mixin::Mixin;
use crate::shutdown::Closer;
use crate::transport::Transport;

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Closes the server: [`server_close_within`](Self::server_close_within) `Limits::drain`.
    pub fn server_close(&self) -> DrainReport {
        self.server_close_within(self.limits().drain)
    }

    /// Closes the server within a time, in this order:
    ///
    /// 1. it stops accepting, and the listener is closed (by the loop's own thread, if one runs);
    /// 2. handlers are told: `is_stopping` is true, and a read that waits for the beginning of a request fails
    ///    with [`Stopping`](crate::Stopping), which is not reported;
    /// 3. running requests are waited for;
    /// 4. at the deadline the connections of those that are left are shut down, and their reads fail as in 2;
    /// 5. what the mixin has started is joined.
    ///
    /// With a mixin whose `block_on_close` is off, only the first two. Called by the thread that serves,
    /// or by a handler of the server itself, it waits for nothing: it would wait for itself. In a forked child it asks
    /// the parent to stop, as a shutdown does. May be called more than once.
    pub fn server_close_within(&self, grace: Duration) -> DrainReport {
        let began = Instant::now();
        // A grace that the clock cannot count is for ever, and a day is that for a closing server.
        let deadline =
            began.checked_add(grace).unwrap_or_else(|| began + Duration::from_secs(86_400));
        let context = &self.core.context;
        let mut report = DrainReport {
            server_address: self.server_address(),
            grace,
            took: Duration::ZERO,
            open_at_start: 0,
            forced: Vec::new(),
            left_running: Vec::new(),
        };

        let closer = context.runs.close();
        if context.is_child() {
            // All that there is here is a copy of the parent's, which hears of this at the child's end.
            return report;
        }
        report.open_at_start = context.live.len();
        context.live.end_input_of_idle();
        let on_the_loop = match closer {
            Closer::Caller => {
                self.core.close_listener();
                false
            }
            Closer::Loop => context.runs.is_loop_thread(),
        };
        // Whoever waits for all requests must not be one of them.
        let waits_for_itself = on_the_loop || is_serving(context);
        if self.mixin.block_on_close() && !waits_for_itself {
            self.mixin.drain(deadline);
            // After a cut there is one short wait for all that is left to do.
            let mut last = None;
            if !context.live.wait_until_empty(deadline) {
                let until = Instant::now() + AFTER_FORCE;
                last = Some(until);
                report.forced = context.live.view();
                context.live.force();
                self.mixin.force();
                self.mixin.drain(until);
                context.live.wait_until_empty(until);
            }
            let last = last.unwrap_or_else(|| deadline.max(Instant::now() + AFTER_FORCE));
            context.runs.wait_until_ended(Some(last));
            self.mixin.server_close(last);
        } else {
            self.mixin.server_close(Instant::now());
        }
        report.left_running = context.live.view();
        report.took = began.elapsed();
        report
    }
}

/// How long forced handlers may take to notice that their connections are gone, and killed children to end. It
/// counts after the deadline, which is to be met to within 100 ms; a handler that computes on is left behind.
const AFTER_FORCE: Duration = Duration::from_millis(75);

/// How a server came to its end. Print it: it is made to be read by whoever operates the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DrainReport {
    /// Where the server listened.
    pub server_address: Address,
    /// How long it was to wait at the most.
    pub grace: Duration,
    /// How long it has taken.
    pub took: Duration,
    /// How many requests were alive when it began.
    pub open_at_start: usize,
    /// Those whose connections were shut down at the deadline, as they were then.
    pub forced: Vec<LiveRequest>,
    /// Those that were still alive when the close returned.
    pub left_running: Vec<LiveRequest>,
}

impl DrainReport {
    /// Whether every request came to its end by itself.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.forced.is_empty() && self.left_running.is_empty()
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_address, open_at_start, grace, took, forced, left_running } = self;
        write!(f, "{server_address}: closed after {:.1} s, ", took.as_secs_f64())?;
        match open_at_start {
            0 => write!(f, "nothing was open")?,
            1 => write!(f, "1 request was open")?,
            count => write!(f, "{count} requests were open")?,
        }
        if self.is_clean() {
            return match open_at_start {
                0 => Ok(()),
                1 => write!(f, " and ended by itself"),
                _ => write!(f, " and ended by themselves"),
            };
        }
        if !forced.is_empty() {
            let within = grace.as_secs_f64();
            write!(f, "; {} did not end within {within:.1} s and were cut off:", forced.len())?;
            list(f, forced)?;
        }
        if !left_running.is_empty() {
            match left_running.len() {
                1 => f.write_str("; 1 is still running:")?,
                count => write!(f, "; {count} are still running:")?,
            }
            list(f, left_running)?;
        }
        Ok(())
    }
}

/// At most this many lines: a report is read by a person, the rest is in the fields.
const LISTED: usize = 20;

fn list(f: &mut fmt::Formatter<'_>, requests: &[LiveRequest]) -> fmt::Result {
    for request in requests.iter().take(LISTED) {
        write!(f, "\n  {request}")?;
    }
    match requests.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => write!(f, "\n  and {more} more"),
    }
}
