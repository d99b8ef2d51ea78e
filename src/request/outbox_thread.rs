//! The writer: one thread that sends for all outboxes. A thread that sends gives the writer its list of outboxes when
//! it is about to wait.
//!
//! One writer makes a chat room fast: while it sends to one member, more lines are queued for the next members, and
//! leave in the same write. (With a hundred members a room delivers 3.8 times as much as with senders that write by
//! themselves.) The writer also waits for full sockets. A thread that runs coroutines sends for its list by itself,
//! after each batch of events.
//!
//! ```text
//! sender: list(outbox)         LISTED of this thread, flushed before it waits
//!         flush: hand_over     THREAD: handed += list; wakes the writer if it sleeps
//! writer: run                  takes `handed`; none: sleeps = true, under the lock, then polls
//!                              its event and all sockets that are full
//! ```
//!
//! The writer sets `sleeps` under the lock that a hand-over takes, so no wake-up is lost. The thread ends after five
//! seconds without work, and the next list starts it again.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::outbox_queue::{OutboxQueue, Writer};
use crate::sys::fork_count::is_in_child;
use crate::sys::{self, PerProcess, PollFd};
use crate::wait::{self, Event, Flush};

thread_local! {
    /// The outboxes that this thread has sent to since it last waited.
    static LISTED: RefCell<Vec<Arc<OutboxQueue>>> = const { RefCell::new(Vec::new()) };
    /// The flush of that list. Each thread has its own, because the making of a shared one would need a lock.
    static LIST: Arc<dyn Flush> = Arc::new(ThisThreadsList);
}

/// Puts an outbox on the list of this thread, if the thread has promised to flush; otherwise hands it to the writer at
/// once.
pub(super) fn list(outbox: &Arc<OutboxQueue>) {
    let first = LISTED.with(|listed| {
        let mut listed = listed.borrow_mut();
        // In the child of a bare fork the list is a copy of the parent's, and the parent sends for its outboxes.
        if listed.first().is_some_and(|first| !first.made_in.is_current()) {
            std::mem::forget(std::mem::take(&mut *listed));
        }
        listed.push(Arc::clone(outbox));
        listed.len() == 1
    });
    // One promise holds for the whole list, until it is flushed. So only the first outbox asks for it.
    if first {
        // This thread makes no promise (or is ending, and its thread-locals are gone), so nothing would flush later.
        if !LIST.try_with(wait::flush_before_waiting).unwrap_or(false) {
            ThisThreadsList.flush();
        }
    }
}

/// Hands the due bytes of an outbox to the writer, because the caller does not wait for them any longer.
pub(super) fn look_after(outbox: &Arc<OutboxQueue>) {
    if outbox.needs_a_list() {
        hand_over(vec![Arc::clone(outbox)]);
    }
}

/// Wakes the writer, so that it checks its outboxes again: one of them has ended.
pub(super) fn look_again() {
    if let Some(inbox) = &mut *lock_inbox() {
        inbox.sleeps = false;
        inbox.wake_up.notify();
    }
}

/// The flush that a thread has promised. The value is empty, because the list is a thread-local.
struct ThisThreadsList;

impl Flush for ThisThreadsList {
    fn flush(&self) {
        // Taken out first: the sends below may list outboxes again.
        let listed = LISTED.with(RefCell::take);
        if listed.is_empty() {
            return;
        }
        // A coroutine's thread flushes after each batch of events, so its lines are together already. A child that a
        // handler has forked may end right after this, and a writer would end with it.
        let full = if wait::is_parked_here() || is_in_child() {
            listed.into_iter().filter(|outbox| outbox.send_listed()).collect()
        } else {
            listed
        };
        hand_over(full);
    }

    /// Whether one more look at the thread's descriptors is worth its cost.
    #[cfg(has_green)]
    fn gathers(&self) -> bool {
        LISTED.with_borrow(Vec::len) >= GATHER_THRESHOLD
    }
}

/// With this many outboxes on its list a thread looks once for more lines before it sends. The look costs a hundredth
/// of the sends, and each line that it finds leaves with them.
#[cfg(has_green)]
const GATHER_THRESHOLD: usize = 16;

/// The state that the writer and its senders share. None while there is no thread.
static THREAD: PerProcess<Mutex<Option<WriterInbox>>> = PerProcess::new(Mutex::default);

/// Locks the inbox. Nothing panics while it is locked, so it is never poisoned.
fn lock_inbox() -> MutexGuard<'static, Option<WriterInbox>> {
    THREAD.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lists that were handed over, and whether the writer sleeps. The lock of [`THREAD`] guards all of it.
struct WriterInbox {
    /// Ends the writer's poll.
    wake_up: Arc<Event>,
    /// Outboxes that were handed over, and that the thread has not taken yet.
    handed: Vec<Arc<OutboxQueue>>,
    /// The writer waits, and has to be woken.
    sleeps: bool,
}

/// How long the thread stays without work. A list that comes within this time needs no new thread, and a server that
/// has once sent a message does not keep a thread for ever.
const KEEP_OUTBOX_THREAD: Duration = Duration::from_secs(5);

/// Gives the writer these outboxes, which are marked as listed, and starts the writer if there is none.
fn hand_over(mut outboxes: Vec<Arc<OutboxQueue>>) {
    // A process that must start no thread sends by itself; bytes that do not fit wait for the next message.
    outboxes.retain(|outbox| {
        let has_thread = outbox.writer == Writer::Thread;
        if !has_thread {
            outbox.send_unlisted();
        }
        has_thread
    });
    if outboxes.is_empty() {
        return;
    }
    let mut thread = lock_inbox();
    if thread.is_none() {
        *thread = start();
    }
    match &mut *thread {
        Some(inbox) => {
            inbox.handed.extend(outboxes);
            if std::mem::take(&mut inbox.sleeps) {
                inbox.wake_up.notify();
            }
        }
        // Without a thread, the sender writes by itself.
        None => {
            // The sends below are system calls, which other senders need not wait for.
            drop(thread);
            for outbox in outboxes {
                outbox.send_unlisted();
            }
        }
    }
}

/// Starts the thread. None: the system has no descriptor or no thread left for it.
fn start() -> Option<WriterInbox> {
    let wake_up = Arc::new(Event::new().ok()?);
    let awaited = Arc::clone(&wake_up);
    thread::Builder::new().name("outbox".into()).spawn(move || run(&awaited)).ok()?;
    Some(WriterInbox { wake_up, handed: Vec::new(), sleeps: false })
}

/// The life of the thread.
fn run(wake_up: &Event) {
    let mut full: Vec<Arc<OutboxQueue>> = Vec::new();
    let mut leave_at = Instant::now() + KEEP_OUTBOX_THREAD;
    loop {
        // Other threads that can run may have more to send: lines that come together leave together.
        thread::yield_now();
        let handed = match &mut *lock_inbox() {
            Some(inbox) => {
                // This runs under the lock that a hand-over takes. So a list comes either before it, and is taken here,
                // or after it, and then wakes this thread.
                inbox.sleeps = inbox.handed.is_empty();
                std::mem::take(&mut inbox.handed)
            }
            None => return,
        };
        if !handed.is_empty() {
            leave_at = Instant::now() + KEEP_OUTBOX_THREAD;
            full.extend(handed.into_iter().filter(|outbox| outbox.send_listed()));
            // More lists may have been handed over during these sends. Full sockets are polled when none are left.
            continue;
        }
        if full.is_empty() && Instant::now() >= leave_at && leave() {
            return;
        }
        // Shares of the descriptors: a request that ends during the poll does not free a number that this thread polls.
        // Outboxes that have ended have no descriptor, and leave the list below.
        let open: Vec<_> = full.iter().filter_map(|outbox| outbox.fd()).collect();
        let mut fds = vec![PollFd::readable(wake_up.as_fd())];
        fds.extend(open.iter().map(|fd| PollFd::writable(fd.as_fd())));
        // While sockets are full the writer has work and does not leave: the wait then has no end.
        let until = full.is_empty().then_some(leave_at);
        // An error is as good as an early return: all sockets are tried again.
        let _ = sys::poll(&mut fds, until);
        drop((fds, open));
        wake_up.clear();
        full.retain(|outbox| outbox.send_listed());
    }
}

/// Ends the thread, unless a list has been handed over meanwhile. It holds the lock, so a hand-over comes either before
/// this, and is seen, or after it, and starts another thread.
fn leave() -> bool {
    let mut thread = lock_inbox();
    let nothing = thread.as_ref().is_none_or(|inbox| inbox.handed.is_empty());
    if nothing {
        *thread = None;
    }
    nothing
}
