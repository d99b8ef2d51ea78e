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
    /// The accept loop goes on elsewhere: have the one here end.
    Retire,
    /// Cancel the waits of all requests.
    Cancel,
    /// End, once no request is left.
    Quit,
}

/// The messages of one worker.
pub(super) struct Inbox {
    messages: Mutex<Vec<Message>>,
    /// Wakes the worker. It is readable while there are messages.
    wake_up: Event,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { messages: Mutex::default(), wake_up: Event::new()? })
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
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}
