//! The waits of a worker's coroutines: [`Worker`] as a [`Parker`].
//!
//! | a wait for | is registered | and reported |
//! |---|---|---|
//! | a connection | with its first wait, until it is closed | once for each arrival: see `registrations.rs` |
//! | the accept loop's descriptors | in a set of their own, as long as they stay the same | as long as one is ready |
//! | a datagram socket, by the accept loop | for one wait: while it is in a set, each datagram that it *sends* costs a call-back | as long as it is ready |
//! | anything else | for one wait | as long as it is ready |
//!
//! A coroutine has tried its system call in vain before it waits here. A wait for input of a connection then goes like
//! this:
//!
//! ```text
//! coroutine                             registrations.rs                the loop
//! recv: nothing there
//! park_connection: begin_wait  ------>  unknown: add, and EPOLL_CTL_ADD
//!                                       an arrival was seen: try again
//!                                       else: note the coroutine
//! switch  ---------------------------------------------------------->  runs others, waits
//!                                       arrived: takes the note  <----  an event: resumes
//! the note is still there:                                              or a deadline, a cancellation
//!   end_wait takes it back
//! recv
//! ```
//!
//! No arrival is lost between the failed call and the note. The loop alone takes events, so none is taken in between; an
//! arrival that came while the coroutine did something else was noted as seen; and a descriptor that is ready when it enters
//! the set is reported at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::rc::Rc;
use std::time::Instant;

use super::accept_set::AcceptSet;
use super::cancellation::ABANDONED_WAIT;
use super::registrations::{Near, WaiterLook, event_number};
use super::tasks::{Task, TaskState};
use super::worker::{WATCHED, Worker};
use crate::on_drop::OnDrop;
use crate::sys::coroutine::switch;
use crate::sys::epoll::{Epoll, WatchFor};
use crate::sys::fork_count::is_in_child;
use crate::sys::poll;
use crate::wait::{self, Interest, Parker, RetiredUnwind, Slot, Waiting};

/// The size of the counts that lie before the content of an [`Rc`]. std does not promise it, and only a hint to the caches
/// depends on it.
const RC_COUNT_BYTES: usize = 2 * size_of::<usize>();

/// The least number of descriptors in the accept loop's wait for clients: a listener and the stop event. A pause of the
/// loop has the stop event alone, and a wait of a hook mostly one descriptor.
const MIN_LOOP_WAITS: usize = 2;

impl Worker {
    /// Suspends the running coroutine until it is woken, or the deadline has passed.
    ///
    /// # Errors
    ///
    /// If it is cancelled, or is an accept loop that is retired.
    fn suspend(&self, task: &Rc<Task>, deadline: Option<Instant>) -> io::Result<()> {
        self.switch(task, deadline);
        may_go_on(task)
    }

    /// Ends a wait that is cancelled before it has begun.
    #[cold]
    fn fail(&self, task: &Rc<Task>, cancelled: io::Error) -> io::Result<()> {
        // Without the pause a handler that ignores all errors in a loop would take the processor for good.
        if task.cancellation.is_over() {
            self.switch(task, Instant::now().checked_add(ABANDONED_WAIT));
        }
        Err(cancelled)
    }

    /// [`suspend`](Worker::suspend), without the check whether the coroutine may go on.
    #[inline(always)]
    fn switch(&self, task: &Rc<Task>, deadline: Option<Instant>) {
        // Most waits have no deadline, and leave the timers alone.
        if let Some(at) = deadline {
            self.timers.set(task, at);
        }
        // The coroutine itself sets the state: it alone knows whether it waits, or has queued itself to give way.
        task.state.set(TaskState::Waiting);
        switch::suspend();
        // The entry among the timers stays: it is moved or dropped when it comes up.
        if deadline.is_some() {
            task.deadline.set(None);
        }
    }

    /// Waits for a connection, which has a slot. This is the usual wait: it takes neither a system call nor an allocation.
    #[inline(always)]
    fn park_connection(
        &self,
        task: &Rc<Task>,
        fd: BorrowedFd<'_>,
        interest: Interest,
        slot: &Slot,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let number = fd.as_raw_fd();
        let near = self.near(task, slot, interest);
        // The slot's token is zero before the first wait of the connection on any worker.
        match self.registrations.begin_wait(number, slot.get(), interest, task, near) {
            WaiterLook::Waits(None) => {}
            WaiterLook::Ready => return Ok(()),
            look => self.begin_first_wait(task, fd, interest, slot, look)?,
        }
        self.switch(task, deadline);
        // A wait that an arrival has ended is not noted any more. Any other end, a cancellation say, has left the note; a
        // later arrival would wake the coroutine from some other wait, in vain.
        if task.is_noted.get() {
            self.registrations.end_wait(number, slot.get(), interest, task);
        }
        may_go_on(task)
    }

    /// The addresses of the memory that an arrival needs first, if they are worth noting.
    #[inline(always)]
    fn near(&self, task: &Rc<Task>, slot: &Slot, interest: Interest) -> Option<Near> {
        // The address of this local variable stands for the frames of this wait.
        let frame = 0_u8;
        (self.fetches() && interest == Interest::Read).then(|| Near {
            frame: std::ptr::from_ref(&frame).addr(),
            slot: std::ptr::from_ref(slot).addr(),
            entry: slot.near(),
            task: Rc::as_ptr(task).addr() - RC_COUNT_BYTES,
        })
    }

    /// The slow path of [`park_connection`](Worker::park_connection): the registration has not simply noted the wait.
    #[inline(never)]
    fn begin_first_wait(
        &self,
        task: &Rc<Task>,
        fd: BorrowedFd<'_>,
        interest: Interest,
        slot: &Slot,
        look: WaiterLook,
    ) -> io::Result<()> {
        let number = fd.as_raw_fd();
        match look {
            WaiterLook::Ready => {}
            WaiterLook::Waits(other) => {
                // A direction has room for one waiter, and this coroutine has replaced another. The other one is woken: it
                // tries again, and waits anew if it has to.
                if let Some(other) = other.filter(|other| !Rc::ptr_eq(other, task)) {
                    self.wake(&other);
                }
            }
            WaiterLook::NeedsRoomReports => {
                // Most connections never wait for room, and are not watched for it. If there is room by now, the change of
                // the registration reports it.
                let token = slot.get();
                self.epoll.watch_instead(
                    fd,
                    WatchFor::ArrivalsAndRoom,
                    event_number(number, token),
                )?;
                self.registrations.report_room(number, token, task);
            }
            WaiterLook::Unknown => {
                // The token is set last: after an error the slot stays empty, and the entry is nobody's.
                let token = self.registrations.add(number);
                let for_room = interest == Interest::Write;
                let what = if for_room { WatchFor::ArrivalsAndRoom } else { WatchFor::Arrivals };
                self.epoll.watch(fd, what, event_number(number, token))?;
                slot.set(token);
                if for_room {
                    self.registrations.report_room(number, token, task);
                } else {
                    self.registrations.begin_wait(number, token, interest, task, None);
                }
            }
        }
        Ok(())
    }

    /// Waits for the accept loop, which has several descriptors, and as a rule the same each time.
    #[inline(never)]
    fn park_acceptor(
        &self,
        task: &Rc<Task>,
        waiting: &[Waiting<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        // A loop that is retired and still waits is in a hook that has caught the unwinding. In a `join` (a shield) the
        // wait goes on all the same, because the other half may need this worker.
        if task.is_retired() && task.cancellation.shields.get() == 0 {
            return retire();
        }
        // A wait that is not for clients is that of a hook, or a pause of the loop. The set is not for such a wait, because
        // it compares descriptors by their numbers and waits for input only. It is disabled, so that it does not wake the
        // worker while the loop does not accept.
        let is_input = |one: &Waiting<'_>| one.interest == Interest::Read && one.slot.is_none();
        if waiting.len() < MIN_LOOP_WAITS || !waiting.iter().all(is_input) {
            let mut sets = self.accept_sets.borrow_mut();
            sets.iter_mut().filter(|set| set.is_of(task)).for_each(|set| set.disable(self));
            drop(sets);
            return self.park_watched(task, waiting, deadline);
        }
        if !self.accept_sets.borrow().iter().any(|set| set.is_for(task, waiting)) {
            // The old set is dropped before the new one is made: there may be no free descriptor but the old set's.
            self.accept_sets.borrow_mut().retain(|set| !set.is_of(task));
            match AcceptSet::new(self, task, waiting) {
                Ok(set) => self.accept_sets.borrow_mut().push(set),
                // A file that cannot be waited for is always ready, as for poll(2).
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
                // Out of descriptors: `park_watched` takes none.
                Err(_) => return self.park_watched(task, waiting, deadline),
            }
        }
        if let Some(set) = self.accept_sets.borrow().iter().find(|set| set.is_of(task)) {
            set.begin_wait(waiting)?;
        }
        // This also happens where the wait unwinds: the set must not count a coroutine as waiting that has gone.
        let _end = OnDrop(|| {
            if let Some(set) = self.accept_sets.borrow().iter().find(|set| set.is_of(task)) {
                set.end_wait(waiting);
            }
        });
        self.suspend(task, deadline)
    }

    /// Waits for anything else: an event, a server elsewhere, or a sleep (which has no descriptor). The descriptors are in
    /// the worker's set for this wait alone, at two or more system calls for each.
    #[inline(never)]
    fn park_watched(
        &self,
        task: &Rc<Task>,
        waiting: &[Waiting<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let mut watched =
            WatchedForOnce { epoll: &self.epoll, fds: Vec::new(), copies: Vec::new() };
        for one in waiting {
            watched.add(one, WATCHED | task.number)?;
        }
        // The task is listed by its number, which events bring back. A task that has ended by then is not found, and no other
        // task has its number.
        self.watched.borrow_mut().insert(task.number, Rc::clone(task));
        let _end = OnDrop(|| drop(self.watched.borrow_mut().remove(&task.number)));
        self.suspend(task, deadline)
    }
}

/// Checks, after a wait, whether the coroutine may go on.
///
/// # Errors
///
/// As for [`Worker::suspend`].
#[inline(always)]
fn may_go_on(task: &Task) -> io::Result<()> {
    if task.is_retired() {
        return retire();
    }
    task.cancellation.check()
}

/// Ends an accept loop that is retired: nothing of it runs but its drops.
#[cold]
fn retire() -> io::Result<()> {
    if cfg!(panic = "unwind") {
        panic::resume_unwind(Box::new(RetiredUnwind));
    }
    Err(io::Error::other(RetiredUnwind))
}

/// Descriptors that are in the set for one wait.
///
/// Dropped at the end of the wait, also where it unwinds: the descriptors may be closed right afterwards, and their numbers
/// reused.
struct WatchedForOnce<'a, 'b> {
    epoll: &'a Epoll,
    fds: Vec<BorrowedFd<'b>>,
    /// Copies of descriptors that the set has already, for another wait: two coroutines may wait for one event. A set tells
    /// descriptors of one file apart by their numbers.
    copies: Vec<OwnedFd>,
}

impl<'b> WatchedForOnce<'_, 'b> {
    fn add(&mut self, one: &Waiting<'b>, number: u64) -> io::Result<()> {
        let what = match one.interest {
            Interest::Read => WatchFor::Input,
            Interest::Write => WatchFor::Room,
        };
        match self.epoll.watch_new(one.fd, what, number) {
            Ok(()) => self.fds.push(one.fd),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Out of descriptors: the wait fails, and with it the call that waits.
                let copy = one.fd.try_clone_to_owned()?;
                self.epoll.watch_new(copy.as_fd(), what, number)?;
                self.copies.push(copy);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Drop for WatchedForOnce<'_, '_> {
    fn drop(&mut self) {
        for fd in self.fds.iter().copied().chain(self.copies.iter().map(AsFd::as_fd)) {
            self.epoll.remove(fd);
        }
    }
}

impl Parker for Worker {
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
        let Some(task) = self.current() else {
            // A flush of the worker itself: no coroutine runs that could be suspended.
            return poll_for(waiting, deadline);
        };
        if is_in_child() {
            return block_in_child(waiting, deadline);
        }
        // This is checked before the wait: a coroutine that was cancelled while it ran must not begin one.
        if let Err(cancelled) = task.cancellation.check() {
            return self.fail(&task, cancelled);
        }
        match waiting {
            // Most waits are of this kind. With a second descriptor besides the connection, an outbox's event say, the last
            // arm applies.
            [Waiting { fd, interest, slot: Some(slot) }] if task.acceptor.is_none() => {
                self.park_connection(&task, *fd, *interest, slot, deadline)
            }
            _ if task.acceptor.is_some() => self.park_acceptor(&task, waiting, deadline),
            _ => self.park_watched(&task, waiting, deadline),
        }
    }

    /// Removes the registration; the close of the descriptor, which follows, takes it out of the epoll set. If somebody
    /// else keeps the file open, its events carry a token that no registration has any more.
    fn forget(&self, fd: BorrowedFd<'_>, slot: &Slot) {
        self.registrations.remove(fd.as_raw_fd(), slot.get());
    }

    fn spawn(&self, run: Box<dyn FnOnce()>) -> Result<(), Box<dyn FnOnce()>> {
        // In a child no other coroutine ever runs.
        if is_in_child() { Err(run) } else { Worker::spawn(self, run) }
    }

    /// Does nothing in the accept loop, which gives way by a budget of its own: see `dispatch.rs`.
    fn give_way(&self) {
        if is_in_child() {
            return;
        }
        if let Some(task) = self.current().filter(|task| task.acceptor.is_none()) {
            Worker::give_way(self, &task);
        }
    }

    fn begin_shield(&self) {
        if let Some(task) = self.current() {
            let shields = &task.cancellation.shields;
            shields.set(shields.get() + 1);
        }
    }

    fn end_shield(&self) {
        if let Some(task) = self.current() {
            let shields = &task.cancellation.shields;
            shields.set(shields.get().saturating_sub(1));
        }
    }
}

/// In a child that the running coroutine has forked: the worker's set and its other coroutines are the parent's. So the thread
/// waits, as that of any other mixin would.
#[cold]
fn block_in_child(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
    wait::flush();
    poll_for(waiting, deadline)
}

/// Waits, and blocks the thread meanwhile.
fn poll_for(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let mut fds: Vec<_> = waiting.iter().map(Waiting::poll_fd).collect();
    poll(&mut fds, deadline).map(drop)
}
