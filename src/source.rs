//! A connection's descriptor: received from and sent to within a bound, however its request is run.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::{self, Room, SharedFd};
use crate::wait::{self, Interest, Slot, Waiting};

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// So long from its beginning. The usual one: the clock is not looked at unless the call has waited in
    /// vain, because the kernel counts for us, and most calls have nothing to wait for.
    For(Duration),
    /// Until then.
    Until(Instant),
    /// For ever.
    Never,
}

impl Bound {
    /// One that does not wait at all.
    pub(crate) const NOW: Self = Self::For(Duration::ZERO);

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

/// A connection's descriptor, with what is known of it.
///
/// The descriptor stays in blocking mode. Each call says whether it may block: on a thread it does, and
/// `SO_RCVTIMEO` bounds it, or the watch (`watch.rs`), which costs no call more per request than a hand-written
/// thread has;
/// under a parker it does not, and the coroutine parks.
#[derive(Debug)]
pub(crate) struct Source {
    // Shared with the live list alone, which may shut it down but never closes it.
    fd: SharedFd,
    slot: Slot,
    /// What SO_RCVTIMEO and SO_SNDTIMEO are set to; zero is for ever.
    armed: [Cell<Duration>; 2],
}

impl Source {
    /// `armed`: the timeout of sends that is already set on the descriptor, zero for none.
    pub(crate) fn new(fd: Arc<OwnedFd>, armed: Duration) -> Self {
        let fd = SharedFd::new(fd);
        Self { fd, slot: Slot::default(), armed: [Cell::new(Duration::ZERO), Cell::new(armed)] }
    }

    /// The descriptor, for whoever is to close it later than this does.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        self.fd.share()
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        sys::shutdown(self.as_fd(), how)
    }

    #[inline]
    pub(crate) fn recv(&self, room: &mut Room<'_>, bound: Bound) -> io::Result<usize> {
        self.call(Interest::Read, bound, |fd, wait| room.recv(fd, wait))
    }

    #[inline]
    pub(crate) fn send(&self, buf: &[u8], bound: Bound) -> io::Result<usize> {
        self.call(Interest::Write, bound, |fd, wait| sys::send(fd, buf, wait))
    }

    /// The last that is sent: the end of the output has to follow at once.
    pub(crate) fn send_before_end(&self, buf: &[u8], bound: Bound) -> io::Result<usize> {
        self.call(Interest::Write, bound, |fd, wait| sys::send_before_end(fd, buf, wait))
    }

    /// Makes the call until it is done, fails, or the bound has passed (TimedOut). A bound in the past
    /// still tries once, without blocking.
    ///
    /// Nearly always there is nothing to do but the call itself. What else there may be is kept out of its way
    /// (`call_again`), and this is a part of its callers: who waits has little of its stack in use then. Among a
    /// thousand threads each line of it has to be brought near again for each request.
    #[inline(always)]
    fn call<R>(
        &self,
        interest: Interest,
        bound: Bound,
        mut call: impl FnMut(BorrowedFd<'_>, bool) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut failed = None;
        if wait::may_block() && self.is_armed_with(interest, bound) {
            match call(self.fd.as_fd(), true) {
                Ok(done) => return Ok(done),
                Err(error) => failed = Some(error),
            }
        }
        self.call_again(interest, bound, failed, call)
    }

    /// `failed`: how the first call has ended already.
    #[cold]
    fn call_again<R>(
        &self,
        interest: Interest,
        mut bound: Bound,
        mut failed: Option<io::Error>,
        mut call: impl FnMut(BorrowedFd<'_>, bool) -> io::Result<R>,
    ) -> io::Result<R> {
        let may_block = wait::may_block();
        let mut came_back_early = false;
        loop {
            let left = bound.left();
            let over = left == Some(Duration::ZERO);
            let block = may_block && !over;
            let result = match failed.take() {
                Some(error) => Err(error),
                None => {
                    if block {
                        self.arm(interest, left, came_back_early)?;
                    }
                    call(self.fd.as_fd(), block)
                }
            };
            let waited = match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Duration::ZERO,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    came_back_early = true;
                    if block { self.armed[interest as usize].get() } else { Duration::ZERO }
                }
                result => return result,
            };
            bound = bound.after(waited);
            if came_back_early && !may_block {
                wait::any(
                    &[Waiting { fd: self.as_fd(), interest, slot: Some(&self.slot) }],
                    bound.at(),
                )?;
            }
        }
    }

    /// Whether the kernel's timeout is the bound itself, as it nearly always is.
    #[inline]
    fn is_armed_with(&self, interest: Interest, bound: Bound) -> bool {
        let armed = self.armed[interest as usize].get();
        match bound {
            Bound::For(duration) => armed == duration && !armed.is_zero(),
            Bound::Never => armed.is_zero(),
            Bound::Until(_) => false,
        }
    }

    /// Sets the kernel's timeout for the next blocking call, if what is set will not do.
    ///
    /// The kernel starts its timeout anew with every call, so it can only be a bound on one call: the
    /// caller compares each return with the deadline. Setting it costs a system call; so it stays
    /// as it is while it is neither clearly longer than what is left (by more than an eighth: the
    /// deadline would be noticed late) nor less than half of it (the call would return for nothing).
    fn arm(&self, interest: Interest, left: Option<Duration>, exact: bool) -> io::Result<()> {
        let armed = &self.armed[interest as usize];
        let now = armed.get();
        let fits = match left {
            None => now.is_zero(),
            Some(left) if exact => now == left,
            Some(left) => !now.is_zero() && now <= left + left / 8 && now >= left / 2,
        };
        if fits {
            return Ok(());
        }
        let wanted = left.map(|left| left.max(sys::SHORTEST_TIMEOUT));
        match interest {
            Interest::Read => sys::set_receive_timeout(self.as_fd(), wanted)?,
            Interest::Write => sys::set_send_timeout(self.as_fd(), wanted)?,
        }
        armed.set(wanted.unwrap_or_default());
        Ok(())
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.slot.get() == 0 {
            return;
        }
        if let Some(parker) = wait::parker() {
            parker.forget(self.fd.as_fd(), &self.slot);
        }
    }
}
