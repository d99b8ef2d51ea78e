//! [`OutputHalf`]: the output of a connection whose input is used apart.
//!
//! An output half sends in one of two ways ([`Way`]):
//!
//! ```text
//! plain socket, no outbox    sends by itself: the socket has one sender, this half
//! outbox or TLS              appends to the outbox's queue and waits until its own bytes are sent
//! ```
//!
//! One thread or coroutine at a time uses this half, and another may use the input half. The two halves share no
//! lock. In the entry of the live list each writes its own numbers. [`SplitNotes`] is written by this half, and read by
//! the request when both halves are gone; a read that meets an end of input reads it, too.

use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bounded_io::BoundedIo;
use super::bounded_output::until_all_is_taken;
use super::io_error::{is_no_more_for_now, limit_of_write, mark_loss};
use super::outbox::Outbox;
use super::raw_stream_status::Flag;
use super::stream::write_formatted;
use super::tls_seam::Seal;
use super::{Deadline, StreamRequest};
use crate::limits::Limits;
use crate::live::{Activity, Entry};
use crate::outgoing::HalfClose;
use crate::socket_io::SocketIo;
use crate::sys;
use crate::timed_out::{TimedOut, Timeout};
use crate::write_stall::{SendTimeout, WriteStall};

/// The output of a request, by [`StreamRequest::split`]. Each write is a send, within the limits of the request.
///
/// [`shutdown_write`](HalfClose::shutdown_write) ends the output, and the input half goes on.
/// [`close`](HalfClose::close) ends both, for a handler that gives up: a read of the input half then fails with an
/// error of kind `ConnectionAborted`, which is no fault of the peer. The peer sees a cut connection; under TLS it gets
/// no close_notify, so that it does not take the output for complete.
pub struct OutputHalf<'a> {
    /// The way in which bytes leave. It is chosen when the request is split.
    way: Way,
    /// The request's entry in the live list. This half counts sent bytes in it, shows its activity, and notes a loss.
    entry: Arc<Entry>,
    /// The limits of the request, which never change.
    limits: Arc<Limits>,
    /// The handler's own timeout, in place of the write limit: the request's at first, then this half's own.
    timeout: Option<Duration>,
    /// The deadline of the whole request, as it was at the split.
    server: Option<Deadline>,
    /// The handler's own deadline: the request's at first, then this half's own.
    handler: Option<Deadline>,
    /// How this half has ended, for the request, which still has to end the connection.
    notes: Arc<SplitNotes>,
    /// The input half borrows the request itself, for the same time.
    _request: PhantomData<&'a mut StreamRequest>,
}

/// The way in which bytes leave.
pub(super) enum Way {
    /// This half sends by itself.
    Socket(Arc<SocketIo>),
    /// The outbox sends: behind the messages that are queued already, and encrypted under TLS. `fd`: the socket below, to
    /// be shut down. `seal`: under TLS, for the close_notify.
    Outbox { outbox: Outbox, fd: Arc<OwnedFd>, seal: Option<Arc<dyn Seal>> },
}

/// How the output half has ended. The request reads these notes when it goes on after the half.
#[derive(Default)]
pub(super) struct SplitNotes {
    /// The handler has ended the output. (This flag and the next one are relaxed: the end of `join`, or other code that
    /// brings the halves together, orders the accesses.)
    pub(super) ended: Flag,
    /// Output was given up.
    pub(super) dropped: Flag,
    /// The handler has closed the connection, in both directions. Sequentially consistent, because a read on another
    /// thread decides by it whose end it has met.
    closed: AtomicBool,
}

impl SplitNotes {
    /// The handler has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Notes the handler's `close`. Called before the connection is shut down: a read that finds the end of input reads
    /// this note, and must not take the end for the peer's.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ended.set();
        // Unsent output is dropped, and no close_notify may say that the output was complete.
        self.dropped.set();
    }
}

impl OutputHalf<'_> {
    /// Makes the half. The caller borrows the request of `io` for as long as the half lives.
    pub(super) fn new(way: Way, io: &BoundedIo, notes: Arc<SplitNotes>) -> Self {
        let (server, handler) = io.deadlines.both();
        Self {
            way,
            entry: Arc::clone(io.ticket.entry()),
            limits: io.ticket.share_limits(),
            timeout: io.timeout,
            server,
            handler,
            notes,
            _request: PhantomData,
        }
    }

    /// As [`StreamRequest::set_timeout`], for writes.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// As [`StreamRequest::deadline_in`], for writes.
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        // A deadline beyond the clock's range means no deadline.
        self.handler = after.into().and_then(|after| Deadline::after(Timeout::Deadline, after));
    }

    /// How many bytes of the request have been sent so far, as [`StreamRequest::bytes_sent`] says.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.entry.clear_bytes().1
    }

    /// How long a write may make no progress.
    fn write_limit(&self) -> Duration {
        self.timeout.unwrap_or(self.limits.write)
    }

    fn deadline(&self) -> Option<Deadline> {
        Deadline::earlier(self.server, self.handler)
    }

    fn write_timeout(&self) -> SendTimeout {
        SendTimeout { stall: self.write_limit(), until: self.deadline().map(|whole| whole.at) }
    }

    /// One write: all bytes through an outbox, otherwise as many as there is room for.
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // This half has a flag of its own: the activity in the list is that of the input half, by which a drain
        // decides.
        self.entry.show_output_half(Activity::Sending);
        let timeout = self.write_timeout();
        let send_by = |outbox: &Outbox| outbox.write_all(bytes, timeout).map(|()| bytes.len());
        let result = match &self.way {
            Way::Socket(socket) => {
                socket.send(bytes, || timeout).inspect(|count| self.entry.add_bytes_out(*count))
            }
            Way::Outbox { outbox, seal: None, .. } => send_by(outbox),
            Way::Outbox { outbox, .. } => self.while_it_may_be_cut(|| send_by(outbox)),
        };
        self.entry.show_output_half(Activity::Running);
        result.map_err(|error| self.explain(error))
    }

    /// Runs a wait above TLS. A cut usually leaves the output open, for the worker's close_notify; during this wait a
    /// cut ends both directions. The order matters: see `live/entry/ending.rs`.
    fn while_it_may_be_cut<R>(&self, wait: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.entry.begin_write_wait();
        // A cut that came before the announcement has left the output open, and nothing would end this wait.
        let result =
            if self.entry.is_cut_off() { Err(io::ErrorKind::BrokenPipe.into()) } else { wait() };
        self.entry.end_write_wait();
        result
    }

    /// Sends the due bytes, and then the end.
    fn end_output(&self) -> io::Result<()> {
        let timeout = self.write_timeout();
        match &self.way {
            // Every write was sent before it returned, so nothing is due.
            Way::Socket(socket) => socket.shutdown(Shutdown::Write),
            Way::Outbox { outbox, fd, seal } => {
                // Messages that the outbox has taken are output as well, and nothing can follow the end.
                outbox.finish(timeout).inspect_err(|_| self.notes.dropped.set())?;
                if let Some(seal) = seal {
                    self.while_it_may_be_cut(|| send_farewell(&**seal, fd, timeout))?;
                }
                sys::shutdown(fd.as_fd(), Shutdown::Write)
            }
        }
    }

    /// Explains an error in the way of the request's own writes: see `io_error.rs`.
    #[cold]
    fn explain(&self, error: io::Error) -> io::Error {
        // The handler's own `close` has ended a write of another thread: no fault of the peer.
        if self.notes.is_closed() {
            return closed_here();
        }
        if is_no_more_for_now(&error) {
            let (limit, after) = limit_of_write(self.deadline(), self.write_limit());
            return TimedOut::error(self.entry.owner(), limit, after);
        }
        let is_handlers = error.kind() == io::ErrorKind::BrokenPipe && self.notes.ended.is_set();
        mark_loss(&self.entry, error, is_handlers)
    }
}

/// The error of calls after a `close` from this side.
pub(super) fn closed_here() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "this side has closed the connection")
}

/// Sends TLS's close_notify, and waits for room for it. After a partial send the seal goes on where it was.
fn send_farewell(seal: &dyn Seal, fd: &OwnedFd, timeout: SendTimeout) -> io::Result<()> {
    let mut stall = None;
    loop {
        match seal.end(fd.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        // Made only when needed: close_notify usually fits, and a stall begins with a system call.
        let stall = stall.get_or_insert_with(|| WriteStall::begin(fd.as_fd(), timeout));
        stall.wait(fd.as_fd(), None)?;
    }
}

impl Write for OutputHalf<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        until_all_is_taken(bytes, |rest| self.send(rest))
    }

    /// Sends the whole text at once, as the request does.
    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        write_formatted(arguments, |text| self.write_all(text))
    }

    /// Does nothing: nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HalfClose for OutputHalf<'_> {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.entry.show_output_half(Activity::Sending);
        let ended = self.end_output();
        self.entry.show_output_half(Activity::Running);
        // The flag is set after this, because EPIPE from the end itself is not the handler's mistake.
        let ended = ended.map_err(|error| self.explain(error));
        self.notes.ended.set();
        ended
    }

    fn close(&mut self) {
        // Noted first, because the shutdown wakes the reader of the other half at once.
        self.notes.close();
        // It fails only if the connection is broken already.
        let _ = match &self.way {
            Way::Socket(socket) => socket.shutdown(Shutdown::Both),
            Way::Outbox { fd, .. } => sys::shutdown(fd.as_fd(), Shutdown::Both),
        };
    }
}

impl fmt::Debug for OutputHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputHalf")
            .field("client_address", self.entry.client_address())
            .finish_non_exhaustive()
    }
}
