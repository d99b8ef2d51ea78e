//! Receiving from and sending to a connection, within a timeout, on a thread and in a coroutine alike: [`SocketIo`].
//!
//! | | a thread | a coroutine (under a parker) |
//! |---|---|---|
//! | receive | blocks in recv(2); SO_RCVTIMEO or the idle reaper bounds it | never blocks: tries, parks, tries again |
//! | send | never blocks: tries; without room, waits in `write_stall.rs` | as a thread does, but the wait parks |
//!
//! SO_RCVTIMEO bounds one call, and starts anew with the next call. So after a return without bytes the time is
//! compared with the deadline, and the option is set again if its value is too far from the time that is left. In the
//! usual case (one receive, data within the timeout, the timeout as before) a receive is one system call, and no clock
//! is read.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sys::{self, Mode, RecvBuf, SharedFd};
use crate::wait::{self, Interest, Slot, Waiting};
use crate::write_stall::{SendTimeout, WriteStall};

/// How long a receive may wait. A thread lets the kernel measure the time where it can, and a coroutine its parker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvTimeout {
    /// This long from the beginning of the call. The usual case: the kernel measures the time, and the clock is read
    /// only after a call that has waited in vain.
    For(Duration),
    /// Until this moment.
    Until(Instant),
    /// For ever.
    Never,
    /// For ever as well: the idle reaper ends the wait, by a shutdown of the input.
    Reaped,
}

impl RecvTimeout {
    /// Does not wait at all.
    pub(crate) const NOW: Self = Self::For(Duration::ZERO);

    /// This long from the beginning of the call.
    pub(crate) fn lasting(duration: Duration) -> Self {
        if duration >= LONGEST_TIMEOUT { Self::Never } else { Self::For(duration) }
    }

    /// Until this moment. None means for ever.
    pub(crate) fn until(at: Option<Instant>) -> Self {
        at.map_or(Self::Never, Self::Until)
    }

    /// The time that is left. None means for ever.
    fn left(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::Until(at) => Some(at.saturating_duration_since(Instant::now())),
            Self::Never | Self::Reaped => None,
        }
    }

    /// The timeout that is left after a call has waited for `waited`. It is a moment from then on, so that all waits of
    /// one receive are bounded together.
    fn after(self, waited: Duration) -> Self {
        match self {
            Self::For(duration) => {
                Self::until(Instant::now().checked_add(duration.saturating_sub(waited)))
            }
            // The others do not depend on how long a call has waited.
            moment => moment,
        }
    }

    /// The moment at which it ends, for a call that begins now.
    pub(crate) fn at(self) -> Option<Instant> {
        match self.after(Duration::ZERO) {
            Self::Until(at) => Some(at),
            _ => None,
        }
    }
}

/// A timeout beyond this, 68 years, counts as for ever. Every kernel takes this many seconds.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(i32::MAX as u64);

/// A connection's descriptor, in blocking mode, and the timeout that is set on it.
///
/// Where the idle reaper (`idle_reaper.rs`) bounds the waits, `SO_RCVTIMEO` is never set, and a request takes no more
/// system calls than with a hand-written thread for each connection.
///
/// One user receives at a time, and one sends. They may be two threads, or two coroutines of one worker. Only the
/// receiver uses `armed`. The atomics order nothing; they only make sharing safe.
#[derive(Debug)]
pub(crate) struct SocketIo {
    /// Shared with the live list, which may shut the connection down but never closes the descriptor.
    fd: SharedFd,
    /// The parker's note about this descriptor; zero while there is none. The drop makes the parker forget it.
    slot: Slot,
    /// The value of SO_RCVTIMEO in nanoseconds; zero is for ever.
    armed: AtomicU64,
    /// The user's code may have a copy of the descriptor, and may change its mode and timeouts. From then on this
    /// code neither sets nor relies on them.
    is_lent: AtomicBool,
    /// Whether a receive that does not fill its memory has taken everything that was there. This holds for TCP. On a
    /// Unix socket a receive also ends where the bytes of one sending process end.
    takes_all: bool,
    /// The last receive of a coroutine has taken everything: the next one waits before it tries.
    is_drained: AtomicBool,
}

impl SocketIo {
    /// A connection in blocking mode, without a timeout, as `get_request` gives it.
    pub(crate) fn new(fd: Arc<OwnedFd>) -> Self {
        let fd = SharedFd::new(fd);
        let (armed, is_lent) = (AtomicU64::new(0), AtomicBool::new(false));
        let (takes_all, is_drained) = (false, AtomicBool::new(false));
        Self { fd, slot: Slot::default(), armed, is_lent, takes_all, is_drained }
    }

    /// As [`new`](Self::new), for a TCP connection.
    pub(crate) fn over_tcp(fd: Arc<OwnedFd>) -> Self {
        let mut socket = Self::new(fd);
        socket.takes_all = true;
        socket
    }

    /// Notes an address that is used after each receive: a hint for the caches.
    #[inline]
    pub(crate) fn set_near(&self, address: usize) {
        self.slot.set_near(address);
    }

    /// A share of the descriptor, for an outbox, a wrapper or a linger. It keeps the descriptor open, even when this
    /// value is dropped.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        self.fd.share()
    }

    /// The descriptor, for a caller that may keep a copy of it. A copy is the same socket: a timeout that this code sets
    /// would end the copy's reads, and one that the copy's owner sets would lift our bounds. So the timeout is removed,
    /// and from then on a receive waits by poll(2) and relies on neither timeout nor mode.
    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        // Only the first time, and only if a timeout is set, because it is a system call.
        if !self.is_lent.swap(true, Ordering::Relaxed) && self.armed.swap(0, Ordering::Relaxed) != 0
        {
            // An error means that the descriptor is not a socket any more: then every later call fails as well.
            let _ = sys::set_receive_timeout(self.as_fd(), None);
        }
        self.as_fd()
    }

    /// Ends one direction, or both.
    #[inline]
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        sys::shutdown(self.as_fd(), how)
    }

    /// Receives once: repeats the call until it has received, has failed, or the timeout has passed (`TimedOut`). If
    /// the timeout is already in the past, it tries once without blocking.
    ///
    /// In the usual case this is one system call. It is inlined into its callers, and everything else is in
    /// `recv_again`, so that a waiting thread uses little of its stack: with a thousand threads each cache line of
    /// the stack is a miss per request.
    #[inline(always)]
    pub(crate) fn recv(&self, room: &mut RecvBuf<'_>, bound: RecvTimeout) -> io::Result<usize> {
        let mut failed = None;
        // `may_block` is asked first, because it flushes: replies that this thread has gathered leave before it blocks.
        if wait::may_block() && self.is_armed_with(bound) {
            match room.recv(self.fd.as_fd(), Mode::Block) {
                Ok(count) => return Ok(count),
                // A signal, the timeout, or a failed connection: `recv_again` distinguishes them, at no cost for the
                // usual case.
                Err(error) => failed = Some(error),
            }
        } else if wait::is_parked_here() && bound != RecvTimeout::NOW {
            return self.recv_parked(room, bound);
        }
        self.recv_again(room, bound, failed)
    }

    /// A coroutine's receive. It never blocks, and makes no system call when nothing can have come.
    ///
    /// After each wait it tries once more, also when the time is over: bytes that have come by then are received.
    fn recv_parked(&self, room: &mut RecvBuf<'_>, bound: RecvTimeout) -> io::Result<usize> {
        // The last receive has taken everything, so a receive now would find nothing.
        let mut waits = self.is_drained.load(Ordering::Relaxed);
        // Computed when the first wait begins: most receives need no clock.
        let mut until: Option<Option<Instant>> = None;
        loop {
            if waits {
                let at = *until.get_or_insert_with(|| bound.at());
                self.park_for_input(at)?;
            }
            match self.recv_at_once(room) {
                Ok(count) => return Ok(count),
                // A signal says nothing about the socket, so the call is repeated.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => waits = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let at = *until.get_or_insert_with(|| bound.at());
                    if at.is_some_and(|at| Instant::now() >= at) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    waits = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A coroutine's receive of bytes that have come.
    #[inline]
    pub(crate) fn recv_at_once(&self, room: &mut RecvBuf<'_>) -> io::Result<usize> {
        let count = room.recv(self.fd.as_fd(), Mode::Try)?;
        // A receive that did not fill its memory has emptied a TCP socket. Zero bytes are its end, which stays
        // readable.
        let is_all = self.takes_all && count > 0 && count < room.len();
        self.is_drained.store(is_all, Ordering::Relaxed);
        // This comes last, because it may suspend this coroutine, so that others of its thread go on.
        wait::spend();
        Ok(count)
    }

    /// Whether a coroutine's next receive waits before it tries.
    #[inline]
    pub(crate) fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// Waits once for input, in a coroutine. It may return early.
    #[inline(always)]
    pub(crate) fn park_for_input(&self, until: Option<Instant>) -> io::Result<()> {
        let peer =
            Waiting { fd: self.fd.as_fd(), interest: Interest::Read, slot: Some(&self.slot) };
        wait::any_inlined(&[peer], until)?;
        // The next receive tries at once, even after a wait that ended without input.
        self.is_drained.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// All other cases of [`recv`](Self::recv). `failed` is the error of the first call, if that call was made.
    ///
    /// ```text
    /// no time left         one try without blocking; nothing there: TimedOut. The only case for a coroutine
    /// usually              arms SO_RCVTIMEO and blocks; EAGAIN: that time has passed, and the time left is armed exactly
    /// a lent descriptor    tries without blocking; EAGAIN: waits by poll(2)
    /// ```
    #[cold]
    fn recv_again(
        &self,
        room: &mut RecvBuf<'_>,
        mut bound: RecvTimeout,
        mut failed: Option<io::Error>,
    ) -> io::Result<usize> {
        let mut fit = Fit::Near;
        loop {
            let left = bound.left();
            // When the time is over, one more try without blocking receives the bytes that have come by then.
            let over = left == Some(Duration::ZERO);
            let block = !over && !self.is_lent.load(Ordering::Relaxed);
            let mode = if block { Mode::Block } else { Mode::Try };
            // The first call has been made by `recv` already, in the usual case.
            let result = match failed.take() {
                Some(error) => Err(error),
                None => {
                    if block {
                        self.arm(left, fit)?;
                    }
                    room.recv(self.fd.as_fd(), mode)
                }
            };
            let waited = match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Duration::ZERO,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // An armed value that was only near the time that was left may have ended the call too early.
                    fit = Fit::Exact;
                    // SO_RCVTIMEO has ended the call: the wait was as long as the option, so no clock is read.
                    if block { self.waited_in_vain() } else { Duration::ZERO }
                }
                result => return result,
            };
            // From here on the bound is a moment, so that signals and early returns do not extend the wait.
            bound = bound.after(waited);
            // A thread that can rely on neither the mode nor the timeout of the socket waits here.
            if fit == Fit::Exact && !block {
                let interest = Interest::Read;
                let peer = Waiting { fd: self.as_fd(), interest, slot: Some(&self.slot) };
                wait::any(&[peer], bound.at())?;
            }
        }
    }

    /// How long a blocking call that has returned `WouldBlock` has waited.
    fn waited_in_vain(&self) -> Duration {
        let armed = self.armed.load(Ordering::Relaxed);
        if armed == 0 {
            // A blocking call without a timeout never returns this. So the program has set a mode or a timeout on the
            // socket, or on the listener that it comes from.
            self.is_lent.store(true, Ordering::Relaxed);
        }
        Duration::from_nanos(armed)
    }

    /// Sends as much as there is room for, at least one byte. Without room it waits for as long as the timeout
    /// allows, and then fails (`TimedOut`). `timeout` is called only if there is no room at once.
    #[inline(always)]
    pub(crate) fn send(
        &self,
        buf: &[u8],
        timeout: impl FnOnce() -> SendTimeout,
    ) -> io::Result<usize> {
        self.send_by(timeout, || sys::send(self.fd.as_fd(), buf))
    }

    /// Sends the last bytes of a connection: the caller has to end the output next.
    #[inline]
    pub(crate) fn send_before_end(&self, buf: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        self.send_by(|| timeout, || sys::send_before_end(self.fd.as_fd(), buf))
    }

    /// One send by `call`. Most sends find room, and are one system call. Before it, as before every call that may
    /// wait, gathered replies of this thread leave (`wait::may_block`).
    #[inline(always)]
    fn send_by(
        &self,
        timeout: impl FnOnce() -> SendTimeout,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        // The send itself never blocks.
        if !wait::may_block() {
            wait::spend();
        }
        match call() {
            Err(error) if is_to_repeat(&error) => self.send_by_again(timeout(), call),
            result => result,
        }
    }

    /// A send that has found no room. All its waits together are bounded by one timeout.
    #[cold]
    fn send_by_again(
        &self,
        timeout: SendTimeout,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut stall = WriteStall::begin(self.as_fd(), timeout);
        loop {
            stall.wait(self.as_fd(), Some(&self.slot))?;
            match call() {
                Err(error) if is_to_repeat(&error) => {}
                result => return result,
            }
        }
    }

    /// Whether the kernel's timeout has exactly this value, as is usual.
    #[inline]
    fn is_armed_with(&self, bound: RecvTimeout) -> bool {
        let armed = self.armed.load(Ordering::Relaxed);
        let is_armed = match bound {
            // Zero is never armed: the kernel takes it for no limit. So a call that must not wait goes through
            // `recv_again`.
            RecvTimeout::For(duration) => armed != 0 && armed == nanos(duration),
            RecvTimeout::Never | RecvTimeout::Reaped => armed == 0,
            RecvTimeout::Until(_) => false,
        };
        is_armed && !self.is_lent.load(Ordering::Relaxed)
    }

    /// Sets the kernel's timeout for the next blocking call, which may last for `left`; none is for ever.
    ///
    /// Setting it costs a system call. With [`Fit::Near`] the present value is kept if it is at most an eighth longer
    /// than `left` (or else the deadline would be noticed late) and at least half of `left` (or else the call would
    /// return too early).
    ///
    /// Example: 60 s are set. A call with 58 s left keeps them, because up to 65 s are near enough. A call with 50 s
    /// left does not, because only up to 56 s are.
    fn arm(&self, left: Option<Duration>, fit: Fit) -> io::Result<()> {
        let now = Duration::from_nanos(self.armed.load(Ordering::Relaxed));
        let fits = match left {
            None => now.is_zero(),
            Some(left) if fit == Fit::Exact => now == left,
            Some(left) => !now.is_zero() && now <= left.saturating_add(left / 8) && now >= left / 2,
        };
        if fits {
            return Ok(());
        }
        // For the kernel zero means for ever.
        let wanted = left.map(|left| left.max(sys::SHORTEST_TIMEOUT));
        sys::set_receive_timeout(self.as_fd(), wanted)?;
        self.armed.store(nanos(wanted.unwrap_or_default()), Ordering::Relaxed);
        Ok(())
    }
}

/// A timeout in the unit of `armed`. [`LONGEST_TIMEOUT`] fits many times.
#[inline]
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How close SO_RCVTIMEO has to be to the time that is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// Used at first: a value from an earlier call that is about right saves a system call.
    Near,
    /// Used after a call that has returned too early.
    Exact,
}

/// Whether a send has to be tried again: it has found no room, or a signal has interrupted it.
#[inline]
fn is_to_repeat(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsFd for SocketIo {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SocketIo {
    fn drop(&mut self) {
        // The slot is zero: no parker has noted anything about the descriptor.
        if self.slot.get() == 0 {
            return;
        }
        // The parker has to forget the descriptor before it is closed (`fd` is dropped after this): after the close its
        // number may belong to another connection.
        if let Some(parker) = wait::parker() {
            parker.forget(self.fd.as_fd(), &self.slot);
        }
    }
}
