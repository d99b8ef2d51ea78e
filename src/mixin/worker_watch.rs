//! A worker that one request holds up: the interface between a mixin with such workers and its server.

use std::fmt::Display;
use std::time::Duration;

/// Takes reports of requests that hold up others. The server implements it, with its types erased.
#[cfg_attr(not(has_green), allow(dead_code, reason = "only `Green` has such workers"))]
pub(crate) trait WorkerWatch: Send + Sync {
    /// Reports that this request has run for `held` without a wait, and that nothing else has run on its worker meanwhile.
    /// A thread of the mixin calls this, once for each such case.
    fn worker_is_held(&self, request: u64, held: Duration);

    /// Reports that the system has room for only `most` requests at once, for the reason `why`. Called with the first
    /// request.
    fn requests_are_bounded(&self, most: usize, why: &dyn Display);
}
