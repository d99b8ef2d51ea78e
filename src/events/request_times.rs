//! [`RequestTimes`]: where the time of a request has gone.

use std::time::Duration;

/// The times of a request, in the order of its steps. A part is `None` if the request did not get that far.
///
/// ```text
///  connected      accepted        a worker has it     the handler begins    it has returned
///      |----------------|------------------|---------------------|---------------------|
///        in_accept_queue      in_queue            handshake               handler
/// ```
///
/// The times are measured only for a server that has an observer, because each costs a look at the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestTimes {
    /// How long a TCP connection waited in the kernel's accept queue, in the kernel's ticks (1 to 10 ms). Only with
    /// [`Builder::time_accept_queue`](crate::Builder::time_accept_queue). It is not a part of the request's age.
    pub in_accept_queue: Option<Duration>,
    /// From the acceptance until a worker took the request: the time in the hook `verify_request`, and in the mixin's queue
    /// or until the child was forked.
    pub in_queue: Option<Duration>,
    /// The steps before the handler: a PROXY header, a TLS handshake, the hook `wrap_request`. `None` for a server
    /// that can have none of these steps.
    pub handshake: Option<Duration>,
    /// The handler: `setup`, `handle` and `finish`.
    pub handler: Option<Duration>,
}
