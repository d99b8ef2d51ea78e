//! [`Registrations`]: which coroutine waits for which descriptor of a worker's epoll set.
//!
//! Two kinds of descriptors are waited for:
//!
//! - A **connection** has a slot. It is registered by its first wait and stays in the set until it is closed; the
//!   kernel reports each arrival once (edge-triggered), so that a request costs no system call but its receive and its
//!   send. An arrival while nobody waits is noted in [`WaitRegistration::seen`].
//! - **Everything else** has no registration here. Events and other single descriptors are watched for one wait, and the
//!   accept loop's descriptors have a set of their own: see `coroutine_wait.rs`.
//!
//! The table is indexed by the descriptor's number. A number is used again once its descriptor is closed, perhaps by
//! another thread that cannot notify this worker. So the slot has a **token** that no other registration has had, of this
//! worker or of another: a registration is the slot's own only if both tokens are the same. A connection that is
//! moved to another worker (one that a handler has made, say) is therefore registered anew there.
//!
//! Tokens also tell the events of two connections apart. A turn of the loop takes a batch of events. While it handles one
//! event, a connection may be closed for which the batch has another event, and a new connection may even get the
//! descriptor's number. So a part of the token goes into the set with each descriptor, and comes back with its events. An
//! event for an earlier owner of the number does not match the token of the present owner, and is dropped.
//!
//! ```text
//! token, in the slot               | number of the worker: 12 bits | count: 52 bits, or 20 where an address has 32 |
//! number of an event, in the set   | 0 | lowest 31 bits of the token | the descriptor: 32 bits |
//!                                    `-- 1: the inbox, the accept loop, a wait without a slot
//! ```
//!
//! Everything here is called on the worker's thread, and runs no code of others: a borrow of the table ends with the call.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tasks::Task;
use crate::sys::coroutine::prefetch::{CACHE_LINE, prefetch};
use crate::sys::epoll::ReadyEvent;
use crate::wait::Interest;

/// The arrivals at one connection since a wait last took note of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Input has come. The next wait for input returns at once, and takes this back.
    pub(super) readable: bool,
    /// Room to write has come. The next wait for room returns at once, and takes this back.
    pub(super) writable: bool,
    /// No more input will come: from here on each receive returns at once, so this is not taken back.
    pub(super) ended: bool,
}

/// The registration of one connection: one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct WaitRegistration {
    /// The token of the slot; zero while the entry is free.
    pub(super) token: Cell<usize>,
    pub(super) seen: Cell<Seen>,
    /// Whether room to write is reported too.
    pub(super) reports_room: Cell<bool>,
    /// The coroutine that waits for input. Its `is_noted` is set meanwhile.
    pub(super) reader: Cell<Option<Rc<Task>>>,
    /// The coroutine that waits for room. Under [`join`](crate::join) it may be a different one from the reader.
    pub(super) writer: Cell<Option<Rc<Task>>>,
    /// The addresses that the reader needs first when it goes on.
    near: Cell<Near>,
}

/// Addresses that a coroutine which waits for input will need, as hints to the processor; zero is no hint. When they are
/// used, they may be unmapped, or belong to something else: they are only prefetched, which cannot fault, and never read.
#[derive(Clone, Copy, Default)]
pub(super) struct Near {
    /// One of the stack frames of the coroutine's wait. The others lie above it.
    pub(super) frame: usize,
    /// The slot, in the middle of its request.
    pub(super) slot: usize,
    /// The entry of its request in the live list.
    pub(super) entry: usize,
    /// The coroutine's [`Task`], with the counts of its references before it.
    pub(super) task: usize,
}

/// How many cache lines are fetched at each of these addresses, and how many of them lie before the address. Found by trying:
/// more lines gain nothing, and fewer leave a miss for each request.
const TASK_LINES: (usize, usize) = (3, 0);
const FRAME_LINES: (usize, usize) = (7, 1);
const REQUEST_LINES: (usize, usize) = (3, 1);

/// The page size that the hints assume. Where pages are larger, one of the fetches is of the wrong line, which costs
/// nothing else.
const SMALLEST_PAGE: usize = 4096;

/// The distance in bytes between the first and the last number that a request writes in its entry of the live list.
const ENTRY_BYTES: usize = 24;

/// Prefetches `lines` cache lines, of which the first `before` lie below the address.
fn fetch(address: usize, (lines, before): (usize, usize)) {
    for line in 0..lines {
        prefetch(address.wrapping_add(line * CACHE_LINE).wrapping_sub(before * CACHE_LINE));
    }
}

/// The table of a worker.
pub(super) struct Registrations {
    /// The registrations, by descriptor numbers. Borrowed for moments, never across a wait. It grows up to the highest
    /// number that a connection of this worker has had, 64 bytes for each, and does not shrink: the limit of descriptors
    /// bounds it.
    entries: RefCell<Vec<WaitRegistration>>,
    /// The token that was given last. Its upper bits are the worker's number.
    last_token: Cell<usize>,
}

/// The bits of a token that count the registrations of one worker. (On a 32-bit machine two tokens may be equal after
/// a million registrations; a wait then ends early, or by its deadline.)
const COUNT_BITS: u32 = usize::BITS - 12;

/// Numbers the workers of the process, over all servers, so that tokens of two of them differ.
static WORKERS: AtomicUsize = AtomicUsize::new(0);

impl Registrations {
    pub(super) fn new() -> Self {
        // Beyond 4,096 workers, numbers are used again. Two tokens are then equal only if their counts are as well.
        let number = WORKERS.fetch_add(1, Ordering::Relaxed);
        let last_token = Cell::new(number << COUNT_BITS);
        Self { entries: RefCell::default(), last_token }
    }

    /// The token of a connection that is about to be registered.
    fn next_token(&self) -> usize {
        let last = self.last_token.get();
        // Wraps around at the end, and skips zero, which stands for no token.
        let count = (last + 1) & !(usize::MAX << COUNT_BITS);
        let token = (last & (usize::MAX << COUNT_BITS)) | count.max(1);
        self.last_token.set(token);
        token
    }

    /// Calls `look` with the registration of a connection, if it has one with this token.
    #[inline]
    pub(super) fn with<R>(
        &self,
        fd: RawFd,
        token: usize,
        look: impl FnOnce(&WaitRegistration) -> R,
    ) -> Option<R> {
        let entries = self.entries.borrow();
        let entry = entries.get(usize::try_from(fd).ok()?)?;
        // Zero is a slot that was never registered, and the token of an entry that is free: they must not match.
        (token != 0 && entry.token.get() == token).then(|| look(entry))
    }

    /// Registers a connection, before it is put into the set. Returns its token. An entry that an earlier owner of the number
    /// has left is overwritten.
    pub(super) fn add(&self, fd: RawFd) -> usize {
        let mut entries = self.entries.borrow_mut();
        let at = usize::try_from(fd).unwrap_or_default();
        if at >= entries.len() {
            // The table grows only to this place: the spare capacity of the vector takes no memory until it is written to.
            entries.resize_with(at + 1, WaitRegistration::default);
        }
        let token = self.next_token();
        entries[at] = WaitRegistration { token: Cell::new(token), ..WaitRegistration::default() };
        token
    }

    /// Begins the wait of a task for input, or for room to write. If the answer is `Waits`, the task is noted, and an
    /// arrival will give it back; otherwise the task is not noted. `near`: hints for the arrival, if there are any.
    #[inline(always)]
    pub(super) fn begin_wait(
        &self,
        fd: RawFd,
        token: usize,
        interest: Interest,
        task: &Rc<Task>,
        near: Option<Near>,
    ) -> WaiterLook {
        let for_room = interest == Interest::Write;
        let look = |entry: &WaitRegistration| {
            let mut seen = entry.seen.get();
            if for_room && !entry.reports_room.get() {
                return WaiterLook::NeedsRoomReports;
            }
            let (has_come, waiter) = if for_room {
                (&mut seen.writable, &entry.writer)
            } else {
                (&mut seen.readable, &entry.reader)
            };
            // The mark is taken back: the caller tries now, and knows whether it leaves anything in the socket.
            let has_come = std::mem::take(has_come) || (seen.ended && !for_room);
            if has_come {
                entry.seen.set(seen);
                return WaiterLook::Ready;
            }
            if let Some(near) = near {
                entry.near.set(near);
            }
            task.is_noted.set(true);
            WaiterLook::Waits(waiter.replace(Some(Rc::clone(task))))
        };
        self.with(fd, token, look).unwrap_or(WaiterLook::Unknown)
    }

    /// Notes that room to write is reported from here on, and that the task waits for it.
    pub(super) fn report_room(&self, fd: RawFd, token: usize, task: &Rc<Task>) {
        self.with(fd, token, |entry| {
            entry.reports_room.set(true);
            task.is_noted.set(true);
            entry.writer.set(Some(Rc::clone(task)));
        });
    }

    /// Takes back the note of a wait that has ended otherwise than by an arrival. An arrival that comes now is noted as seen.
    #[cold]
    pub(super) fn end_wait(&self, fd: RawFd, token: usize, interest: Interest, task: &Rc<Task>) {
        task.is_noted.set(false);
        self.with(fd, token, |entry| {
            let for_room = interest == Interest::Write;
            let waiter = if for_room { &entry.writer } else { &entry.reader };
            // By now another task may wait in this direction.
            waiter.set(waiter.take().filter(|noted| !Rc::ptr_eq(noted, task)));
        });
    }

    /// Takes an event, and returns the tasks to wake: the reader and the writer. An arrival that nobody waits for is noted.
    /// The tasks may have been woken in another way already: the caller checks their states.
    #[inline]
    pub(super) fn arrived(&self, event: ReadyEvent) -> (Option<Rc<Task>>, Option<Rc<Task>>) {
        let fd = fd_of(event);
        let entries = self.entries.borrow();
        // An event for an earlier owner of the number, or for a connection that is closed, is dropped.
        let token = (event.number >> 32) as u32;
        let is_for = |entry: &&WaitRegistration| entry.token.get() as u32 & TOKEN_PART == token;
        let Some(entry) = entries.get(fd).filter(is_for) else { return (None, None) };
        let mut seen = entry.seen.get();
        // A hang-up or an error is readable as well: the receive finds out which.
        let reader = if event.readable { entry.reader.take() } else { None };
        let writer = if event.writable { entry.writer.take() } else { None };
        // A receive ends before urgent data, so that a further receive is due.
        seen.readable |= event.readable && (reader.is_none() || event.urgent);
        // The end is reported once, perhaps in one event with the last bytes.
        seen.ended |= event.ended;
        seen.writable |= event.writable && writer.is_none();
        entry.seen.set(seen);
        for task in [&reader, &writer].into_iter().flatten() {
            task.is_noted.set(false);
        }
        (reader, writer)
    }

    /// Prefetches the entry of an event that is handled soon.
    pub(super) fn fetch_entry(&self, event: ReadyEvent) {
        let entries = self.entries.borrow();
        if let Some(entry) = entries.get(fd_of(event)) {
            // The token is not compared: that would wait for the very line that is fetched here.
            prefetch(std::ptr::from_ref(entry).addr());
        }
    }

    /// Prefetches one line of each page that the waiting coroutine needs. The entry should be in the cache by now.
    pub(super) fn fetch_pages(&self, event: ReadyEvent) {
        if let Some(near) = self.near(event) {
            prefetch(near.frame);
            prefetch(near.task);
            prefetch(near.entry);
        }
    }

    /// Prefetches the other lines that the waiting coroutine needs. Their pages should be in the TLB by now.
    pub(super) fn fetch_reader(&self, event: ReadyEvent) {
        if let Some(near) = self.near(event) {
            fetch(near.frame, FRAME_LINES);
            fetch(near.slot, REQUEST_LINES);
            // The bottom of its stack, which each switch writes to. Most coroutines use no other page.
            prefetch(near.frame | (SMALLEST_PAGE - CACHE_LINE));
            fetch(near.task, TASK_LINES);
            // The numbers of the entry may lie across two lines.
            prefetch(near.entry);
            prefetch(near.entry.wrapping_add(ENTRY_BYTES));
        }
    }

    /// The addresses for an event: those of the last wait, which most likely goes on.
    #[inline(always)]
    fn near(&self, event: ReadyEvent) -> Option<Near> {
        let entries = self.entries.borrow();
        let near = entries.get(fd_of(event))?.near.get();
        (near.frame != 0).then_some(near)
    }

    /// Removes the registration of a connection that is about to be closed. If the connection was moved to another worker,
    /// its token does not match here, and nothing changes.
    pub(super) fn remove(&self, fd: RawFd, token: usize) {
        self.with(fd, token, |entry| {
            // From here on events for this connection find no owner.
            entry.token.set(0);
            // No coroutine waits for the connection now: a coroutine of its own request is closing it.
            drop((entry.reader.take(), entry.writer.take()));
        });
    }
}

/// The number of a connection in the epoll set: its descriptor, and a part of its token. The token tells its events from
/// those of earlier owners of the descriptor's number.
pub(super) fn event_number(fd: RawFd, token: usize) -> u64 {
    (u64::from(token as u32 & TOKEN_PART) << 32) | u64::from(fd.unsigned_abs())
}

/// The result of [`Registrations::begin_wait`].
pub(super) enum WaiterLook {
    /// Something has arrived since the last wait, so the caller tries again.
    Ready,
    /// The wait is noted. The task in here, if there is one, waited in the same direction before, and has to try again.
    Waits(Option<Rc<Task>>),
    /// Room to write is not reported yet.
    NeedsRoomReports,
    /// The connection is not registered here.
    Unknown,
}

/// The descriptor of an event, as a place in the table.
fn fd_of(event: ReadyEvent) -> usize {
    usize::try_from(event.number & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

/// Thirty-one bits of a token go with an event. The topmost bit of the number marks other kinds of events: see
/// [`WATCHED`](super::worker::WATCHED).
const TOKEN_PART: u32 = 0x7fff_ffff;
