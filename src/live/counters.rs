//! [`RequestCounters`]: bytes and activity of a request, which change with each receive and each send; and the moments of
//! its steps, for an observer.
//!
//! Each number has one writer at a time, and any thread reads it. The loads and stores are relaxed and without a lock,
//! because no reader decides by two numbers at once. The exception is the activity, by which a drain decides: see the
//! diagrams in `entry/ending.rs`. (If there is an outbox, several threads send, and count the bytes one after the other,
//! under the lock of the outbox.)
//!
//! Under `Forking` the writer is the child, and the row is in memory that the parent reads. Everywhere else the row is
//! a part of the entry itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared_row::SharedRow;
use crate::sys::Common;

/// How many numbers a row has: as many as a cache line of 64 bytes, so that two children do not write to the same line.
const ROW_LEN: usize = 8;

/// The numbers of one request: bytes received, bytes sent, activity; then the moment of each [`CountStep`], which is noted
/// only for an observer; then the limit that has ended the request; and last, the output half's flag.
type Row = [AtomicU64; ROW_LEN];

/// The rows of requests that children serve, one for each, in memory that parent and child share.
pub(super) type Rows = Common<ROW_LEN>;

/// The counters of one request. The worker writes the first three with each receive and each send. `common` and these
/// three are the first 32 bytes: among a thousand requests each cache line that a request needs is loaded anew, and 32
/// bytes lie in one line three times out of four. (Always, if they were aligned to their size; the entry would then be
/// a fifth larger.)
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct RequestCounters {
    /// The row that is used instead of `own` if a child may serve the request: the child's memory is a copy, and this
    /// row is shared.
    common: Option<Box<SharedRow<ROW_LEN>>>,
    /// The numbers in this process's memory: the usual case.
    own: Row,
}

/// A step of a request whose moment is noted. Its number is its place in the row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CountStep {
    /// A worker has taken the request.
    Worker = 3,
    /// Everything before the handler is done, such as a handshake.
    Handler = 4,
    /// The handler has ended, or a step before it has failed.
    End = 5,
}

impl RequestCounters {
    /// The counters of a new request. Without a row they are in the memory of this process.
    pub(super) fn new(rows: Option<&Arc<Rows>>, slot: usize) -> Self {
        let new = Self { common: SharedRow::new(rows, slot).map(Box::new), own: Row::default() };
        // A row still has the numbers of the last request of its slot. The store also gives a new page its memory before
        // the fork.
        new.renew();
        new
    }

    /// Prepares the row for a new request: the last request of this slot has left its numbers.
    pub(super) fn renew(&self) {
        self.row().iter().for_each(|number| number.store(0, Ordering::Relaxed));
    }

    /// The counters that are in use. The branch is always the same one for a server, so the processor predicts it.
    #[inline]
    fn row(&self) -> &Row {
        match &self.common {
            None => &self.own,
            Some(common) => common.numbers(),
        }
    }

    /// How many bytes were received from the peer, on the wire.
    #[inline]
    pub(super) fn bytes_in(&self) -> &AtomicU64 {
        &self.row()[0]
    }

    /// How many bytes were sent to the peer, on the wire.
    #[inline]
    pub(super) fn bytes_out(&self) -> &AtomicU64 {
        &self.row()[1]
    }

    /// An [`Activity`](super::Activity) as a number; [`LEFT_TO_REAPER`](super::idle_check::LEFT_TO_REAPER) is set for
    /// a wait that the idle reaper bounds.
    #[inline]
    pub(super) fn activity(&self) -> &AtomicU64 {
        &self.row()[2]
    }

    /// When the step began, in nanoseconds after the request was accepted; zero if it has not begun.
    pub(super) fn moment(&self, step: CountStep) -> &AtomicU64 {
        &self.row()[step as usize]
    }

    /// One while the output half waits to send, otherwise zero. (The input half shows its waits in `activity`.)
    pub(super) fn output_half(&self) -> &AtomicU64 {
        &self.row()[7]
    }

    /// The limit that has ended the request, plus one; zero if none has. The low byte is for a limit in time, as its
    /// place in [`Timeout::ALL`](crate::timed_out::Timeout::ALL). The bits above are for a limit that refuses, as its
    /// place in [`Limit::ALL`](crate::events::Limit::ALL).
    pub(super) fn limit(&self) -> &AtomicU64 {
        &self.row()[6]
    }
}
