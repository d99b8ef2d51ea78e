//! The budget of descriptors: `Limits::live` is lowered to the number of requests that the process has descriptors for.
//!
//! Without the budget a server with too few descriptors would accept clients and fail in their handlers, at the first
//! file that a handler opens. With the budget these clients wait in the accept queue, where a balancer sees them, and
//! the operator is warned once.
//!
//! ```text
//!   RLIMIT_NOFILE - open - spare - lingering     1,024 - 24 - 32 - 256
//!   ────────────────────────────────────────  =  ──────────────────────  = 712 requests
//!           descriptors per request                        1
//! ```

use std::io;

use super::Server;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::lingering_close;
use crate::mixin::Mixin;
use crate::sys;
use crate::transport::Transport;

/// Descriptors left for files of handlers, events and logs.
const SPARE_DESCRIPTORS: u64 = 32;

/// Descriptors that the loop and its workers take when they wait for the first time, and keep: a copy of the listener, and
/// an epoll set.
const FIRST_WAIT_DESCRIPTORS: u64 = 2;

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Lowers the limit of live requests to the budget, and warns: clients that wait in the accept queue are better
    /// than handlers that cannot open files.
    ///
    /// Called at the beginning of each `serve_forever`. By then `run` has raised the process's limit, if it is going
    /// to. Without `/proc` the budget is unknown, and nothing is lowered.
    ///
    /// # Errors
    ///
    /// If under `run` there is no descriptor for a single request: a program that has just begun closes none later, and
    /// would keep its clients waiting for ever.
    pub(super) fn budget_descriptors(&self) -> Result<()> {
        // Zero: datagrams share one socket, so descriptors do not limit their number.
        let each = self.core.transport.descriptors_per_request();
        let counted = if each == 0 { None } else { sys::descriptors() };
        let Some((allowed, open)) = counted else { return Ok(()) };
        // Under `run` the soft limit has already been raised to the hard limit.
        let is_raised = self.core.context.runs.is_served_by_run();
        let raise = if is_raised {
            "a higher hard limit (ulimit -Hn) allows more"
        } else {
            "to raise it, serve by `run`, or say `ulimit -n` before the start"
        };
        // This many are enough to serve one request at a time, with none spare and none for closes that linger.
        let least = each as u64 + FIRST_WAIT_DESCRIPTORS;
        let none_is_left = allowed < open + least;
        if none_is_left && is_raised && self.core.context.live.len() == 0 {
            let why = format!(
                "the process may have {allowed} descriptors, {open} are open, and the first request takes {least} more; {raise}"
            );
            return Err(Error::io("serve at", self.server_address(), io::Error::other(why)));
        }
        let lingering = lingering_close::max_lingering() as u64;
        // More may be open than are allowed: a limit that is lowered closes nothing.
        let left = allowed.saturating_sub(open + SPARE_DESCRIPTORS + lingering);
        let room = usize::try_from(left).unwrap_or(usize::MAX) / each;
        // At least one, or nothing would ever be served: that request may use the spare descriptors.
        if let Some(lowered) = self.core.context.budget_descriptors(room.max(1)) {
            let lowered = lowered_live(&self.limits(), lowered);
            // The warning shows the arithmetic.
            let each = if each == 1 { String::new() } else { format!(", {each} for each request") };
            let floor = match room {
                0 if none_is_left => " (until some are closed, clients wait)",
                0 => " (one request is served in any case)",
                _ => "",
            };
            self.core.warn(&format!(
                "{}: {lowered}: the process may have {allowed} \
                 descriptors{each}; {open} are open, {SPARE_DESCRIPTORS} are kept for files and logs, and \
                 {lingering} for connections that are closing{floor}; {raise}",
                self.server_address()
            ));
        }
        Ok(())
    }
}

/// Says that `Limits::live` is lowered to a budget, and the limit of one peer with it, if there is one:
///
/// ```text
/// at most 712 requests at once, not 10000 (of one peer 71, not 1000)
/// ```
pub(super) fn lowered_live(limits: &Limits, lowered: (usize, Option<usize>)) -> String {
    let (live, per_peer) = lowered;
    let share = per_peer
        .filter(|most| *most < limits.per_peer)
        .map_or(String::new(), |most| format!(" (of one peer {most}, not {})", limits.per_peer));
    format!("at most {live} requests at once, not {}{share}", limits.live)
}
