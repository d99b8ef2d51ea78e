//! [`ClearCounters`]: under TLS, the bytes that the handler reads and writes, beside those on the wire.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sys::Common;

/// For requests that children serve: whether the connection is encrypted; bytes read; bytes written.
pub(super) type ClearRows = Common<3>;

/// Empty, and without memory, until a handshake has ended.
#[derive(Debug)]
pub(super) struct ClearCounters {
    own: OnceLock<Box<[AtomicU64; 2]>>,
    /// The row, and the rows of all others, if a child may serve the request.
    common: Option<Box<(Arc<ClearRows>, usize)>>,
}

impl ClearCounters {
    /// The counters of a new request, whose bytes are in the clear so far. If there are more slots than rows, the
    /// parent does not see the counters of the last ones.
    pub(super) fn new(rows: Option<&Arc<ClearRows>>, row: usize) -> Self {
        let common = rows.filter(|rows| row < rows.rows().len());
        let common = common.map(|rows| Box::new((Arc::clone(rows), row)));
        let mut new = Self { own: OnceLock::new(), common };
        new.renew();
        new
    }

    /// Prepares the row for a new request: the last request of this slot may have left its numbers.
    pub(super) fn renew(&mut self) {
        self.own = OnceLock::new();
        if let Some((rows, row)) = self.common.as_deref() {
            let [is_encrypted, read, written] = &rows.rows()[*row];
            // A row that no request under TLS has used has no memory yet, and a write would give it some.
            if is_encrypted.load(Ordering::Relaxed) != 0 {
                for number in [is_encrypted, read, written] {
                    number.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether it has memory of its own.
    pub(super) fn is_large(&self) -> bool {
        self.own.get().is_some()
    }

    /// The handshake has ended.
    pub(super) fn begin(&self) {
        match self.common.as_deref() {
            Some((rows, row)) => rows.rows()[*row][0].store(1, Ordering::Relaxed),
            None => drop(self.own.get_or_init(Box::default)),
        }
    }

    /// The counters of bytes read and bytes written. None while the connection is in the clear.
    pub(super) fn get(&self) -> Option<[&AtomicU64; 2]> {
        if let Some((rows, row)) = self.common.as_deref() {
            let [is_encrypted, read, written] = &rows.rows()[*row];
            return (is_encrypted.load(Ordering::Relaxed) != 0).then_some([read, written]);
        }
        let [read, written] = &**self.own.get()?;
        Some([read, written])
    }
}
