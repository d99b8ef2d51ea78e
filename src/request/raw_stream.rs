//! [`RawStream`]: the connection below a wrapper. It keeps the request's limits, whatever the wrapper does.
//!
//! A wrapper (TLS, say) may be a user's code, and sees a [`Stream`] that behaves like a socket in blocking mode. This
//! stream counts the bytes, checks deadlines, drain and cuts, and notes its events in a [`RawStatus`]. The request
//! reads the notes when the wrapper's call has returned: see `raw_stream_status.rs`.
//!
//! A read goes through these steps, and each may end it:
//!
//! 1. Bytes that the request had read ahead are given first.
//! 2. Above another wrapper nothing more is done here: the raw stream below that wrapper keeps the limits.
//! 3. The wait is shown in the live list, and only then a drain is checked for.
//! 4. One receive, within the timeout of the request's call.
//! 5. No bytes: the reason is a cut, or the peer's end.
//!
//! A write is tried without waiting. Only if there is no room does it announce the wait, and look for a cut again.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Stream};
use super::io_error::is_no_more_for_now;
use super::raw_stream_status::RawStatus;
use super::read_buffer::Chunk;
use super::{LateInput, Ticket};
use crate::live::{Activity, Cut};
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::RecvBuf;
use crate::wait;
use crate::write_stall::{SendTimeout, earlier};

/// The connection below the wrapper. It closes with the raw stream, except for a socket, of which the status has a
/// share.
enum Below {
    /// The usual case. The wrapper sees a blocking socket; on a coroutine's thread the waits park all the same.
    Socket(SocketIo),
    /// A stream of a user's transport. It keeps the deadline that is set before each call.
    Stream(Box<dyn Stream>),
    /// Another wrapper. Its own raw stream keeps the limits, and shares its status with this one.
    Wrapper(Box<dyn Stream>),
}

/// The connection, as a wrapper sees it.
pub(super) struct RawStream {
    /// The connection as it was before the wrapper.
    below: Below,
    /// Bytes that the request had read ahead: the wrapper's first input.
    ahead: Chunk,
    /// A deadline that the wrapper has set. The request sets none here: its own deadlines are in the status, and hold
    /// whether or not the wrapper passes them on.
    deadline: Option<Instant>,
    /// The notes for the request.
    status: Arc<RawStatus>,
}

impl RawStream {
    /// Takes a connection for a wrapper that is about to be made; `until` bounds the making. None: there is no
    /// connection. The caller puts the wrapper in the place of `Gone`, which is left there.
    pub(super) fn take(
        connection: &mut Connection,
        ahead: Chunk,
        ticket: &Ticket,
        until: Option<Instant>,
    ) -> Option<(Self, Arc<RawStatus>)> {
        // `Gone` stands in for the connection while it is taken apart.
        let (mut below, status) = match std::mem::replace(connection, Connection::Gone(None)) {
            Connection::Socket(socket) => {
                let status = RawStatus::new(ticket, Some(socket.share()));
                (Below::Socket(socket), status)
            }
            Connection::Split(socket) => {
                let status = RawStatus::new(ticket, Some(socket.share()));
                // The request is borrowed whole, so both halves are dropped. A half that was leaked with `forget`
                // still has its share of the socket.
                let socket =
                    Arc::try_unwrap(socket).unwrap_or_else(|socket| SocketIo::new(socket.share()));
                (Below::Socket(socket), status)
            }
            Connection::Other(stream) => (Below::Stream(stream), RawStatus::new(ticket, None)),
            Connection::Wrapped { stream, status } => (Below::Wrapper(stream), status),
            Connection::Sealed { stream, status } => (Below::Wrapper(stream.into_stream()), status),
            Connection::Gone(status) => {
                *connection = Connection::Gone(status);
                return None;
            }
        };
        if let Below::Wrapper(stream) = &mut below {
            // The deadline of the last call does not hold for the next wrapper: the raw stream at the bottom gets its
            // bounds from the status. A stream that has dropped its raw stream has no other bound.
            stream.set_deadline(if status.has_raw() { None } else { until });
        }
        status.begin_handshake(ahead.len(), until);
        // If the wrapper fails, even by a panic, this ends the connection.
        *connection = Connection::Gone(Some(Arc::clone(&status)));
        let raw = Self { below, ahead, deadline: None, status: Arc::clone(&status) };
        Some((raw, status))
    }

    /// The bounds of the request's present call, together with the wrapper's own deadline. Above another wrapper they
    /// are not used, because the raw stream below that wrapper keeps them.
    fn timeout(&self) -> SendTimeout {
        let timeout = *self.status.timeout.lock();
        SendTimeout { until: earlier(timeout.until, self.deadline), ..timeout }
    }

    /// One receive, which checks neither drain nor cut. `until` bounds it; None means for ever.
    fn receive(&mut self, buf: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        match &mut self.below {
            Below::Socket(socket) => {
                // A program has asked for the descriptor: from then on the socket's own timeout is not used.
                if self.status.entry.is_lent() {
                    socket.lend();
                }
                socket.recv(&mut RecvBuf::from(buf), RecvTimeout::until(until))
            }
            Below::Stream(stream) => {
                // The same moment each time, so that signals do not extend it.
                stream.set_deadline(until);
                uninterrupted(|| stream.read(buf))
            }
            Below::Wrapper(stream) => uninterrupted(|| stream.read(buf)),
        }
    }

    /// Takes the bytes that have come, without waiting: a moment that has passed bounds the receive. If there are none,
    /// the error is `TimedOut`.
    fn receive_at_once(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, Some(Instant::now()))
    }

    /// Gives bytes that the request had read before the wrapper came: no system call, and no limit.
    fn read_ahead(&mut self, buf: &mut [u8]) -> usize {
        let count = self.ahead.len().min(buf.len());
        buf[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.consume(count);
        self.status.read_ahead(self.ahead.len());
        count
    }

    /// Finds out why no bytes have come: the peer has ended its output, or this side has ended the input.
    ///
    /// | the cut | the wrapper sees |
    /// |---|---|
    /// | none | the peer's end, zero bytes |
    /// | `Silent`, `Crowded` | an error of kind `TimedOut` |
    /// | `Drained`, in the middle of something | the bytes that still come, and then the error `Stopping` |
    /// | any other | the error `Stopping` |
    fn receive_nothing(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.status.entry.cut() {
            // Nobody on this side has ended the input.
            None => {
                self.status.ended.set();
                Ok(0)
            }
            Some(Cut::Silent | Cut::Crowded) => Err(self.status.time_out()),
            // The wrapper is in the middle of a record: the rest may still come, although the input is shut down.
            Some(Cut::Drained) if self.status.entry.activity() == Activity::Receiving => {
                self.receive_late(buf)
            }
            Some(_) => Err(self.status.stop()),
        }
    }

    /// Receives the rest of a record, as `BoundedIo::receive_late` does of a request. It tries every millisecond: the
    /// few connections under a wrapper that a drain meets in the middle of a record are not worth an epoll set each.
    fn receive_late(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (began, own) = (Instant::now(), self.timeout().at());
        while began.elapsed() < self.status.limits.drain && !self.status.is_cut_off() {
            if own.is_some_and(|own| Instant::now() >= own) {
                return Err(self.status.time_out());
            }
            // The input is shut down, so poll(2) would always say that it is readable.
            wait::sleep(Duration::from_millis(1));
            let rest = LateInput::of(&self.status.entry);
            let count = self.receive_at_once(buf)?;
            if count > 0 {
                self.status.received(count);
                return Ok(count);
            }
            match rest {
                LateInput::MayArrive => {}
                LateInput::EndedByPeer => {
                    self.status.ended.set();
                    return Ok(0);
                }
                LateInput::EndedHere => break,
            }
        }
        Err(self.status.stop())
    }

    /// One send, within both bounds of the timeout. After a cut only the farewell is sent.
    fn transmit(&mut self, buf: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        if !self.status.may_send() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match &mut self.below {
            Below::Socket(socket) => socket.send(buf, || timeout),
            Below::Stream(stream) => {
                stream.set_deadline(timeout.at());
                uninterrupted(|| stream.write(buf))
            }
            // `write` does not come here: it passes such bytes on itself.
            Below::Wrapper(stream) => uninterrupted(|| stream.write(buf)),
        }
    }

    /// A write that has to wait for room. It announces the wait and then looks for a cut; a thread that cuts the
    /// connection stores the cut and then looks for the announcement: see `live/entry/ending.rs`.
    fn write_patiently(&mut self, buf: &[u8]) -> io::Result<usize> {
        let timeout = self.timeout();
        self.status.entry.begin_write_wait();
        let result = self.transmit(buf, timeout);
        self.status.entry.end_write_wait();
        result
    }
}

impl Read for RawStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.ahead.is_empty() {
            // Bytes that were read ahead come before any that are still in the socket.
            return Ok(self.read_ahead(buf));
        }
        if matches!(self.below, Below::Wrapper(_)) {
            // The raw stream below that wrapper keeps the limits and checks the drain.
            return self.receive(buf, None);
        }
        // Asked once for each receive, because the first receive of a call gets a different answer from later ones.
        let is_reaped = self.status.is_reaped();
        // The wait is shown first, and only then a drain is checked for: see the diagram in `bounded_io.rs`.
        self.status.begin_wait();
        let must_not_wait = self.status.must_not_wait();
        let result = if must_not_wait {
            self.receive_at_once(buf)
        } else if is_reaped && self.deadline.is_none() {
            self.receive(buf, None)
        } else {
            // A wrapper may read in the middle of a write or of its farewell. Such a read may wait as long as that
            // write.
            let until = self.timeout().at();
            self.receive(buf, until)
        };
        match result {
            Ok(0) => self.receive_nothing(buf),
            Ok(count) => {
                self.status.received(count);
                Ok(count)
            }
            // A drain has begun, and nothing has come: the read ends as that of a request without a wrapper does.
            Err(error) if must_not_wait && is_no_more_for_now(&error) => Err(self.status.stop()),
            Err(error) => Err(self.status.fail(error)),
        }
    }
}

impl Write for RawStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Below::Wrapper(stream) = &mut self.below {
            return uninterrupted(|| stream.write(buf));
        }
        if self.status.has_waited_in_vain() {
            // Without this, a wrapper that goes on after a failed write would wait the whole limit again.
            return Err(self.status.time_out());
        }
        // The wrapper may write in the middle of a read (a new handshake), and then goes on waiting for the peer.
        self.status.end_first_wait();
        let before = self.status.entry.activity();
        self.status.entry.show_activity(Activity::Sending);
        // Most writes find room. Only a wait needs an announcement.
        let result = match self.transmit(buf, SendTimeout::NONE) {
            Err(error) if is_no_more_for_now(&error) => self.write_patiently(buf),
            result => result,
        };
        // Sequentially consistent, because `before` may be `Idle`, which a drain acts on.
        self.status.entry.set_activity(before);
        self.status.sent(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.below {
            // A socket holds nothing back.
            Below::Socket(_) => Ok(()),
            Below::Stream(stream) | Below::Wrapper(stream) => stream.flush(),
        }
    }
}

impl Stream for RawStream {
    /// Sets a deadline of the wrapper's own. The deadlines of the request hold in any case.
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        if let Below::Wrapper(stream) = &mut self.below {
            stream.set_deadline(deadline);
        }
    }

    /// Passes the end on: the wrapper has sent its farewell by now. (After the wrapper's `shutdown` the request ends the
    /// output again, in case the wrapper does not pass the end on.)
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        match &mut self.below {
            Below::Socket(socket) => socket.shutdown(how),
            Below::Stream(stream) | Below::Wrapper(stream) => stream.shutdown(how),
        }
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match &self.below {
            Below::Socket(socket) => {
                // The caller may copy it and move bytes that nobody counts here.
                self.status.entry.lend();
                Some(socket.lend())
            }
            Below::Stream(stream) | Below::Wrapper(stream) => stream.fileno(),
        }
    }
}

/// Repeats a call that a signal has interrupted: a user's stream may pass EINTR on, as std's do. The error must not
/// reach the wrapper. The wrapper may already have encrypted the bytes of a write, the request would repeat the
/// write, and the bytes would be sent twice.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Tells the request that the connection is no longer its own, unless another raw stream below still has it.
impl Drop for RawStream {
    fn drop(&mut self) {
        if !matches!(self.below, Below::Wrapper(_)) {
            self.status.dropped.set();
        }
    }
}
