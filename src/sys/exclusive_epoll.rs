//! A worker and the accept loop wait for the same listener, and the kernel wakes the worker if it can.
//!
//! ```text
//! listener --+-- added first ---> worker's set -------> the worker, in `wait`
//!            `-- added second --> accept loop's set --> the loop, in poll(2) on `loop_fd`
//! stop, interrupt --------------> worker's set
//! ```
//!
//! Both threads accept: a worker's thread without a request takes the next client itself, which spares the hand-over from the
//! loop. The loop takes the clients for which no worker waits (`server/worker_accept.rs`).
//!
//! ```text
//! client comes, a worker waits     the worker's set is woken; it accepts and serves
//! client comes, no worker waits    the loop's set is woken; it accepts and hands the client to another thread
//! the woken worker cannot accept   wake_loop: the loop's turn, for the same client
//! ```
//!
//! Each wake-up is a hint, never a promise: the client may be gone (ECONNABORTED), or another process that has the
//! listener may have taken it. The thread that was woken then finds EAGAIN, and waits again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::epoll::Epoll;
use super::socket::is_listener;

/// Two epoll sets with the same listener in them: one that a worker waits for, one that the accept loop waits for.
///
/// With [EPOLLEXCLUSIVE](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html) (Linux 4.5) the kernel goes through
/// the sets when a client connects, in the order in which the listener was added to them, and stops at the first set
/// that a thread waits for. The worker's set is the first. So a client wakes the worker, and wakes the loop only if no
/// worker waits. A thread that does not wait misses nothing: the listener stays readable for both as long as a client
/// is waiting.
#[derive(Debug)]
pub(crate) struct ExclusiveEpoll {
    /// Contains the listener, which was added first, and the interrupts.
    worker: Epoll,
    /// Contains only the listener. The loop learns of its other events by the poll(2) that includes this set's
    /// descriptor.
    accept_loop: Epoll,
}

impl ExclusiveEpoll {
    /// Makes both sets. `interrupts`: events that wake the worker as well.
    ///
    /// The descriptor must be a listening socket, because for a listener the kernel wakes a thread for each client.
    /// An event may be notified once for many requests, and the worker would take only one of them.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a socket that does not listen; EMFILE if two descriptors are not free. Workers then do not accept,
    /// and all clients come by the loop. A kernel before 4.5 ignores EPOLLEXCLUSIVE: a client wakes both threads, and one of
    /// them finds nothing.
    pub(crate) fn new(
        listener: BorrowedFd<'_>,
        interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<Self> {
        if !is_listener(listener)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let sets = Self { worker: Epoll::new()?, accept_loop: Epoll::new()? };
        sets.fill(listener, interrupts)?;
        Ok(sets)
    }

    /// Adds the descriptors to both sets. The order matters: the listener goes into the worker's set first, so that the
    /// worker is woken first.
    fn fill(&self, listener: BorrowedFd<'_>, interrupts: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        self.worker.add(listener, CLIENT_EVENTS, 0)?;
        for interrupt in interrupts {
            self.worker.add(interrupt, libc::EPOLLIN, 0)?;
        }
        self.accept_loop.add(listener, CLIENT_EVENTS, 0)
    }

    /// In a forked child: replaces the sets, which the parent shares, with sets of its own.
    ///
    /// As in a new pair, the listener is added to the worker's set first.
    pub(crate) fn renew(
        &self,
        listener: BorrowedFd<'_>,
        interrupts: [BorrowedFd<'_>; 2],
    ) -> io::Result<()> {
        self.worker.renew()?;
        self.accept_loop.renew()?;
        self.fill(listener, interrupts)
    }

    /// For the worker, on one thread at a time: waits until there may be a client, or until it is interrupted. Signals do
    /// not end it.
    ///
    /// The caller tries to accept, and checks whether it was interrupted, whichever event ends the wait. So one event is
    /// enough.
    pub(crate) fn wait(&self) -> io::Result<()> {
        super::uninterrupted(|| self.worker.wait::<1>(super::Mode::Block)).map(drop)
    }

    /// The descriptor that the loop waits for. Readable when there may be a client for which no worker was woken.
    pub(crate) fn loop_fd(&self) -> BorrowedFd<'_> {
        self.accept_loop.as_fd()
    }

    /// For a worker that was woken for a client and cannot take it: wakes the loop, if the client is still in the
    /// queue.
    ///
    /// An exclusive wake-up is spent once a thread has returned with it. Without this call the client would wait until the
    /// next client comes.
    pub(crate) fn wake_loop(&self, listener: BorrowedFd<'_>) {
        self.accept_loop.remove(listener);
        // When a descriptor is added to a set, the kernel checks whether it is ready, and wakes the thread that waits. This
        // cannot fail: the set had room for the listener before.
        let _ = self.accept_loop.add(listener, CLIENT_EVENTS, 0);
    }
}

/// The events that both sets watch the listener for. EPOLLEXCLUSIVE: the kernel wakes only the first set that is waited for.
const CLIENT_EVENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
