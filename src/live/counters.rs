//! [`RequestCounters`]: bytes and activity of a request, which change with each receive and each send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::Common;

/// Bytes received, bytes sent, activity.
type Row = [AtomicU64; 3];

/// For requests that children serve: a row each, in memory that both processes write to.
pub(super) type Rows = Common<3>;

/// The worker writes these with each receive and each send. They are in one cache line, so that among a thousand
/// requests only one more line is loaded for each.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct RequestCounters {
    /// In this process's memory: the usual case.
    own: Row,
    /// Used instead of `own` if a child may serve the request: the child's memory is a copy, and this row is shared.
    /// The number is that of the row: the request's slot in the list.
    common: Option<(Arc<Rows>, usize)>,
}

impl RequestCounters {
    /// The counters of a new request. Beyond the last row a request has only its own, and the parent does not see
    /// those of its child.
    pub(super) fn new(rows: Option<&Arc<Rows>>, row: usize) -> Self {
        let common = rows.filter(|rows| row < rows.rows().len());
        let now = Self {
            own: [const { AtomicU64::new(0) }; 3],
            common: common.map(|rows| (Arc::clone(rows), row)),
        };
        if now.common.is_some() {
            // The last request of this slot has left its numbers.
            now.row().iter().for_each(|number| number.store(0, Ordering::Relaxed));
        }
        now
    }

    /// The counters that are in use.
    #[inline]
    fn row(&self) -> &Row {
        match &self.common {
            None => &self.own,
            Some((rows, row)) => &rows.rows()[*row],
        }
    }

    /// How many bytes were received from the peer.
    #[inline]
    pub(super) fn bytes_in(&self) -> &AtomicU64 {
        &self.row()[0]
    }

    /// How many bytes were sent to the peer.
    #[inline]
    pub(super) fn bytes_out(&self) -> &AtomicU64 {
        &self.row()[1]
    }

    /// An [`Activity`](super::Activity), and the bit of a wait that is left to the reaper.
    #[inline]
    pub(super) fn activity(&self) -> &AtomicU64 {
        &self.row()[2]
    }
}
