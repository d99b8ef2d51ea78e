//! Events below a wrapper, noted for the request above it.
//!
//! The [`RawStream`](super::raw_stream::RawStream) notes its events here. When the wrapper's call has returned, the
//! request reads the notes, and does not depend on the wrapper's own error:
//!
//! ```text
//! request (BoundedIo)        wrapper (TLS, say)        RawStream
//!    | begin_call(timeout)        |                       |
//!    | read() ------------------> | read() -------------> | waits for the socket, as long as the timeout
//!    |                            |                       |    a limit has passed: timed_out
//!    |                            |                       |    a drain: stopped; the peer's end: ended, lost
//!    | <------ an error, or 0 --- | <---------- an error  |
//!    | explain(error), interruption()
//! ```
//!
//! Only the request's own worker uses this, one call at a time. The fields are atomic because the wrapper may move
//! the raw stream to a thread of its own.

use std::any::Any;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::connection::Direction;
use super::io_error::{is_no_more_for_now, says_its_cause};
use super::{Ticket, is_to_end, stop};
use crate::limits::Limits;
use crate::live::{Activity, Entry};
use crate::peer_fault::{PeerFault, is_loss};
use crate::server_context::ServerContext;
use crate::sys;
use crate::write_stall::SendTimeout;

/// The state that a request shares with the raw stream below its wrapper.
pub(super) struct RawStatus {
    /// The request's entry in the live list: its activity, its counts, and the cut of this side.
    pub(super) entry: Arc<Entry>,
    /// Says whether the server drains.
    context: Arc<ServerContext>,
    /// The limits of the request, which never change.
    pub(super) limits: Arc<Limits>,
    /// The socket. None under a transport's own stream. Kept beyond the wrapper, because a wrapper may fail and leave
    /// its peer without an end.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// How long the request's present call may wait. Set by the request before each call, read by the raw stream.
    pub(super) timeout: Mutex<SendTimeout>,
    /// A [`FirstWait`], as a number.
    first_wait: AtomicU8,
    /// A [`WrapPhase`], as a number.
    phase: AtomicU8,
    /// How many bytes that the request had read ahead are left for the wrapper. More than zero at the end of the
    /// request means that the peer has sent more than was read.
    ahead: AtomicUsize,
    /// The wrapper has got some bytes from the peer. Without any, bad data is no fault of the peer.
    heard: Flag,
    /// The peer has ended its output.
    pub(super) ended: Flag,
    /// The connection is lost: the system has said so. Never cleared.
    lost: Flag,
    /// The present call has been ended by a limit.
    timed_out: Flag,
    /// The present call has been ended by a drain.
    stopped: Flag,
    /// The last write has waited for room in vain. A part of a record may then be in the way of a farewell. A write
    /// that finds room clears it.
    stuck: Flag,
    /// A write has waited for room in vain, and the wrapper has reported success.
    concealed: Flag,
    /// The raw stream has been dropped: by a wrapper that failed, or by one that gives the connection away.
    pub(super) dropped: Flag,
    /// The facts about the TLS of the connection, once it has begun. Of any type, because this file knows no TLS.
    pub(super) facts: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// How far a wrapper has got.
#[derive(Clone, Copy)]
enum WrapPhase {
    /// The wrapper is being made. The phase stays if that panics.
    Handshake,
    /// The wrapper could not be made. The request has to end the socket.
    Failed,
    /// The wrapper stands between the connection and the handler.
    InPlace,
    /// The request is at its end: the wrapper may send its last message (TLS's close_notify), and nothing else.
    Farewell,
}

/// Whether a wait of the request's present call is left to the idle reaper. Only the first wait is: the reaper's time
/// begins anew with each byte, and a peer that sends a byte now and then would never complete a record.
#[derive(Clone, Copy)]
enum FirstWait {
    /// The call has its own bound.
    Bounded,
    /// The next receive is the first of the call, and the reaper bounds its wait.
    Reaped,
    /// The first receive has been made, or something was sent meanwhile. From here on the call takes `Limits::idle` at
    /// most.
    Over,
}

/// A flag that one thread sets for itself, or for a thread that takes over from it. Relaxed: a wrapper that moves the
/// raw stream to another thread orders the accesses by that move.
#[derive(Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The methods for the request.
impl RawStatus {
    /// The status of a connection that is about to be wrapped. `fd`: the socket, if the request has one to end.
    pub(super) fn new(ticket: &Ticket, fd: Option<Arc<OwnedFd>>) -> Arc<Self> {
        Arc::new(Self {
            entry: Arc::clone(ticket.entry()),
            context: Arc::clone(&ticket.context),
            limits: ticket.share_limits(),
            fd,
            timeout: Mutex::new(SendTimeout::until(None)),
            first_wait: AtomicU8::new(FirstWait::Bounded as u8),
            phase: AtomicU8::new(WrapPhase::Handshake as u8),
            ahead: AtomicUsize::new(0),
            heard: Flag::default(),
            ended: Flag::default(),
            lost: Flag::default(),
            timed_out: Flag::default(),
            stopped: Flag::default(),
            stuck: Flag::default(),
            concealed: Flag::default(),
            dropped: Flag::default(),
            facts: OnceLock::new(),
        })
    }

    /// Whether the wrapper is in this phase.
    fn is_in(&self, phase: WrapPhase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// Begins a phase.
    fn enter(&self, phase: WrapPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Notes that a wrapper is about to be made; `until` bounds the making.
    pub(super) fn begin_handshake(&self, ahead: usize, until: Option<Instant>) {
        self.begin_call(SendTimeout::until(until));
        self.ahead.store(ahead, Ordering::Relaxed);
        // `heard` is about this wrapper: reads of an earlier wrapper say nothing about its errors.
        self.heard.clear();
        self.enter(WrapPhase::Handshake);
    }

    /// Notes that the wrapper is in place: from here on the connection belongs to the wrapper, and ends with its
    /// farewell.
    pub(super) fn end_handshake(&self) {
        self.enter(WrapPhase::InPlace);
        self.entry.show_activity(Activity::Running);
        // From here on a cut leaves the end of the output to the worker.
        self.entry.set_wrapped();
    }

    /// Notes that the wrapper could not be made. The connection is the request's again, which only ends it.
    pub(super) fn fail_handshake(&self) {
        self.enter(WrapPhase::Failed);
        self.entry.show_activity(Activity::Running);
    }

    /// Notes that a read or a write of the request begins. The end of an earlier call does not explain this one.
    pub(super) fn begin_call(&self, timeout: SendTimeout) {
        // A lock, because the two bounds of a timeout belong together. Nobody waits for it: the request makes one call
        // at a time.
        *self.timeout.lock() = timeout;
        self.note_first_wait(FirstWait::Bounded);
        self.timed_out.clear();
        self.stopped.clear();
    }

    /// Notes that a read begins whose wait is left to the idle reaper, as the caller has shown in the live list.
    pub(super) fn begin_reaped_read(&self) {
        self.begin_call(SendTimeout::until(None));
        self.note_first_wait(FirstWait::Reaped);
    }

    fn note_first_wait(&self, is: FirstWait) {
        self.first_wait.store(is as u8, Ordering::Relaxed);
    }

    /// The error of a wrapper's call, replaced by its cause if that is known here. The order of the branches matters,
    /// because a cause of this side comes first: a limit that passes makes many a wrapper end with an error that reads
    /// like the peer's fault.
    pub(super) fn explain(&self, error: io::Error, direction: Direction) -> io::Error {
        let reads = direction == Direction::In;
        // The wrapper has passed the error on.
        if says_its_cause(&error) {
            error
        // A limit or a drain is the cause, whatever error the wrapper has made of it.
        } else if let Some(interruption) = self.interruption() {
            interruption
        // The peer is gone, or has ended its output where the wrapper needed more.
        } else if self.lost.is_set() || (reads && self.ended.is_set()) {
            self.entry.lose(error)
        // Before the peer has sent anything, bad data is the wrapper's own.
        } else if reads && self.heard.is_set() && error.kind() == io::ErrorKind::InvalidData {
            PeerFault::garbled(self.entry.owner(), error)
        } else {
            error
        }
    }

    /// The cause on this side that has ended the present call, if there is one. A wrapper may have reported it as an
    /// error of its own, or as the end of input.
    pub(super) fn interruption(&self) -> Option<io::Error> {
        if self.stopped.is_set() {
            Some(stop(&self.entry))
        } else {
            // The error does not have the limit's name and length: the request knows them, and completes the error.
            self.timed_out.is_set().then(|| io::ErrorKind::TimedOut.into())
        }
    }

    /// Notes that a write of the request has ended, and that the wrapper reports success. If the write has waited for
    /// room in vain, the next write fails in its place.
    pub(super) fn end_write(&self) {
        if self.timed_out.is_set() {
            self.concealed.set();
        }
    }

    /// Whether the last write has waited for room in vain. Then the connection ends without a farewell.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.is_set()
    }

    /// Lets the wrapper send only its farewell from here on. It gets no time for the farewell if this side has cut the
    /// connection off, or if the peer has already taken nothing for the whole limit.
    pub(super) fn begin_farewell(&self, timeout: SendTimeout) {
        // Neither a close by the operator nor a drain at its deadline waits for the peer.
        let at_once = self.is_cut_off() || self.is_stuck();
        self.begin_call(if at_once { SendTimeout::NONE } else { timeout });
        // A write error that was concealed must not come back from the farewell.
        self.concealed.clear();
        self.enter(WrapPhase::Farewell);
    }

    /// Ends the output, even if the wrapper has not. If the wrapper has let go of the connection, this does nothing,
    /// because the connection then belongs to somebody else.
    pub(super) fn end_output(&self) -> io::Result<()> {
        let Some(fd) = self.own_fd() else { return Ok(()) };
        // A cut from outside has left the output open for the farewell. That is over now, so both directions end.
        sys::shutdown(fd.as_fd(), if self.is_cut_off() { Shutdown::Both } else { Shutdown::Write })
    }

    /// The socket, if it is still the request's. It is no longer the request's if a wrapper that was in place has dropped
    /// the raw stream: then the connection has been given away. If making the wrapper failed, the connection stays the
    /// request's.
    pub(super) fn own_fd(&self) -> Option<&Arc<OwnedFd>> {
        // Only a wrapper that has been made can give the connection away.
        let is_in_place = self.is_in(WrapPhase::InPlace) || self.is_in(WrapPhase::Farewell);
        self.fd.as_ref().filter(|_| !is_in_place || self.has_raw())
    }

    /// Whether there still is a raw stream below the wrapper.
    pub(super) fn has_raw(&self) -> bool {
        !self.dropped.is_set()
    }

    /// Whether some bytes that the request had read ahead are left.
    pub(super) fn has_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) > 0
    }
}

/// The methods for the raw stream.
impl RawStatus {
    /// Whether this side has ended both directions.
    pub(super) fn is_cut_off(&self) -> bool {
        self.entry.is_cut_off()
    }

    /// Notes that a wait for the peer begins. In a handshake it counts as a wait for the beginning of a request, so
    /// that a drain may cut it off.
    pub(super) fn begin_wait(&self) {
        if self.is_in(WrapPhase::Handshake) {
            // A peer that stays silent in its handshake has sent no request, so a drain loses nothing by ending it.
            self.entry.set_activity(Activity::Idle);
        }
    }

    /// Notes that a receive begins. True: the reaper bounds its wait, which has no bound here.
    pub(super) fn is_reaped(&self) -> bool {
        let first_wait = self.first_wait.load(Ordering::Relaxed);
        if first_wait == FirstWait::Over as u8 {
            self.bound_the_rest();
        } else if first_wait == FirstWait::Reaped as u8 {
            self.note_first_wait(FirstWait::Over);
            return true;
        }
        false
    }

    /// Bounds the rest of a call by `Limits::idle`: the reaper bounds only its first wait.
    #[cold]
    fn bound_the_rest(&self) {
        self.note_first_wait(FirstWait::Bounded);
        *self.timeout.lock() = SendTimeout::until(Instant::now().checked_add(self.limits.idle));
        // The same activity, without the reaper's mark; ordered, because a drain may act on it.
        self.entry.set_activity(self.entry.activity());
    }

    /// Notes that a send begins: if the reaper bounds the first wait of the call, that wait is over.
    pub(super) fn end_first_wait(&self) {
        if self.first_wait.load(Ordering::Relaxed) == FirstWait::Reaped as u8 {
            self.note_first_wait(FirstWait::Over);
        }
    }

    /// Whether a drain forbids this wait. Asked after the activity is set, as in `BoundedIo::receive`.
    pub(super) fn must_not_wait(&self) -> bool {
        self.entry.activity() == Activity::Idle && is_to_end(&self.context, &self.entry)
    }

    /// Notes that bytes have come from the peer.
    pub(super) fn received(&self, count: usize) {
        self.entry.add_bytes_in(count);
        self.heard.set();
        if self.is_in(WrapPhase::Handshake) {
            self.entry.show_activity(Activity::Running);
        } else if self.entry.activity() == Activity::Idle {
            // A part of something has come, and the wrapper waits for its rest.
            self.entry.show_activity(Activity::Receiving);
        }
    }

    /// Notes that the wrapper has read some bytes that the request had read ahead, and how many are left.
    pub(super) fn read_ahead(&self, left: usize) {
        self.heard.set();
        self.ahead.store(left, Ordering::Relaxed);
    }

    /// Whether the raw stream may send. After a cut from this side only the farewell may leave.
    pub(super) fn may_send(&self) -> bool {
        // The farewell shows the peer that no stranger has truncated the data. It is sent even after a cut, without
        // waiting.
        !self.is_cut_off() || self.is_in(WrapPhase::Farewell)
    }

    /// Whether a write has already waited for room in vain: an earlier write, whose error the wrapper has concealed,
    /// or one of the same call. Such a write does not wait a second time.
    pub(super) fn has_waited_in_vain(&self) -> bool {
        let is_over = self.is_stuck() && self.timed_out.is_set();
        self.concealed.0.swap(false, Ordering::Relaxed) || is_over
    }

    /// Notes that a write has ended: counts its bytes, or notes its error.
    pub(super) fn sent(&self, result: io::Result<usize>) -> io::Result<usize> {
        // Each write decides anew: a write that finds room shows that the peer takes bytes again.
        self.stuck.0.store(result.as_ref().is_err_and(is_no_more_for_now), Ordering::Relaxed);
        let count = result.map_err(|error| self.fail(error))?;
        self.entry.add_bytes_out(count);
        Ok(count)
    }

    /// Notes an error of the connection itself.
    pub(super) fn fail(&self, error: io::Error) -> io::Error {
        if is_no_more_for_now(&error) {
            return self.time_out();
        }
        // A user's stream may pass on an error of another request, which says nothing about this peer.
        if !is_loss(&error) || PeerFault::find(&error).is_some() {
            return error;
        }
        // The wrapper may report another error: by this flag `explain` still knows the cause.
        self.lost.set();
        self.entry.lose(error)
    }

    /// Notes that a limit has ended the call, and makes an error for the wrapper. The request names the limit.
    pub(super) fn time_out(&self) -> io::Error {
        self.timed_out.set();
        io::ErrorKind::TimedOut.into()
    }

    /// Notes that a drain or a cut has ended the call, and makes an error for the wrapper.
    pub(super) fn stop(&self) -> io::Error {
        self.stopped.set();
        stop(&self.entry)
    }
}
