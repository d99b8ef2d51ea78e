//! The connection below a wrapper: raw bytes, under the limits of the request all the same.
//!
//! A wrapper (TLS, say) is somebody else's code, and sees a [`Stream`] that behaves like a socket in blocking mode.
//! What the request knows of its peer, it knows from below the wrapper: how many bytes have come and gone, that the
//! peer has left, that a limit has passed, that the server is stopping. So the [`RawStream`] stream and the request share a
//! [`RawStatus`], and the request asks that, whatever the wrapper has made of it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::{Connection, Stream};
use super::io_error::is_no_more_for_now;
use super::read_buffer::Chunk;
use super::{Ticket, is_to_end, stop};
use crate::context::ServerContext;
use crate::error::Stopping;
use crate::limits::Limits;
use crate::live::{Activity, Cut, Entry};
use crate::peer_fault::{PeerFault, find, is_loss};
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::{self, RecvBuf};
use crate::wait;
use crate::write_stall::{SendTimeout, earlier};

/// What a request and the raw stream below its wrapper have in common.
pub(super) struct RawStatus {
    entry: Arc<Entry>,
    context: Arc<ServerContext>,
    limits: Arc<Limits>,
    /// The socket; none under a stream that is none of ours. Kept beyond the wrapper, which may fail and leave its peer
    /// without an end.
    fd: Option<Arc<OwnedFd>>,
    /// How long the calls may wait that the request's present one leads to.
    patience: Mutex<SendTimeout>,
    /// The wrapper is being made.
    handshaking: AtomicBool,
    /// So many bytes that the request has read ahead are not yet the wrapper's.
    ahead: AtomicUsize,
    /// The wrapper has been given something of the peer's.
    heard: AtomicBool,
    /// The peer has ended its output.
    ended: AtomicBool,
    /// The connection is lost.
    lost: AtomicBool,
    /// The present call has been ended by a limit.
    timed_out: AtomicBool,
    /// The last write has waited for room in vain.
    stuck: AtomicBool,
    /// A write of the request has waited in vain, and the wrapper has kept that to itself: what it took, it has.
    concealed: AtomicBool,
    /// The present call has been ended by a drain.
    stopped: AtomicBool,
    /// The request is at its end: what the wrapper still has to say, it may say.
    leaving: AtomicBool,
    /// The raw stream has been dropped.
    dropped: AtomicBool,
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

fn set(flag: &AtomicBool, now: bool) {
    flag.store(now, Ordering::Relaxed);
}

impl RawStatus {
    fn new(ticket: &Ticket, fd: Option<Arc<OwnedFd>>) -> Self {
        let no = || AtomicBool::new(false);
        Self {
            entry: Arc::clone(ticket.entry()),
            context: Arc::clone(&ticket.context),
            limits: Arc::clone(&ticket.registration.limits),
            fd,
            patience: Mutex::new(SendTimeout::until(None)),
            handshaking: no(),
            ahead: AtomicUsize::new(0),
            heard: no(),
            ended: no(),
            lost: no(),
            timed_out: no(),
            stuck: no(),
            concealed: no(),
            stopped: no(),
            leaving: no(),
            dropped: no(),
        }
    }

    /// A wrapper is about to be made, until then at most.
    fn begin_handshake(&self, ahead: usize, until: Option<Instant>) {
        self.begin_call(SendTimeout::until(until));
        self.ahead.store(ahead, Ordering::Relaxed);
        set(&self.heard, false);
        set(&self.handshaking, true);
    }

    /// The wrapper is made, or not.
    pub(super) fn end_handshake(&self, is_wrapped: bool) {
        set(&self.handshaking, false);
        self.entry.show_activity(Activity::Running);
        if is_wrapped {
            self.entry.set_wrapped();
        }
    }

    /// A read or a write of the request begins.
    pub(super) fn begin_call(&self, patience: SendTimeout) {
        *self.patience.lock() = patience;
        set(&self.timed_out, false);
        set(&self.stopped, false);
    }

    /// Says what a wrapper's error is due to, if that is known here. `reading`: it may be due to what has come, or to
    /// an end.
    pub(super) fn explain(&self, error: io::Error, reading: bool) -> io::Error {
        let owner = self.entry.owner();
        if find::<Stopping>(&error).is_some() || PeerFault::find(&error).is_some() {
            error
        } else if let Some(interruption) = self.interruption() {
            interruption
        } else if is(&self.lost) || (reading && is(&self.ended)) {
            self.entry.note_loss(error.kind());
            PeerFault::gone(owner, error)
        } else if reading && is(&self.heard) && error.kind() == io::ErrorKind::InvalidData {
            PeerFault::garbled(owner, error)
        } else {
            error
        }
    }

    /// What has ended the present call, though the wrapper takes it for an end of input.
    pub(super) fn interruption(&self) -> Option<io::Error> {
        if is(&self.stopped) {
            Some(stop(&self.entry))
        } else {
            is(&self.timed_out).then(|| io::ErrorKind::TimedOut.into())
        }
    }

    /// A write of the request has ended well, by the wrapper's word. One that has waited in vain all the same is told
    /// by the next one, as if it had been that one's.
    pub(super) fn end_write(&self) {
        if is(&self.timed_out) {
            set(&self.concealed, true);
        }
    }

    /// Whether the last write has waited for room in vain.
    pub(super) fn is_stuck(&self) -> bool {
        is(&self.stuck)
    }

    /// From here on the wrapper takes its leave. What has been cut off from here has no time for it, nor has a peer
    /// that has taken nothing for long enough already.
    pub(super) fn begin_leave(&self, patience: SendTimeout) {
        let at_once = self.is_cut_off() || self.is_stuck();
        self.begin_call(if at_once { SendTimeout::NONE } else { patience });
        set(&self.concealed, false);
        set(&self.leaving, true);
    }

    /// The peer sees the end, whatever the wrapper has done about it; unless the wrapper has let go of the connection,
    /// which is then somebody else's.
    pub(super) fn end_output(&self, is_wrapped: bool) -> io::Result<()> {
        let Some(fd) = self.own_fd(is_wrapped) else { return Ok(()) };
        sys::shutdown(fd.as_fd(), if self.is_cut_off() { Shutdown::Both } else { Shutdown::Write })
    }

    /// The socket, if it is still the request's. A wrapper that could not be made leaves it so.
    pub(super) fn own_fd(&self, is_wrapped: bool) -> Option<&Arc<OwnedFd>> {
        self.fd.as_ref().filter(|_| !is_wrapped || !is(&self.dropped))
    }

    /// Whether there is still a raw stream, that the wrapper's calls may come down to.
    pub(super) fn has_raw(&self) -> bool {
        !is(&self.dropped)
    }

    pub(super) fn has_ended(&self) -> bool {
        is(&self.ended)
    }

    /// Whether the wrapper has left something of what the request had read ahead.
    pub(super) fn has_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) > 0
    }

    fn is_cut_off(&self) -> bool {
        matches!(self.entry.cut(), Some(Cut::Forced | Cut::Closed))
    }

    /// A wait for the peer begins. A handshake is the beginning of something, which a drain may cut off.
    fn begin_wait(&self) {
        if is(&self.handshaking) {
            self.entry.set_activity(Activity::Idle);
        }
    }

    /// Whether it is nothing to wait for: looked at after the activity is set, as in `BoundedIo::receive`.
    fn must_not_wait(&self) -> bool {
        self.entry.activity() == Activity::Idle && is_to_end(&self.context, &self.entry)
    }

    fn received(&self, count: usize) {
        self.entry.add_bytes_in(count);
        set(&self.heard, true);
        if is(&self.handshaking) {
            self.entry.show_activity(Activity::Running);
        } else if self.entry.activity() == Activity::Idle {
            // A part of something has come, and the wrapper waits for its rest.
            self.entry.show_activity(Activity::Receiving);
        }
    }

    /// An error of the connection itself.
    fn fail(&self, error: io::Error) -> io::Error {
        if is_no_more_for_now(&error) {
            set(&self.timed_out, true);
            return io::ErrorKind::TimedOut.into();
        }
        if !is_loss(&error) || PeerFault::find(&error).is_some() {
            return error;
        }
        set(&self.lost, true);
        self.entry.note_loss(error.kind());
        PeerFault::gone(self.entry.owner(), error)
    }

    fn stop(&self) -> io::Error {
        set(&self.stopped, true);
        stop(&self.entry)
    }
}

/// What is below the wrapper.
enum Below {
    Socket(SocketIo),
    /// A stream of a transport of somebody's own.
    Stream(Box<dyn Stream>),
    /// Another wrapper, whose own raw stream has the status to look after.
    Wrapper(Box<dyn Stream>),
}

/// The connection, as a wrapper has it.
pub(super) struct RawStream {
    below: Below,
    /// What the request had read ahead: the wrapper's first input.
    ahead: Chunk,
    /// The wrapper's own bound. None is set for it: those of the request stand in the status, and end with what they are
    /// of, whether or not the wrapper passes on the deadlines that follow.
    deadline: Option<Instant>,
    status: Arc<RawStatus>,
}

impl RawStream {
    /// Takes a connection for a wrapper that is to be made until then at most. None: there is none to take.
    pub(super) fn take(
        connection: &mut Connection,
        ahead: Chunk,
        ticket: &Ticket,
        until: Option<Instant>,
    ) -> Option<(Self, Arc<RawStatus>)> {
        let (below, status) = match std::mem::replace(connection, Connection::Gone(None)) {
            Connection::Socket(source) => {
                let status = RawStatus::new(ticket, Some(source.share()));
                (Below::Socket(source), Arc::new(status))
            }
            Connection::Other(stream) => {
                (Below::Stream(stream), Arc::new(RawStatus::new(ticket, None)))
            }
            Connection::Wrapped { mut stream, status } => {
                // The deadline of the last call is none of the next wrapper's. A stream that has let go of the raw one
                // has nothing else to bound it.
                stream.set_deadline(if status.has_raw() { None } else { until });
                (Below::Wrapper(stream), status)
            }
            Connection::Gone(status) => {
                *connection = Connection::Gone(status);
                return None;
            }
        };
        status.begin_handshake(ahead.len(), until);
        // If the wrapper fails, by a panic too, this is what ends the connection.
        *connection = Connection::Gone(Some(Arc::clone(&status)));
        let raw = Self { below, ahead, deadline: None, status: Arc::clone(&status) };
        Some((raw, status))
    }

    fn patience(&self) -> SendTimeout {
        let patience = *self.status.patience.lock();
        SendTimeout { until: earlier(patience.until, self.deadline), ..patience }
    }

    fn receive(&mut self, buf: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        match &mut self.below {
            Below::Socket(source) => {
                if self.status.entry.is_lent() {
                    source.lend();
                }
                source.recv(
                    &mut RecvBuf::from(buf),
                    until.map_or(RecvTimeout::Never, RecvTimeout::Until),
                )
            }
            Below::Stream(stream) => {
                stream.set_deadline(until);
                stream.read(buf)
            }
            Below::Wrapper(stream) => stream.read(buf),
        }
    }

    fn receive_at_once(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, Some(Instant::now()))
    }

    fn read_ahead(&mut self, buf: &mut [u8]) -> usize {
        let count = self.ahead.len().min(buf.len());
        buf[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.consume(count);
        set(&self.status.heard, true);
        self.status.ahead.store(self.ahead.len(), Ordering::Relaxed);
        count
    }

    /// A receive that has come to nothing: the peer has ended its output, or we have ended ours.
    fn receive_nothing(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.status.entry.cut() {
            None => {
                set(&self.status.ended, true);
                Ok(0)
            }
            Some(Cut::Silent) => Err(self.status.fail(io::ErrorKind::TimedOut.into())),
            Some(Cut::Drained) if self.status.entry.activity() == Activity::Receiving => {
                self.receive_late(buf)
            }
            Some(_) => Err(self.status.stop()),
        }
    }

    /// See `BoundedIo::receive_late`.
    fn receive_late(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (began, own) = (Instant::now(), self.patience().at());
        while began.elapsed() < self.status.limits.drain && !self.status.is_cut_off() {
            if own.is_some_and(|own| Instant::now() >= own) {
                return Err(self.status.fail(io::ErrorKind::TimedOut.into()));
            }
            wait::sleep(Duration::from_millis(1));
            let count = self.receive_at_once(buf)?;
            if count > 0 {
                self.status.received(count);
                return Ok(count);
            }
        }
        Err(self.status.stop())
    }

    fn transmit(&mut self, buf: &[u8], patience: SendTimeout) -> io::Result<usize> {
        match &mut self.below {
            Below::Socket(source) => source.send(buf, patience),
            Below::Stream(stream) => {
                stream.set_deadline(patience.at());
                stream.write(buf)
            }
            Below::Wrapper(stream) => stream.write(buf),
        }
    }

    fn write_under_limits(&mut self, buf: &[u8]) -> io::Result<usize> {
        // Nor does a wrapper that tries again within one call wait once more.
        let is_over = self.status.is_stuck() && is(&self.status.timed_out);
        if self.status.concealed.swap(false, Ordering::Relaxed) || is_over {
            return Err(self.status.fail(io::ErrorKind::TimedOut.into()));
        }
        let before = self.status.entry.activity();
        self.status.entry.show_activity(Activity::Sending);
        let result = match self.transmit_if_allowed(buf, SendTimeout::NONE) {
            Err(error) if is_no_more_for_now(&error) => self.write_patiently(buf),
            result => result,
        };
        self.status.entry.set_activity(before);
        set(&self.status.stuck, result.as_ref().is_err_and(is_no_more_for_now));
        match result {
            Ok(count) => {
                self.status.entry.add_bytes_out(count);
                Ok(count)
            }
            Err(error) => Err(self.status.fail(error)),
        }
    }

    /// A write that has to wait for room. That it waits is said before it is looked whether the connection has been cut
    /// off: whoever cuts it off asks for it afterwards, and ends the wait.
    fn write_patiently(&mut self, buf: &[u8]) -> io::Result<usize> {
        let patience = self.patience();
        self.status.entry.set_waits_to_write(true);
        let result = self.transmit_if_allowed(buf, patience);
        self.status.entry.set_waits_to_write(false);
        result
    }

    /// What has been cut off sends nothing more but its farewell.
    fn transmit_if_allowed(&mut self, buf: &[u8], patience: SendTimeout) -> io::Result<usize> {
        if self.status.is_cut_off() && !is(&self.status.leaving) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.transmit(buf, patience)
    }
}

impl Read for RawStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.ahead.is_empty() {
            return Ok(self.read_ahead(buf));
        }
        if matches!(self.below, Below::Wrapper(_)) {
            return self.receive(buf, None);
        }
        self.status.begin_wait();
        let must_not_wait = self.status.must_not_wait();
        let result = if must_not_wait {
            self.receive_at_once(buf)
        } else {
            // In the middle of a write, or of a farewell, a wrapper may read as well: as long as those may stand still.
            let until = self.patience().at();
            self.receive(buf, until)
        };
        match result {
            Ok(0) => self.receive_nothing(buf),
            Ok(count) => {
                self.status.received(count);
                Ok(count)
            }
            Err(error) if must_not_wait && is_no_more_for_now(&error) => Err(self.status.stop()),
            Err(error) => Err(self.status.fail(error)),
        }
    }
}

impl Write for RawStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Below::Wrapper(stream) = &mut self.below {
            return stream.write(buf);
        }
        self.write_under_limits(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.below {
            Below::Socket(_) => Ok(()),
            Below::Stream(stream) | Below::Wrapper(stream) => stream.flush(),
        }
    }
}

impl Stream for RawStream {
    /// The wrapper's own bound. Those of the request hold in any case.
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        if let Below::Wrapper(stream) = &mut self.below {
            stream.set_deadline(deadline);
        }
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        match &mut self.below {
            Below::Socket(source) => source.shutdown(how),
            Below::Stream(stream) | Below::Wrapper(stream) => stream.shutdown(how),
        }
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match &self.below {
            Below::Socket(source) => {
                self.status.entry.lend();
                Some(source.lend())
            }
            Below::Stream(stream) | Below::Wrapper(stream) => stream.fileno(),
        }
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        if !matches!(self.below, Below::Wrapper(_)) {
            set(&self.status.dropped, true);
        }
    }
}
