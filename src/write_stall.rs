//! A send that has to wait for room, and how long its peer may take nothing: [`WriteStall`].
//!
//! `SO_SNDTIMEO` cannot tell a peer that takes a little from a peer that takes nothing: it bounds one call, and a
//! call that has timed out returns the bytes that fitted into the buffer at its beginning. So a send never blocks.
//! Without room it waits here:
//!
//! ```text
//! send: EAGAIN -> begin(now, unacknowledged) -> wait: poll(POLLOUT) until the next look
//!                                                 | room: send again
//!                                                 | look: SIOCOUTQ differs from the last one -> progress, the stall begins anew
//!                                                 | no progress for `stall`, or `until` has passed -> TimedOut
//! ```
//!
//! A look is one system call. The first pause between two looks is 1/128 of the limit, and each further pause is
//! twice as long, up to an eighth of the limit. With 60 s, the looks come after 0.5 s, 1.4 s, 3.3 s, 7 s, 14.5 s, and
//! then every 7.5 s.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys::tcp_info;
use crate::wait::{self, Interest, Slot, Waiting};

/// How long a send may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendTimeout {
    /// How long without any progress. [`Duration::MAX`] means for ever; zero does not wait at all.
    pub(crate) stall: Duration,
    /// Until this moment, however much progress there is. None means for ever.
    pub(crate) until: Option<Instant>,
}

impl SendTimeout {
    /// Does not wait at all: a send without room fails at once.
    pub(crate) const NONE: Self = Self { stall: Duration::ZERO, until: None };

    /// Until this moment, however little the peer takes.
    pub(crate) fn until(until: Option<Instant>) -> Self {
        Self { stall: Duration::MAX, until }
    }

    /// The moment at which a call that begins now and makes no progress fails. None means never.
    pub(crate) fn at(&self) -> Option<Instant> {
        earlier(Instant::now().checked_add(self.stall), self.until)
    }
}

/// The longest pause between two looks, as a part of the limit: an eighth. Progress is noticed late by at most this
/// pause. The limit counts from the look that has noticed it, so a timeout may be late by as much.
const LONGEST_LOOK_PAUSE: u32 = 8;
/// The first pause, as a part of the limit. Bytes that are on their way when the buffer is full are acknowledged
/// soon.
const FIRST_LOOK_PAUSE: u32 = LONGEST_LOOK_PAUSE * 16;

/// A send that waits for room.
#[derive(Debug)]
pub(crate) struct WriteStall {
    /// The bounds that the wait began with, or was resumed with.
    timeout: SendTimeout,
    /// When the peer last took something, as far as is known.
    since: Instant,
    /// How many bytes the peer's system had not acknowledged at that moment. None if this system does not report it.
    unacknowledged: Option<usize>,
    /// When to look again. None means never.
    look_at: Option<Instant>,
    /// The pause between the last look and the next one.
    pause: Duration,
}

impl WriteStall {
    /// Begins after a send that has found no room.
    pub(crate) fn begin(fd: BorrowedFd<'_>, timeout: SendTimeout) -> Self {
        // Later looks compare their number with this one. After an error (a Unix socket, another system) it is None and
        // never changes: then only room is progress.
        let (since, unacknowledged) = (Instant::now(), tcp_info::unacknowledged(fd).ok());
        let pause = timeout.stall / FIRST_LOOK_PAUSE;
        Self { timeout, since, unacknowledged, look_at: since.checked_add(pause), pause }
    }

    /// Goes on with a wait that was given up. If the peer has taken nothing since then, the time in between counts as
    /// well.
    pub(crate) fn resume(self, timeout: SendTimeout) -> Self {
        // A moment in the past: the first wait looks before it counts the old time.
        Self { timeout, look_at: Some(self.since), ..self }
    }

    /// Begins anew, after a send that has found room.
    pub(crate) fn progress(&mut self, fd: BorrowedFd<'_>) {
        *self = Self::begin(fd, self.timeout);
    }

    /// Waits for room. It may return before there is any; the caller then tries the send in vain, and calls this
    /// again.
    ///
    /// Linux reports a socket as writable only when a third of its buffer is free. Less room than that is noticed as
    /// progress: the peer's system has acknowledged bytes.
    ///
    /// # Errors
    ///
    /// `TimedOut`, if the peer has taken nothing for too long, or if `until` has passed.
    pub(crate) fn wait(&mut self, fd: BorrowedFd<'_>, slot: Option<&Slot>) -> io::Result<()> {
        let SendTimeout { stall, until } = self.timeout;
        loop {
            let now = Instant::now();
            if self.look_at.is_some_and(|look_at| now >= look_at) {
                self.look(fd, now);
            }
            // After the look: the peer may have taken bytes just before the end, and then has the whole limit again.
            let over = earlier(self.since.checked_add(stall), until);
            if over.is_some_and(|over| now >= over) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Room ends the wait. Otherwise a look is due, or the time is over, and the loop decides which.
            let room = Waiting { fd, interest: Interest::Write, slot };
            if wait::any(&[room], earlier(self.look_at, over))? {
                return Ok(());
            }
        }
    }

    /// Asks how much the peer's system has not acknowledged. Any change is progress: if the number is smaller, the
    /// peer has taken bytes; if it is larger, bytes have found room.
    fn look(&mut self, fd: BorrowedFd<'_>, now: Instant) {
        let unacknowledged = tcp_info::unacknowledged(fd).ok();
        if unacknowledged != self.unacknowledged {
            (self.since, self.unacknowledged) = (now, unacknowledged);
        }
        // Doubled, so that a long limit costs few system calls: four looks until the pause is the longest.
        self.pause = self.pause.saturating_mul(2).min(self.timeout.stall / LONGEST_LOOK_PAUSE);
        self.look_at = now.checked_add(self.pause);
    }
}

/// The earlier of two moments. None means never.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    /// A connection that takes nothing more, and its peer's end.
    fn full() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        fill(&ours);
        (ours, theirs)
    }

    fn fill(mut stream: &TcpStream) {
        let mut quiet = 0;
        // For a while the system still moves bytes from the one buffer to the other.
        while quiet < 5 {
            match stream.write(&[0; 65_536]) {
                Ok(_) => quiet = 0,
                Err(_) => quiet += 1,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_only_the_systems_have_taken_is_progress() {
        let (ours, mut theirs) = full();
        let timeout = SendTimeout { stall: Duration::from_secs(3_600), until: None };
        let mut stall = WriteStall::begin(ours.as_fd(), timeout);
        let before = (stall.since, stall.unacknowledged);
        assert!(before.1.is_some_and(|bytes| bytes > 0));
        let mut taken = vec![0; 1 << 20];
        while tcp_info::unacknowledged(ours.as_fd()).ok() == before.1 {
            assert!(theirs.read(&mut taken).unwrap() > 0);
        }
        stall.look(ours.as_fd(), Instant::now());
        assert!(stall.since > before.0 && stall.unacknowledged != before.1);
    }

    #[test]
    fn a_wait_ends_by_its_own_limit_and_by_the_moment_and_never_if_that_is_asked_for() {
        let (ours, _theirs) = full();
        let long = Duration::from_secs(3_600);
        let moment = Duration::from_millis(40);
        let stalled = |stall| SendTimeout { stall, until: None };
        let soon = SendTimeout { stall: long, until: Instant::now().checked_add(moment) };
        for (timeout, least) in [
            (stalled(moment), moment),
            (soon, Duration::ZERO),
            (stalled(Duration::ZERO), Duration::ZERO),
        ] {
            let began = Instant::now();
            let mut stall = WriteStall::begin(ours.as_fd(), timeout);
            let error = loop {
                if let Err(error) = stall.wait(ours.as_fd(), None) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= least);
        }
        let never = earlier(Instant::now().checked_add(Duration::MAX), None);
        assert_eq!(never, None);
        assert_eq!(SendTimeout::until(None).stall, Duration::MAX);
    }
}
