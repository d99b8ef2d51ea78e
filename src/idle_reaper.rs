//! The idle reaper: one thread per server that ends connections whose peers have been silent for `Limits::idle`.
//!
//! The kernel could keep this limit, by a timer (`SO_RCVTIMEO`) that it sets before each wait and removes after it.
//! Such a timer would cost a twentieth of a short request, for a limit that hardly any request reaches. So the wait of
//! a thread for `Limits::idle` has no timer. Instead the reaper checks the live list eight times per limit.
//!
//! The reaper ends the waits of coroutines as well: their parker keeps no timer for such a wait either.
//!
//! Some waits are not the reaper's. A limit below [`SHORTEST_REAPED`] is kept by the wait itself, exactly. A wait for the
//! rest of a TLS record has its own bound (`request/raw_stream_status.rs`). And a process under `Forking` must start no thread.
//! [`IdleReaper::covers`] decides, once for each request.
//!
//! ```text
//! first request        covers: starts the thread, is_on = true
//! every limit / 8      LiveList::end_silent: ends silent waits, under the list's lock
//! no request left      is_on = false under the list's lock, and the thread ends
//! next request         enters the list first, then covers: sees is_on = false, and starts another
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::live::{LiveList, SHORTEST_REAPED};

/// The reaper is late by at most this part of a limit: an eighth. With 60 s it checks every 7.5 s, and the connection of
/// a silent peer ends after 60 to 67.5 s. (Likewise `socket_io.rs` keeps an old `SO_RCVTIMEO` that is at most an eighth
/// too long.)
const LATE: u32 = 8;

/// A server's idle reaper. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct IdleReaper {
    /// Shared with the thread, which may outlive this value by one check of the list.
    shared: Arc<ReaperShared>,
}

#[derive(Debug)]
struct ReaperShared {
    /// The list alone, and not the server: a server that is dropped is not kept alive by its reaper.
    list: Arc<LiveList>,
    /// Whether the thread runs. Cleared under the lock of the list, when the list is empty.
    is_on: AtomicBool,
    /// Held while the thread is started, so that two first requests start only one.
    start: Mutex<()>,
    /// The reason to wake up, until the thread takes it. `Exit` is always the last one: only the drop sends it.
    call: Mutex<Option<Wakeup>>,
    /// Notified with each call. One thread waits for it at most.
    called: Condvar,
}

/// Why the thread is woken before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakeup {
    /// The limits have changed: a shorter one needs an earlier check.
    LookAgain,
    /// The server is gone.
    Exit,
}

impl IdleReaper {
    /// A reaper without a thread: the first request that needs the thread starts it.
    pub(crate) fn new(list: Arc<LiveList>) -> Self {
        let (is_on, start) = (AtomicBool::new(false), Mutex::new(()));
        let (call, called) = (Mutex::new(None), Condvar::new());
        Self { shared: Arc::new(ReaperShared { list, is_on, start, call, called }) }
    }

    /// Whether the reaper ends the waits of a request that is in the list. If not, each wait needs a timeout of its own.
    /// Starts the thread if need be. The request's worker asks this before the first wait: so the request is in the list,
    /// and a thread that runs by now does not end before the request.
    pub(crate) fn covers(&self, idle: Duration) -> bool {
        idle >= SHORTEST_REAPED && (self.shared.is_on.load(Ordering::Acquire) || self.start())
    }

    /// Makes the thread check the list at once after a change of the limits, and then as often as the new limits need.
    pub(crate) fn look_again(&self) {
        self.shared.call(Wakeup::LookAgain);
    }

    /// Notes that there is no thread, in a forked child that goes on as a server of its own: the thread is the parent's.
    pub(crate) fn enter_process(&self) {
        self.shared.is_on.store(false, Ordering::Release);
    }

    /// Starts the thread, unless another request has. Returns false if the system gives no thread.
    fn start(&self) -> bool {
        // A new thread waits for this lock as well, in `run`.
        let _one_at_a_time = self.shared.start.lock();
        // Again under the lock: another first request may have started the thread meanwhile.
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
        // `start` holds this lock until it has noted that the thread runs. Without this wait, a thread could end and
        // clear `is_on` before `start` sets it, and nobody would start the next one.
        drop(self.start.lock());
        // The limits are not known yet. The shortest possible pause is right for each of them.
        let mut pause = SHORTEST_REAPED / LATE;
        while self.sleep(pause) != Some(Wakeup::Exit) {
            // Called under the lock of the list: the next request enters after it, and starts another thread.
            let leave = || self.is_on.store(false, Ordering::Release);
            match self.list.end_silent(Instant::now(), leave) {
                // The shortest of all limits decides, so that each limit is kept within an eighth of itself.
                Some(shortest) => pause = shortest / LATE,
                None => return,
            }
        }
    }

    /// Sleeps. Returns the reason if the thread was woken early.
    fn sleep(&self, pause: Duration) -> Option<Wakeup> {
        let mut call = self.call.lock();
        self.called.wait_while_for(&mut call, |call| call.is_none(), pause);
        call.take()
    }

    /// Wakes the thread. If there is no thread, the next one takes the call.
    fn call(&self, what: Wakeup) {
        *self.call.lock() = Some(what);
        self.called.notify_all();
    }
}
