//! The reaper: one thread that ends connections whose peers have been silent for too long, for all of a server.
//!
//! The kernel would do it as well, by a timer (`SO_RCVTIMEO`) that it sets before each wait and removes after
//! it: a twentieth of a short request, for a limit that hardly any request ever reaches. So a thread that
//! waits for `Limits::idle` waits without one, and this one looks at the live list a few times for each limit.
//!
//! It is there while there are requests to look after, and where a thread may be started: not under a mixin
//! that forks. Coroutines wait by their own clock, and short limits by the kernel's, which is exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::live::{LiveList, SHORTEST_REAPED};

/// A limit is noticed so much of it late at the most: an eighth, as `SO_RCVTIMEO` is left as it is by
/// `socket_io.rs` while it is no more than an eighth too long.
const LATE: u32 = 8;

/// A server's watch. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct IdleReaper {
    shared: Arc<ReaperShared>,
}

#[derive(Debug)]
struct ReaperShared {
    list: Arc<LiveList>,
    /// The thread runs. Taken back under the lock of the list, when there is nobody in it.
    is_on: AtomicBool,
    /// Two requests that come first at once start one thread.
    start: Mutex<()>,
    call: Mutex<Option<Wakeup>>,
    called: Condvar,
}

/// What may end the thread's sleep before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakeup {
    /// The limits have changed: a shorter one wants to be looked at sooner.
    LookAgain,
    /// The server is gone.
    Exit,
}

impl IdleReaper {
    pub(crate) fn new(list: Arc<LiveList>) -> Self {
        let (is_on, start) = (AtomicBool::new(false), Mutex::new(()));
        let (call, called) = (Mutex::new(None), Condvar::new());
        Self { shared: Arc::new(ReaperShared { list, is_on, start, call, called }) }
    }

    /// Has a request looked after that is in the list. False: its waits have to be bounded by others.
    pub(crate) fn covers(&self, idle: Duration) -> bool {
        idle >= SHORTEST_REAPED && (self.shared.is_on.load(Ordering::Acquire) || self.start())
    }

    /// The limits have changed.
    pub(crate) fn look_again(&self) {
        self.shared.call(Wakeup::LookAgain);
    }

    /// In a forked child that goes on for itself: the thread has stayed with its parent.
    pub(crate) fn enter_process(&self) {
        self.shared.is_on.store(false, Ordering::Release);
    }

    fn start(&self) -> bool {
        let _one_at_a_time = self.shared.start.lock();
        if !self.shared.is_on.load(Ordering::Acquire) {
            let shared = Arc::clone(&self.shared);
            let started =
                thread::Builder::new().name("idle reaper".into()).spawn(move || shared.run());
            self.shared.is_on.store(started.is_ok(), Ordering::Release);
        }
        self.shared.is_on.load(Ordering::Acquire)
    }
}

impl Drop for IdleReaper {
    fn drop(&mut self) {
        self.shared.call(Wakeup::Exit);
    }
}

impl ReaperShared {
    /// The life of the thread.
    fn run(&self) {
        let mut pause = SHORTEST_REAPED / LATE;
        while self.sleep(pause) != Some(Wakeup::Exit) {
            let leave = || self.is_on.store(false, Ordering::Release);
            match self.list.end_silent(Instant::now(), leave) {
                Some(shortest) => pause = shortest / LATE,
                None => return,
            }
        }
    }

    /// Sleeps, and says what has ended the sleep if it was not its time.
    fn sleep(&self, pause: Duration) -> Option<Wakeup> {
        let until = Instant::now().checked_add(pause);
        let mut call = self.call.lock();
        while call.is_none() {
            match until {
                None => self.called.wait(&mut call),
                Some(until) => {
                    if self.called.wait_until(&mut call, until).timed_out() {
                        break;
                    }
                }
            }
        }
        call.take()
    }

    fn call(&self, what: Wakeup) {
        *self.call.lock() = Some(what);
        self.called.notify_all();
    }
}
