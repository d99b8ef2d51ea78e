//! Those that stand in the listener's queue when a server begins to close: they are taken, and served within the grace of
//! the drain, because their kernel has told them already that they are connected. Then the listener closes.
//!
//! Who closes takes them, since the loop may be away for as long as a request lasts, under `Inline`; the loop hands them
//! to the mixin, as it does with all others, and tells of them.
//!
//! Nothing of the user's runs while they are taken, and while it runs nothing is held that a call of the user's could wait
//! for: a hook or an observer may close its server, from any place, and so may others meanwhile.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::accept::{accept, verify};
use super::job::TypedJob;
use super::server_permit::ServerPermit;
use super::{Core, Server};
use crate::error::Result;
use crate::limits::Limits;
use crate::mixin::{Job, Mixin, Refused};
use crate::sys::{self, PollFd};
use crate::transport::{AcceptAction, CloseWhen, Transport};
use crate::wait::{self, Interest, Waiting};

/// Those that have been taken and wait for the loop.
pub(super) struct Backlog<T: Transport> {
    state: Mutex<BacklogState<T>>,
    taken: Condvar,
}

struct BacklogState<T: Transport> {
    emptying: Emptying,
    jobs: VecDeque<TypedJob<T>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptying {
    NotBegun,
    By(ThreadId),
    Done,
}

impl<T: Transport> Default for Backlog<T> {
    fn default() -> Self {
        let state = BacklogState { emptying: Emptying::NotBegun, jobs: VecDeque::new() };
        Self { state: Mutex::new(state), taken: Condvar::new() }
    }
}

impl<T: Transport> Backlog<T> {
    /// Has this thread take them, and nobody else. None: they have been taken, by another thread perhaps, which is waited
    /// for. A transport that closes its server while it is asked for them does not wait for itself.
    pub(super) fn begin(&self) -> Option<BacklogTaker<'_, T>> {
        let me = thread::current().id();
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

    fn next(&self) -> Option<TypedJob<T>> {
        self.state.lock().jobs.pop_front()
    }
}

/// The taker, by one thread, from its beginning to its end, whatever ends it. It holds no lock.
pub(super) struct BacklogTaker<'a, T: Transport> {
    backlog: &'a Backlog<T>,
    jobs: VecDeque<TypedJob<T>>,
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

/// How long to wait for those whose handshake is going on: a way there and back in a house, and in it the time of a busy
/// processor. Others are further away, and are refused.
const HANDSHAKE: Duration = Duration::from_millis(2);

impl<T: Transport> Core<T> {
    /// Nobody new comes from here on, and those that have come are taken. Says how many.
    pub(super) fn stop_listening(self: &Arc<Self>, mut taker: BacklogTaker<'_, T>) -> usize {
        taker.ends_as = Emptying::Done;
        let mut skipped = Vec::new();
        // Somebody else may have the listener as well, and those that wait are then theirs.
        if !self.is_lent() && self.transport.refuse_new() {
            self.take_backlog(&mut taker.jobs, &mut skipped);
        }
        if self.transport.close_when() == CloseWhen::AtOnce {
            self.close_listener();
        }
        let count = taker.jobs.len();
        drop(taker);
        for error in &skipped {
            self.accept_skipped(error);
        }
        count
    }

    /// As many as there is room for; the close turns the others away. Not in turn with the loop and its workers: who has
    /// the turn may be in a hook of the user's, and what was taken before is served before in any case.
    fn take_backlog(
        self: &Arc<Self>,
        jobs: &mut VecDeque<TypedJob<T>>,
        skipped: &mut Vec<io::Error>,
    ) {
        let until = Instant::now() + HANDSHAKE;
        while self.context.rate.wait_until().is_none() {
            let Some(admitted) = ServerPermit::try_enter(self) else { return };
            match accept(admitted) {
                Ok(job) => jobs.push_back(job),
                Err(error) => match self.transport.accept_action(&error) {
                    AcceptAction::Retry => {}
                    AcceptAction::Skip => skipped.push(error),
                    AcceptAction::Wait if self.comes_one(until) => {}
                    _ => return,
                },
            }
        }
    }

    /// Waits for one more. False: it is time to close.
    fn comes_one(&self, until: Instant) -> bool {
        // A socket of datagrams is readable by what is not to be taken any more.
        let listens = self.transport.close_when() == CloseWhen::AtOnce;
        let Some(listener) = self.transport.fileno().filter(|_| listens) else { return false };
        let mut listener = [PollFd::readable(listener.as_fd())];
        Instant::now() < until && sys::poll(&mut listener, Some(until)).is_ok_and(|comes| comes)
    }

    /// Lets go of those that nobody will serve: the run has ended by an error, or by a panic.
    pub(super) fn release_backlog(&self) {
        while let Some(job) = self.backlog.next() {
            job.announce();
            Job::new(Box::new(job)).release();
        }
    }
}

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Serves those that have been taken at the end: each when there is room for it, until the deadline of the drain.
    /// Nothing, if the listener stays open.
    pub(super) fn serve_backlog(&self) -> Result<()> {
        if !self.core.context.runs.ends_for_good() {
            return Ok(());
        }
        if let Some(taker) = self.core.backlog.begin() {
            self.core.stop_listening(taker);
        }
        let Limits { drain, first_read, .. } = self.limits();
        // The drain of a server that forks begins only when its loop has ended.
        let time = if self.core.context.role().is_parent() { first_read.min(drain) } else { drain };
        let until = Instant::now().checked_add(time);
        while let Some(job) = self.core.backlog.next() {
            let room = self.wait_for_room(until)?;
            // Under `Inline` those before it have had their time here.
            let late = job.is_forced() || until.is_some_and(|until| Instant::now() >= until);
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

    /// Says whether there is any.
    fn wait_for_room(&self, until: Option<Instant>) -> Result<bool> {
        if self.core.context.role().is_parent() && !self.mixin.ready() {
            // Those that are idle make room.
            self.mixin.drain(Instant::now());
        }
        while !self.mixin.ready() {
            let Some(room) = self.mixin.event_fd() else { return Ok(false) };
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
