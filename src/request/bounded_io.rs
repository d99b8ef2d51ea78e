//! A connection under its limits: every receive and every send is bounded, counted, and told to the live
//! list.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::deadline::Deadlines;
use super::io_error::is_no_more_for_now;
use super::outbox::Outbox;
use super::{Deadline, Ticket};
use crate::error::Timeout;
use crate::live::Activity;
use crate::socket_io::RecvTimeout;
use crate::sys::RecvBuf;
use crate::sys::late_input::LateInput;
use crate::wait::{self, Interest, Waiting};
use crate::write_stall::{SendTimeout, earlier};

/// What a [`StreamRequest`](super::StreamRequest) reads from and writes to.
pub(super) struct BoundedIo {
    pub(super) connection: Connection,
    pub(super) ticket: Ticket,
    /// Others send to this connection as well, and all writes go through it.
    pub(super) outbox: Option<Outbox>,
    /// What `set_wbufsize` holds back; empty without it.
    pub(super) output: Vec<u8>,
    wbufsize: usize,
    /// The handler's own timeout, which goes before the server's idle, read and write limits.
    pub(super) timeout: Option<Duration>,
    /// The bounds of the whole request, or of its handshake.
    pub(super) deadlines: Deadlines,
    /// What comes next is the beginning of a request: true before the first byte, and when the handler
    /// says so.
    pub(super) at_boundary: bool,
    /// `Limits::idle` is left to the reaper.
    has_reaper: bool,
    /// The end of input has been seen: the peer sends nothing more.
    pub(super) saw_end: bool,
    /// The handler has ended the output.
    pub(super) ended_output: bool,
    /// The peer may still be sending when the request ends, although nothing of it is to be seen.
    pub(super) expects_more: bool,
    /// The peer was still sending when the answer ended: see `lingering_close.rs`.
    pub(super) lingers: bool,
}

impl BoundedIo {
    pub(super) fn new(connection: Connection, ticket: Ticket) -> Self {
        let output = Vec::new();
        let (timeout, deadlines) = (None, Deadlines::default());
        let has_reaper = connection.is_socket() && ticket.has_reaper();
        if ticket.entry().is_lent() {
            connection.lend();
        }
        Self {
            connection,
            ticket,
            outbox: None,
            output,
            wbufsize: 0,
            timeout,
            deadlines,
            at_boundary: true,
            has_reaper,
            saw_end: false,
            ended_output: false,
            expects_more: false,
            lingers: false,
        }
    }

    pub(super) fn set_wbufsize(&mut self, bytes: usize) -> io::Result<()> {
        self.wbufsize = bytes;
        if self.output.len() > bytes { self.send_output() } else { Ok(()) }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.deadlines.earlier()
    }

    /// The way for others to send; made when it is first asked for.
    pub(super) fn outbox(&mut self) -> io::Result<Outbox> {
        if let Some(outbox) = &self.outbox {
            return Ok(outbox.clone());
        }
        let Connection::Socket(source) = &self.connection else {
            let text = "only a plain socket can have an outbox, and what is wrapped is none";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        };
        let capacity = self.ticket.limits().outbox_bytes;
        let entry = std::sync::Arc::clone(self.ticket.entry());
        let may_have_thread = self.ticket.server().role().may_start_threads();
        let outbox = Outbox::new(source.share(), entry, capacity, may_have_thread);
        Ok(self.outbox.insert(outbox).clone())
    }

    /// One receive, after everything that goes before one: held-back output leaves if it would wait,
    /// and once the server drains, there is no waiting for a next request. `started`: since when a read
    /// has been going on that needs more.
    pub(super) fn receive(
        &mut self,
        room: &mut RecvBuf<'_>,
        started: Option<Instant>,
    ) -> io::Result<usize> {
        if !self.output.is_empty() {
            if let Some(count) = self.receive_at_once(room)? {
                return Ok(count);
            }
            self.send_output()?;
        }
        let idle = self.at_boundary && started.is_none();
        let watched = started.is_none() && self.is_left_to_reaper();
        self.show_wait(if idle { Activity::Idle } else { Activity::Receiving }, watched);
        if idle {
            // Looked at after the activity is set: a drain that began just before does not see this
            // request as idle, and does not wake it.
            if self.ticket.is_to_end() {
                self.ticket.set_activity(Activity::Running);
                return self.receive_at_once(room)?.ok_or_else(|| self.ticket.stop());
            }
        }
        let result = if watched {
            let result = self.receive_within(room, RecvTimeout::Never);
            result.map_err(|error| self.explain(error, Timeout::Idle, self.ticket.limits().idle))
        } else {
            self.receive_in_time(room, started)
        };
        self.ticket.show_activity(Activity::Running);
        result
    }

    /// Nothing but `Limits::idle` bounds the next wait. A socket that has been wrapped is not plain any more:
    /// its bound is the wrapper's to keep.
    fn is_left_to_reaper(&self) -> bool {
        let bounded = self.timeout.is_some() || self.deadlines.any();
        self.has_reaper && !bounded && self.connection.is_socket()
    }

    fn show_wait(&self, activity: Activity, watched: bool) {
        match activity {
            _ if watched => self.ticket.set_left_to_reaper(activity),
            // What else a request does, nobody decides anything by.
            Activity::Idle => self.ticket.set_activity(activity),
            _ => self.ticket.show_activity(activity),
        }
    }

    /// A receive whose bound has to be looked up or reckoned. It is kept out of the way of those that are left to
    /// the reaper, as `send_in_time` is of the usual send: see `SocketIo::recv`.
    #[inline(never)]
    fn receive_in_time(
        &mut self,
        room: &mut RecvBuf<'_>,
        started: Option<Instant>,
    ) -> io::Result<usize> {
        let ReadBound { bound, limit, after } = self.read_bound(started);
        if limit == Timeout::Idle {
            return self.receive_unless_idle(room, bound, after);
        }
        let result = self.receive_within(room, bound);
        // It has stopped in the middle, and may go on when it is answered.
        self.expects_more |= started.is_some() && result.is_err();
        result.map_err(|error| self.explain(error, limit, after))
    }

    /// What is there without waiting; none if that is nothing.
    #[inline(never)]
    fn receive_at_once(&mut self, room: &mut RecvBuf<'_>) -> io::Result<Option<usize>> {
        match self.receive_within(room, RecvTimeout::NOW) {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_no_more_for_now(&error) => Ok(None),
            Err(error) => Err(self.own(error)),
        }
    }

    // A part of its callers, so that a waiting thread has no frame for it.
    #[inline(always)]
    pub(super) fn receive_within(
        &mut self,
        room: &mut RecvBuf<'_>,
        bound: RecvTimeout,
    ) -> io::Result<usize> {
        match self.connection.receive(room, bound)? {
            0 => self.receive_nothing(room, bound),
            count => {
                if !self.connection.counts_itself() {
                    self.ticket.add_bytes_in(count);
                }
                self.at_boundary = false;
                Ok(count)
            }
        }
    }

    /// The end of input: the peer's, or one that was made here.
    #[cold]
    fn receive_nothing(&mut self, room: &mut RecvBuf<'_>, bound: RecvTimeout) -> io::Result<usize> {
        if self.ticket.is_silent() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.ticket.is_cut() {
            let between = self.at_boundary;
            return if between { Err(self.ticket.stop()) } else { self.receive_late(room, bound) };
        }
        self.saw_end = true;
        Ok(0)
    }

    /// A request has begun in the very moment in which a drain shut the input of its connection. What its
    /// peer goes on to send is still delivered over TCP, until the deadline of the drain or its own; see [`LateInput`] for how it is
    /// waited for. Where nothing tells of it, this looks each millisecond.
    fn receive_late(&mut self, room: &mut RecvBuf<'_>, bound: RecvTimeout) -> io::Result<usize> {
        let (drained, own) = (Instant::now().checked_add(self.ticket.limits().drain), bound.at());
        let until = earlier(drained, own);
        let late = self.connection.fileno().and_then(|fd| LateInput::new(fd).ok());
        while until.is_none_or(|until| Instant::now() < until) && !self.ticket.is_forced() {
            late.iter().for_each(LateInput::clear);
            let count = self.connection.receive(room, bound)?;
            if count > 0 {
                self.ticket.add_bytes_in(count);
                return Ok(count);
            }
            match &late {
                Some(late) => {
                    let comes = Waiting { fd: late.as_fd(), interest: Interest::Read, slot: None };
                    wait::any(&[comes], until)?;
                }
                None => wait::sleep(Duration::from_millis(1)),
            }
        }
        if own.is_some_and(|own| Instant::now() >= own) && !self.ticket.is_forced() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Err(self.ticket.stop())
    }

    /// The bound of one read: the handler's timeout or the server's limit, and never past the bound
    /// of the whole request. `started`: since when; none is now, which nobody has to look up.
    fn read_bound(&self, started: Option<Instant>) -> ReadBound {
        let limits = self.ticket.limits();
        let (limit, after) = match (self.timeout, started) {
            (Some(timeout), _) => (Timeout::Read, timeout),
            (None, Some(_)) => (Timeout::Read, limits.read),
            (None, None) => (Timeout::Idle, limits.idle),
        };
        if started.is_none() && !self.deadlines.any() {
            return ReadBound { bound: RecvTimeout::lasting(after), limit, after };
        }
        // A limit beyond what the clock can count is none.
        let at = started.unwrap_or_else(Instant::now).checked_add(after);
        match self.deadline() {
            Some(whole) if at.is_none_or(|at| whole.at <= at) => {
                let Deadline { at, limit, after } = whole;
                ReadBound { bound: RecvTimeout::Until(at), limit, after }
            }
            _ => {
                ReadBound { bound: at.map_or(RecvTimeout::Never, RecvTimeout::Until), limit, after }
            }
        }
    }

    pub(super) fn write_limit(&self) -> Duration {
        self.timeout.unwrap_or(self.ticket.limits().write)
    }

    pub(super) fn write_patience(&self) -> SendTimeout {
        SendTimeout { stall: self.write_limit(), until: self.deadline().map(|whole| whole.at) }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.output.len() + bytes.len() > self.wbufsize && !self.output.is_empty() {
            self.send_output()?;
        }
        if bytes.len() >= self.wbufsize {
            return self.send_once(bytes);
        }
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.wbufsize == 0 {
            return self.send_all(bytes);
        }
        until_all_is_taken(bytes, |rest| self.write(rest))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.send_output()?;
        }
        if self.connection.is_socket() {
            return Ok(());
        }
        let patience = self.write_patience();
        self.connection.flush(patience).map_err(|error| self.explain_write(error))
    }

    fn send_output(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let result = self.send_all(&output);
        if result.is_ok() {
            // Its memory serves the next buffer as well. After an error it is gone: what a second
            // flush would send is torn.
            self.output = output;
            self.output.clear();
        }
        result
    }

    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        until_all_is_taken(bytes, |rest| self.send_once(rest))
    }

    /// Each send has the whole limit: a peer that takes a little, again and again, is slow and not
    /// stalled; the bound of the whole request is for those.
    #[inline(always)]
    fn send_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ticket.show_activity(Activity::Sending);
        let result = if self.outbox.is_none() && !self.deadlines.any() {
            self.send_within(bytes, SendTimeout { stall: self.write_limit(), until: None })
        } else {
            self.send_in_time(bytes)
        };
        self.ticket.show_activity(Activity::Running);
        result.map_err(|error| self.explain_write(error))
    }

    /// A send within the bound of the whole request, or behind what others send.
    #[inline(never)]
    fn send_in_time(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let patience = self.write_patience();
        match &self.outbox {
            None => self.send_within(bytes, patience),
            Some(outbox) => outbox.write_all(bytes, patience).map(|()| bytes.len()),
        }
    }

    #[inline(always)]
    fn send_within(&mut self, bytes: &[u8], patience: SendTimeout) -> io::Result<usize> {
        let count = self.connection.send(bytes, patience)?;
        if !self.connection.counts_itself() {
            self.ticket.add_bytes_out(count);
        }
        Ok(count)
    }

    /// The descriptor, lent to somebody who may duplicate it.
    pub(super) fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.ticket.entry().lend();
        self.connection.lend()
    }
}

/// Hands on what is left of `bytes` until nothing is.
pub(super) fn until_all_is_taken(
    mut bytes: &[u8],
    mut take: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match take(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// How long one receive may wait, and what its error says if that was not enough.
struct ReadBound {
    bound: RecvTimeout,
    limit: Timeout,
    /// The length of the limit, for the message.
    after: Duration,
}
