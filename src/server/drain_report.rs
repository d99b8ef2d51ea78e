//! [`DrainReport`]: how a close went, for the operator.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::live::LiveRequest;

/// How a server has ended. Print it: the text is for its operator.
///
/// ```text
/// 127.0.0.1:9999: closed after 10.1 s, 3 requests were open; 2 ended by themselves; 1 did not end within 10.0 s and was cut off:
///   (a line for each, up to twenty)
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DrainReport {
    /// The address of the server.
    pub server_address: Address,
    /// The longest time that requests had to end.
    pub grace: Duration,
    /// How long the close has taken.
    pub took: Duration,
    /// How many requests were alive when the close began, including those accepted out of the backlog.
    pub open_at_start: usize,
    /// How many connections the drain has ended between two requests of their peers, or before the first one: no part of
    /// an answer is lost.
    pub stopped: usize,
    /// How many of the `stopped` connections had peers that had sent nothing, not even within
    /// [`Limits::first_read`](crate::Limits::first_read). A peer that was about to send got no answer, only the end
    /// of the connection.
    pub unheard: usize,
    /// The requests whose connections were shut down at the deadline, as they were at that moment. A datagram has no
    /// connection: its request is here if it has ended after the deadline, and otherwise in `left_running` alone.
    pub forced: Vec<LiveRequest>,
    /// The requests that were still alive when the close returned. One whose connection was shut down is in `forced` as
    /// well. After a close that waits, the handler of a datagram can reply no more: its socket is closed.
    pub left_running: Vec<LiveRequest>,
}

impl DrainReport {
    /// The report of a close that has just begun.
    pub(super) fn new(server_address: Address, grace: Duration) -> Self {
        Self {
            server_address,
            grace,
            took: Duration::ZERO,
            open_at_start: 0,
            stopped: 0,
            unheard: 0,
            forced: Vec::new(),
            left_running: Vec::new(),
        }
    }

    /// Whether no request was cut off in the middle: each has ended by itself, or was waiting for a next request to
    /// begin.
    ///
    /// The status with which a program exits, for its supervisor, may be `if report.is_clean() { 0 } else { 1 }`.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.forced.is_empty() && self.left_running.is_empty()
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_address, open_at_start, grace, took, forced, left_running, .. } = self;
        write!(f, "{server_address}: closed after {:.1} s, ", took.as_secs_f64())?;
        match open_at_start {
            0 => write!(f, "nothing was open")?,
            1 => write!(f, "1 request was open")?,
            count => write!(f, "{count} requests were open")?,
        }
        self.tell_of_ends(f)?;
        if !forced.is_empty() {
            let (within, count) = (grace.as_secs_f64(), forced.len());
            write!(f, "; {count} did not end within {within:.1} s and {} cut off:", were(count))?;
            list(f, forced)?;
        }
        if !left_running.is_empty() {
            // A request whose connection was cut off and whose handler goes on is in both lists. After a list the next
            // sentence begins on a line of its own.
            let before = if forced.is_empty() { "; " } else { "\n" };
            match left_running.len() {
                1 => write!(f, "{before}1 is still running:")?,
                count => write!(f, "{before}{count} are still running:")?,
            }
            list(f, left_running)?;
        }
        Ok(())
    }
}

impl DrainReport {
    /// Writes how the other requests have ended: those that were not cut off.
    ///
    /// The numbers of the whole text add up to `open_at_start`, with each request counted once: those that were
    /// stopped, those in either list, and the rest, which have ended by themselves. A request that was accepted while
    /// the close began may be in a list without having been open before. Then the rest comes out too small, but never
    /// below zero.
    fn tell_of_ends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { open_at_start, stopped, unheard, .. } = *self;
        // A request may be in both lists.
        let others: HashSet<u64> =
            self.forced.iter().chain(&self.left_running).map(|request| request.id).collect();
        match open_at_start.saturating_sub(stopped + others.len()) {
            0 => {}
            1 if open_at_start == 1 => f.write_str(" and ended by itself")?,
            all if all == open_at_start => f.write_str(" and ended by themselves")?,
            some => write!(f, "; {some} ended by {}", themselves(some))?,
        }
        match stopped.saturating_sub(unheard) {
            0 => {}
            count => write!(f, "; {count} {} ended between two requests", were(count))?,
        }
        match unheard {
            0 => Ok(()),
            count => write!(f, "; {count} {} ended that had sent nothing", were(count)),
        }
    }
}

fn were(count: usize) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

fn themselves(count: usize) -> &'static str {
    if count == 1 { "itself" } else { "themselves" }
}

/// The most lines of a list: a report is read by a person, and all requests are in the fields.
const MAX_LISTED: usize = 20;

/// Writes a line for each request, up to [`MAX_LISTED`].
fn list(f: &mut fmt::Formatter<'_>, requests: &[LiveRequest]) -> fmt::Result {
    for request in requests.iter().take(MAX_LISTED) {
        write!(f, "\n  {request}")?;
    }
    match requests.len().saturating_sub(MAX_LISTED) {
        0 => Ok(()),
        more => write!(f, "\n  and {more} more"),
    }
}
