//! A worker that one request holds up: the interface between a mixin with such workers and its server.

use std::fmt::Display;
use std::time::Duration;

/// Is told of requests that hold up others. The server implements it, with its types erased.
#[cfg_attr(not(has_green), allow(dead_code, reason = "only `Green` has such workers"))]
pub(crate) trait WorkerWatch: Send + Sync {
    /// This request has run for so long without a wait, and nothing else has run on its worker. A thread of the mixin
    /// calls this, once for each such time.
    fn worker_is_held(&self, request: u64, held: Duration);

    /// The system has room for only this many requests at once, for the reason in the text. Called with the first
    /// request.
    fn requests_are_bounded(&self, most: usize, why: &dyn Display);
}
