//! The one place where anything waits.
//!
//! Whatever may block (accepting, receiving, sending, sleeping) tries its system call and waits here
//! when there is nothing to do yet. On a plain thread waiting blocks the thread. Where a [`Parker`] is
//! installed it suspends the coroutine instead, and the thread goes on with another one. That is why
//! no transport and no handler has to know how it is run, and why this file knows neither.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys;

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Until there is something to read or to accept, or the end of input.
    Read,
    /// Until there is room to write.
    Write,
}

/// One descriptor of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// What to wait for.
    pub interest: Interest,
    /// A connection's home for what its worker knows of it; none for listeners and events, which
    /// several workers may wait for at once.
    pub slot: Option<&'a Slot>,
}

/// A place, kept beside a descriptor, for what a [`Parker`] wants to remember of it: that it is
/// registered, say. It starts as zero, and only the worker that runs the request touches it.
#[derive(Debug, Default)]
pub struct Slot {
    value: Cell<usize>,
}

impl Slot {
    /// What was last [`set`](Self::set); at first zero.
    #[must_use]
    pub fn get(&self) -> usize {
        self.value.get()
    }

    /// Remembers a value. When the descriptor is about to be closed and the value is not zero,
    /// [`Parker::forget`] is called.
    pub fn set(&self, value: usize) {
        self.value.set(value);
    }
}

/// How a thread waits that runs many requests at once: by suspending the one that waits.
///
/// A mixin that runs requests as coroutines (none of this crate does; one of your own may) implements it and
/// installs it, by [`install`], on each of its threads. Everything that a request may wait for comes through
/// [`park`](Self::park).
///
/// When no coroutine can go on and the thread itself is about to wait, it has to call [`flush`]: replies
/// to datagrams are held back until then, so that one system call sends many.
pub trait Parker {
    /// Suspends the calling coroutine until one of the descriptors is ready or the deadline has
    /// passed. It may come back early: the caller tries again and waits again.
    ///
    /// With no descriptor it is a sleep. It is never called while the thread is panicking, because a
    /// coroutine that is suspended in the middle of an unwind makes every other one on the thread
    /// believe that it is panicking as well.
    ///
    /// # Errors
    ///
    /// Only if the wait itself cannot be done (no memory to register it); it is then the error of the
    /// read, write or accept that waited.
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()>;

    /// A descriptor whose slot is not zero is about to be closed.
    fn forget(&self, fd: BorrowedFd<'_>, slot: &Slot);
}

/// What every call has to know of its thread, in one place: it is looked at twice for each request.
#[derive(Clone, Copy)]
struct Here {
    /// There is a parker.
    parked: bool,
    /// This thread accepts, and runs requests in between: what it gathers waits for no longer than the
    /// requests that have come already.
    in_loop: bool,
    /// Something has been gathered.
    holds_back: bool,
}

thread_local! {
    static HERE: Cell<Here> =
        const { Cell::new(Here { parked: false, in_loop: false, holds_back: false }) };

    static PARKER: RefCell<Option<Rc<dyn Parker>>> = const { RefCell::new(None) };

    /// What this thread has gathered, while it is one that promises to flush; see [`Gathering`].
    static GATHERED: RefCell<Option<Vec<Arc<dyn Flush>>>> = const { RefCell::new(None) };
}

fn note(change: impl FnOnce(&mut Here)) {
    let mut here = HERE.get();
    change(&mut here);
    HERE.set(here);
}

/// Makes every wait on this thread go through `parker`, until the guard is dropped.
pub fn install(parker: Rc<dyn Parker>) -> Installed {
    let before = PARKER.with(|current| current.replace(Some(parker)));
    note(|here| here.parked = true);
    Installed { before }
}

/// Keeps a [`Parker`] installed on this thread; dropping it brings back the one before.
#[must_use = "the parker is removed when this is dropped"]
pub struct Installed {
    before: Option<Rc<dyn Parker>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        note(|here| here.parked = self.before.is_some());
        // No thread-local is left to restore when the thread is at its end.
        let _ = PARKER.try_with(|current| current.replace(self.before.take()));
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").finish_non_exhaustive()
    }
}

/// The parker of this thread, taken out of the thread-local: a coroutine must not be suspended
/// inside `with`, which would leave the next one's borrow to meet its own.
pub(crate) fn parker() -> Option<Rc<dyn Parker>> {
    PARKER.with(|current| current.borrow().clone())
}

pub(crate) fn is_parked_here() -> bool {
    HERE.get().parked
}

/// Whether a call may block this thread. If so, what the thread has held back leaves first.
#[inline]
pub(crate) fn may_block() -> bool {
    let nothing_special = HERE.with(|here| !here.get().parked && !here.get().holds_back);
    nothing_special || may_block_after_flush()
}

#[cold]
fn may_block_after_flush() -> bool {
    let may_block = !is_parked_here();
    if may_block {
        flush();
    }
    may_block
}

/// How many descriptors a wait may have: the accept loop has the most, and others one or two.
pub(crate) const MOST: usize = 4;

/// Waits until one of `waiting`, [`MOST`] at the most, is ready or the deadline has passed. May come back early. Says whether the
/// first of them may be ready.
pub(crate) fn any(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    flush();
    let Some(parker) = parker() else {
        let poll_fd = |waiting: &Waiting<'_>| {
            sys::PollFd::new(waiting.fd, waiting.interest == Interest::Write)
        };
        // The accept loop comes here for every connection, and need not ask for memory each time.
        let mut fds = [const { sys::PollFd::nobody() }; MOST];
        let fds = &mut fds[..waiting.len()];
        fds.iter_mut().zip(waiting).for_each(|(fd, waiting)| *fd = poll_fd(waiting));
        sys::poll(fds, deadline)?;
        return Ok(fds.first().is_some_and(sys::PollFd::is_ready));
    };
    if thread::panicking() {
        return Err(io::Error::other("a coroutine cannot wait while it is panicking"));
    }
    parker.park(waiting, deadline).map(|()| true)
}

/// Waits in front of a listener's door, on a plain thread, until there may be a client or a call.
pub(crate) fn at_door(door: &sys::exclusive_epoll::Door) -> io::Result<()> {
    flush();
    door.wait()
}

/// Sleeps: a plain thread sleeps, a coroutine is suspended and its thread goes on with others.
///
/// Every mixin of this crate runs handlers on plain threads. One of your own may run many on one thread, as coroutines
/// (see [`Parker`]); handlers that may run there use this instead of [`std::thread::sleep`], which would stop every
/// request of the same thread.
pub fn sleep(duration: Duration) {
    if !is_parked_here() {
        flush();
        return thread::sleep(duration);
    }
    let Some(until) = Instant::now().checked_add(duration) else { return park_for_ever() };
    while Instant::now() < until {
        if any(&[], Some(until)).is_err() {
            // Panicking, or no room to register: a short block of the thread is the lesser evil.
            return thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// The moment when so much time has passed; where the clock cannot count that far, one that no process lives to see.
pub(crate) fn moment_after(now: Instant, time: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    now.checked_add(time).unwrap_or_else(|| now + FOR_EVER)
}

fn park_for_ever() {
    loop {
        // An error leaves nothing to wait with but the thread.
        if any(&[], None).is_err() {
            thread::park();
        }
    }
}

/// Runs blocking work (a database call, DNS, a large file) where it harms nobody.
///
/// On a plain thread it just runs, and so it does under every mixin of this crate. In a coroutine, as a mixin of your own
/// may run handlers (see [`Parker`]), it runs on a thread of its own, and the coroutine is suspended until it is done.
///
/// # Errors
///
/// If no thread can be started for it.
///
/// # Panics
///
/// If `work` panics, with the same payload.
pub fn offload<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
    if !is_parked_here() {
        flush();
        return Ok(work());
    }
    let done = Arc::new(Event::new()?);
    let signal = NotifyOnDrop(Arc::clone(&done));
    let worker = thread::Builder::new().name("offload".into()).spawn(move || {
        let _signal = signal;
        work()
    })?;
    while !worker.is_finished() {
        any(&[Waiting { fd: done.as_fd(), interest: Interest::Read, slot: None }], None)?;
        if done.is_set() {
            break;
        }
    }
    worker.join().or_else(|payload| std::panic::resume_unwind(payload))
}

/// Tells the waiting coroutine that its work has ended, also when it ended by a panic.
struct NotifyOnDrop(Arc<Event>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// A descriptor that one side makes readable and another waits for.
///
/// It stays readable until it is cleared, so that a notification between a check and the wait is not
/// lost. For mixins (`event_fd`) and for transports that have no socket of their own (`fileno`).
///
/// A forked child that begins to serve gets a descriptor of its own, under the same number, when it next asks for it. Until
/// then, and in the children of [`Forking`](crate::Forking), which serve one request each, the descriptor is the parent's,
/// whom a child must not wake: there `notify` and `clear` do nothing.
#[derive(Debug)]
pub struct Event {
    ends: sys::event::Ends,
    /// The process that its descriptor belongs to.
    owner: AtomicU32,
}

/// This process, as far as anybody has asked. The system is asked when a run begins, and not in each wait.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Asks which process this is: for whatever has to find out that it has been forked.
pub(crate) fn note_process() -> u32 {
    let process = std::process::id();
    // In a child a write copies a page of its parent's.
    if PROCESS.load(Ordering::Relaxed) != process {
        PROCESS.store(process, Ordering::Relaxed);
    }
    process
}

/// Which process this was when it was last noted. It costs no system call.
pub(crate) fn noted_process() -> u32 {
    PROCESS.load(Ordering::Relaxed)
}

impl Event {
    /// Makes one, not notified.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { ends: sys::event::new()?, owner: AtomicU32::new(note_process()) })
    }

    /// Makes it readable. Two system calls, never blocking: a signal handler may use it. In a child of
    /// the process that it belongs to, it does nothing.
    pub fn notify(&self) {
        if self.is_ours() {
            sys::event::notify(&self.ends);
        }
    }

    /// Makes it unreadable again. In a child of the process that it belongs to, it does nothing.
    pub fn clear(&self) {
        if self.is_ours() {
            sys::event::clear(&self.ends);
        }
    }

    /// Whether its descriptor is this process's own.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner.load(Ordering::SeqCst) == std::process::id()
    }

    /// The same, as far as the process is noted.
    pub(crate) fn is_of_noted_process(&self) -> bool {
        self.owner.load(Ordering::SeqCst) == noted_process()
    }

    /// In a forked child that goes on for itself: makes it an event of this process's own, not notified. Those that
    /// have waited for it before wait for the parent's.
    pub(crate) fn own(&self) -> io::Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _lock = ONE_AT_A_TIME.lock();
        let process = note_process();
        if self.owner.load(Ordering::SeqCst) != process {
            sys::event::renew(&self.ends)?;
            self.owner.store(process, Ordering::SeqCst);
        }
        Ok(())
    }

    /// As [`own`](Self::own), where it is enough to do so as soon as this process is known to be another one. Readable
    /// if it was.
    pub(crate) fn own_if_noted(&self) {
        if !self.is_of_noted_process() {
            let was_set = self.is_set();
            // Without a descriptor for a moment it stays the parent's, and is tried again by the next wait.
            if self.own().is_ok() && was_set {
                self.notify();
            }
        }
    }

    /// Whether it is readable now.
    pub(crate) fn is_set(&self) -> bool {
        matches!(sys::is_readable(self.waiting().fd), Ok(true))
    }

    /// A wait for it, by those that have made it their own.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        Waiting { fd: sys::event::reader(&self.ends), interest: Interest::Read, slot: None }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own_if_noted();
        sys::event::reader(&self.ends)
    }
}

/// Something that was gathered on this thread and has to leave before the thread waits.
pub(crate) trait Flush: Send + Sync {
    fn flush(&self);
}

/// A thread's promise that it will wait, by this module, or drop this guard before long: only such a
/// thread may hold replies back for the sake of one system call for many.
#[derive(Debug)]
pub(crate) struct Gathering {
    // Nested promises change nothing: the outermost one flushes.
    outermost: bool,
    /// It is the promise of a loop, and not of one within another loop's request, which goes on being one.
    in_loop: bool,
}

impl Gathering {
    /// The promise of an accept loop.
    pub(crate) fn start_in_loop() -> Self {
        let mut promise = Self::start();
        promise.in_loop = !is_in_loop();
        note(|here| here.in_loop = true);
        promise
    }

    pub(crate) fn start() -> Self {
        let outermost = GATHERED.with(|gathered| {
            let mut gathered = gathered.borrow_mut();
            let outermost = gathered.is_none();
            gathered.get_or_insert_default();
            outermost
        });
        Self { outermost, in_loop: false }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        if self.in_loop {
            leave_loop();
        }
        if self.outermost {
            flush();
            let _ = GATHERED.try_with(std::cell::RefCell::take);
        }
    }
}

/// A number that no other living thread has. It costs less than the standard library's `ThreadId`, which
/// is had only by counting one more reference to the thread.
pub(crate) fn number_of_thread() -> usize {
    HERE.with(|of_this_thread| std::ptr::from_ref(of_this_thread).addr())
}

/// Whether this thread accepts, and what runs on it runs in between.
pub(crate) fn is_in_loop() -> bool {
    HERE.get().in_loop
}

/// This thread accepts no longer; in a forked child it never does.
pub(crate) fn leave_loop() {
    note(|here| here.in_loop = false);
}

/// Has `what` flushed before this thread next waits. False: this thread promises no such thing, and
/// the caller has to send at once.
pub(crate) fn flush_before_waiting(what: &Arc<dyn Flush>) -> bool {
    GATHERED.with(|gathered| match &mut *gathered.borrow_mut() {
        Some(list) => {
            // A loop that always finds something to do, and so never waits, promises the same again and again.
            let is_it = |gathered: &Arc<dyn Flush>| {
                std::ptr::addr_eq(Arc::as_ptr(gathered), Arc::as_ptr(what))
            };
            if !list.iter().any(is_it) {
                list.push(Arc::clone(what));
            }
            note(|here| here.holds_back = true);
            true
        }
        None => false,
    })
}

/// Sends what this thread has held back. Whoever blocks a thread by other means than this crate's calls
/// this first; see [`Parker`].
pub fn flush() {
    if !HERE.get().holds_back {
        return;
    }
    note(|here| here.holds_back = false);
    let list = GATHERED.with_borrow_mut(|list| list.as_mut().map(std::mem::take));
    for what in list.into_iter().flatten() {
        what.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Flush for Counted {
        fn flush(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_the_clock_cannot_count_is_far_beyond_any_day() {
        let now = Instant::now();
        assert_eq!(moment_after(now, Duration::ZERO), now);
        let century = Duration::from_secs(100 * 365 * 86_400);
        assert!(moment_after(now, Duration::MAX) > now + century);
    }

    #[test]
    fn what_a_request_gathers_in_the_loop_outlives_the_request() {
        let counted = Arc::new(Counted::default());
        let flush: Arc<dyn Flush> = Arc::clone(&counted) as _;
        let flushed = || counted.0.load(Ordering::SeqCst);
        assert!(!flush_before_waiting(&flush), "nobody has promised anything");
        {
            let _loop = Gathering::start_in_loop();
            assert!(is_in_loop());
            for _ in 0..2 {
                let _request = Gathering::start();
                assert!(flush_before_waiting(&flush));
            }
            assert_eq!(flushed(), 0);
            sleep(Duration::from_millis(1));
            assert_eq!(flushed(), 1, "before the thread waits, and once for all");
            assert!(flush_before_waiting(&flush));
            drop(Gathering::start_in_loop());
            assert!(is_in_loop(), "a loop in a request of the loop has ended, and not the loop");
        }
        assert_eq!(flushed(), 2, "and at the end");
        assert!(!is_in_loop() && !flush_before_waiting(&flush));
    }
}
