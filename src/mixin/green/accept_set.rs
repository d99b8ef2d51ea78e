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

/// The descriptors that the accept loop waits for, in an epoll set of their own: it is disabled when the loop waits for
/// others, so that none of them has to be open then.
///
/// Connections keep their descriptors registered because they have a slot to say so. The descriptors of the accept loop have
/// none; but they are the same at each wait as a rule, and to add and remove four of them would be eight system calls.
pub(super) struct AcceptSet {
    /// In the worker's set, by [`ACCEPTOR`] and the number of the coroutine.
    set: Epoll,
    /// The descriptors of the last wait, in its order. Compared, and not used: one may be closed by now. None: disabled.
    fds: Vec<RawFd>,
    /// The place of a datagram socket in `fds`. It is in the set only while the acceptor waits.
    datagrams: Option<usize>,
    /// The coroutine that waits by it.
    acceptor: Rc<Task>,
    /// The acceptor waits. An event that comes while it runs wakes nobody, and is reported again as long as it holds.
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
            // Each datagram that the socket sends would call back into a set that has it: so it is added for each wait.
            if matches!(SockRef::from(&one.fd).r#type(), Ok(Type::DGRAM)) {
                datagrams = Some(at);
            } else {
                // For as long as there is a client, unlike a connection's arrivals: the loop may leave some in the queue.
                // Which of them is ready does not matter, as the loop looks at all.
                set.watch(one.fd, WatchFor::Input, 0)?;
            }
        }
        worker.epoll.watch(set.as_fd(), WatchFor::Input, ACCEPTOR | acceptor.number)?;
        let fds = waiting.iter().map(|one| one.fd.as_raw_fd()).collect();
        let (acceptor, waits) = (Rc::clone(acceptor), Cell::new(false));
        Ok(Self { set, fds, datagrams, acceptor, waits })
    }

    /// Takes it out of the worker's set until it is thrown away, at the loop's next wait for clients. Its descriptor stays
    /// taken: in a pause because none is free, the next client must not find one that the loop needs itself.
    pub(super) fn disable(&mut self, worker: &Worker) {
        if !std::mem::take(&mut self.fds).is_empty() {
            worker.epoll.remove(self.set.as_fd());
        }
    }

    /// The acceptor begins to wait.
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

    /// Whether it is for these descriptors.
    pub(super) fn is_for(&self, acceptor: &Rc<Task>, waiting: &[Waiting<'_>]) -> bool {
        self.is_of(acceptor)
            && self.fds.iter().copied().eq(waiting.iter().map(|one| one.fd.as_raw_fd()))
    }

    /// Whether it belongs to this coroutine.
    pub(super) fn is_of(&self, acceptor: &Rc<Task>) -> bool {
        Rc::ptr_eq(&self.acceptor, acceptor)
    }

    /// The acceptor, if it has this number and waits.
    pub(super) fn waiting(&self, number: u64) -> Option<Rc<Task>> {
        let waits = self.waits.get() && self.acceptor.number == number;
        waits.then(|| Rc::clone(&self.acceptor))
    }
}
