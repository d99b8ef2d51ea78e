//! The moments by which a request as a whole has to be over: the server's, and the handler's own.

use std::time::{Duration, Instant};

use crate::error::Timeout;

/// A bound in time, and which limit it comes from, so that the error of a wait that it ends can say so.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// Which limit.
    pub limit: Timeout,
    /// The length of that limit, for the message.
    pub after: Duration,
}

impl Deadline {
    /// So long from now. None if the clock cannot count it, which is never.
    #[must_use]
    pub fn after(limit: Timeout, after: Duration) -> Option<Self> {
        Some(Self { at: Instant::now().checked_add(after)?, limit, after })
    }

    /// The earlier of two, of which none is never.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
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
