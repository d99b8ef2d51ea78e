//! [`RequestCounters`]: how far a request is, which changes with each receive and each send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::Common;

/// Bytes received, bytes sent, and what it does.
type Row = [AtomicU64; 3];

/// For requests that children serve: a row each.
pub(super) type Rows = Common<3>;

/// What the worker writes with each receive and each send: in one line of the processor's cache, so that among a
/// thousand requests only one more has to come for it.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct RequestCounters {
    own: Row,
    /// What is used in its place when the worker may be a child, whose memory is a copy of ours: a row that it
    /// has in common with us.
    common: Option<(Arc<Rows>, usize)>,
}

impl RequestCounters {
    /// A request at its beginning. One past the last row keeps its own, and who looks sees nothing of what its
    /// child does.
    pub(super) fn new(rows: Option<&Arc<Rows>>, row: usize) -> Self {
        let common = rows.filter(|rows| row < rows.rows().len());
        let now = Self {
            own: [const { AtomicU64::new(0) }; 3],
            common: common.map(|rows| (Arc::clone(rows), row)),
        };
        if now.common.is_some() {
            // It is still as the last request has left it.
            now.row().iter().for_each(|number| number.store(0, Ordering::Relaxed));
        }
        now
    }

    #[inline]
    fn row(&self) -> &Row {
        match &self.common {
            None => &self.own,
            Some((rows, row)) => &rows.rows()[*row],
        }
    }

    #[inline]
    pub(super) fn bytes_in(&self) -> &AtomicU64 {
        &self.row()[0]
    }

    #[inline]
    pub(super) fn bytes_out(&self) -> &AtomicU64 {
        &self.row()[1]
    }

    /// An [`Activity`](super::Activity), and whether it is a wait that nobody but the reaper bounds.
    #[inline]
    pub(super) fn activity(&self) -> &AtomicU64 {
        &self.row()[2]
    }
}
