//! [`SharedRow`]: the numbers of one request in memory that a server and the children that it forks have in common.
//!
//! A table of rows is mapped when the server is made, and each row belongs to one slot of the live list; `slots.rs`
//! says which processes write to it. A request takes the row of its slot with it, so that its worker need not look into
//! the list.
//!
//! There are three tables, because their rows are needed at different times: the counters by each request, the client
//! only behind a proxy, the bytes in the clear only under TLS. A page of a table takes no memory until it is written
//! to.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::sys::Common;

/// One row of a table, with a reference to the whole table, which keeps it mapped.
#[derive(Debug)]
pub(super) struct SharedRow<const NUMBERS: usize> {
    table: Arc<Common<NUMBERS>>,
    row: usize,
}

impl<const NUMBERS: usize> SharedRow<NUMBERS> {
    /// A row of the table. `None` if no children serve, or if there are more slots than rows: the parent never learns
    /// the numbers of a request in one of those last slots.
    pub(super) fn new(table: Option<&Arc<Common<NUMBERS>>>, row: usize) -> Option<Self> {
        let table = table.filter(|table| row < table.rows().len())?;
        Some(Self { table: Arc::clone(table), row })
    }

    /// The numbers of the row. They are those of the slot's last request until they are set anew.
    #[inline]
    pub(super) fn numbers(&self) -> &[AtomicU64; NUMBERS] {
        &self.table.rows()[self.row]
    }

    /// The rows of all requests.
    pub(super) fn all(&self) -> &[[AtomicU64; NUMBERS]] {
        self.table.rows()
    }
}
