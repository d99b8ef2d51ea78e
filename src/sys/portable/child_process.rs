//! Children, on systems where this crate forks none.

/// See the Linux form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    Running,
    Exited(i32),
    Killed(i32),
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
