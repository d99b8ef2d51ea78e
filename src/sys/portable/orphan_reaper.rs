//! Orphans, on systems where no child serves a request.
//!
//! Only descendants of such a child carry a mark. Without one no process is waited for that the program has started by
//! itself.

/// See the Linux form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OrphanMark {}

impl OrphanMark {
    /// No mark, so there is no value of this type.
    pub(crate) fn if_orphans_come() -> Option<Self> {
        None
    }

    pub(crate) fn number(self) -> u64 {
        match self {}
    }

    /// There was none to take the number of.
    pub(crate) fn of_number(_number: u64) -> Option<Self> {
        None
    }

    pub(crate) fn put(self) {
        match self {}
    }

    pub(crate) fn reap(self, _orphan: i32) -> bool {
        match self {}
    }
}

/// There are no children.
pub(crate) fn children() -> Vec<i32> {
    Vec::new()
}
