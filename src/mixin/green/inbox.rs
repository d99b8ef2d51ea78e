//! [`Inbox`]: what other threads tell a worker.
//!
//! ```text
//! any thread                          worker
//!   push the message (lock)             takes all messages (lock), acts on them
//!   it was the first: notify  ------->  epoll_wait returns
//! ```
//!
//! The worker clears the event before it takes the messages: one that is pushed behind its back notifies again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::acceptor::AcceptorStart;
use crate::mixin::Job;
use crate::wait::Event;

/// Something that a worker is told.
pub(super) enum Message {
    /// Serve this request.
    Job(Job),
    /// Run the accept loop.
    Accept(AcceptorStart),
    /// End, once no request is left.
    Quit,
}

/// The messages of one worker.
pub(super) struct Inbox {
    messages: Mutex<Vec<Message>>,
    /// Wakes the worker. It is readable while there are messages.
    wake_up: Event,
    /// How many requests the worker has, those in the messages included.
    load: AtomicUsize,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { messages: Mutex::default(), wake_up: Event::new()?, load: AtomicUsize::new(0) })
    }

    /// Tells the worker.
    pub(super) fn send(&self, message: Message) {
        let is_first = {
            let mut messages = self.messages.lock();
            messages.push(message);
            messages.len() == 1
        };
        if is_first {
            self.wake_up.notify();
        }
    }

    /// For the worker: all messages, in their order.
    pub(super) fn take(&self) -> Vec<Message> {
        self.wake_up.clear();
        std::mem::take(&mut *self.messages.lock())
    }

    /// The requests of this worker.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// A request is on its way to the worker.
    pub(super) fn begin_request(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended.
    pub(super) fn end_request(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}
