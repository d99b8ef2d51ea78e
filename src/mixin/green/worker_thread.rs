//! [`WorkerStart`]: the thread of a worker, from its start to its end, and [`here`]: which worker a thread runs.
//!
//! ```text
//! the thread of the first run           the worker's thread
//! WorkerStart::new: epoll set, inbox
//! spawn -----------------------------> WorkerStart::run
//!                                         watches for overflows of its stacks
//!                                         the worker is the thread's parker, and `here`
//!                                         Worker::run, until the group quits
//!                                         all of that is taken back
//! ```

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use super::Group;
use super::worker::{INBOX, Worker};
use crate::sys::coroutine::overflow::watch_for_overflows;
use crate::sys::epoll::{Epoll, WatchFor};
use crate::sys::fork_count::mark_children_of_this_thread;
use crate::wait::{self, FlushPromise, Parker};

/// The parts of a worker that are made before its thread. The thread that starts the worker makes them, so that it gets the
/// error if there are no descriptors.
pub(super) struct WorkerStart {
    pub(super) group: Arc<Group>,
    pub(super) number: usize,
    /// The epoll set. It watches the inbox already, so that a message that comes before the thread starts is found.
    pub(super) epoll: Epoll,
}

thread_local! {
    /// The worker of this thread, for the accept loop's calls: they come from the server, which knows no worker. Borrowed for
    /// moments only.
    static WORKER: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

impl WorkerStart {
    pub(super) fn new(group: &Arc<Group>, number: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.watch(group.workers[number].inbox.as_fd(), WatchFor::Input, INBOX)?;
        Ok(Self { group: Arc::clone(group), number, epoll })
    }

    /// Runs the thread, from its start to its end.
    pub(super) fn run(self) {
        // Without memory for the watch, an overflow ends the process without a message.
        let _watch = watch_for_overflows();
        mark_children_of_this_thread();
        let worker = Rc::new(Worker::new(self));
        WORKER.set(Some(Rc::clone(&worker)));
        let _installed = wait::install(Rc::clone(&worker) as Rc<dyn Parker>);
        let _promise = FlushPromise::start();
        worker.run();
        // The last reference goes with the locals of this call, and not with the thread-locals, which are dropped in no order
        // that can be relied on.
        WORKER.set(None);
    }
}

/// The worker that runs on this thread, if one does.
pub(super) fn worker_of_thread() -> Option<Rc<Worker>> {
    WORKER.with_borrow(Clone::clone)
}

/// The worker that runs on this thread, if it belongs to this group. A mixin around several `Green`s may give a request to
/// one of them while a worker of another runs the loop.
pub(super) fn here(group: &Arc<Group>) -> Option<Rc<Worker>> {
    worker_of_thread().filter(|worker| Arc::ptr_eq(&worker.group, group))
}
