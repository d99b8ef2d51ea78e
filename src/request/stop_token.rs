//! [`StopToken`]: reports a stop to code that works for a request but does not read from its peer.
//!
//! A token shares the request's entry in the live list, where the events are (`live/stop_events.rs`). They are made
//! with the first token, so other requests have no descriptors for them, and set by the threads that drain or cut:
//!
//! ```text
//! a drain begins              LiveList: each entry's `stopping` is notified
//! cut off, or at its end      Entry: `stopping` and `closed` are notified
//! ```

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ticket;
use crate::live::{Entry, StopEvents};
use crate::shutdown::ShutdownHandle;
use crate::wait::{self, Event};

/// Says whether a request should end: for helper threads, for computations, and for event loops that wait for
/// something other than the peer. Clones are tokens of the same request, and may be used on any thread.
///
/// Once a drain has begun, a read that would wait for the beginning of a request fails. Code that does not read can ask a
/// token, or wait on it:
///
/// | | is true when |
/// |---|---|
/// | [`is_shutdown`](Self::is_shutdown) | the server accepts no more clients |
/// | [`is_stopping`](Self::is_stopping) | the server drains, and a long request should end; or the request is over |
/// | [`is_closed`](Self::is_closed) | the request is over: cut off at the deadline of the drain, closed by [`close_live`](crate::ServerContext::close_live), or ended |
///
/// For poll(2) and the like, its descriptor ([`AsFd`]) becomes readable when `is_stopping` becomes true, and
/// [`closed_fd`](Self::closed_fd) becomes readable when `is_closed` becomes true. Both stay readable; do not read from
/// them. The tokens of one request use two descriptors, until the request has ended and the last token is dropped.
///
/// In a child of [`Forking`](crate::Forking) a token reports only the drain; at the deadline, or by `close_live`, the
/// child is killed.
///
/// ```
/// use std::thread;
/// use std::time::Duration;
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// fn handle(request: &mut StreamRequest) -> HandlerResult {
///     let stop = request.stop_token()?;
///     let ticker = thread::spawn(move || {
///         let mut ticks = 0;
///         // Waits for a second, or until the request should end.
///         while !stop.wait(Some(Duration::from_secs(1))) {
///             ticks += 1;
///         }
///         ticks
///     });
///     while !request.is_stopping() && !request.is_closed() {
///         // .. compute a little more ..
///         # break;
///     }
///     # drop(ticker);
///     Ok(())
/// }
/// # let _handler = stream_fn(handle);
/// ```
#[derive(Clone)]
pub struct StopToken {
    /// Says whether the server drains, and whether it accepts no more clients.
    server: ShutdownHandle,
    /// Says whether the request is over, and holds the events. It outlives the request.
    entry: Arc<Entry>,
}

impl StopToken {
    /// Whether the server accepts no more clients: after a close, or between a shutdown and the next run (running
    /// requests continue).
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.server.runs().accepts_no_more()
    }

    /// Whether a drain has begun, or the request is over.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.server.runs().is_draining() || self.is_closed()
    }

    /// Whether the request is over: nothing can reach its peer any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.entry.is_closed()
    }

    /// Waits until the request should end, or the timeout has passed; None is no timeout. True: it should end. False:
    /// the timeout has passed.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        self.wait_for(|stop_events| &stop_events.stopping, timeout);
        // Asks the state and not the event: a wait may have failed, or come back early.
        self.is_stopping()
    }

    /// Waits until the request is over, or the timeout has passed; None is no timeout. True: it is over. False: the
    /// timeout has passed.
    pub fn wait_closed(&self, timeout: Option<Duration>) -> bool {
        self.wait_for(|stop_events| &stop_events.closed, timeout);
        self.is_closed()
    }

    /// Waits for one of the events, or until the timeout has passed. The callers then check the state itself.
    fn wait_for(&self, which: impl Fn(&StopEvents) -> &Event, timeout: Option<Duration>) {
        // The timeout becomes a moment, so that a wait that comes back early goes on to the same end. A moment beyond the
        // clock's range means never.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let event = which(self.made());
        // A wait may come back early.
        while !event.is_set() && until.is_none_or(|until| Instant::now() < until) {
            // A wait that fails would fail again at once. The caller checks the state, and may call again.
            if wait::any(&[event.waiting()], until).is_err() {
                return;
            }
        }
    }

    /// Readable when the request is over.
    ///
    /// # Panics
    ///
    /// Never: the descriptor was made with the token.
    #[must_use]
    pub fn closed_fd(&self) -> BorrowedFd<'_> {
        self.made().closed.as_fd()
    }

    /// The events, which `stop_token` has made.
    fn made(&self) -> &StopEvents {
        self.stop_events().expect("made with the first token of the request")
    }

    /// The events. The first call makes them.
    fn stop_events(&self) -> io::Result<&StopEvents> {
        self.entry.stop_events(|| self.server.runs().is_draining())
    }
}

/// Readable when the request should end.
impl AsFd for StopToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.made().stopping.as_fd()
    }
}

impl fmt::Debug for StopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopToken")
            .field("request", &self.entry.id())
            .field("is_stopping", &self.is_stopping())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Ticket {
    /// A [`StopToken`] of this request: for request types of your own transport.
    ///
    /// # Errors
    ///
    /// If the process has no descriptors left for its two events.
    pub fn stop_token(&self) -> io::Result<StopToken> {
        let (server, entry) = (self.server().shutdown_handle(), Arc::clone(self.entry()));
        let token = StopToken { server, entry };
        // Makes the events with the first token, so that a lack of descriptors is an error here and nowhere later.
        token.stop_events()?;
        Ok(token)
    }
}
