//! A child process for each request: Python's `ForkingMixIn`.
//!
//! | process | does | must not |
//! |---|---|---|
//! | the parent: its loop, which is its only thread | forks (`children.rs`), watches and reaps (`reaper.rs`); tells `RequestOfChild` of each end | wait for a child, except in a drain |
//! | the child | runs one request by [`ServeInChild`], sends its text, then its status (`text_pipe.rs`, `exit_status.rs`) | return into the loop's frames, or write to what it shares with its parent, but for the rows of its request |
//!
//! The permit and the slot of a request stay with the parent from the fork until the child is reaped. So the limits hold
//! for processes as they hold for threads, and a child that is killed gives everything back.
//!
//! Between the fork and the child's first steps SIGTERM and SIGINT are held back: a signal that came then would run the
//! parent's action, and stop a server in the child. `server/fork.rs` has the order of the calls on both sides.

mod children;
mod exit_status;
mod reaper;
mod text_pipe;

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use self::children::Children;
use self::exit_status::{PANICKED, status};
use super::{Job, Mixin, Refused, WorkerFigures};
use crate::error::{Error, Result};
use crate::events::CloseReason;
use crate::on_drop::OnDrop;
use crate::sys;
use crate::sys::fork::{self, Forked, SignalsHeld};
use crate::wait;

/// Runs each request in a process of its own: it may leak, crash, or change its user, and nothing of it is
/// left when it has ended. Changes to memory are seen by no other request.
///
/// Forking is only right in a process with one thread, so the server has to run in the main thread of a
/// program that has started no other thread. Otherwise `serve_forever` fails, and the error names the threads. The work of
/// another thread beside the server can be done by the hook
/// [`ServerHooks::service_actions`](crate::ServerHooks::service_actions), in the loop.
///
/// The child closes its copy of the listener, runs the request, and leaves by `_exit` with status 0, 1 if the
/// handler failed, 101 if it panicked, and others for the other ends of a request: the parent's observer and
/// counts know it. A [`Fatal`](crate::Fatal) reaches the parent with its text.
///
/// ```
/// use socketserver::Forking;
///
/// let mixin = Forking::new().max_children(100);
/// # let _ = mixin;
/// ```
///
/// As the first process of a container (PID 1), or as a subreaper, the server's process has to wait for the orphans of
/// the handlers' programs. It does, at once, and tells them from the children of [`std::process::Command`] that the
/// program waits for itself. (The other mixins wait for no orphans: start the container with an init, as by `docker run
/// --init`.)
///
/// Under TLS a silent client has a process until its handshake times out. Such clients have at most three quarters of the
/// places that other requests leave, and never the last one, or fewer by
/// [`Limits::handshakes`](field@crate::Limits::handshakes): at that number the parent ends the oldest unfinished handshake when
/// the next client comes. Only where other requests have all places but one, a silent client keeps that one until it times
/// out; and so do connections that begin TLS late (STARTTLS, or a slow PROXY header) when no client has come since.
///
/// A handler that ends its process by `exit` takes a status below 160: those from 160 to 223 tell its parent how a request
/// has ended.
///
/// A child outlives its parent if that is ended by a second signal or by SIGKILL. It is then not forced after
/// `Limits::drain`, and ends by its request's own limits. Send the signal to the process group to end all; systemd does
/// (`KillMode=control-group`, its default).
///
/// A handler that fails or panics is reported by its child, in the child. A child that is ended by a signal (a crash,
/// `abort`, `kill -9`) reports nothing, and no hook is called for it in the server's process either: there it is an
/// event with [`CloseReason::Killed`], and one more in [`Counts::killed`](crate::monitor::Counts::killed). An observer prints it:
///
/// ```
/// use socketserver::monitor::{CloseReason, ServerEvent};
/// use socketserver::ForkingTcpServer;
///
/// let builder = ForkingTcpServer::builder().observer(|event| match event {
///     ServerEvent::RequestEnded { reason: CloseReason::Killed, .. } => eprintln!("{event}"),
///     _ => {}
/// });
/// # let _ = builder;
/// ```
#[derive(Debug)]
pub struct Forking {
    /// At least one.
    max_children: usize,
    /// Whether `server_close` signals the children and waits, or only signals them.
    block_on_close: bool,
    /// Those that this process has forked and not reaped.
    children: Children,
}

/// Python's default.
const MAX_CHILDREN: usize = 40;

impl Default for Forking {
    fn default() -> Self {
        Self { max_children: MAX_CHILDREN, block_on_close: true, children: Children::default() }
    }
}

impl Forking {
    /// A process for each request, 40 at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Python's `max_children`: how many processes there are at once. At the maximum nothing is accepted
    /// until one has ended. Default: 40.
    #[must_use]
    pub fn max_children(mut self, max: usize) -> Self {
        self.max_children = max.max(1);
        self
    }

    /// Python's `block_on_close`: whether `server_close` waits for the children. Default: true.
    #[must_use]
    pub fn block_on_close(mut self, block: bool) -> Self {
        self.block_on_close = block;
        self
    }

    /// Python's `active_children`: the process numbers of the children that have not ended.
    #[must_use]
    #[doc(alias = "collect_children")]
    pub fn active_children(&self) -> Vec<i32> {
        self.children.pids()
    }

    /// Forks. The child never returns from here.
    #[inline]
    fn fork(&self, mut job: Job) {
        let Some(work) = &mut job.work else { return };
        let reports = match self.children.reports() {
            Ok(reports) => reports,
            Err(error) => return job.refuse(Refused::CannotStart(error)),
        };
        let listener = work.prepare_fork(self.max_children);
        // Otherwise both processes would print the rest of the buffer, and send the replies that this thread gathers.
        let _ = io::stdout().flush();
        wait::flush();
        let mark = reports.orphan_mark();
        // From here until the child has noted its request: a signal in between would be taken as the parent's. The parent lets
        // them through when `held` is dropped, at the end of this function.
        let held = SignalsHeld::hold();
        match fork::fork() {
            // Most likely EAGAIN, a limit of processes: the client is refused, and a later one may be served.
            Err(error) => job.refuse(Refused::CannotStart(error)),
            Ok(Forked::Child) => {
                // First: a panic that nothing has caught ends the process here. The frames beyond are the parent's, and
                // their destructors must not run twice.
                let _leaves = OnDrop(|| sys::exit_now(PANICKED));
                if let Some(mark) = mark {
                    mark.put();
                }
                // Always there. Out of the job, so that the job's drop does nothing in the child.
                if let Some(work) = job.work.take() {
                    work.run_in_child(listener, held, &|end| {
                        let _ = io::stdout().flush();
                        // The text before the status: the parent reads it when it has reaped this child.
                        reports.send_text(&end);
                        sys::exit_now(status(&end));
                    });
                }
            }
            Ok(Forked::Parent { child }) => {
                // First: the peer of a short request sees the end of input only when both processes have closed.
                let request = job.work.take().map(|work| work.leave_to_child(child));
                self.children.add(child, request);
            }
        }
    }
}

impl Mixin for Forking {
    /// Watching the children takes some descriptors.
    fn prepare(&self) -> Result<()> {
        // A fork copies one thread; a lock that another one holds, the allocator's say, would stay locked in the child for ever.
        let ready = fork::no_other_threads().and_then(|()| self.children.enter_process());
        ready.map_err(|error| Error::io("fork", "for requests", error))
    }

    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        // Once more for `handle_request`, whose run is not prepared, and for threads since.
        self.prepare()?;
        accept_loop()
    }

    #[inline]
    fn process_request(&self, job: Job) {
        self.fork(job);
    }

    fn ready(&self) -> bool {
        // At the maximum only: a child that has ended is found by the watch's own look, and makes room at once.
        // Ended children count until the loop notices, so a look comes before a `false`.
        let is_room = || self.children.len() < self.max_children;
        is_room() || {
            self.children.watch();
            is_room()
        }
    }

    /// Called just before the loop waits, and only then have the children to be watched.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.children.watch();
        self.children.event_fd()
    }

    fn service_actions(&self) {
        self.children.collect();
    }

    fn block_on_close(&self) -> bool {
        self.block_on_close
    }

    fn forks(&self) -> bool {
        true
    }

    /// A child that has ended counts until the loop has noticed that.
    fn figures(&self) -> WorkerFigures {
        WorkerFigures {
            busy: Some(self.children.len()),
            queued: Some(0),
            max_busy: Some(self.max_children),
            ..WorkerFigures::default()
        }
    }

    /// Tells the children, and waits for them.
    fn drain(&self, deadline: Instant) {
        self.children.watch();
        self.children.signal_all(libc::SIGTERM);
        self.children.wait_until_none(deadline);
    }

    fn force(&self) {
        self.children.signal_all(libc::SIGKILL);
    }

    /// Signals the children, which no drain has done without `block_on_close`.
    fn server_close(&self, _deadline: Instant) {
        self.children.watch();
        self.children.signal_all(libc::SIGTERM);
        self.children.collect();
    }
}

/// The part of a [`Work`](super::Work) that takes two processes: the server implements it, in `server/fork.rs`, where
/// the order of the calls is shown.
pub(crate) trait ServeInChild {
    /// In the parent, before the fork: makes what children inherit. Gives the listener's descriptor, if that is all that
    /// a child has to close. `most`: how many children there may be at once.
    fn prepare_fork(&mut self, most: usize) -> Option<Arc<OwnedFd>>;

    /// In the child, which has nothing else to do: serves the request, and leaves. It does not return, so that nothing
    /// is given back that the end of the process gives back. The signals are held back until they are taken for what
    /// they mean to a child.
    fn run_in_child(
        self: Box<Self>,
        listener: Option<Arc<OwnedFd>>,
        signals: SignalsHeld,
        leave: &dyn Fn(ChildEnd) -> Infallible,
    ) -> !;

    /// In the parent, after the fork: closes its copy of the connection, and keeps the request's slot in the live list
    /// and its permit until the child has ended.
    fn leave_to_child(self: Box<Self>, child: i32) -> Box<dyn RequestOfChild>;
}

/// A request that a child serves, in its parent.
pub(crate) trait RequestOfChild: Send {
    /// Called once, when the child is reaped, and without a lock. Dropped without it, the request counts as
    /// `Released`.
    fn ended(self: Box<Self>, end: ChildEnd);
}

/// How a request ended in a child.
#[derive(Clone, Debug)]
pub(crate) struct ChildEnd {
    /// As the child has told by its status, or the signal that ended it.
    pub(crate) reason: CloseReason,
    /// The text of a `Fatal`, or else of the step before the handler that has failed.
    pub(crate) text: Option<String>,
    /// The handler has requested a stop of its server.
    pub(crate) stop: bool,
    /// It did not end by itself: if its server has cut it off, that was why.
    pub(crate) cut_off: bool,
}
