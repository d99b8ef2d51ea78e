//! The moments by which a request as a whole has to be over: the server's, and the handler's own.

use std::time::{Duration, Instant};

use super::StreamRequest;
use crate::error::Timeout;

/// A bound in time, and which limit it comes from, so that the error of a wait that it ends can say so.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// Which limit.
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

    /// A bound that much time from now. None if the clock cannot count that far, which means never.
    #[must_use]
    pub fn after(limit: Timeout, after: Duration) -> Option<Self> {
        Some(Self::new(Instant::now().checked_add(after)?, limit, after))
    }

    /// The earlier of two, of which none is never.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
    }
}

impl StreamRequest {
    /// Python's `timeout`: how long one read or write may take, instead of the server's idle, read and
    /// write limits. None brings those back. When it fires, the error is of kind `TimedOut`.
    ///
    /// A whole line is one read, and so is an exact number of bytes: a peer that sends a byte a second has
    /// no more time than others. A write has so long without progress, as with [`Limits::write`](crate::Limits::write).
    /// [`Duration::MAX`] is for ever; zero takes or sends what can be at once, and does not wait. What has several
    /// reads, a login say, is bounded as a whole by [`deadline_in`](Self::deadline_in).
    #[doc(alias = "settimeout")]
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.io.timeout = timeout;
    }

    /// Bounds all that follows together, however many reads and writes that are: so long from now. None takes the
    /// bound away again. When it fires, the error is of kind `TimedOut`, and says
    /// [`Timeout::Deadline`]; so does every wait after it, until there is another bound.
    ///
    /// The server's limits hold beside it, and the earlier moment counts: nothing is lifted by a long one, and
    /// [`Limits::request`](crate::Limits::request) goes on when it is taken away.
    /// ([`set_server_deadline`](super::Request::set_server_deadline) lifts that.) [`Duration::MAX`] is no bound; with zero nothing
    /// waits. A bound that `wrap_request` has set ends with it.
    ///
    /// A login is several reads, and a peer that takes its time for each is bounded by it so:
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
    ///     // Who is in has the server's limits.
    ///     request.deadline_in(None);
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    ///
    /// The `?` makes a failure of every client that stays silent, and
    /// [`handle_error`](crate::ServerHooks::handle_error) prints each on stderr. A handler that takes them for a part of
    /// life looks at the error first, and ends quietly:
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

/// The two of them. Few requests have one, and what each receive looks at is kept together: so they are boxed.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    both: Option<Box<Both>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Both {
    server: Option<Deadline>,
    handler: Option<Deadline>,
}

impl Deadlines {
    /// Whether there is any.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.both.is_some()
    }

    /// The one that holds: the earlier.
    pub(super) fn earlier(&self) -> Option<Deadline> {
        self.both.as_deref().and_then(|both| Deadline::earlier(both.server, both.handler))
    }

    #[inline]
    pub(super) fn set_server(&mut self, server: Option<Deadline>) {
        // Each request begins with it, and nearly none has one.
        if server.is_none() && !self.any() {
            return;
        }
        self.set(|both| both.server = server);
    }

    pub(super) fn set_handler(&mut self, handler: Option<Deadline>) {
        self.set(|both| both.handler = handler);
    }

    fn set(&mut self, set: impl FnOnce(&mut Both)) {
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
    fn of_two_deadlines_the_earlier_holds_whoever_has_set_it_and_whenever() {
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
