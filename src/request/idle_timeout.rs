//! Receives that `Limits::idle` bounds without the idle reaper: those with a short limit, under `Forking` (parent and
//! children start no thread), through a user's wrapper or transport, and in a request with a deadline.
//!
//! A silent peer is not idle while it takes the bytes that the handler, an outbox or a copy of the descriptor sends.
//! So when the time of a wait is over, the wait looks for progress first, as the reaper does (`live/idle_check.rs`).

use std::io;
use std::time::{Duration, Instant};

use super::bounded_io::BoundedIo;
use super::io_error::is_no_more_for_now;
use crate::live::Progress;
use crate::socket_io::RecvTimeout;
use crate::sys::{RecvBuf, tcp_info};
use crate::timed_out::Timeout;
use crate::write_stall::earlier;

/// How often a wait looks for progress within its limit. The reaper looks as often.
///
/// With a limit of 60 s, a wait ends after 60 s if nothing is on its way to the peer. If sent bytes still wait for
/// the peer then, the wait goes on for 7.5 s, and ends if none of them has moved. After any progress it has 60 s
/// again.
const CHECKS_PER_LIMIT: u32 = 8;

impl BoundedIo {
    /// A receive that `Limits::idle` bounds, without help of the reaper. `timeout` is the limit `idle`, as a duration
    /// or as the moment at which it ends. The usual case is one receive, which looks for progress only when it has
    /// waited in vain.
    pub(super) fn receive_unless_idle(
        &mut self,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
        idle: Duration,
    ) -> io::Result<usize> {
        // Bytes may also move by an outbox, the output half, or a copy of the descriptor. Then the wait of this receive
        // alone says nothing about the peer.
        if self.outbox.is_some() || self.split.is_some() || self.ticket.entry().is_lent() {
            return self.receive_while_it_moves(buf, idle, idle);
        }
        match self.receive_within(buf, timeout) {
            // The peer may have taken bytes during the wait: one more look.
            Err(error) if self.has_waited_in_vain(&error) && self.is_still_due() => {
                self.receive_while_it_moves(buf, idle, idle / CHECKS_PER_LIMIT)
            }
            result => result.map_err(|error| self.explain(error, Timeout::Idle, idle)),
        }
    }

    /// Waits until no bytes have moved in either direction for as long as `idle`. The first look comes after `first`.
    #[cold]
    fn receive_while_it_moves(
        &mut self,
        buf: &mut RecvBuf<'_>,
        idle: Duration,
        first: Duration,
    ) -> io::Result<usize> {
        // `over`: when the wait ends, unless something moves before. `seen`: the progress at the last look.
        let mut over = Instant::now().checked_add(first);
        let mut seen = self.moved();
        loop {
            let whole = self.deadline();
            // The next look, or the end of the wait or of the whole request, whichever is first.
            let look = earlier(Instant::now().checked_add(idle / CHECKS_PER_LIMIT), over);
            let until = earlier(look, whole.map(|whole| whole.at));
            let error = match self.receive_within(buf, RecvTimeout::until(until)) {
                Err(error) if self.has_waited_in_vain(&error) => error,
                result => return result.map_err(|error| self.explain(error, Timeout::Idle, idle)),
            };
            // The wait was in vain. The following lines find out which bound has passed.
            let (now, moved) = (Instant::now(), self.moved());
            // The deadline of the whole request holds even while bytes move.
            if let Some(whole) = whole.filter(|whole| now >= whole.at) {
                return Err(self.explain(error, whole.limit, whole.after));
            }
            // The peer is there: the limit begins anew.
            if moved != seen {
                (seen, over) = (moved, now.checked_add(idle));
            } else if over.is_some_and(|over| now >= over) {
                return Err(self.explain(error, Timeout::Idle, idle));
            }
        }
    }

    /// Whether the timeout has passed, and the reaper has not ended the wait.
    fn has_waited_in_vain(&self, error: &io::Error) -> bool {
        is_no_more_for_now(error) && !self.ticket.entry().is_silent()
    }

    /// The progress so far, to compare with later.
    fn moved(&self) -> Progress {
        Progress::of(self.ticket.entry().bytes(), self.connection.socket())
    }

    /// Whether sent bytes still wait for the peer.
    ///
    /// Asked once, at the end of the limit, because it is a system call. False where the system does not report this.
    fn is_still_due(&self) -> bool {
        self.connection
            .socket()
            .is_some_and(|fd| tcp_info::unacknowledged(fd).is_ok_and(|bytes| bytes > 0))
    }
}
