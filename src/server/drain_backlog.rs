//! The clients in the backlog when a server begins to close: they are accepted and served within the grace of the
//! drain, because the kernel has told them that they are connected. Then the listener closes.
//!
//! The thread that closes the server accepts them, because under `Inline` the loop may be busy for as long as a request
//! lasts. At its end the loop hands them to the mixin, like all other requests, and tells the observer.
//!
//! ```text
//! thread that closes              loop, at its end (serve_backlog)
//!   Backlog::begin                  Backlog::begin: waits until the other has finished
//!     runs.close -> wakes the loop
//!     accepts, without blocking
//!     closes the listener
//!   BacklogTaker dropped      --->  process_request for each, until the deadline
//! ```
//!
//! `Emptying` names the thread that empties the backlog. It goes from `NotBegun` to `By(thread)` to `Done`, or back
//! to `NotBegun` if that thread gives up.
//!
//! While the clients are accepted, no code of the user's runs. While such code runs, no lock is held: a hook or an
//! observer may close its server, and other threads may do so at the same time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Core;
use super::accept_loop::{AcceptLoop, accept, verify};
use super::job::TypedJob;
use super::server_permit::ServerPermit;
use crate::error::Result;
use crate::limits::Limits;
use crate::live::Cut;
use crate::mixin::{Job, Mixin, Refused};
use crate::sys::{self, PollFd};
use crate::transport::{AcceptAction, CloseWhen, Transport};
use crate::wait::{self, Interest, Waiting};

/// The requests that have been accepted and wait for the loop. Each has its permit and its slot in the live list, so that
/// a drain waits for it, and cuts it off at the deadline.
pub(super) struct Backlog<T: Transport> {
    /// The state of the backlog. Locked for moments, and never while user code runs.
    state: Mutex<BacklogState<T>>,
    /// Notified when the thread that empties the backlog has finished.
    taken: Condvar,
}

struct BacklogState<T: Transport> {
    /// Whether the accept queue has been emptied, and the thread that is emptying it.
    emptying: Emptying,
    /// The requests, in the order of the accept queue. Filled when the taker is dropped; emptied by the loop, or
    /// released.
    jobs: VecDeque<TypedJob<T>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptying {
    /// The server is not closing, or the thread that had begun gave up.
    NotBegun,
    /// This thread empties the backlog, and others wait for it.
    By(ThreadId),
    /// Final: the requests in `jobs` are all that there are.
    Done,
}

impl<T: Transport> Default for Backlog<T> {
    fn default() -> Self {
        let state = BacklogState { emptying: Emptying::NotBegun, jobs: VecDeque::new() };
        Self { state: Mutex::new(state), taken: Condvar::new() }
    }
}

impl<T: Transport> Backlog<T> {
    /// Makes this thread the one that empties the backlog. Returns `None` if another thread has emptied it, after
    /// waiting for the end of that work. Also returns `None` if this thread is emptying it already: a transport whose
    /// `get_request` closes its own server must not wait for itself.
    pub(super) fn begin(&self) -> Option<BacklogTaker<'_, T>> {
        let me = thread::current().id();
        // The wait is short: the other thread accepts without blocking, and then waits for `HANDSHAKE_WAIT` at most.
        let mut state = self.state.lock();
        loop {
            match state.emptying {
                Emptying::NotBegun => break,
                Emptying::By(other) if other != me => self.taken.wait(&mut state),
                Emptying::By(_) | Emptying::Done => return None,
            }
        }
        state.emptying = Emptying::By(me);
        Some(BacklogTaker { backlog: self, jobs: VecDeque::new(), ends_as: Emptying::NotBegun })
    }

    /// The next request to be served or released. Each request is taken by one thread only.
    fn next(&self) -> Option<TypedJob<T>> {
        self.state.lock().jobs.pop_front()
    }
}

/// One thread's work on the backlog. It ends when this is dropped, even by a panic. It holds no lock.
pub(super) struct BacklogTaker<'a, T: Transport> {
    backlog: &'a Backlog<T>,
    /// The requests accepted so far. Other threads see them when this is dropped, all at once.
    jobs: VecDeque<TypedJob<T>>,
    /// The state that the drop leaves behind. It is `NotBegun` until `stop_listening` begins: before that the taker may
    /// give up.
    ends_as: Emptying,
}

impl<T: Transport> Drop for BacklogTaker<'_, T> {
    fn drop(&mut self) {
        let mut state = self.backlog.state.lock();
        state.jobs.append(&mut self.jobs);
        state.emptying = self.ends_as;
        self.backlog.taken.notify_all();
    }
}

/// How long to wait for clients whose TCP handshake is under way: a round trip in a local network, with a busy
/// processor at its end. Clients further away are refused.
const HANDSHAKE_WAIT: Duration = Duration::from_millis(2);

/// The longest accept queue that the kernel can be told to keep (`net.core.somaxconn`).
const MAX_TAKEN: usize = 65_535;

impl<T: Transport> Core<T> {
    /// Stops listening, after accepting the backlog. Returns the number of requests accepted. Called on the thread that
    /// closes, or on the loop's thread if that comes first.
    pub(super) fn stop_listening(self: &Arc<Self>, mut taker: BacklogTaker<'_, T>) -> usize {
        // Set before the work, so that a transport that panics in it is not asked again.
        taker.ends_as = Emptying::Done;
        // Reported below, once no thread waits for this one: the hook is the program's code.
        let mut skipped = Vec::new();
        // If another process may have the listener, the backlog is left to that process.
        if !self.is_lent() && self.transport.refuse_new() {
            self.take_backlog(&mut taker.jobs, &mut skipped);
        }
        if self.transport.close_when() == CloseWhen::AtOnce {
            self.close_listener();
        }
        let count = taker.jobs.len();
        // Hooks run below, and no thread may wait for them: the backlog is free from here on.
        drop(taker);
        for error in &skipped {
            self.accept_skipped(error);
        }
        count
    }

    /// Accepts as many clients as there is room for; the close turns the others away. It does not take the lock of
    /// `worker_accept.rs`: a thread that holds that lock may be in a hook, and has accepted its client already.
    fn take_backlog(
        self: &Arc<Self>,
        jobs: &mut VecDeque<TypedJob<T>>,
        skipped: &mut Vec<io::Error>,
    ) {
        // All clients together have one deadline: an endless stream of clients cannot hold up the close.
        let until = Instant::now() + HANDSHAKE_WAIT;
        // The number is bounded too: if a successor may have the listener, new clients are not refused, and could come
        // without end.
        for _ in 0..MAX_TAKEN {
            // The rate holds at the end too: clients beyond it are turned away by the close of the listener.
            if self.context.rate.wait_until().is_some() {
                return;
            }
            let Some(admitted) = ServerPermit::try_enter(self) else { return };
            match accept(admitted) {
                Ok(job) => jobs.push_back(job),
                Err(error) => match self.transport.accept_action(&error) {
                    AcceptAction::Retry => {}
                    AcceptAction::Skip => skipped.push(error),
                    AcceptAction::Wait if self.comes_one(until) => {}
                    // No client is left, or resources are short.
                    _ => return,
                },
            }
        }
    }

    /// Waits for one more client. Returns false if it is time to close.
    ///
    /// Blocks the thread for [`HANDSHAKE_WAIT`] at most.
    fn comes_one(&self, until: Instant) -> bool {
        // A datagram socket may be readable, but no more datagrams are taken from it.
        let listens = self.transport.close_when() == CloseWhen::AtOnce;
        let Some(listener) = self.transport.fileno().filter(|_| listens) else { return false };
        let mut listener = [PollFd::readable(listener.as_fd())];
        Instant::now() < until && sys::poll(&mut listener, Some(until)).is_ok_and(|comes| comes)
    }

    /// Releases the requests that will not be served: the run has ended by an error, or by a panic.
    pub(super) fn release_backlog(&self) {
        while let Some(job) = self.backlog.next() {
            job.announce();
            Job::new(Box::new(job)).release();
        }
    }
}

impl<T: Transport, M: Mixin> AcceptLoop<T, M> {
    /// Serves the accepted backlog: each request when there is room for it, until the deadline of the drain. After a
    /// stop that leaves the listener open there is no backlog.
    pub(super) fn serve_backlog(&self) -> Result<()> {
        // After a `shutdown` alone the clients stay in the accept queue, for the next run.
        if !self.core.context.runs.ends_for_good() {
            return Ok(());
        }
        // `None`: the thread that closes the server has taken the backlog, and `begin` has waited for that.
        if let Some(taker) = self.core.backlog.begin() {
            self.core.stop_listening(taker);
        }
        // The loop does not know the grace of the close, which may be shorter: the end of that grace then cuts the
        // requests off.
        let Limits { drain, first_read, .. } = self.core.context.limits();
        // The drain of a server that forks begins only when its loop has ended, so the loop takes no longer than a
        // first read.
        let time = if self.core.context.role().is_parent() { first_read.min(drain) } else { drain };
        let until = Instant::now().checked_add(time);
        while let Some(job) = self.core.backlog.next() {
            // If there is no room in time, the request is refused and not just dropped, because its client has connected.
            let room = self.wait_for_room(until)?;
            // Under `Inline`, earlier requests of the backlog may have used up the time. And the deadline of a drain
            // may have cut this request off while it waited here.
            let is_cut_off = job.ticket.entry().cut() == Some(Cut::Forced);
            let late = is_cut_off || until.is_some_and(|until| Instant::now() >= until);
            job.announce();
            match verify(job) {
                Some(job) if room && !late => self.mixin.process_request(job),
                Some(job) => job.refuse(Refused::Closing),
                None => {}
            }
            self.mixin.service_actions();
        }
        Ok(())
    }

    /// Waits until the mixin has room. Returns false if it has none in time.
    fn wait_for_room(&self, until: Option<Instant>) -> Result<bool> {
        if self.core.context.role().is_parent() && !self.mixin.ready() {
            // Children that are idle make room: the mixin signals them, and reaps those that have ended.
            self.mixin.drain(Instant::now());
        }
        while !self.mixin.ready() {
            let Some(room) = self.mixin.event_fd() else { return Ok(false) };
            // This wait leaves out the stop, which is requested by now and would end each wait at once.
            let room = Waiting { fd: room, interest: Interest::Read, slot: None };
            let waited = wait::any(&[room], until);
            self.waited(waited)?;
            self.mixin.service_actions();
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(self.mixin.ready());
            }
        }
        Ok(true)
    }
}
