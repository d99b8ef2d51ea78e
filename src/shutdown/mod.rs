//! When a server runs and when it stops: [`Runs`], the state of its runs, and [`ShutdownHandle`].
//!
//! A server has one run at a time. The threads of its loops accept for the run. When the last loop has ended, nothing
//! is accepted any more; a mixin that runs requests on these threads may go on with them until the run ends.
//!
//! ```text
//! a thread that stops               the loop                                 a thread that waits
//!                                   begin, enter_loop
//! request_stop                      waits for the stop's event, the listener, ..
//!   requested, event readable ----> wakes
//!                                   settle: a stop is requested
//!                                   leave_loop: the last one
//!                                     closes the listener, if `close`
//!                                     accepting has ended ------------------> wait_until_ended returns
//!                                   .. the mixin's requests
//!                                   end: forgets the stop, takes the failure
//! ```
//!
//! The state is in `runs.rs`. `server/run_all.rs` has `Server::run` and the actions of the signals; `server/server_close.rs`
//! has the drain.
//!
//! Permitted callers:
//!
//! - **A signal's action**: `orders.give_reload`, `request_retire`, `request_stop`, `stop_requested`, `begin_drain`,
//!   `end_first_reads`, `is_draining`, `first_reads_are_over`. They store to atomics and write to an event. All others take
//!   the lock of the state, which the thread that the signal interrupts may hold.
//! - **The thread of a run**: `begin`, `end`. **A thread that accepts**: `enter_loop`, `enter_worker`, `leave_loop`.
//! - **Any thread**: `close`, `claim`, `fail`, `wait_until_ended`, which returns at once on a thread that accepts: it
//!   would wait for itself.
//!
//! No code of the user's runs under the lock.

mod reload_and_retire;
mod run_state;
mod runs;
mod stop_request;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::reload_and_retire::TakenOrders;
pub(crate) use self::run_state::RunKind;
pub(crate) use self::runs::{Claim, Closer, Runs};

/// Stops a server from anywhere: another thread, one of its handlers, a signal's handler.
///
/// Clones are handles to the same server. A handle keeps only the state of the server's runs alive; if it outlives the
/// server it does nothing.
///
/// ```
/// use socketserver::{ThreadingTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
/// let handle = server.shutdown_handle();
/// std::thread::spawn(move || handle.shutdown());
/// server.serve_forever()?; // returns when the other thread has asked for it
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    /// The server's runs, shared with the server and its requests.
    runs: Arc<Runs>,
}

impl ShutdownHandle {
    pub(crate) fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }

    /// Gives `run` and `run_all` the runs of servers whose types are erased, so that they can claim them.
    pub(crate) fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// Asks the server to stop accepting, and returns at once. It makes an atomic store and one `write`, so that a
    /// signal's handler may call it.
    ///
    /// A call before the first run makes that run return at once. Before a later `serve_forever` or `run` a call does
    /// nothing: each stop is for its own run. (A `handle_request` obeys every stop that no run has obeyed yet.) The
    /// listener stays open, and requests that are running go on.
    pub fn shutdown(&self) {
        self.runs.request_stop();
    }

    /// Asks the server to stop as a signal does under [`run`](crate::Server::run): it is not
    /// [ready](crate::ServerContext::is_ready) any more, goes on accepting for
    /// [`Limits::lame_duck`](field@crate::Limits::lame_duck), and then closes. Returns at once. Without a lame duck,
    /// or if no `run` serves the server, this is a [`shutdown`](Self::shutdown). A signal's handler may call it.
    pub fn retire(&self) {
        self.runs.request_retire();
    }

    /// Waits until nothing is accepted any more. Returns at once where waiting could never end: on a
    /// thread that accepts.
    pub fn wait(&self) {
        self.runs.wait_until_ended(None);
    }

    /// Like [`wait`](Self::wait), but no longer than `timeout`. Returns whether accepting has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        // A timeout that is longer than the clock can count is no deadline.
        self.runs.wait_until_ended(Instant::now().checked_add(timeout))
    }

    /// Whether a stop has been asked for, or the server is closed.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.runs.stop_requested()
    }
}
