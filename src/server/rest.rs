//! Those that stand in the listener's queue when a server begins to close: they are taken, and served within the grace of
//! the drain, because their kernel has told them already that they are connected. Then the listener closes.
//!
//! Who closes takes them, since the loop may be away for as long as a request lasts, under `Inline`; the loop hands them
//! to the mixin, as it does with all others.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admitted::Admitted;
use super::job::TypedJob;
use super::turn::{accept, admit};
use super::{Core, Server};
use crate::error::Result;
use crate::limits::Limits;
use crate::mixin::{Job, Mixin, Refused};
use crate::sys::{self, PollFd};
use crate::transport::{AcceptAction, CloseWhen, Transport};
use crate::wait::{self, Interest, Waiting};

/// Those that have been taken and wait for the loop.
pub(super) struct Rest<T: Transport> {
    taken: bool,
    jobs: VecDeque<TypedJob<T>>,
}

impl<T: Transport> Default for Rest<T> {
    fn default() -> Self {
        Self { taken: false, jobs: VecDeque::new() }
    }
}

/// How long to wait for those whose handshake is going on: a way there and back in a house, and in it the time of a busy
/// processor. Others are further away, and are refused.
const HANDSHAKE: Duration = Duration::from_millis(2);

impl<T: Transport> Core<T> {
    /// Nobody new comes from here on, and those that have come are taken. Says how many. The second time it does nothing.
    pub(super) fn stop_listening(self: &Arc<Self>, rest: &mut Rest<T>) -> usize {
        if std::mem::replace(&mut rest.taken, true) {
            return 0;
        }
        // Somebody else may have the listener as well, and those that wait are then theirs.
        if !self.is_lent() && self.transport.refuse_new() {
            self.take_the_rest(&mut rest.jobs);
        }
        if self.transport.close_when() == CloseWhen::AtOnce {
            self.close_listener();
        }
        rest.jobs.len()
    }

    /// As many as there is room for; the close turns the others away.
    fn take_the_rest(self: &Arc<Self>, jobs: &mut VecDeque<TypedJob<T>>) {
        let _turn = self.doorway.turn();
        let until = Instant::now() + HANDSHAKE;
        while self.context.rate.wait_until().is_none() {
            let Some(admitted) = Admitted::try_enter(self) else { return };
            match accept(admitted) {
                Ok(job) => jobs.push_back(job),
                Err(error) => match self.transport.accept_action(&error) {
                    AcceptAction::Retry => {}
                    AcceptAction::Skip => self.accept_skipped(&error),
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
        let mut listener = [PollFd::new(listener.as_fd(), false)];
        Instant::now() < until && sys::poll(&mut listener, Some(until)).is_ok_and(|comes| comes)
    }

    /// Lets go of those that nobody will serve: the run has ended by an error, or by a panic.
    pub(super) fn release_the_rest(&self) {
        let jobs = std::mem::take(&mut self.rest.lock().jobs);
        for job in jobs {
            Job::new(Box::new(job)).release();
        }
    }
}

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Serves those that have been taken at the end: each when there is room for it, until the deadline of the drain.
    /// Nothing, if the listener stays open.
    pub(super) fn serve_the_rest(&self) -> Result<()> {
        if !self.core.context.runs.ends_for_good() {
            return Ok(());
        }
        self.core.stop_listening(&mut self.core.rest.lock());
        let Limits { drain, first_read, .. } = self.limits();
        // The drain of a server that forks begins only when its loop has ended.
        let time = if self.mixin.forks() { first_read.min(drain) } else { drain };
        let until = Instant::now().checked_add(time);
        loop {
            // Without the lock: under `Inline` it is served here, and may close its server.
            let next = self.core.rest.lock().jobs.pop_front();
            let Some(job) = next else { return Ok(()) };
            let room = self.wait_for_room(until)?;
            match admit(job) {
                Some(job) if room => self.mixin.process_request(job),
                Some(job) => job.refuse(Refused::Closing),
                None => {}
            }
            self.mixin.service_actions();
        }
    }

    /// Says whether there is any.
    fn wait_for_room(&self, until: Option<Instant>) -> Result<bool> {
        if self.mixin.forks() && !self.mixin.ready() {
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
