//! A connection under its limits: every receive and every send is bounded in time, counted, and shown in the live
//! list.
//!
//! Only the request's worker calls this, one call at a time. Others may end its wait by a `shutdown` of the socket: a
//! drain, the idle reaper, the deadline of a close, `close_live`. Before the `shutdown` each of them stores its
//! reason, a `Cut`, in the live list's [`Entry`](crate::live::Entry). So a receive that returns no bytes reads the entry
//! first (`receive_nothing`), and only without a cut takes the lack of bytes for the peer's end.
//!
//! A request must not wait through a drain. The worker and the drain each store their own state before they read the
//! other's, so that at least one of them sees the other:
//!
//! ```text
//! worker: receive                           drain (drain.rs)
//!   sends what is held back                   runs: draining                (SeqCst)
//!   entry: Activity::Idle      (SeqCst)       end_input_of_idle, for each entry:
//!   is the server draining?                     is it Activity::Idle?
//!     yes: takes what is there, or Stopping       yes: Cut::Drained, shutdown(Read)
//!   waits                                     (wakes the wait: no bytes, and a Cut)
//!   entry: Activity::Running
//! ```
//!
//! A receive goes through these steps:
//!
//! ```text
//! output is held back?           take what is there without waiting; nothing there: send it first
//! show_wait, then is_to_end      the race with a drain, above
//! BoundedBy::Reaper              recv without a timer
//! BoundedBy::Timeout             read_timeout -> recv; for `Limits::idle` with looks for progress (idle_timeout.rs)
//! received                       counts the bytes; none, or an error: finds out why
//! explain                        names the limit, or marks a loss as this request's (io_error.rs)
//! ```
//!
//! A wait for the beginning of a request is left to the idle reaper and has no timer of its own
//! ([`BoundedBy::Reaper`]); every other wait passes a `RecvTimeout` down to the socket. A timer would cost a twentieth
//! of a short request.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::deadline::Deadlines;
use super::io_error::is_no_more_for_now;
use super::outbox::Outbox;
use super::output_half::{SplitNotes, closed_here};
use super::{Deadline, LateInput, Ticket, stop};
use crate::live::Activity;
use crate::socket_io::RecvTimeout;
use crate::sys::RecvBuf;
use crate::sys::input_after_shutdown::InputAfterShutdown;
use crate::timed_out::Timeout;
use crate::wait::{self, Interest, Waiting};
use crate::write_stall::earlier;

/// The connection of a [`StreamRequest`](super::StreamRequest), with its limits.
pub(super) struct BoundedIo {
    /// The socket or stream; `Gone` after a wrapper has failed.
    pub(super) connection: Connection,
    /// The request's server, its limits, and its entry in the live list.
    pub(super) ticket: Ticket,
    /// The outbox, if others send to this connection as well. Then all writes go through it.
    pub(super) outbox: Option<Outbox>,
    /// Output that `set_wbufsize` holds back; empty without it.
    pub(super) output: Vec<u8>,
    /// The most bytes that `output` holds. Zero, the usual value, sends each write at once.
    pub(super) wbufsize: usize,
    /// The handler's own timeout, in place of the server's idle, read and write limits.
    pub(super) timeout: Option<Duration>,
    /// The deadlines of the whole request, or of its handshake.
    pub(super) deadlines: Deadlines,
    /// The next byte begins a request. True before the first byte, and when the handler says so.
    pub(super) at_boundary: bool,
    /// The keeper of `Limits::idle`: the reaper, or the wait itself.
    idle_bounded_by: BoundedBy,
    /// The peer has ended its output, or nothing more is expected of it. The request then ends without a linger.
    pub(super) saw_end: bool,
    /// The handler has ended the output. EPIPE from a later write is the handler's own mistake.
    pub(super) ended_output: bool,
    /// Some output was dropped at the end. So no wrapper may say that the output was whole.
    pub(super) dropped_output: bool,
    /// Set if the two halves have been used apart. The output half notes here how it has ended.
    pub(super) split: Option<Arc<SplitNotes>>,
    /// The peer may still be sending when the request ends, although nothing shows it.
    pub(super) expects_more: bool,
    /// The peer was still sending when the answer ended: see `lingering_close.rs`.
    pub(super) lingers: bool,
}

impl BoundedIo {
    #[inline]
    pub(super) fn new(connection: Connection, ticket: Ticket) -> Self {
        // Asked only for a socket, because the call may start the reaper's thread.
        let has_reaper = || ticket.server().reaps_idle(ticket.limits().idle);
        let idle_bounded_by = if connection.is_socket() && has_reaper() {
            BoundedBy::Reaper
        } else {
            BoundedBy::Timeout
        };
        if let Some(socket) = connection.as_socket() {
            // The counters are the next memory that is used after each wait.
            socket.set_near(ticket.entry().address_of_counters());
        }
        if ticket.entry().is_lent() {
            // A hook has had the descriptor before there was a request.
            connection.lend();
        }
        Self {
            connection,
            ticket,
            outbox: None,
            output: Vec::new(),
            wbufsize: 0,
            timeout: None,
            deadlines: Deadlines::default(),
            at_boundary: true,
            idle_bounded_by,
            saw_end: false,
            ended_output: false,
            dropped_output: false,
            split: None,
            expects_more: false,
            lingers: false,
        }
    }

    /// The earlier of the server's and the handler's deadlines.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.deadlines.earlier()
    }

    /// One receive. If it would wait, held-back output is sent first. In a drain it does not wait for a next request.
    /// `started`: the moment at which the read began, if it has begun and needs more bytes.
    pub(super) fn receive(
        &mut self,
        buf: &mut RecvBuf<'_>,
        started: Option<Instant>,
    ) -> io::Result<usize> {
        // The peer may be waiting for this output, so no receive waits while it is held back. If input is there
        // already, more output may gather.
        if !self.output.is_empty() {
            if let Some(count) = self.receive_at_once(buf)? {
                return Ok(count);
            }
            self.send_output()?;
        }
        // A read that has begun does not count as a wait between two requests.
        let idle = self.at_boundary && started.is_none();
        let bounded_by =
            if started.is_none() { self.next_wait_bounded_by() } else { BoundedBy::Timeout };
        self.show_wait(if idle { Activity::Idle } else { Activity::Receiving }, bounded_by);
        // Asked only after the wait is shown: see the diagram above.
        if idle && self.ticket.is_to_end() {
            // So this receive does not wait. From here on the drain must not shut the input down, because the handler may
            // read the bytes that have come.
            self.ticket.entry().set_activity(Activity::Running);
            return self.receive_at_once(buf)?.ok_or_else(|| stop(self.ticket.entry()));
        }
        let result = match bounded_by {
            BoundedBy::Reaper => self
                .receive_within(buf, RecvTimeout::Reaped)
                .map_err(|error| self.explain(error, Timeout::Idle, self.ticket.limits().idle)),
            BoundedBy::Timeout => self.receive_in_time(buf, started),
        };
        self.ticket.entry().show_activity(Activity::Running);
        result
    }

    /// The keeper of the bound on the next wait: the reaper, if only `Limits::idle` bounds the wait, and otherwise the
    /// wait itself. Below a user's wrapper the raw stream bounds its waits.
    pub(super) fn next_wait_bounded_by(&self) -> BoundedBy {
        let has_bound = self.timeout.is_some() || self.deadlines.any();
        if has_bound || !self.connection.may_be_reaped() {
            return BoundedBy::Timeout;
        }
        self.idle_bounded_by
    }

    /// Shows the wait in the live list, and whether it is left to the reaper. A store of `Idle` is sequentially
    /// consistent, because a drain acts on it.
    pub(super) fn show_wait(&self, activity: Activity, bounded_by: BoundedBy) {
        let entry = self.ticket.entry();
        match (bounded_by, activity) {
            (BoundedBy::Reaper, _) => entry.set_left_to_reaper(activity),
            (BoundedBy::Timeout, Activity::Idle) => entry.set_activity(activity),
            // No other thread decides anything by the other activities.
            (BoundedBy::Timeout, _) => entry.show_activity(activity),
        }
    }

    /// A receive whose timeout has to be looked up or computed. It is a function of its own, so that the usual
    /// receive, which the reaper bounds, has a smaller frame: see `SocketIo::recv`.
    #[inline(never)]
    fn receive_in_time(
        &mut self,
        buf: &mut RecvBuf<'_>,
        started: Option<Instant>,
    ) -> io::Result<usize> {
        let ReadTimeout { timeout, limit, after } = self.read_timeout(started);
        if limit == Timeout::Idle {
            return self.receive_unless_idle(buf, timeout, after);
        }
        let result = self.receive_within(buf, timeout);
        // The peer stopped in the middle of what was being read, and may send the rest after our answer.
        self.expects_more |= started.is_some() && result.is_err();
        result.map_err(|error| self.explain(error, limit, after))
    }

    /// Takes the bytes that have come, without waiting. None if none have come.
    #[inline(never)]
    fn receive_at_once(&mut self, buf: &mut RecvBuf<'_>) -> io::Result<Option<usize>> {
        match self.receive_within(buf, RecvTimeout::NOW) {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_no_more_for_now(&error) => Ok(None),
            Err(error) => Err(self.own(error)),
        }
    }

    /// One receive of the connection, within this timeout. Its errors are not explained yet.
    // Inlined into its callers, so that a waiting thread has no frame for it.
    #[inline(always)]
    pub(super) fn receive_within(
        &mut self,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
    ) -> io::Result<usize> {
        let result = match &mut self.connection {
            Connection::Socket(socket) => socket.recv(buf, timeout),
            // The thread that cuts a request off cannot shut down the stream of a user's transport, so the cut is
            // noticed here.
            Connection::Other(_) if self.ticket.entry().is_cut_off() => Ok(0),
            connection => connection.receive(buf, timeout),
        };
        self.received(result, buf, timeout)
    }

    /// Handles the result of a receive: counts its bytes; if there are none, finds out why.
    #[inline(always)]
    pub(super) fn received(
        &mut self,
        result: io::Result<usize>,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
    ) -> io::Result<usize> {
        match result {
            // A half of this request has closed the connection. That is neither the peer's end nor its fault.
            Ok(0) | Err(_) if self.is_closed_by_half() => Err(closed_here()),
            // Under TLS zero bytes are the peer's close_notify, and nothing else.
            Ok(0) if self.connection.is_sealed() => {
                self.saw_end = true;
                Ok(0)
            }
            Ok(0) => self.receive_nothing(buf, timeout),
            Err(error) => Err(error),
            Ok(count) => {
                if !self.connection.counts_itself() {
                    self.ticket.entry().add_bytes_in(count);
                } else if self.connection.is_sealed() {
                    self.ticket.entry().add_clear_in(count);
                }
                self.at_boundary = false;
                Ok(count)
            }
        }
    }

    /// Finds out why no bytes have come: the peer has ended its output, or this side has ended the input.
    #[cold]
    fn receive_nothing(
        &mut self,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
    ) -> io::Result<usize> {
        // The reaper has shut the input down. The callers turn this error into the idle timeout.
        if self.ticket.entry().is_silent() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.ticket.entry().cut().is_some() {
            // Nothing of a request has come, so nothing is lost: the drain ends the connection.
            if self.at_boundary {
                return Err(stop(self.ticket.entry()));
            }
            // Below a wrapper the raw stream receives late input itself, or notes the cut. So a wrapper that returns zero
            // bytes, without a note, is at the peer's end.
            if !self.connection.counts_itself() || self.ticket.entry().is_cut_off() {
                return self.receive_late(buf, timeout);
            }
        }
        self.saw_end = true;
        Ok(0)
    }

    /// Receives the rest of a request that began just when a drain shut down the input of its connection. TCP still
    /// delivers that rest; this receives it until the peer ends its output, or until the deadline of the drain or of
    /// the read. [`InputAfterShutdown`] waits for the bytes. Where the system has no event for them, this function tries
    /// every millisecond.
    fn receive_late(&mut self, buf: &mut RecvBuf<'_>, timeout: RecvTimeout) -> io::Result<usize> {
        let (drained, own) = (Instant::now().checked_add(self.ticket.limits().drain), timeout.at());
        let until = earlier(drained, own);
        // This is also None if the process has no descriptor left for the epoll set.
        let late = self.connection.fileno().and_then(|fd| InputAfterShutdown::new(fd).ok());
        while until.is_none_or(|until| Instant::now() < until) && !self.ticket.entry().is_cut_off()
        {
            // Cleared before the receive: bytes that come later set the event again.
            late.iter().for_each(InputAfterShutdown::clear);
            let rest = LateInput::of(self.ticket.entry());
            // This receive does not wait: after the shutdown, or the peer's end, a receive without bytes returns zero.
            let count = self.connection.receive(buf, timeout)?;
            if count > 0 {
                self.ticket.entry().add_bytes_in(count);
                return Ok(count);
            }
            match rest {
                LateInput::EndedByPeer => {
                    self.saw_end = true;
                    return Ok(0);
                }
                LateInput::EndedHere => return Err(stop(self.ticket.entry())),
                LateInput::MayArrive => {}
            }
            match &late {
                Some(late) => {
                    let input = Waiting { fd: late.as_fd(), interest: Interest::Read, slot: None };
                    wait::any(&[input], until)?;
                }
                None => wait::sleep(Duration::from_millis(1)),
            }
        }
        // The read's own limit has ended the wait, and not the drain's.
        if own.is_some_and(|own| Instant::now() >= own) && !self.ticket.entry().is_cut_off() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Err(stop(self.ticket.entry()))
    }

    /// How long one read may take: the handler's timeout or the server's limit, but not past the deadline of the
    /// whole request. `started`: the moment at which the read began. None means now, and saves a look at the clock.
    fn read_timeout(&self, started: Option<Instant>) -> ReadTimeout {
        let limits = self.ticket.limits();
        let (limit, after) = match (self.timeout, started) {
            (Some(timeout), _) => (Timeout::Read, timeout),
            // The read has begun, so the peer is in the middle of something.
            (None, Some(_)) => (Timeout::Read, limits.read),
            (None, None) => (Timeout::Idle, limits.idle),
        };
        if started.is_none() && !self.deadlines.any() {
            // The kernel measures this time, so the clock is not read.
            return ReadTimeout { timeout: RecvTimeout::lasting(after), limit, after };
        }
        // A limit beyond the clock's range means no limit.
        let own = started.unwrap_or_else(Instant::now).checked_add(after);
        let own = own.map(|at| Deadline::new(at, limit, after));
        match Deadline::earlier(self.deadline(), own) {
            Some(Deadline { at, limit, after }) => {
                ReadTimeout { timeout: RecvTimeout::Until(at), limit, after }
            }
            None => ReadTimeout { timeout: RecvTimeout::Never, limit, after },
        }
    }

    /// Expects nothing more of the peer. The connection is closed at once and does not linger, because there is no
    /// answer that the peer could read.
    pub(super) fn give_up(&mut self) {
        self.saw_end = true;
    }
}

/// The keeper of a limit: it ends a wait that has lasted too long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BoundedBy {
    /// The server's idle reaper, by `Limits::idle`.
    Reaper,
    /// The wait itself.
    Timeout,
}

/// How long one receive may wait, and how the error describes the limit.
struct ReadTimeout {
    timeout: RecvTimeout,
    limit: Timeout,
    /// The length of the limit, for the message.
    after: Duration,
}
