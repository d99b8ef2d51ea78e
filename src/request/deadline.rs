//! The deadlines of a request as a whole: the server's, and the handler's own; and the handler's timeout for one read
//! or write.
//!
//! ```text
//! server's deadline      step by step: PROXY header, handshake, wrap_request; then Limits::request, or none
//! handler's deadline     by deadline_in; the server removes it after wrap_request
//! handler's timeout      in place of Limits::idle, read and write, for each call anew
//! ```
//!
//! The earliest of all bounds ends a call, and the error names that bound.

use std::time::{Duration, Instant};

use super::StreamRequest;
use crate::timed_out::Timeout;

/// A moment at which all waits end, and the limit that it comes from. The error names that limit.
///
/// ```
/// use std::time::Duration;
/// use socketserver::StreamRequest;
/// use socketserver::request::{Deadline, Request, Timeout};
///
/// /// An upload may take an hour, whatever `Limits::request` says.
/// fn allow_an_hour(request: &mut StreamRequest) {
///     let hour = Duration::from_secs(3_600);
///     request.set_server_deadline(Deadline::after(Timeout::Request, hour));
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// The limit that it comes from.
    pub limit: Timeout,
    /// The length of that limit, for the message.
    pub after: Duration,
}

impl Deadline {
    /// A bound at this moment. `after` is the length of the limit, for the message.
    #[must_use]
    pub fn new(at: Instant, limit: Timeout, after: Duration) -> Self {
        Self { at, limit, after }
    }

    /// A bound this much time from now. None if the clock cannot count that far: then there is no bound.
    #[must_use]
    pub fn after(limit: Timeout, after: Duration) -> Option<Self> {
        Some(Self::new(Instant::now().checked_add(after)?, limit, after))
    }

    /// The earlier of two deadlines; of two at the same moment the first. None means never.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by_key(|deadline| deadline.at)
    }
}

impl StreamRequest {
    /// Python's `timeout`: how long one read or write may take, in place of the server's idle, read and write limits.
    /// None brings the server's limits back. After the timeout a call fails with an error of kind `TimedOut`.
    ///
    /// A line is one read, and so is an exact number of bytes: a peer that sends a byte a second gets no more time. A
    /// write may go without progress for this time, as with [`Limits::write`](crate::Limits::write).
    /// [`Duration::MAX`] means for ever; zero means not to wait at all. [`deadline_in`](Self::deadline_in) bounds
    /// several reads together, a login say.
    #[doc(alias = "settimeout")]
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.io.timeout = timeout;
    }

    /// Bounds all following reads and writes together: they end this long from now. None removes the deadline. After
    /// the deadline each call that would wait fails with an error of kind `TimedOut`, which names
    /// [`Timeout::Deadline`], until a new deadline is set.
    ///
    /// The server's limits hold as well, and the earlier moment counts. So a long deadline lifts no limit, and
    /// [`Limits::request`](crate::Limits::request) still holds when this deadline is removed.
    /// ([`set_server_deadline`](super::Request::set_server_deadline) lifts that limit.) [`Duration::MAX`] is no
    /// deadline; with zero nothing waits. A deadline that `wrap_request` sets ends with that hook.
    ///
    /// A login is several reads:
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     let (mut name, mut password) = (String::new(), String::new());
    ///     request.deadline_in(Duration::from_secs(30));
    ///     write!(request, "name: ")?;
    ///     let Some(_name) = request.next_line(&mut name)? else { return Ok(()) };
    ///     write!(request, "password: ")?;
    ///     let Some(_password) = request.next_line(&mut password)? else { return Ok(()) };
    ///     // From here on the server's limits hold.
    ///     request.deadline_in(None);
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    ///
    /// With `?` every client that stays silent is a failure, which [`handle_error`](crate::ServerHooks::handle_error)
    /// prints on stderr. A handler that expects silent clients checks the error first:
    ///
    /// ```
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    /// use socketserver::request::TimedOut;
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     # let mut line = String::new();
    ///     # request.deadline_in(std::time::Duration::from_secs(30));
    ///     let _name = match request.next_line(&mut line) {
    ///         Ok(Some(name)) => name,
    ///         Ok(None) => return Ok(()),
    ///         Err(error) if TimedOut::find(&error).is_some() => return Ok(()),
    ///         Err(error) => return Err(error.into()),
    ///     };
    ///     # request.deadline_in(None);
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        let deadline = after.into().and_then(|after| Deadline::after(Timeout::Deadline, after));
        self.io.deadlines.set_handler(deadline);
    }
}

/// Both deadlines, in a box: few requests have one, and without them the fields that each receive reads stay close
/// together.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// None while there is neither deadline.
    both: Option<Box<Both>>,
}

/// The two deadlines are kept apart, so that a handler that removes its own does not lift the server's.
#[derive(Clone, Copy, Debug, Default)]
struct Both {
    /// The deadline of the present step before the handler, then that of `Limits::request`.
    server: Option<Deadline>,
    /// The deadline from [`StreamRequest::deadline_in`] or [`Request::set_deadline`](super::Request::set_deadline).
    handler: Option<Deadline>,
}

impl Deadlines {
    /// Whether there is a deadline.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.both.is_some()
    }

    /// The server's deadline, and the handler's.
    pub(super) fn both(&self) -> (Option<Deadline>, Option<Deadline>) {
        self.both.as_deref().map_or((None, None), |both| (both.server, both.handler))
    }

    /// The deadline that holds: the earlier one.
    pub(super) fn earlier(&self) -> Option<Deadline> {
        self.both.as_deref().and_then(|both| Deadline::earlier(both.server, both.handler))
    }

    /// Sets the server's deadline, or removes it. A request without a deadline only checks one pointer here.
    #[inline]
    pub(super) fn set_server(&mut self, server: Option<Deadline>) {
        // Each request begins with this call, and nearly none has a deadline: no box is made for "none".
        if server.is_none() && !self.any() {
            return;
        }
        self.set(|both| both.server = server);
    }

    /// Sets the handler's deadline, or removes it.
    pub(super) fn set_handler(&mut self, handler: Option<Deadline>) {
        self.set(|both| both.handler = handler);
    }

    /// Changes one of the deadlines. When both are gone the box is freed, so that [`any`](Self::any) checks only one
    /// pointer.
    fn set(&mut self, set: impl FnOnce(&mut Both)) {
        // The box is made anew each time: a request changes its deadlines a few times, if at all.
        let mut both = self.both.as_deref().copied().unwrap_or_default();
        set(&mut both);
        let any = both.server.is_some() || both.handler.is_some();
        self.both = any.then(|| Box::new(both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_deadlines_the_earlier_holds_in_any_order_of_setting() {
        let after = |limit, seconds| Deadline::after(limit, Duration::from_secs(seconds));
        let mut deadlines = Deadlines::default();
        let holds = |deadlines: &Deadlines| deadlines.earlier().map(|earlier| earlier.limit);
        assert!(!deadlines.any() && holds(&deadlines).is_none());
        deadlines.set_server(after(Timeout::Request, 10));
        deadlines.set_handler(after(Timeout::Deadline, 20));
        assert_eq!(holds(&deadlines), Some(Timeout::Request));
        deadlines.set_handler(after(Timeout::Deadline, 5));
        assert_eq!(holds(&deadlines), Some(Timeout::Deadline));
        deadlines.set_server(after(Timeout::Request, 1));
        assert_eq!(holds(&deadlines), Some(Timeout::Request));
        deadlines.set_handler(None);
        assert_eq!(holds(&deadlines), Some(Timeout::Request));
        deadlines.set_server(None);
        assert!(!deadlines.any());
        assert!(Deadline::after(Timeout::Request, Duration::MAX).is_none());
    }
}
