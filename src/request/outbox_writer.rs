//! Who sends what has been put into outboxes: each sender's list is handed, when the sender is about to wait,
//! to one thread for all.
//!
//! That thread is what makes a room fast: while it writes to one member, more lines become due to the next
//! ones, and leave in the same write (measured with a hundred members: 3.8 times the deliveries of a room whose
//! senders write by themselves). It also waits for the sockets that are full, so that no sender has to.
//! A coroutine's thread writes its list by itself, at the end of each batch of events.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::outbox_queue::{OutboxQueue, Writer};
use crate::process::OwnerProcess;
use crate::sys::{self, PollFd};
use crate::wait::{self, Event, Flush};

thread_local! {
    /// What this thread has put something into since it last waited.
    static LISTED: RefCell<Vec<Arc<OutboxQueue>>> = const { RefCell::new(Vec::new()) };
}

/// Puts an outbox on the list of this thread, if this thread promises to wait or to end its request before
/// long; and otherwise hands it over at once.
pub(super) fn list(outbox: &Arc<OutboxQueue>) {
    let first = LISTED.with(|listed| {
        let mut listed = listed.borrow_mut();
        listed.push(Arc::clone(outbox));
        listed.len() == 1
    });
    if first {
        static LIST: OnceLock<Arc<dyn Flush>> = OnceLock::new();
        let list = LIST.get_or_init(|| Arc::new(ThisThreadsList));
        if !wait::flush_before_waiting(list) {
            ThisThreadsList.flush();
        }
    }
}

/// Sees to it that what is due in an outbox is sent, when the caller does not wait for it any longer.
pub(super) fn look_after(outbox: &Arc<OutboxQueue>) {
    if outbox.needs_a_list() {
        hand_over(vec![Arc::clone(outbox)]);
    }
}

/// Has the thread look at all that it waits for: one of them has ended.
pub(super) fn look_again() {
    if let Some(inbox) = &mut *THREAD.lock() {
        inbox.sleeps = false;
        inbox.bell.notify();
    }
}

struct ThisThreadsList;

impl Flush for ThisThreadsList {
    fn flush(&self) {
        let listed = LISTED.with(RefCell::take);
        if listed.is_empty() {
            return;
        }
        let full = if wait::is_parked_here() {
            listed.into_iter().filter(|outbox| outbox.send_listed()).collect()
        } else {
            listed
        };
        hand_over(full);
    }
}

/// What the thread has been handed and has not looked at yet; none while there is no thread.
static THREAD: Mutex<Option<WriterInbox>> = Mutex::new(None);

struct WriterInbox {
    bell: Arc<Event>,
    handed: Vec<Arc<OutboxQueue>>,
    /// It waits, and has to be rung.
    sleeps: bool,
    /// Where the thread is. A forked child has a copy of this and no thread.
    owner: OwnerProcess,
}

/// The thread stays for so long with nothing to do.
const KEEP: Duration = Duration::from_secs(5);

fn hand_over(mut outboxes: Vec<Arc<OutboxQueue>>) {
    outboxes.retain(|outbox| {
        let has_thread = outbox.writer() == Writer::Thread;
        if !has_thread {
            outbox.send_unlisted();
        }
        has_thread
    });
    if outboxes.is_empty() {
        return;
    }
    let mut thread = THREAD.lock();
    if thread.as_ref().is_none_or(|inbox| !inbox.owner.is_noted()) {
        *thread = start();
    }
    match &mut *thread {
        Some(inbox) => {
            inbox.handed.extend(outboxes);
            if std::mem::take(&mut inbox.sleeps) {
                inbox.bell.notify();
            }
        }
        // Without a thread the sender writes by itself.
        None => {
            drop(thread);
            for outbox in outboxes {
                outbox.send_unlisted();
            }
        }
    }
}

fn start() -> Option<WriterInbox> {
    let bell = Arc::new(Event::new().ok()?);
    let heard = Arc::clone(&bell);
    thread::Builder::new().name("outbox".into()).spawn(move || run(&heard)).ok()?;
    Some(WriterInbox { bell, handed: Vec::new(), sleeps: false, owner: OwnerProcess::noted() })
}

/// The life of the thread.
fn run(bell: &Event) {
    let mut full: Vec<Arc<OutboxQueue>> = Vec::new();
    let mut leave_at = Instant::now() + KEEP;
    loop {
        // Whoever else can run may have more to send: what comes together leaves together.
        thread::yield_now();
        let handed = match &mut *THREAD.lock() {
            Some(inbox) => {
                inbox.sleeps = inbox.handed.is_empty();
                std::mem::take(&mut inbox.handed)
            }
            None => return,
        };
        if !handed.is_empty() {
            leave_at = Instant::now() + KEEP;
            full.extend(handed.into_iter().filter(|outbox| outbox.send_listed()));
            continue;
        }
        if full.is_empty() && Instant::now() >= leave_at && leave() {
            return;
        }
        let open: Vec<_> = full.iter().filter_map(|outbox| outbox.fd()).collect();
        let mut fds = vec![PollFd::readable(bell.as_fd())];
        fds.extend(open.iter().map(|fd| PollFd::writable(fd.as_fd())));
        let until = full.is_empty().then_some(leave_at);
        let _ = sys::poll(&mut fds, until);
        drop((fds, open));
        bell.clear();
        full.retain(|outbox| outbox.send_listed());
    }
}

/// Leaves, unless something has been handed over meanwhile.
fn leave() -> bool {
    let mut thread = THREAD.lock();
    let nothing = thread.as_ref().is_none_or(|inbox| inbox.handed.is_empty());
    if nothing {
        *thread = None;
    }
    nothing
}
