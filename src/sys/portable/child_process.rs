//! Children, on systems where this crate forks none.
//!
//! `Forking` is refused at its start (`fork.rs`), so no number of a child ever reaches these functions. The live list and
//! the handover call them on every system, and learn that the child is gone.

/// See the form for Linux, in `sys/child_process.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    /// Never returned here.
    Running,
    /// Never returned here.
    Exited(i32),
    /// Never returned here.
    Killed(i32),
    /// The only state here.
    Gone,
}

/// There are no children.
pub(crate) fn reap(_child: i32) -> ChildState {
    ChildState::Gone
}

/// There are no children.
pub(crate) fn ended_child() -> Option<i32> {
    None
}

/// There are no children.
pub(crate) fn signal(_child: i32, _signal: libc::c_int) -> bool {
    false
}
