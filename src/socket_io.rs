//! A connection's descriptor: received from and sent to within a bound, however its request is run.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::{self, Mode, RecvBuf, SharedFd};
use crate::wait::{self, Interest, Slot, Waiting};
use crate::write_stall::{SendTimeout, WriteStall};

/// How long a receive may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvTimeout {
    /// So long from its beginning. The usual one: the clock is not looked at unless the call has waited in
    /// vain, because the kernel counts for us, and most calls have nothing to wait for.
    For(Duration),
    /// Until then.
    Until(Instant),
    /// For ever.
    Never,
}

impl RecvTimeout {
    /// One that does not wait at all.
    pub(crate) const NOW: Self = Self::For(Duration::ZERO);

    /// The bound of so much from the beginning of the call.
    pub(crate) fn lasting(duration: Duration) -> Self {
        if duration >= LONGEST { Self::Never } else { Self::For(duration) }
    }

    fn left(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::Until(at) => Some(at.saturating_duration_since(Instant::now())),
            Self::Never => None,
        }
    }

    /// What is left of it when a call has waited for so long already: a moment, from here on, so that
    /// several waits of one call are bounded together.
    fn after(self, waited: Duration) -> Self {
        match self {
            Self::For(duration) => Instant::now()
                .checked_add(duration.saturating_sub(waited))
                .map_or(Self::Never, Self::Until),
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

/// What lasts longer, 68 years, lasts for ever: a number that every kernel takes.
const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);

/// A connection's descriptor, with what is known of it.
///
/// The descriptor is made in blocking mode. Each receive says whether it may block: on a thread it does, and
/// `SO_RCVTIMEO` bounds it, or the reaper (`idle_reaper.rs`), which costs no call more per request than a hand-written
/// thread has; under a parker it does not, and the coroutine parks. A send never blocks: one that finds no room
/// waits in `write_stall.rs`.
#[derive(Debug)]
pub(crate) struct SocketIo {
    // Shared with the live list alone, which may shut it down but never closes it.
    fd: SharedFd,
    slot: Slot,
    /// What SO_RCVTIMEO is set to; zero is for ever.
    armed: Cell<Duration>,
    /// Somebody else may have the descriptor, and with it its mode and its timeouts: they are left alone and not
    /// relied on.
    is_lent: Cell<bool>,
}

impl SocketIo {
    pub(crate) fn new(fd: Arc<OwnedFd>) -> Self {
        let fd = SharedFd::new(fd);
        let (armed, is_lent) = (Cell::new(Duration::ZERO), Cell::new(false));
        Self { fd, slot: Slot::default(), armed, is_lent }
    }

    /// The descriptor, for whoever is to close it later than this does.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        self.fd.share()
    }

    /// The descriptor, for somebody who may keep a copy of it. A copy is the same socket: a timeout that we had set
    /// would end its reads, and what its owner sets would lift our bounds. So from here on there are no timeouts of
    /// ours on it, and we rely neither on that nor on the mode: a receive waits by `poll`.
    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        if !self.is_lent.replace(true) && !self.armed.take().is_zero() {
            // It fails only if this is no socket any more, and every other call then fails as well.
            let _ = sys::set_receive_timeout(self.as_fd(), None);
        }
        self.as_fd()
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        sys::shutdown(self.as_fd(), how)
    }

    /// Receives once: makes the call until it is done, fails, or the bound has passed (TimedOut). A bound in the
    /// past still tries once, without blocking.
    ///
    /// Nearly always there is nothing to do but the call itself. What else there may be is kept out of its way
    /// (`recv_again`), and this is a part of its callers: who waits has little of its stack in use then. Among a
    /// thousand threads each line of it has to be brought near again for each request.
    #[inline(always)]
    pub(crate) fn recv(&self, room: &mut RecvBuf<'_>, bound: RecvTimeout) -> io::Result<usize> {
        let mut failed = None;
        if wait::may_block() && self.is_armed_with(bound) {
            match room.recv(self.fd.as_fd(), Mode::Block) {
                Ok(count) => return Ok(count),
                Err(error) => failed = Some(error),
            }
        }
        self.recv_again(room, bound, failed)
    }

    /// `failed`: how the first call has ended already.
    #[cold]
    fn recv_again(
        &self,
        room: &mut RecvBuf<'_>,
        mut bound: RecvTimeout,
        mut failed: Option<io::Error>,
    ) -> io::Result<usize> {
        let may_block = wait::may_block();
        let mut came_back_early = false;
        loop {
            let left = bound.left();
            let over = left == Some(Duration::ZERO);
            let block = may_block && !over && !self.is_lent.get();
            let mode = if block { Mode::Block } else { Mode::Try };
            let result = match failed.take() {
                Some(error) => Err(error),
                None => {
                    if block {
                        self.arm(left, came_back_early)?;
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
                    came_back_early = true;
                    if block { self.waited_in_vain() } else { Duration::ZERO }
                }
                result => return result,
            };
            bound = bound.after(waited);
            if came_back_early && !block {
                let interest = Interest::Read;
                let peer = Waiting { fd: self.as_fd(), interest, slot: Some(&self.slot) };
                wait::any(&[peer], bound.at())?;
            }
        }
    }

    /// How long a call has waited that may block, and has come back with nothing.
    fn waited_in_vain(&self) -> Duration {
        let armed = self.armed.get();
        if armed.is_zero() {
            // It was to wait for ever. Somebody else has set a mode or a timeout, on our socket or on the listener
            // that it comes from.
            self.is_lent.set(true);
        }
        armed
    }

    /// Sends what there is room for, a byte at least. It waits for room for as long as the timeout allows, and then
    /// fails (TimedOut).
    #[inline(always)]
    pub(crate) fn send(&self, buf: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        self.push(timeout, || sys::send(self.fd.as_fd(), buf))
    }

    /// The last that is sent: the end of the output has to follow at once.
    pub(crate) fn send_before_end(&self, buf: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        self.push(timeout, || sys::send_before_end(self.fd.as_fd(), buf))
    }

    /// Most sends find room, and then there is nothing to do but the call. What this thread holds back for others leaves
    /// before it, as before every call that may have to wait: a handler that only writes has no other one.
    #[inline(always)]
    fn push(
        &self,
        timeout: SendTimeout,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let _ = wait::may_block();
        match call() {
            Err(error) if is_in_vain(&error) => self.push_again(timeout, call),
            result => result,
        }
    }

    #[cold]
    fn push_again(
        &self,
        timeout: SendTimeout,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut stall = WriteStall::begin(self.as_fd(), timeout);
        loop {
            stall.wait(self.as_fd(), Some(&self.slot))?;
            match call() {
                Err(error) if is_in_vain(&error) => {}
                result => return result,
            }
        }
    }

    /// Whether the kernel's timeout is the bound itself, as it nearly always is.
    #[inline]
    fn is_armed_with(&self, bound: RecvTimeout) -> bool {
        let armed = self.armed.get();
        let is_armed = match bound {
            RecvTimeout::For(duration) => armed == duration && !armed.is_zero(),
            RecvTimeout::Never => armed.is_zero(),
            RecvTimeout::Until(_) => false,
        };
        is_armed && !self.is_lent.get()
    }

    /// Sets the kernel's timeout for the next blocking call, if what is set will not do.
    ///
    /// The kernel starts its timeout anew with every call, so it can only be a bound on one call: the
    /// caller compares each return with the deadline. Setting it costs a system call; so it stays
    /// as it is while it is neither clearly longer than what is left (by more than an eighth: the
    /// deadline would be noticed late) nor less than half of it (the call would return for nothing).
    fn arm(&self, left: Option<Duration>, exact: bool) -> io::Result<()> {
        let now = self.armed.get();
        let fits = match left {
            None => now.is_zero(),
            Some(left) if exact => now == left,
            Some(left) => !now.is_zero() && now <= left.saturating_add(left / 8) && now >= left / 2,
        };
        if fits {
            return Ok(());
        }
        let wanted = left.map(|left| left.max(sys::SHORTEST_TIMEOUT));
        sys::set_receive_timeout(self.as_fd(), wanted)?;
        self.armed.set(wanted.unwrap_or_default());
        Ok(())
    }
}

/// Whether a send has found no room.
#[inline]
fn is_in_vain(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsFd for SocketIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SocketIo {
    fn drop(&mut self) {
        if self.slot.get() == 0 {
            return;
        }
        if let Some(parker) = wait::parker() {
            parker.forget(self.fd.as_fd(), &self.slot);
        }
    }
}
