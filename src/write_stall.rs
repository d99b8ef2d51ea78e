//! A send that has to wait: for how long its peer may take nothing.
//!
//! A call that is bounded by the kernel (`SO_SNDTIMEO`) cannot tell a peer that takes a little from one that takes
//! nothing: its bound is on the call, and a call that has waited in vain for the whole of it says how much it could
//! leave in the buffer at its beginning. So a send never blocks. If there is no room it waits here, and looks, some
//! times for each limit, whether the peer's system has acknowledged anything.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys::tcp_info;
use crate::wait::{self, Interest, Slot, Waiting};

/// How long a send may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendTimeout {
    /// So long without any progress. [`Duration::MAX`] is for ever; zero does not wait at all.
    pub(crate) stall: Duration,
    /// Until then in any case.
    pub(crate) until: Option<Instant>,
}

impl SendTimeout {
    /// None at all: what cannot be sent at once is not sent.
    pub(crate) const NONE: Self = Self { stall: Duration::ZERO, until: None };

    /// One without a limit of its own.
    pub(crate) fn until(until: Option<Instant>) -> Self {
        Self { stall: Duration::MAX, until }
    }

    /// When a call that begins now and makes no progress has to end; none is never.
    pub(crate) fn at(&self) -> Option<Instant> {
        earlier(Instant::now().checked_add(self.stall), self.until)
    }
}

/// How often a wait looks, within its limit, for progress that the system alone has seen: at first a sixteenth of
/// that apart, because what is on its way when the buffer is full arrives at once, and then twice as far each time.
/// What is over is noticed on time, and progress an eighth of the limit late at most.
const LOOKS: u32 = 8;
const FIRST_LOOK: u32 = LOOKS * 16;

/// A send that waits for room.
#[derive(Debug)]
pub(crate) struct WriteStall {
    timeout: SendTimeout,
    /// When something was last taken, as far as is known.
    since: Instant,
    /// What the peer's system had not acknowledged then, in bytes; none where the system does not tell.
    unacknowledged: Option<usize>,
    /// When to look again at that; none is never.
    look_at: Option<Instant>,
    /// How long before that the last look was.
    pause: Duration,
}

impl WriteStall {
    /// Begins: nothing could be sent just now.
    pub(crate) fn begin(fd: BorrowedFd<'_>, timeout: SendTimeout) -> Self {
        let (since, unacknowledged) = (Instant::now(), tcp_info::unacknowledged(fd).ok());
        let pause = timeout.stall / FIRST_LOOK;
        Self { timeout, since, unacknowledged, look_at: since.checked_add(pause), pause }
    }

    /// Goes on with a wait that was given up. Nothing may have been taken since, and then its time still counts.
    pub(crate) fn resume(self, timeout: SendTimeout) -> Self {
        Self { timeout, look_at: Some(self.since), ..self }
    }

    /// Something could be sent meanwhile.
    pub(crate) fn progress(&mut self, fd: BorrowedFd<'_>) {
        *self = Self::begin(fd, self.timeout);
    }

    /// Waits for room; it may come back before there is any, and is then called again.
    ///
    /// A little room, which a send would find and the wait does not announce, counts as what it is: as bytes that
    /// the peer's system has acknowledged. (Linux announces a third of the buffer.)
    ///
    /// # Errors
    ///
    /// `TimedOut`, when nothing has been taken for too long or the moment has come.
    pub(crate) fn wait(&mut self, fd: BorrowedFd<'_>, slot: Option<&Slot>) -> io::Result<()> {
        let SendTimeout { stall, until } = self.timeout;
        loop {
            let now = Instant::now();
            if self.look_at.is_some_and(|look_at| now >= look_at) {
                self.look(fd, now);
            }
            let over = earlier(self.since.checked_add(stall), until);
            if over.is_some_and(|over| now >= over) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let room = Waiting { fd, interest: Interest::Write, slot };
            if wait::any(&[room], earlier(self.look_at, over))? {
                return Ok(());
            }
        }
    }

    fn look(&mut self, fd: BorrowedFd<'_>, now: Instant) {
        let unacknowledged = tcp_info::unacknowledged(fd).ok();
        if unacknowledged != self.unacknowledged {
            (self.since, self.unacknowledged) = (now, unacknowledged);
        }
        self.pause = self.pause.saturating_mul(2).min(self.timeout.stall / LOOKS);
        self.look_at = now.checked_add(self.pause);
    }
}

/// The earlier of two moments, of which none is never.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
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
        // The system moves what it holds from one end to the other for a while.
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
