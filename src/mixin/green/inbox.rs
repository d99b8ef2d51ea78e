//! [`Inbox`]: the messages of other threads to a worker.
//!
//! ```text
//! any thread                          worker
//!   push the message (lock)             takes all messages (lock), acts on them
//!   it was the first: notify  ------->  epoll_wait returns
//! ```
//!
//! The worker clears the event before it takes the messages, so that a message that is pushed afterwards notifies again.
//! When the worker ends it closes the inbox, under the lock, and only if that is empty, so that no message is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::acceptor::AcceptorStart;
use crate::mixin::Job;
use crate::sys::sync::Mutex;
use crate::wait::Event;

/// A message to a worker.
pub(super) enum Message {
    /// Serve this request.
    Job(Job),
    /// Run the accept loop.
    Accept(AcceptorStart),
    /// End an accept loop of this worker that is retired.
    Retire,
    /// Cancel the waits of all requests.
    Cancel,
    /// End, once no request is left.
    Quit,
}

/// The messages of one worker.
pub(super) struct Inbox {
    /// None once the worker has ended.
    messages: Mutex<Option<Vec<Message>>>,
    /// Wakes the worker. It is readable while there are messages.
    wake_up: Event,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { messages: Mutex::new(Some(Vec::new())), wake_up: Event::new()? })
    }

    /// Sends the worker a message, from any thread. Returns the message if the worker has ended: a job has to be refused, and
    /// the caller knows how.
    pub(super) fn send(&self, message: Message) -> Option<Message> {
        // Only the first of several messages notifies: the event stays readable until the worker clears it, and the worker
        // then takes all messages.
        let is_first = match &mut *self.messages.lock() {
            Some(messages) => {
                messages.push(message);
                messages.len() == 1
            }
            None => return Some(message),
        };
        // The lock is released first, because the worker that wakes takes it.
        if is_first {
            self.wake_up.notify();
        }
        None
    }

    /// Closes the inbox of a worker that ends: from here on messages go back to their senders. Returns false, and changes
    /// nothing, if there are messages.
    pub(super) fn close(&self) -> bool {
        let mut messages = self.messages.lock();
        let is_empty = messages.as_ref().is_none_or(Vec::is_empty);
        if is_empty {
            *messages = None;
        }
        is_empty
    }

    /// For the worker: all messages, in their order.
    pub(super) fn take(&self) -> Vec<Message> {
        // The order counts: see the top of this file.
        self.wake_up.clear();
        self.messages.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}
