//! [`AcceptSet`]: the descriptors that an accept loop waits for on a worker.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use socket2::{SockRef, Type};

use super::tasks::Task;
use super::worker::{ACCEPTOR, Worker};
use crate::sys::epoll::{Epoll, WatchFor};
use crate::wait::Waiting;

/// An epoll set of the descriptors that an accept loop waits for. It is disabled while the loop waits for other descriptors,
/// so that those in the set may be closed then.
///
/// A connection stays in the worker's own set between its waits, and has a slot that says so. The accept loop's descriptors
/// have no slots; but as a rule they are the same at each wait, and to add and remove four of them each time would be eight
/// system calls.
pub(super) struct AcceptSet {
    /// The epoll set, itself a member of the worker's set, under [`ACCEPTOR`] and the number of the coroutine.
    set: Epoll,
    /// The descriptors of the last wait, in its order. Only compared, never used: one may be closed by now. Empty: the set
    /// is disabled.
    fds: Vec<RawFd>,
    /// The place of a datagram socket in `fds`. It is in the set only while the acceptor waits.
    datagrams: Option<usize>,
    /// The coroutine that waits by means of this set.
    acceptor: Rc<Task>,
    /// Whether the acceptor waits. An event that comes while the acceptor runs wakes nobody, and is reported again as long
    /// as it holds.
    waits: Cell<bool>,
}

impl AcceptSet {
    /// A set of the descriptors of this wait, which is in the worker's set from here on.
    pub(super) fn new(
        worker: &Worker,
        acceptor: &Rc<Task>,
        waiting: &[Waiting<'_>],
    ) -> io::Result<Self> {
        let set = Epoll::new()?;
        let mut datagrams = None;
        for (at, one) in waiting.iter().enumerate() {
            // A datagram socket is added for each wait alone: while it is in a set, each datagram that it sends costs a
            // call-back into the set.
            if matches!(SockRef::from(&one.fd).r#type(), Ok(Type::DGRAM)) {
                datagrams = Some(at);
            } else {
                // The listener is reported as long as there is a client (level-triggered, unlike connections): the loop may
                // leave clients in the accept queue. Which descriptor is ready does not matter, as the loop looks at all of them.
                set.watch(one.fd, WatchFor::Input, 0)?;
            }
        }
        worker.epoll.watch(set.as_fd(), WatchFor::Input, ACCEPTOR | acceptor.number)?;
        let fds = waiting.iter().map(|one| one.fd.as_raw_fd()).collect();
        let (acceptor, waits) = (Rc::clone(acceptor), Cell::new(false));
        Ok(Self { set, fds, datagrams, acceptor, waits })
    }

    /// Takes this set out of the worker's. The loop's next wait for clients drops this set and makes a new one. Until then
    /// this set keeps its own descriptor: if the loop pauses because no descriptor is free, the next client must not take the
    /// descriptor that the loop itself needs.
    pub(super) fn disable(&mut self, worker: &Worker) {
        if !std::mem::take(&mut self.fds).is_empty() {
            worker.epoll.remove(self.set.as_fd());
        }
    }

    /// Begins the acceptor's wait.
    pub(super) fn begin_wait(&self, waiting: &[Waiting<'_>]) -> io::Result<()> {
        if let Some(at) = self.datagrams {
            self.set.watch(waiting[at].fd, WatchFor::Input, 0)?;
        }
        self.waits.set(true);
        Ok(())
    }

    /// Ends the acceptor's wait: an event wakes it no more.
    pub(super) fn end_wait(&self, waiting: &[Waiting<'_>]) {
        self.waits.set(false);
        if let Some(at) = self.datagrams {
            self.set.remove(waiting[at].fd);
        }
    }

    /// Whether this is the acceptor's set, with exactly these descriptors.
    pub(super) fn is_for(&self, acceptor: &Rc<Task>, waiting: &[Waiting<'_>]) -> bool {
        self.is_of(acceptor)
            && self.fds.iter().copied().eq(waiting.iter().map(|one| one.fd.as_raw_fd()))
    }

    /// Whether the set belongs to this coroutine.
    pub(super) fn is_of(&self, acceptor: &Rc<Task>) -> bool {
        Rc::ptr_eq(&self.acceptor, acceptor)
    }

    /// The acceptor, if it has this number and waits.
    pub(super) fn waiting(&self, number: u64) -> Option<Rc<Task>> {
        let waits = self.waits.get() && self.acceptor.number == number;
        waits.then(|| Rc::clone(&self.acceptor))
    }
}
