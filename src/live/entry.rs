//! One line of the live list: the present state of a request. `entry/ending.rs` says how others end the request.
//!
//! The list shares the entry with the request's ticket, stop tokens, outbox and halves. Most of the entry's fields are
//! single numbers and flags, which are written without a lock, because the worker changes some of them with every
//! receive and every send.
//!
//! | written by | what |
//! |---|---|
//! | the request's worker, alone | activity, bytes (see `counters.rs`), `preface`, `wrapped`, `waits_to_write`, `stopped` |
//! | the request's worker, under the lock of the list | `proxied_client`: the client, once |
//! | others, to end it | `cut`: first the reason, then `shutdown` of the socket, which wakes the worker |
//! | the list | `connection`, taken when the request leaves, so that nobody keeps it open; `ended` |
//! | the idle reaper | `seen`; and `cut`, if there is none yet |
//! | the worker, and the writer of its outbox | `lost`; `is_lent`, which is never taken back |
//! | the parent, after the fork | `process` |
//!
//! A flag is sequentially consistent if another thread acts on it together with a second flag. A flag that is read alone,
//! for a figure or a hint, is relaxed.

mod ending;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::arrival::Arrival;
use super::clear_counters::ClearCounters;
use super::counters::{CountStep, RequestCounters};
use super::idle_check::{LEFT_TO_REAPER, LastLook};
use super::linked_connections::LinkedConnections;
use super::stop_events::StopEvents;
use super::{Activity, Cut, LiveRequest};
use crate::events::RequestTimes;
use crate::limits::Limits;
use crate::peer_fault::{LOSSES, PeerFault, RequestId};

/// A request's line in the list.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The values with which the request entered. Set before the entry is shared, so that they need no lock.
    pub(super) arrival: Arrival,
    /// Bytes and activity, in the memory to which the worker writes: this process's, or memory shared with a child.
    pub(super) counters: RequestCounters,
    /// The limits of this request until its end, even if the server's limits are changed later. Shared by all requests
    /// that have entered under the same limits.
    pub(crate) limits: Arc<Limits>,
    /// Counts the bytes that the handler reads and writes under TLS.
    pub(super) clear: ClearCounters,
    /// Notes on the course of the request so far.
    pub(super) marks: Marks,
    /// The connection, for threads that end it from outside. They share its ownership: if another thread closed the
    /// descriptor in the meantime, its number could be used again. Taken when the request leaves the list, and in a
    /// parent when a child has got the connection.
    pub(super) connection: Mutex<Option<Arc<OwnedFd>>>,
}

/// The notes of an entry: empty for a new request, and written by the threads that the table at the top of the file
/// names.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// How many bytes had come when the handler began, as [`clear_bytes`](Entry::clear_bytes) counts them: those of a
    /// PROXY header, say, which are no part of a request. While the steps before the handler go on, this is
    /// [`UNFINISHED`].
    pub(super) preface: AtomicU64,
    /// The reaper's notes on the request's present wait. `None` if the request waits for nothing that the reaper
    /// bounds, or if the reaper has not seen the wait yet.
    pub(super) seen: Mutex<Option<LastLook>>,
    /// The parts that few requests have, made together when the first of them is needed. An entry that has them is not used
    /// again: see [`is_large`](Entry::is_large).
    pub(super) rare: OnceLock<Box<RareParts>>,
    /// The process number of the child that serves the request; zero if this process serves it.
    pub(super) process: AtomicI32,
    /// Why this side has ended the connection, as a [`Cut`]; zero if it has not. After a cut the handler sees an end
    /// of input that is not the peer's, and that must not be taken for the end of a message.
    pub(super) cut: AtomicU8,
    /// How the connection has failed: an index into [`LOSSES`], plus one; zero if it has not.
    pub(super) lost: AtomicU8,
    /// Whether others may have a copy of the descriptor, and send and receive with it.
    pub(super) is_lent: AtomicBool,
    /// Whether a wrapper is in place, which sends a closing message at the end (TLS: `close_notify`).
    pub(super) wrapped: AtomicBool,
    /// Whether the worker waits for room to write, below the wrapper or in the output half above TLS. A cut then ends
    /// both directions.
    pub(super) waits_to_write: AtomicBool,
    /// Whether a read of the handler has failed with `Stopping`. If so, the request counts as ended by the drain, even
    /// if nothing was shut down.
    pub(super) stopped: AtomicBool,
    /// Whether the request has left the list. Its stop tokens may outlive it, and read this.
    pub(super) ended: AtomicBool,
    /// Whether the request entered with a connection, or has a stream of a user's transport. Datagrams have none, and skip
    /// the lock. This is not a note; it is here because it takes no additional memory next to the other flags.
    pub(super) has_connection: AtomicBool,
}

/// The parts of an entry that few requests have, each made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct RareParts {
    /// The events behind the request's [`StopToken`](crate::request::StopToken)s.
    pub(super) stop_events: OnceLock<StopEvents>,
    /// Connections that the handler has made, and that end when the request is cut off.
    pub(super) linked_connections: LinkedConnections,
    /// The text of the error of a step before the handler, noted in a child.
    pub(super) failed_step: OnceLock<String>,
}

impl Entry {
    /// The address of the numbers that change with each receive and each send: for a hint to the processor.
    pub(crate) fn address_of_counters(&self) -> usize {
        std::ptr::from_ref(&self.counters).addr()
    }

    /// The request's number, unique within its list.
    pub(crate) fn id(&self) -> u64 {
        self.arrival.owner.request
    }

    /// The mark by which the request's errors are told from those of other requests.
    pub(crate) fn owner(&self) -> RequestId {
        self.arrival.owner
    }

    /// Notes how the connection has failed, for the reason of the request's end. The worker and the writer of the
    /// outbox call this. The last failure counts.
    pub(crate) fn note_loss(&self, kind: io::ErrorKind) {
        // Kept as one byte, so that both threads that note it need no lock.
        let place = LOSSES.iter().position(|loss| *loss == kind).map(|at| u8::try_from(at + 1));
        // Errors of another kind say nothing about the peer.
        if let Some(Ok(place)) = place {
            self.marks.lost.store(place, Ordering::Relaxed);
        }
    }

    /// Notes how the connection has failed, and marks the error as this request's: if the handler returns that error,
    /// the end is reported as the peer's doing and not as the handler's.
    #[cold]
    pub(crate) fn lose(&self, error: io::Error) -> io::Error {
        self.note_loss(error.kind());
        PeerFault::gone(self.arrival.owner, error)
    }

    /// How the connection has failed, if it has.
    pub(crate) fn loss(&self) -> Option<io::ErrorKind> {
        let place = usize::from(self.marks.lost.load(Ordering::Relaxed));
        place.checked_sub(1).and_then(|at| LOSSES.get(at)).copied()
    }

    /// The type name of the request's handler.
    pub(crate) fn handler(&self) -> &'static str {
        self.arrival.handler
    }

    /// Stores an activity that a drain may act on, which is [`Activity::Idle`], or the end of such an activity.
    /// Sequentially consistent: see the first diagram in `ending.rs`. A caller that begins to wait checks for a drain
    /// after this call.
    pub(crate) fn set_activity(&self, activity: Activity) {
        self.counters.activity().store(activity as u64, Ordering::SeqCst);
    }

    /// Stores an activity that only the list shows, and that no other thread acts on. This is cheaper, because it
    /// orders nothing: a drain may still see an earlier `Idle`, and end the input, which the next read finds.
    #[inline]
    pub(crate) fn show_activity(&self, activity: Activity) {
        self.counters.activity().store(activity as u64, Ordering::Relaxed);
    }

    /// Shows a wait that the reaper bounds, in place of a timeout of the wait's own; ordered as `set_activity` is.
    #[inline]
    pub(crate) fn set_left_to_reaper(&self, activity: Activity) {
        self.counters.activity().store(activity as u64 | LEFT_TO_REAPER, Ordering::SeqCst);
    }

    /// The request's present activity. Sequentially consistent, because a drain decides by it. If the request has two
    /// halves, it is that of the input half: see `split_activity.rs`.
    pub(crate) fn activity(&self) -> Activity {
        match self.counters.activity().load(Ordering::SeqCst) & !LEFT_TO_REAPER {
            0 => Activity::Queued,
            1 => Activity::Running,
            2 => Activity::Idle,
            3 => Activity::Receiving,
            _ => Activity::Sending,
        }
    }

    /// Notes that the steps before the handler begin. Until they end, no byte is a part of a request, and a drain gives
    /// the peer the time of a first read.
    pub(crate) fn begin_preface(&self) {
        self.marks.preface.store(UNFINISHED, Ordering::Relaxed);
    }

    /// Notes that the steps before the handler have ended: the bytes that have come so far are no part of a request.
    pub(crate) fn end_preface(&self) {
        self.marks.preface.store(self.clear_bytes().0, Ordering::Relaxed);
    }

    /// Notes that the handshake has ended: from here on the handler's bytes are counted as well as those on the wire. The
    /// worker calls this when the wrapper is in its place; a second wrapper inside the first changes nothing.
    pub(crate) fn begin_clear(&self) {
        self.clear.begin();
    }

    /// Counts bytes that the handler has read. Only the worker reads.
    pub(crate) fn add_clear_in(&self, count: usize) {
        if let Some([read, _]) = self.clear.get() {
            add(read, count);
        }
    }

    /// Counts bytes that were encrypted and sent. Called by the same threads as `add_bytes_out`.
    pub(crate) fn add_clear_out(&self, count: usize) {
        if let Some([_, written]) = self.clear.get() {
            add(written, count);
        }
    }

    /// The bytes read and written, without TLS around them. Under TLS they are fewer than the bytes on the wire; in the
    /// clear they are the same, a PROXY header included.
    pub(crate) fn clear_bytes(&self) -> (u64, u64) {
        let Some(clear) = self.clear.get() else { return self.bytes() };
        let [read, written] = clear.map(|number| number.load(Ordering::Relaxed));
        (read, written)
    }

    /// Whether the peer has sent nothing of a request yet. A drain leaves such a peer the time of a first read, and the
    /// report of the drain counts the requests of such peers that were ended.
    pub(crate) fn is_unheard(&self) -> bool {
        // Equal counts: nothing has come since the steps before the handler ended.
        let preface = self.marks.preface.load(Ordering::Relaxed);
        preface == UNFINISHED || self.clear_bytes().0 == preface
    }

    /// Counts received bytes. Only the worker receives.
    #[inline]
    pub(crate) fn add_bytes_in(&self, count: usize) {
        add(self.counters.bytes_in(), count);
    }

    /// Counts sent bytes. Called by the worker; or, if the request has an outbox, by the thread that holds the
    /// outbox's lock, because then all writes go through the outbox.
    #[inline]
    pub(crate) fn add_bytes_out(&self, count: usize) {
        add(self.counters.bytes_out(), count);
    }

    /// The line that operators see. Its parts are loaded one after the other, and may belong to slightly different
    /// moments.
    pub(super) fn view(&self) -> LiveRequest {
        let (bytes_in, bytes_out) = self.bytes();
        let (clear_bytes_in, clear_bytes_out) = self.clear_bytes();
        let process = u32::try_from(self.marks.process.load(Ordering::Relaxed)).ok();
        let process = process.filter(|it| *it > 0);
        // A datagram has no connection that could be cut off: at the deadline of a drain only the cut is noted. A child is
        // killed, and so is cut off too.
        let may_be_cut = self.marks.has_connection.load(Ordering::Relaxed) || process.is_some();
        LiveRequest {
            id: self.id(),
            client_address: self.client_address().clone(),
            proxy_address: self.proxy_address().cloned(),
            age: self.arrival.accepted.elapsed(),
            handler: self.arrival.handler,
            activity: self.shown_activity(),
            bytes_in,
            bytes_out,
            clear_bytes_in,
            clear_bytes_out,
            // The handler may have learned of the drain without a `shutdown`: it was about to wait, and saw the drain
            // itself.
            cut: self.cut().filter(|_| may_be_cut).or(self.is_stopped().then_some(Cut::Drained)),
            process,
        }
    }

    /// The time since the request was accepted.
    pub(crate) fn age(&self) -> Duration {
        self.arrival.accepted.elapsed()
    }

    /// Notes that a step begins now. The worker calls this only if the server has an observer: otherwise nobody reads
    /// the times.
    pub(crate) fn begin_step(&self, step: CountStep) {
        // Relaxed, like the other counters: the moment is read at the end, by the worker or by a parent that has reaped
        // the child.
        let nanos = u64::try_from(self.age().as_nanos()).unwrap_or(u64::MAX);
        // Zero is for a step that has not begun.
        self.counters.moment(step).store(nanos.max(1), Ordering::Relaxed);
    }

    /// Notes that the handler begins at the moment at which the worker has taken the request: no step comes before the
    /// handler. The clock is not read again.
    pub(crate) fn begin_handler_at_once(&self) {
        let worker = self.counters.moment(CountStep::Worker).load(Ordering::Relaxed);
        self.counters.moment(CountStep::Handler).store(worker, Ordering::Relaxed);
    }

    /// The times of the request, as far as they were noted. Called at the request's end, or in a parent when it has
    /// reaped the child.
    pub(crate) fn times(&self) -> RequestTimes {
        let at = |step| match self.counters.moment(step).load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        };
        let (worker, handler, end) =
            (at(CountStep::Worker), at(CountStep::Handler), at(CountStep::End));
        let between = |from: Option<Duration>, to: Option<Duration>| {
            from.zip(to).map(|(from, to)| to.saturating_sub(from))
        };
        // A handshake that has failed ends with the request. Without a handshake the handler has the worker's own
        // moment (`begin_handler_at_once`), and there is no time of a handshake.
        let handshake = between(worker, handler.or(end)).filter(|_| handler != worker);
        RequestTimes {
            in_accept_queue: self.arrival.in_accept_queue,
            in_queue: worker,
            handshake,
            handler: between(handler, end),
        }
    }

    /// How many bytes were received and sent.
    #[inline]
    pub(crate) fn bytes(&self) -> (u64, u64) {
        // Relaxed: a reader that misses some bytes finds them when it reads again.
        let [bytes_in, bytes_out] = [self.counters.bytes_in(), self.counters.bytes_out()];
        (bytes_in.load(Ordering::Relaxed), bytes_out.load(Ordering::Relaxed))
    }

    /// Notes that the request has a stream of a user's transport, perhaps without a descriptor: after a cut its reads and
    /// writes fail. The worker calls this before the handler is made.
    pub(crate) fn note_stream(&self) {
        self.marks.has_connection.store(true, Ordering::Relaxed);
    }

    /// Notes that others may have a copy of the descriptor. The note is never removed: a copy may outlive every handle
    /// that this process knows.
    pub(crate) fn lend(&self) {
        self.marks.is_lent.store(true, Ordering::Relaxed);
    }

    /// Whether others may have a copy of the descriptor, and so may send and receive unseen by this request.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.marks.is_lent.load(Ordering::Relaxed)
    }

    /// Whether the entry has memory beyond its own fields, which the next request of its slot would keep for nothing.
    pub(super) fn is_large(&self) -> bool {
        self.arrival.proxied_client.is_some()
            || self.marks.rare.get().is_some()
            || self.clear.is_large()
    }

    /// Notes that a child serves the request from here on, and has the connection. The parent calls this after the
    /// fork. It gives up its copy of the connection: with that copy open, the peer would not see the end.
    pub(crate) fn hand_over(&self, child: i32) {
        self.marks.process.store(child, Ordering::Relaxed);
        self.forget_connection();
    }
}

/// Stands for the number of bytes before the handler, while that is not known. No connection receives so many bytes.
const UNFINISHED: u64 = u64::MAX;

/// Adds to a number that has one writer: a load and a store are enough, and cheaper than a locked addition.
#[inline]
fn add(number: &AtomicU64, count: usize) {
    number.store(number.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
}
