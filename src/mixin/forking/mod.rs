//! A child process for each request: Python's `ForkingMixIn`.
//!
//! | process | does | must not |
//! |---|---|---|
//! | the parent: its loop, which is its only thread | forks (`children.rs`), watches and reaps (`reaper.rs`); tells `RequestOfChild` of each end | wait for a child, except in a drain |
//! | the child | runs one request by [`ServeInChild`], sends its text, if it has one, and exits with its status (`text_pipe.rs`, `exit_status.rs`) | return into the loop's frames, or write to memory that it shares with its parent, except for the rows of its request |
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

/// Runs each request in a process of its own. The request may leak, crash, or change the process's user: nothing of it is
/// left when it has ended, and no other request sees its changes to memory.
///
/// Forking is only right in a process with one thread, so the server has to run in the main thread of a program that has
/// started no other thread. Otherwise `serve_forever` fails, and the error names the threads. Work that would need a thread
/// beside the server can be done by the hook [`ServerHooks::service_actions`](crate::ServerHooks::service_actions), in the
/// loop.
///
/// The child closes its copy of the listener, runs the request, and exits by `_exit`. Its status is 0 for a request that
/// has completed, 1 if the handler failed, 101 if it panicked, and a status of its own for each other end, so that the
/// parent's observer and counts know how the request has ended. A [`Fatal`](crate::Fatal) reaches the parent with its text.
///
/// ```
/// use socketserver::Forking;
///
/// let mixin = Forking::new().max_children(100);
/// # let _ = mixin;
/// ```
///
/// As the first process of a container (PID 1), or as a subreaper, the server's process has to wait for the orphans of the
/// handlers' programs. The server reaps them at once, and leaves alone the children of [`std::process::Command`], which the
/// program waits for itself. (The other mixins wait for no orphans: start the container with an init, as by `docker run
/// --init`.)
///
/// Under TLS a silent client occupies a process until its handshake times out. Unfinished handshakes have at most three
/// quarters of the places that other requests leave (a single place that is left may go to one), and never more than
/// [`Limits::handshakes`](field@crate::Limits::handshakes): when a client comes that would exceed this, the parent ends the
/// oldest unfinished handshake. In two cases a silent client keeps its place until it times out. Either other requests have
/// all places but one, and it has that one. Or all places are taken by connections that began TLS late (STARTTLS, or a slow
/// PROXY header): then no client comes for which the parent would make room.
///
/// A handler that ends its process by `exit` should use a status below 160: those from 160 to 223 tell its parent how a
/// request has ended.
///
/// A child outlives its parent if a second signal or SIGKILL ends the parent. Nothing then forces the child after
/// `Limits::drain`: it ends by its request's own limits. Send the signal to the process group to end all of them; systemd
/// does (`KillMode=control-group`, its default).
///
/// A handler that fails or panics is reported by its child, in the child. A child that is ended by a signal (a crash,
/// `abort`, `kill -9`) reports nothing, and no hook is called for it in the server's process either: there it is an event
/// with [`CloseReason::Killed`], and it is counted in [`Counts::killed`](crate::monitor::Counts::killed). An observer
/// prints it:
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
    /// The most children at once; at least one.
    max_children: usize,
    /// Whether `server_close` signals the children and waits, or only signals them.
    block_on_close: bool,
    /// The children that this process has forked and not reaped.
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
    /// A process for each request, at most 40 at once.
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

    /// Python's `active_children`: the process numbers of the children that the server has not reaped yet.
    #[must_use]
    #[doc(alias = "collect_children")]
    pub fn active_children(&self) -> Vec<i32> {
        self.children.pids()
    }

    /// Forks a child for a request. The child never returns from here.
    #[inline]
    fn fork(&self, mut job: Job) {
        let Some(work) = &mut job.work else { return };
        let reports = match self.children.reports() {
            Ok(reports) => reports,
            Err(error) => return job.refuse(Refused::CannotStart(error)),
        };
        let listener = work.prepare_fork(self.max_children);
        // Without this, both processes would print the rest of the buffer, and send the replies that this thread gathers.
        let _ = io::stdout().flush();
        wait::flush();
        let mark = reports.orphan_mark();
        // Signals are held back from here until the child has noted its request: a signal in between would run the
        // parent's action in the child. The parent lets them through when `held` is dropped, at the end of this function.
        let held = SignalsHeld::hold();
        match fork::fork() {
            // This is most likely EAGAIN, from a limit on processes: the client is refused, and a later one may be served.
            Err(error) => job.refuse(Refused::CannotStart(error)),
            Ok(Forked::Child) => {
                // This comes first: a panic that nothing has caught ends the process here. The frames beyond are the
                // parent's, and their destructors must not run twice.
                let _leaves = OnDrop(|| sys::exit_now(PANICKED));
                if let Some(mark) = mark {
                    mark.put();
                }
                // The work is always there. It is taken out, so that the job's drop does nothing in the child.
                if let Some(work) = job.work.take() {
                    work.run_in_child(listener, held, &|end| {
                        let _ = io::stdout().flush();
                        // The text is sent before the exit: the parent reads it when it has reaped this child.
                        reports.send_text(&end);
                        sys::exit_now(status(&end));
                    });
                }
            }
            Ok(Forked::Parent { child }) => {
                // This comes first: the peer of a short request sees the end of input only when both processes have closed.
                let request = job.work.take().map(|work| work.leave_to_child(child));
                self.children.add(child, request);
            }
        }
    }
}

impl Mixin for Forking {
    /// Refuses a process with several threads, and makes the descriptors by which children are watched.
    fn prepare(&self) -> Result<()> {
        // A fork copies one thread; a lock that another thread holds, the allocator's say, would stay locked in the child.
        let ready = fork::no_other_threads().and_then(|()| self.children.enter_process());
        ready.map_err(|error| Error::io("fork", "for requests", error))
    }

    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        // The server calls `prepare` as well, but not for `handle_request`. Besides, the program may have started threads
        // since that call.
        self.prepare()?;
        accept_loop()
    }

    #[inline]
    fn process_request(&self, job: Job) {
        self.fork(job);
    }

    fn ready(&self) -> bool {
        // Ended children count until they are reaped. So at the maximum, and only there, `watch` tries to reap the newest
        // children before this says `false`: those that have ended make room at once.
        let is_room = || self.children.len() < self.max_children;
        is_room() || {
            self.children.watch();
            is_room()
        }
    }

    /// Called just before the loop waits: only then do the children have to be watched.
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

    /// Sends SIGTERM to the children, and waits for them until the deadline.
    fn drain(&self, deadline: Instant) {
        self.children.watch();
        self.children.signal_all(libc::SIGTERM);
        self.children.wait_until_none(deadline);
    }

    fn force(&self) {
        self.children.signal_all(libc::SIGKILL);
    }

    /// Signals the children: without `block_on_close` no drain has done so.
    fn server_close(&self, _deadline: Instant) {
        self.children.watch();
        self.children.signal_all(libc::SIGTERM);
        self.children.collect();
    }
}

/// The steps of a [`Work`](super::Work) that a child process serves. The server implements them in `server/fork.rs`, which
/// shows the order of the calls.
pub(crate) trait ServeInChild {
    /// In the parent, before the fork: makes everything that children inherit. Returns the listener's descriptor, if the
    /// child has to close nothing else. `most`: how many children there may be at once.
    fn prepare_fork(&mut self, most: usize) -> Option<Arc<OwnedFd>>;

    /// In the child, which has nothing else to do: serves the request, and leaves. It does not return, because drops would
    /// free one by one all that the end of the process frees at once. `signals` are held back until the child has its own
    /// actions for them.
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
    /// Ends the request. Called once, when the child is reaped, and without a lock. A request that is dropped without this
    /// call counts as `Released`.
    fn ended(self: Box<Self>, end: ChildEnd);
}

/// How a request ended in a child.
#[derive(Clone, Debug)]
pub(crate) struct ChildEnd {
    /// The reason, from the child's exit status or from the signal that has ended it.
    pub(crate) reason: CloseReason,
    /// The text of a `Fatal`, or of a failed step before the handler.
    pub(crate) text: Option<String>,
    /// The handler has requested a stop of its server.
    pub(crate) stop: bool,
    /// The child did not end by itself, and its server may be the cause: SIGKILL has ended it, or it was reaped elsewhere.
    /// If the server has cut the request off, this is the result of that.
    pub(crate) cut_off: bool,
}
